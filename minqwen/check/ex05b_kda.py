"""Notebook 05b, a trained layer: a relative of its rule."""

from functools import partial

import torch

from .core import Exercise, unit


def _kda(
    q, k, v, g, beta, state, across=-1, compare=lambda old, faded: faded, late=False
):  # fmt: skip
    """Right by default; each option is one mistake."""
    kept = g.exp().unsqueeze(across)
    faded = state * kept
    read = (compare(state, faded) * k[..., None]).sum(-2)
    write = k[..., None] * (beta[..., None] * (v - read))[..., None, :]
    new = (state + write) * kept if late else faded + write
    return (new * q[..., None]).sum(-2), new


def _one_rate(q, k, v, g, beta, state):
    return _kda(q, k, v, g.mean(-1, keepdim=True).expand_as(g), beta, state)


def _read_before(q, k, v, g, beta, state):
    _, new = _kda(q, k, v, g, beta, state)
    return (state * g.exp()[..., None] * q[..., None]).sum(-2), new


kda = Exercise(
    "05b",
    "a rate for each row",
    _kda,
    lambda rand: [
        {
            "q": unit(rand(B, H, K)),
            "k": unit(rand(B, H, K)),
            "v": rand(B, H, K),
            "g": -rand(B, H, K).abs(),
            "beta": rand(B, H).sigmoid(),
            "state": rand(B, H, K, K),
        }
        for B, H, K in [(1, 1, 2), (2, 3, 4)]
    ],
    wrong={
        "the columns fade, which belong to values; a rate belongs to a row of the "
        "state, and so to a coordinate of keys": partial(_kda, across=-2),
        "all rows fade alike; each has a rate of its own": _one_rate,
        "the error is taken against what was there before fading; read what is left": (
            partial(_kda, compare=lambda old, faded: old)
        ),
        "the new write has faded, too; forget first, then write": (
            partial(_kda, late=True)
        ),
        "g is the logarithm of what is kept; take its exp": (
            lambda q, k, v, g, beta, state: _kda(q, k, v, (-g).log(), beta, state)
        ),
        "beta is not used": lambda q, k, v, g, beta, state: _kda(
            q, k, v, g, torch.ones_like(beta), state
        ),
        "it is read before the write; a token sees what it has just written": (
            _read_before
        ),
    },
    returns=("o", "the new state"),
)
