"""Notebook 12, opening 800 GB: bytes found in a file, codes made numbers, a cache."""

from collections import OrderedDict
from functools import partial

import torch

from .core import Exercise
from .ex00 import whole


def _place(head, said, before=8, order="little", header=None):
    header = int.from_bytes(head, order) if header is None else header
    return tuple(before + header + at for at in said["data_offsets"])


def _first_header(rand):
    start, count = 8 * whole(rand, 20, 60), 8 * whole(rand, 5, 15)
    said = {"dtype": "U8", "shape": [count], "data_offsets": [start, start + count]}
    return {"head": (8 * whole(rand, 40, 60)).to_bytes(8, "little"), "said": said}


tensor_place = Exercise(
    "12",
    "where a tensor lies",
    _place,
    lambda rand: [_first_header(rand), _first_header(rand)],
    wrong={
        "offsets are counted from the header's end, not from the file's start": (
            lambda head, said: tuple(said["data_offsets"])
        ),
        "the eight bytes in front of the header count too": partial(_place, before=0),
        "the header lies in between: its length is missing": partial(_place, header=0),
        "the length is little, not big endian": partial(_place, order="big"),
        "the second is the byte behind the last, one further": (
            lambda head, said: (_place(head, said)[0], _place(head, said)[1] - 1)
        ),
        "the second is where it ends, not how many bytes it has": (
            lambda head, said: (_place(head, said)[0], *said["shape"])
        ),
    },
    returns=("the first byte", "the byte behind the last"),
)


def _up(start, shape, width, expert, skip=0.5, share=0.5):
    one = shape[1] * shape[2] * width  # bytes of an expert
    return start + int((expert + skip) * one), int(share * one)


def _experts(rand):
    return [
        {"start": whole(rand, 100, 400), "width": width, "expert": whole(rand, 1, 4),
         "shape": (5, 2 * whole(rand, 2, 5), whole(rand, 3, 6))}
        for width in (2, 4)
    ]  # fmt: skip


expert_bytes = Exercise(
    "12",
    "one expert's up rows",
    _up,
    _experts,
    wrong={
        "those are the gate rows; the up rows come behind them": partial(_up, skip=0),
        "that is the whole expert, gate and up": partial(_up, skip=0, share=1),
        "that counts numbers, not bytes": lambda **case: _up(**case | {"width": 1}),
        "an expert's up rows follow its own gate rows, not the gate rows of all": (
            lambda shape, expert, **case: _up(
                expert=expert / 2 + shape[0] / 2 - 0.5, shape=shape, **case
            )
        ),
        "experts are counted from 0": partial(_up, skip=-0.5),
        "the tensor begins at `start`": lambda **case: _up(**case | {"start": 0}),
        "the second is how many bytes, not where they end": (
            lambda **case: (_up(**case)[0], sum(_up(**case)))
        ),
    },
    returns=("the first byte", "the number of bytes"),
)


def _undo(codes, scales, side):
    each = scales.repeat_interleave(side, 0).repeat_interleave(side, 1)
    return codes * each[: codes.shape[0], : codes.shape[1]]


undo_blocks = Exercise(
    "12",
    "undo a block's scale",
    _undo,
    lambda rand: [
        {"codes": rand(n, n), "scales": 0.5 + rand(2, 2).abs(), "side": side}
        for n, side in [(4, 2), (6, 4), (5, 4)]  # the last block may be cut off
    ],
    wrong={
        "the scale multiplies, whatever its name says": (
            lambda codes, scales, side: _undo(codes, 1 / scales, side)
        ),
        "rows and columns are swapped: the scale's row is i // side": (
            lambda codes, scales, side: _undo(codes, scales.T, side)
        ),
        "neighbours share a scale: i // side, not i % side": (
            lambda codes, scales, side: _undo(codes, scales.repeat(3, 3), 1)
        ),
        "blocks have `side` rows, the last perhaps fewer; they are no even cut": (
            lambda codes, scales, side: _undo(codes, scales, -(-len(codes) // 2))
        ),
        "the scales are not used": lambda codes, scales, side: codes,
    },
    returns=("the matrix of weights",),
)


def _q4(codes, d, dmin, scales, mins, order=(0, 1), sign=-1):
    halves = torch.stack([codes % 16, codes // 16])[list(order)]  # [2, 128]
    q = halves.view(2, 4, 32).transpose(0, 1).reshape(8, 32).float()
    return (q * (d * scales)[:, None] + sign * (dmin * mins)[:, None]).flatten()


def _misread(order, codes, **rest):
    """The codes, taken in another order than the one they lie in."""
    q = order(codes % 16, codes // 16).view(4, 2, 32)
    return _q4((q[:, 0] + 16 * q[:, 1]).flatten(), **rest)


def _q4_block(rand):
    d, dmin = (0.1 + rand(2).abs()).tolist()
    scales, mins = 1 + (20 * rand(2, 8)).abs().floor()
    codes = (rand(128).abs() * 1e4 % 256).byte()
    return {"codes": codes, "d": d, "dmin": dmin, "scales": scales, "mins": mins}


undo_q4 = Exercise(
    "12",
    "a block of Q4_K",
    _q4,
    lambda rand: [_q4_block(rand)],
    wrong={
        "low and high half are swapped; low is first": partial(_q4, order=(1, 0)),
        "a byte's two codes are 32 weights apart, not neighbours": (
            partial(_misread, lambda low, high: torch.stack([low, high], 1))
        ),
        "low halves of 32 bytes, then their high ones; not the low ones of all 128": (
            partial(_misread, lambda low, high: torch.cat([low, high]))
        ),
        "the minimum is taken off, not added": partial(_q4, sign=1),
        "the minima are not used": partial(_q4, sign=0),
        "codes begin at 0; 8 less is a format without minima, Q4_0": (
            lambda codes, d, dmin, scales, mins: _q4(
                codes, d, 1, scales, dmin * mins + 8 * d * scales
            )
        ),
        "the minima have a factor of their own, dmin": (
            lambda **case: _q4(**case | {"dmin": case["d"]})
        ),
        "d and scale multiply the code alone": (
            lambda codes, d, dmin, scales, mins: _q4(
                codes, d, d, scales, dmin * mins * scales
            )
        ),
    },
    returns=("the block of 256 weights",),
)


def _hits(calls, places, mark=True, arrival=False, newest=False, mixed=False):
    kept, found = OrderedDict(), 0
    for wanted in calls:
        for key in (k for k in wanted if k in kept and mark):
            kept.move_to_end(key)
        for key in wanted:
            found += key in kept
            if key in kept and not mark and not arrival:
                kept.move_to_end(key)
            if key not in kept and len(kept) == places:
                kept.popitem(last=newest)
            kept[key] = True
            if mixed:
                kept.move_to_end(key)
    return found


def _calls(rand):
    return [sorted(rand(9).topk(3).indices.tolist()) for _ in range(80)]


cache_hits = Exercise(
    "12",
    "hits of a cache",
    _hits,
    lambda rand: [{"calls": _calls(rand), "places": n} for n in (4, 5, 6)],
    wrong={
        "what is found is the newest again": partial(_hits, mark=False, arrival=True),
        "first mark all that a call finds, or one may go to make room for another": (
            partial(_hits, mark=False)
        ),
        "in a call, all that are found count as used before any that are read": (
            partial(_hits, mixed=True)
        ),
        "the one longest unused goes, not the newest": partial(_hits, newest=True),
        "there are only so many places": lambda calls, places: _hits(calls, 9),
        "those are the misses": lambda calls, places: 240 - _hits(calls, places),
    },
    returns=("the number of hits",),
)
