"""Notebook 11, two tokens at once: guesses kept, what they bring, the head's input."""

from functools import partial
from operator import eq

import torch

from .core import Exercise
from .ex00 import whole


def _held(guesses, said):
    """How many guesses are right before the first wrong one."""
    pairs = zip(guesses, said, strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), len(guesses))


def _kept(guesses, said, more=1):
    return said[: _held(guesses, said) + more]


def _guess_inputs(rand):
    cases = []
    for right in ([1, 0, 1], [1, 1], [0, 1, 1], [1, 1, 0, 1]):
        said = [whole(rand, 100 * i, 100 * i + 90) for i in range(1, len(right) + 2)]
        pairs = zip(said, right, strict=False)
        cases.append({"guesses": [s + 1 - ok for s, ok in pairs], "said": said})
    return cases


keep_guesses = Exercise(
    "11",
    "guesses kept",
    _kept,
    _guess_inputs,
    wrong={
        "it goes on after a wrong guess; what the model says there answers a text that "
        "is not written": lambda guesses, said: list(said),
        "a guess after a wrong one is kept since it agrees, but with an answer to a "
        "text that is not written": lambda guesses, said: (
            [a for a, b in zip(guesses, said, strict=False) if a == b] + said[-1:]
        ),
        "the model's own token is missing: where a guess is wrong, the right one is "
        "known": partial(_kept, more=0),
        "where all guesses hold there is one more: what the model says after them": (
            lambda guesses, said: _kept(guesses, said)[: len(guesses)]
        ),
        "the wrong guess is written; write what the model says in its place": (
            lambda guesses, said: [*guesses, said[-1]][: _held(guesses, said) + 1]
        ),
        "count the guesses before the first wrong one, not all that agree": (
            lambda guesses, said: said[: 1 + sum(map(eq, guesses, said))]
        ),
    },
    returns=("the tokens written",),
)


def _tokens(share, guesses, first=0, last=0):
    return sum(share**i for i in range(first, guesses + 1 - last))


tokens_a_call = Exercise(
    "11",
    "tokens a call",
    _tokens,
    lambda rand: [
        {"share": 0.2 + 0.7 * float(rand(()).sigmoid()), "guesses": count}
        for count in (2, 3, 5)
    ],
    wrong={
        "each call gives a token of the model's own, also where no guess holds; begin "
        "with 1": partial(_tokens, first=1),
        "a guess counts only if all before it held: the second brings share * share": (
            lambda share, guesses: 1 + guesses * share
        ),
        "that is for guesses without end": lambda share, guesses: 1 / (1 - share),
        "the last guess may hold too: the sum ends with share ** guesses": (
            partial(_tokens, last=1)
        ),
        "where not all hold, the first of them still may": (
            lambda share, guesses: 1 + guesses * share**guesses
        ),
    },
    returns=("the tokens a call",),
)


def _joined(
    x, ids, embed, fc, last_norm, token_norm, state_norm,
    state=slice(-1), token=slice(1, None), swap=False,
):  # fmt: skip
    """Right by default; each option is one mistake."""
    pair = [token_norm(embed[ids[token]]), state_norm(last_norm(x)[state])]
    return torch.cat(pair[::-1] if swap else pair, -1) @ fc.T


def _norm(gain):
    return lambda x: x / x.square().mean(-1, keepdim=True).sqrt() * gain


def _head_inputs(rand):
    names = "last_norm", "token_norm", "state_norm"
    norms = {name: _norm(0.5 + 2 * rand(6).sigmoid()) for name in names}
    return [
        {"x": 4 * rand(T, 6), "ids": torch.arange(T) * 2 + 1, "embed": rand(12, 6)}
        | {"fc": rand(6, 12), **norms}
        for T in (4, 5)
    ]


def _without(name):
    return lambda **case: _joined(**case | {name: lambda x: x})


head_input = Exercise(
    "11",
    "what the head is given",
    _joined,
    _head_inputs,
    wrong={
        "each state is paired with its own token, which it has read already; take the "
        "one after it": partial(_joined, token=slice(-1)),
        "state and token are both one too late: the state of token t goes with token "
        "t + 1": partial(_joined, state=slice(1, None)),
        "that is the state of token t + 1 beside token t; the state of token t goes "
        "with token t + 1": partial(_joined, state=slice(1, None), token=slice(-1)),
        "the head's norms are exchanged: token_norm is for the embedding": (
            lambda token_norm, state_norm, **case: _joined(
                token_norm=state_norm, state_norm=token_norm, **case
            )
        ),
        "the halves are the wrong way round: the embedding comes first": (
            partial(_joined, swap=True)
        ),
        "the state is taken before the model's last norm; the head was trained on what "
        "comes after it": _without("last_norm"),
        "after the model's last norm the state has the head's own as well": (
            _without("state_norm")
        ),
        "the embedding is not normed": _without("token_norm"),
    },
    returns=("the rows given to the block",),
)


def _rule(p, q, guess, most=1, chance=None, rest=None):
    chance = (p / q)[guess].clamp(max=most) if chance is None else chance
    rest = (p - q).clamp(min=0) if rest is None else rest
    return chance, rest / rest.sum()


def _rule_inputs(rand):
    p, q = rand(2, 5).mul(1.5).softmax(-1)
    sure = torch.eye(5)[at := int((p - q).argmin())]  # a head without doubt
    picks = (q, int((p - q).argmax())), (q, at), (sure, at)
    return [{"p": p, "q": other, "guess": pick} for other, pick in picks]


keep_or_redraw = Exercise(
    "11",
    "keep or draw again",
    _rule,
    _rule_inputs,
    wrong={
        "p and q are exchanged: p is the model's, and the text is to be the model's": (
            lambda p, q, guess: _rule(q, p, guess)
        ),
        "the chance is the wrong way round: the model's p over the head's q": (
            lambda p, q, guess: _rule(p, q, guess, chance=_rule(q, p, guess)[0])
        ),
        "the rest is the wrong way round: it is what p has more than q": (
            lambda p, q, guess: _rule(p, q, guess, rest=(q - p).clamp(min=0))
        ),
        "the rest does not sum to one; divide it by its sum": lambda p, q, guess: (
            _rule(p, q, guess)[0],
            (p - q).clamp(min=0),
        ),
        "a chance is at most 1": partial(_rule, most=torch.inf),
        "the chance is p / q; p alone is for a head that is always sure": (
            lambda p, q, guess: _rule(p, q, guess, chance=p[guess])
        ),
        "the smaller of p and q is the chance that it is guessed and kept; it has been "
        "guessed, so divide by q": lambda p, q, guess: _rule(
            p, q, guess, chance=min(p[guess], q[guess])
        ),
        "that is the chance not to keep it": lambda p, q, guess: _rule(
            p, q, guess, chance=1 - _rule(p, q, guess)[0]
        ),
        "drawing from p again gives too much to what q guesses anyway; draw from what "
        "is left of p": lambda p, q, guess: _rule(p, q, guess, rest=p),
        "to leave out the guess is not enough: all that q has is taken off p": (
            lambda p, q, guess: _rule(p, q, guess, rest=p * (torch.arange(5) != guess))
        ),
    },
    returns=("the chance", "the rest"),
)
