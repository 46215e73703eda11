"""How an answer is judged: run it beside the right one, on inputs never seen before."""

import inspect
import itertools
import traceback
import warnings
from contextlib import suppress
from copy import deepcopy

import torch

from . import solved

RTOL, ATOL = 1e-4, 1e-5  # beyond the rounding of fp32 in another order of operations


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


def difference(mine, right, returns):
    """Where two answers differ and how; empty when they are close."""
    if len(returns) == 1:
        alone = isinstance(mine, tuple | list) and len(mine) == 1  # as in `return S,`
        mine = mine[0] if alone and not isinstance(right, tuple | list) else mine
        return one_difference(returns[0], mine, right)
    mine = parts(mine)
    if len(mine) != len(right):
        wanted = " and ".join(returns)
        return f"returns {things(len(mine))}; {len(right)} are asked for: {wanted}"
    pairs = zip(returns, mine, right, strict=False)  # a wrong answer may return less
    return next((d for d in (one_difference(*pair) for pair in pairs) if d), "")


def parts(answer):
    return list(answer) if isinstance(answer, tuple | list) else [answer]


def things(count):
    return "1 thing" if count == 1 else f"{count} things"


def unfinished(answer):
    return any(part is ... for part in parts(answer))


def same(a, b):
    """Equal to the bit, through tuples and the weights of a module."""
    if isinstance(a, torch.nn.Module) and type(a) is type(b):
        a, b = (tuple(m.state_dict().values()) for m in (a, b))
    if isinstance(a, tuple | list) and isinstance(b, tuple | list):
        return len(a) == len(b) and all(map(same, a, b))
    if torch.is_tensor(a) and torch.is_tensor(b):
        return a.shape == b.shape and torch.equal(a, b)
    return type(a) is type(b) and a == b


def largest(a, b):
    """The largest absolute difference of two answers that are close."""
    pairs = zip(parts(a), parts(b), strict=True)
    return max(float((as_tensor(x) - as_tensor(y)).abs().max()) for x, y in pairs)


def as_tensor(x):
    x = x.detach() if torch.is_tensor(x) else torch.tensor(float(x))
    return x.double()


def one_difference(label, mine, right):
    """What is wrong with one returned thing; empty when it is close."""
    if mine is None:
        return says(label, "is None; does every path end in `return`?")
    if isinstance(right, list | tuple) and isinstance(mine, tuple | list):
        return list_difference(label, mine, right)
    if isinstance(right, str | bool | list | tuple):
        return "" if same(mine, right) else says(label, other_than(mine, right))
    if isinstance(mine, tuple | list):
        return not_one(label, mine, right)
    try:
        a, b = as_tensor(mine), as_tensor(right)
    except (TypeError, ValueError, RuntimeError):
        return says(label, f"is a {type(mine).__name__}; a tensor is asked for")
    if a.shape != b.shape:
        shapes = f"has shape {list(a.shape)}; {list(b.shape)} is asked for"
        return says(label, shapes)
    wrong = ~torch.isclose(a, b, rtol=RTOL, atol=ATOL, equal_nan=True)
    if not wrong.any():
        return ""
    if not a.isfinite().all():
        return says(label, "holds inf or nan")
    return says(label, how_wrong(a, b, wrong))


def says(label, what):
    """A sentence about one returned thing, or about several: `the outputs are`."""
    noun = next(w for w in label.split() if w not in ("the", "new", "its", "their"))
    several = noun.endswith("s") and not noun.endswith(("ss", "is", "bias"))
    verb, rest = what.split(" ", 1)
    many = {"is": "are", "has": "have", "holds": "hold", "differs": "differ"}
    return f"{label} {many[verb] if several else verb} {rest}"


def other_than(mine, right):
    """How a text, or what is no tensor, differs."""
    if type(mine) is not type(right):
        kinds = type(mine).__name__, type(right).__name__
        return "is of type {}; {} is asked for".format(*kinds)
    if not isinstance(mine, str):
        return f"is {mine!r}, not {right!r}"
    pairs = enumerate(zip(mine, right, strict=False))
    at = next((i for i, (a, b) in pairs if a != b), min(len(mine), len(right)))
    here, there = mine[at : at + 20], right[at : at + 20]
    return f"differs first at character {at}: {here!r}, not {there!r}"


def list_difference(label, mine, right):
    """Where two lists part: their first different items, or the shorter one's end."""
    pairs = zip(mine, right, strict=False)
    for i, (a, b) in enumerate(pairs):
        if not same(a, b):
            return f"{label}: item {i} is {a!r}, not {b!r}"
    if len(mine) == len(right):
        return ""
    count = f"{len(mine)} item{'s' * (len(mine) != 1)}"
    return f"{label}: {count}; {len(right)} are asked for"


def not_one(label, mine, right):
    """Several things, or a list of numbers, where one thing is asked for."""
    one = "one tensor" if torch.is_tensor(right) else "one number"
    what = f"a list of {len(mine)}" if isinstance(mine, list) else things(len(mine))
    line = f"returns {what} where {one} is asked for: {label}"
    if isinstance(mine, list) and torch.is_tensor(right):
        maker = "stack" if any(map(torch.is_tensor, mine)) else "tensor"
        line += f"; torch.{maker}(...) makes one of a list"
    return line


def how_wrong(a, b, wrong):
    """A pattern that explains every difference, or the first difference."""
    if b.dim() >= 2 and b.shape[-1] == b.shape[-2] and close(a, b.mT):
        return "is transposed: the last two axes are the wrong way round"
    if close(a, -b):
        return "has the wrong sign"
    if b.numel() == 1:
        return f"is {a.item():.6g}, not {b.item():.6g}"
    scale = float((a * b).sum() / b.square().sum())
    if scale and close(a, scale * b):
        return f"is {scale:.4g} times what is right, everywhere"
    at = wrong.nonzero()[0].tolist()
    share = f"{int(wrong.sum())} of {wrong.numel()} numbers differ"
    x, y = a[tuple(at)], b[tuple(at)]
    return f"differs first at {at}: {x:.5g}, not {y:.5g} ({share})"


def close(a, b):
    return torch.allclose(a, b, rtol=RTOL, atol=ATOL)
