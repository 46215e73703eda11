"""Notebook 02, size and position."""

from functools import partial

import torch
import torch.nn.functional as F

from ..model.norm import l2norm
from .core import Exercise, unit


def _rms(x, eps, over=-1):
    return x * torch.rsqrt(x.square().mean(over, keepdim=True) + eps)


unit_length = Exercise(
    "02",
    "length one",
    l2norm,
    lambda rand: [
        {"x": scale * unit(rand(*shape))}
        for scale, shape in [(5.0, (2,)), (1e-3, (3, 8)), (2e-3, (2, 3, 16))]
    ],
    wrong={
        "right for long vectors; the 1e-6 is missing, which a faint vector feels "
        "and a token of zeros needs": unit,
        "the 1e-6 is added to the mean; add it to the sum, which is K times larger": (
            lambda x: _rms(x, 1e-6) / x.shape[-1] ** 0.5
        ),
        "the 1e-6 is added to the length; add it under the root": (
            lambda x: x / (x.norm(dim=-1, keepdim=True) + 1e-6)
        ),
        "the numbers have size one, not the vector: it divides by the root of the "
        "mean; divide by the root of the sum": lambda x: _rms(x, 1e-6),
        "all vectors are measured together; sum over the last axis alone": (
            lambda x: x * torch.rsqrt(x.square().sum() + 1e-6)
        ),
        "the root is missing: it divides by the length squared": (
            lambda x: x / (x.square().sum(-1, keepdim=True) + 1e-6)
        ),
    },
    returns=("the vector",),
)


def _centred(x, w, eps):
    return _rms(x, eps) * (1 + w)


centred_norm = Exercise(
    "02",
    "a gain of 1 + w",
    _centred,
    lambda rand: [
        {"x": 3 * rand(*shape), "w": 0.3 * rand(shape[-1]), "eps": 0.5}
        for shape in [(4,), (3, 8), (2, 5, 6)]
    ],
    wrong={
        "the gain is w; the checkpoint stores the distance from one, so the gain "
        "is 1 + w": lambda x, w, eps: _rms(x, eps) * w,
        "the one is added twice: the gain is 1 + w, not 2 + w. (So a converter "
        "did to a draft head: omlx #3742.)": lambda x, w, eps: _rms(x, eps) * (2 + w),
        "w is not used": lambda x, w, eps: _rms(x, eps),
        "w is added to the vector; it changes the factor, (1 + w) times": (
            lambda x, w, eps: _rms(x, eps) + w
        ),
        "it divides by the length; divide by the root of the mean square": (
            lambda x, w, eps: (
                x * torch.rsqrt(x.square().sum(-1, keepdim=True) + eps) * (1 + w)
            )
        ),
        "the mean is subtracted, as LayerNorm does; an RMS norm leaves it": (
            lambda x, w, eps: F.layer_norm(x, w.shape, 1 + w, eps=eps)
        ),
        "that is LayerNorm; an RMS norm takes no mean off, and its gain is 1 + w": (
            lambda x, w, eps: F.layer_norm(x, w.shape, w, eps=eps)
        ),
        "all vectors are measured together; take the mean over the last axis alone": (
            lambda x, w, eps: _rms(x, eps, over=None) * (1 + w)
        ),
        "eps is not used": lambda x, w, eps: _centred(x, w, 0.0),
        "eps is added after the root; add it to the mean square": (
            lambda x, w, eps: (
                x / (x.square().mean(-1, keepdim=True).sqrt() + eps) * (1 + w)
            )
        ),
        "the gain comes first and is partly normed away; norm, then gain": (
            lambda x, w, eps: _rms(x * (1 + w), eps)
        ),
    },
    returns=("the normed x",),
)


def _norm_then_gate(x, z, w, eps):
    return _rms(x, eps) * w * F.silu(z)


norm_then_gate = Exercise(
    "02",
    "norm, then gate",
    _norm_then_gate,
    lambda rand: [
        dict(x=3 * rand(*shape), z=rand(*shape), w=1 + 0.3 * rand(shape[-1]), eps=0.5)
        for shape in [(4,), (3, 8), (2, 5, 6)]
    ],
    wrong={
        "it adds the one here too; this norm stores its gain as it is, so w": (
            lambda x, z, w, eps: _norm_then_gate(x, z, 1 + w, eps)
        ),
        "that is LayerNorm, which takes the mean off; an RMS norm leaves it": (
            lambda x, z, w, eps: F.layer_norm(x, w.shape, w, eps=eps) * F.silu(z)
        ),
        "all vectors are measured together; take the mean over the last axis alone": (
            lambda x, z, w, eps: _rms(x, eps, over=None) * w * F.silu(z)
        ),
        "the gate comes before the norm, as in Mamba 2; here: norm, then gate": (
            lambda x, z, w, eps: _rms(x * F.silu(z), eps) * w
        ),
        "the gate is a sigmoid; here it is silu(z) = z sigmoid(z)": (
            lambda x, z, w, eps: _rms(x, eps) * w * z.sigmoid()
        ),
        "z is not used": lambda x, z, w, eps: _rms(x, eps) * w,
        "z multiplies as it is; the gate is silu(z)": (
            lambda x, z, w, eps: _rms(x, eps) * w * z
        ),
        "w is not used": lambda x, z, w, eps: _rms(x, eps) * F.silu(z),
        "silu belongs to z, not to the normed x": (
            lambda x, z, w, eps: F.silu(_rms(x, eps) * w) * z
        ),
        "eps is not used": lambda x, z, w, eps: _norm_then_gate(x, z, w, 0.0),
    },
    returns=("the gated x",),
)


def _turn(x, angle, first, second, sign=-1):
    """Pairs (x[first], x[second]) turned by their angles; `sign` is that of b sin."""
    a, b = x[first], x[second]
    cos, sin = angle.cos(), angle.sin()
    turned = x.clone()
    turned[first] = a * cos + sign * b * sin
    turned[second] = a * sin + b * cos
    return turned


def _turn_pairs(x, angle, **mistake):
    pairs = len(angle)
    return _turn(x, angle, slice(pairs), slice(pairs, 2 * pairs), **mistake)


def _others(first, second):
    """Other partners: where the pairs' two halves are, first, last and stride."""

    def turn(x, angle):
        n, half = len(angle), len(x) // 2
        a, b = (slice(*place(n, half)) for place in (first, second))
        return _turn(x, angle.repeat(len(x[a]) // n), a, b)

    return turn


def _zero_rest(x, angle):
    return torch.where(torch.arange(len(x)) < 2 * len(angle), _turn_pairs(x, angle), 0)


turn_pairs = Exercise(
    "02",
    "turn a part",
    _turn_pairs,
    lambda rand: [
        {"x": rand(K), "angle": 0.5 + 2 * rand(pairs).sigmoid()}
        for K, pairs in [(8, 1), (16, 2), (24, 3)]
    ],
    wrong={
        "neighbours are paired (0 with 1); dimension i turns with i + pairs": (
            _others(lambda n, half: (0, 2 * n, 2), lambda n, half: (1, 2 * n, 2))
        ),
        "dimension i is paired with i + K/2; only the "
        "first 2 * pairs dimensions turn, so its partner "
        "is i + pairs": _others(lambda n, half: (n,), lambda n, half: (half, half + n)),
        "the whole head turns; only the first 2 * pairs dimensions do. "
        "(A trainer lost this wherever positions have three axes: maxtext "
        "#4616.)": _others(lambda n, half: (half,), lambda n, half: (half, 2 * half)),
        "it turns the other way: a cos - b sin comes first, a sin + b cos second": (
            lambda x, angle: _turn_pairs(x, -angle)
        ),
        "a minus is missing: the first of a pair is a cos - b sin": (
            partial(_turn_pairs, sign=1)
        ),
        "the last dimensions turn; it should be the first": (
            _others(lambda n, half: (-2 * n, -n), lambda n, half: (-n, None))
        ),
        "what does not turn is lost; it passes unchanged": _zero_rest,
        "only the turned dimensions are returned; the rest passes unchanged": (
            lambda x, angle: _turn_pairs(x, angle)[: 2 * len(angle)]
        ),
        "the angle is taken in degrees; it is in radians": (
            lambda x, angle: _turn_pairs(x, torch.deg2rad(angle))
        ),
        "nothing is turned": lambda x, angle: x,
    },
    returns=("the turned x",),
)


def _deal(sections, first=1, second=2):
    axis = torch.zeros(sum(sections), dtype=torch.long)
    axis[1 : 3 * sections[first] : 3] = first
    axis[2 : 3 * sections[second] : 3] = second
    return axis


three_axes = Exercise(
    "02",
    "deal the pairs out",
    _deal,
    lambda rand: [{"sections": s} for s in [(11, 11, 10), (24, 20, 20), (6, 1, 2)]],
    wrong={
        "the pairs are given in blocks (0 0 0 1 1 1 2 2); deal them out in turn, "
        "so that each axis gets fast ones and slow ones": (
            lambda sections: torch.arange(3).repeat_interleave(torch.tensor(sections))
        ),
        "right for (11, 11, 10) only: an axis stops when its pairs are dealt, and "
        "time takes the rest": lambda sections: torch.arange(sum(sections)) % 3,
        "rows and columns are swapped: the order is time, row, column": (
            lambda sections: _deal(sections, 2, 1)
        ),
        "time is not the first: pair 0 is time's, pair 1 the row's": (
            lambda sections: _deal(sections).roll(-1)
        ),
    },
    returns=("the axis of each pair",),
)
