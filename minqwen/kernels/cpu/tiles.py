"""Matrices in large products a tile of rows at a time: widened, used, and forgotten.

So are packed ones, and bfloat16 ones where torch would multiply them number by number.
What is widened has the numbers of codecs.py to the last bit, and lies in a near cache.
"""

import platform

import numpy as np
import torch
from numba import njit

from .ggml import Ggml, matrix, widen_ggml
from .loops import FAST, FLOAT, store, wide
from .packed import (
    SIDE,
    Fp8,
    Int4,
    Int8,
    bfloat,
    bits,
    block,
    e4m3,
    high,
    low,
)  # fmt: skip
from .vectors import floats, load, put_pairs

FAST = FAST | {"nogil": True}
TILE = 1 << 20  # bytes


def multiplies_bfloat16():
    """Is there hardware for it? Without, a product takes five times that of float32."""
    if platform.machine() not in ("x86_64", "AMD64"):
        return True
    capability = torch.backends.cpu.get_cpu_capability()
    return capability.startswith("AVX512") and torch.cpu._is_avx512_bf16_supported()


BFLOAT16 = multiplies_bfloat16()


def into(x, weight, out, expert=None):
    """x W^T into a view of a buffer, in float32 where bfloat16 has no hardware."""
    plain = torch.is_tensor(weight)
    dtype = x.dtype if BFLOAT16 else torch.float32
    if plain and dtype == x.dtype:
        weight = weight if expert is None else weight[expert]
        torch.mm(x, weight.T, out=out)
        return
    w = bits(weight.detach()) if plain else matrix(weight)
    w, width, x = w if expert is None else one(w, expert), weight.shape[-1], x.to(dtype)
    x = x if plain else weight.entering(x)
    room = torch.empty(max(1, TILE // (width * x.itemsize)), width, dtype=dtype)
    for first in range(0, out.shape[1], len(room)):
        tile, there = room[: out.shape[1] - first], out[:, first : first + len(room)]
        widen(w, first, bits(tile))
        if out.dtype == dtype:
            torch.mm(x, tile.T, out=there)
        else:
            there.copy_(x @ tile.T)


def one(w, e):
    """`part` for one expert, outside of compiled code."""
    if isinstance(w, np.ndarray):
        return w[e]
    if isinstance(w, Ggml):
        return w._replace(rows=w.rows[e])
    return type(w)(*(x[e] if isinstance(x, np.ndarray) else x for x in w))


def widen(w, first, out):
    """Rows of w from `first` on into out [rows, C], float32 or bfloat16 as uint16."""
    if isinstance(w, np.ndarray):
        widen_plain(w, first, out)
    else:
        WIDEN[type(w)](*w, first, out)


@njit(**FAST)
def widen_plain(w, first, out):
    for r in range(len(out)):
        row, numbers = w[first + r], out[r]
        for c in range(len(row)):
            numbers[c] = wide(row[c])


@njit(**FAST)
def widen_int8(rows, first, out):
    groups = (out.shape[1] + SIDE - 1) // SIDE
    for r in range(len(out)):
        row, codes, numbers = rows[first + r], rows[first + r, 2 * groups :], out[r]
        for g in range(groups):
            scale = bfloat(row[2 * g], row[2 * g + 1])
            for c in range(SIDE * g, min(SIDE * (g + 1), len(numbers))):
                store(numbers, c, (FLOAT(codes[c]) - FLOAT(128)) * scale)


@njit(**FAST)
def widen_int4(rows, first, out):
    width = out.shape[1]
    groups = (width + SIDE - 1) // SIDE
    room = np.empty(width + 1, FLOAT)  # an odd row's last byte holds two codes as well
    for r in range(len(out)):
        row, numbers = rows[first + r], out[r]
        for g in range(groups):
            scale, at = bfloat(row[2 * g], row[2 * g + 1]), SIDE * g
            begin, end = 2 * groups + at // 2, min(at + SIDE, len(room) // 2 * 2)
            while at + 64 <= end:
                codes = load(row, begin)
                even = (floats(codes & 15) - FLOAT(8)) * scale
                put_pairs(room, at, even, (floats(codes >> 4) - FLOAT(8)) * scale)
                at, begin = at + 64, begin + 32
            for c in range((end - at) // 2):
                room[at + 2 * c] = low(row[begin + c]) * scale
                room[at + 2 * c + 1] = high(row[begin + c]) * scale
        for c in range(width):
            store(numbers, c, room[c])


@njit(**FAST)
def widen_fp8(codes, scales, half, first, out):
    for r in range(len(out)):
        row, factors = codes[first + r], scales[block(first + r, half)]
        numbers = out[r]
        for g in range(len(factors)):
            scale = wide(factors[g])
            for c in range(SIDE * g, min(SIDE * (g + 1), len(numbers))):
                store(numbers, c, e4m3(row[c]) * scale)


WIDEN = {Int8: widen_int8, Int4: widen_int4, Fp8: widen_fp8, Ggml: widen_ggml}
