"""How an answer is judged: run it beside the right one, on inputs never seen before."""

import inspect
import itertools
import traceback
import warnings
from contextlib import suppress
from copy import deepcopy

import torch

from . import solved
from .difference import difference, largest, same, unfinished


def unit(x):
    """x at length one, as keys and queries are."""
    return x / x.norm(dim=-1, keepdim=True)


def given(function, **changes):
    """The function with some of its arguments replaced; a change may be f(case)."""

    def changed(**case):
        news = {k: f(case) if callable(f) else f for k, f in changes.items()}
        return function(**case | news)

    return changed


class Verdict:
    """One line to show at the end of a cell; true when the exercise is solved."""

    def __init__(self, line):
        self.line = line

    def __bool__(self):
        return self.line.startswith("✓")

    def __repr__(self):
        return self.line


class Exercise:
    """A right answer, inputs to try it on, and the famous wrong answers.

    notebook   "04"
    title      a few words for `progress()`
    right      the right function
    inputs     draw(rand) -> list of keyword-argument dicts, where rand(*shape) draws
    wrong      {why: function}: an answer equal to one of these is told why
    returns    a name for each thing returned
    through    function -> function: what is made of any answer before it is compared
    """

    def __init__(
        self, notebook, title, right, inputs, wrong=(), returns=("result",),
        through=lambda answer: answer,
    ):  # fmt: skip
        self.notebook, self.title, self.right = notebook, title, right
        self.inputs, self.returns, self.through = inputs, returns, through
        self.wrong = list(dict(wrong).items())
        self.draws = itertools.count()

    def __call__(self, mine):
        """Judge a function. A name that begins with `solution` is not recorded."""
        name = getattr(mine, "__name__", "your answer")
        verdict = self.judge(mine, name)
        if verdict and not name.startswith("solution"):
            solved.record(self.notebook, self.title)
        return verdict

    def settled(self, mine):
        """What later cells go on with: the reader's function if right, else ours."""
        name = getattr(mine, "__name__", "your answer")
        if verdict := self.judge(mine, name):
            print(f"✓ later cells go on with yours, {name}")
            return mine
        how = "not finished" if verdict.line.startswith("…") else "not right"
        print(f"{name} is {how} yet, so later cells go on with the course's answer")
        return self.right

    def judge(self, mine, name):
        if not callable(mine):
            return Verdict(f"✗ {name} is not a function; give the function itself")
        # Another seed each time: what was right for one draw only does not last.
        cases = self.cases(seed=next(self.draws))
        if told := misnamed(mine, cases[0]):
            return Verdict(f"✗ {name} {told}")
        mine, answers = self.through(mine), []
        for case in cases:
            before = deepcopy(case)  # so that a change in place is noticed
            try:
                answer = mine(**case)
            except Exception as error:
                why = self.famous(answers, cases) if answers else ""
                return Verdict(f"✗ {name}: {why}") if why else raised(error, name)
            if unfinished(answer):
                return Verdict(f"… not finished yet: {name} returns `...`")
            for key in case:
                if not same(case[key], before[key]):
                    why = f"changes its input `{key}` in place; make a new one"
                    return Verdict(f"✗ {name} {why}")
            answers.append(answer)
        return self.compare(answers, cases, name)

    def cases(self, seed):
        generator = torch.Generator().manual_seed(seed)
        drawn = self.inputs(lambda *shape: torch.randn(*shape, generator=generator))
        return [deepcopy(case) for case in drawn]

    def compare(self, answers, cases, name):
        """All cases against the right answer, then against the wrong ones."""
        rights = outcomes(self.through(self.right), cases)
        pairs = list(zip(answers, rights, strict=True))
        if all(same(a, b) for a, b in pairs):
            return Verdict(f"✓ exact: {name} equals the right answer, bit for bit")
        told = [difference(a, b, self.returns) for a, b in pairs]
        found = [called(c) + d for c, d in zip(cases, told, strict=True) if d]
        if not found:
            error = max(largest(a, b) for a, b in pairs)
            return Verdict(f"✓ close: {name} is right within rounding ({error:.0e})")
        return Verdict(f"✗ {name}: {self.famous(answers, cases) or found[0]}")

    def famous(self, answers, cases):
        """Why: of the wrong answer that gives the same, and fails where they do."""
        for why, function in self.wrong:
            theirs = outcomes(self.through(function), cases)
            pairs = zip(answers, theirs, strict=False)
            differ = any(difference(a, b, self.returns) for a, b in pairs)
            if not differ and len(theirs) == len(answers):
                return why
        return ""


def outcomes(function, cases):
    """What it returns for each case, up to one that it fails on."""
    found = []
    with suppress(RuntimeError):
        for case in cases:
            found.append(function(**deepcopy(case)))
    return found


def called(case):
    """The inputs in words, where they are short and can be read."""
    told = ", ".join(f"{key}={value!r}" for key, value in case.items())
    short = len(told) < 120 and "tensor(" not in told and " at 0x" not in told
    return f"with {told}, " if short else ""


def misnamed(mine, case):
    """What is said of a function that cannot be called with these names."""
    with suppress(ValueError):  # a built-in function may not tell
        named, wanted = inspect.signature(mine), ", ".join(case)
        try:
            named.bind(**case)
        except TypeError:
            return f"takes {named}; it is called by name, so keep the names ({wanted})"
    return ""


def raised(error, name):
    """An exception in the answer, told as a sentence."""
    if "ellipsis" in str(error):
        return Verdict(f"… not finished yet: there is a `...` left in {name}")
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if frame.name == name]
    place = f" in line {lines[-1]} of its cell" if lines else ""
    told = " ".join(str(error).split()) or "no message"
    return Verdict(f"✗ {name} raised {type(error).__name__}{place}: {told:.160}")


def with_slopes(answer):
    """For `through`: beside what is returned, its slopes by all tensors given to it."""

    def run(**case):
        made = answer(**case)
        leaves = {
            k: v.clone().requires_grad_(v.is_floating_point()) for k, v in case.items()
        }
        with suppress(AttributeError, RuntimeError), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # no tensor, or no way back: no slope
            answer(**leaves).sum().backward()
        slopes = (0 * x if x.grad is None else x.grad for x in leaves.values())
        return made, torch.cat([slope.flatten() for slope in slopes])

    return run
