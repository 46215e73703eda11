"""Packed matrices times rows rounded to 8 bits: whole numbers, as llama.cpp has it.

A row of x is, for every 128 columns, 136 bytes: the float32 scale, the int32 sum of its
codes, the codes.
"""

from typing import NamedTuple

import numpy as np
from numba import njit
from numba.extending import overload

from . import ggml, packed
from .bytes import nibbles, signed
from .loops import FAST, FLOAT, ONE
from .packed import SIDE, bfloat, kind

HEAD, HALF = 8, SIDE // 2
I32, U32 = np.int32, np.uint32
LEAST = np.finfo(FLOAT).tiny  # no scale is smaller, since a row is divided by it


class Rounded8(NamedTuple):
    """Int8, to be multiplied with rounded rows."""

    rows: np.ndarray


class Rounded4(NamedTuple):
    """Int4, to be multiplied with rounded rows."""

    rows: np.ndarray


def matrix(weight):
    """`ggml.matrix`, of a kind that rounds x where the weight asks for it."""
    w = ggml.matrix(weight)
    if not weight.rounded:
        return w
    return {packed.Int8: Rounded8, packed.Int4: Rounded4}[type(w)](*w)


@overload(packed.part)
def _part(w, s):
    if kind(w) is Rounded8:
        return lambda w, s: Rounded8(w.rows[s])
    if kind(w) is Rounded4:
        return lambda w, s: Rounded4(w.rows[s])


@overload(packed.ready)
def _ready(w, x):
    if kind(w) is Rounded8:
        return lambda w, x: rounded_rows(x, 1)
    if kind(w) is Rounded4:  # the even columns of a group, then its odd ones
        return lambda w, x: rounded_rows(x, 2)


@overload(packed.times, inline="always")
def _times(w, i, x):
    if kind(w) is Rounded8:
        return lambda w, i, x: int8_dot(w.rows[i], x)
    if kind(w) is Rounded4:
        return lambda w, i, x: int4_dot(w.rows[i], x)


@njit(fastmath={"nnan", "nsz", "reassoc"}, cache=True)
def largest(x):
    """max |x|, or any number where x has NaN."""
    most = FLOAT(0)
    for c in range(len(x)):
        most = max(most, abs(x[c]))
    return most


@njit(**FAST)
def scales(x):
    """The scale of some numbers of x, and what they are multiplied with for codes."""
    lost, scale = FLOAT(0), max(largest(x) * FLOAT(1 / 127), LEAST)
    for c in range(len(x)):
        lost += x[c] * FLOAT(0)  # NaN where x has one or is infinite
    return scale + lost, ONE / scale


@njit(**FAST)
def rounded_rows(x, parts):
    """x [n, C] -> uint8 [n, groups, 136]; column parts * c + p is at p * 64 + c."""
    n, width = x.shape
    words = np.zeros((n, (width + SIDE - 1) // SIDE, (HEAD + SIDE) // 4), np.int32)
    out = words.view(np.uint8)
    for r in range(n):
        for g in range(words.shape[1]):
            some, total = x[r, SIDE * g : SIDE * (g + 1)], I32(0)
            scale, inverse = scales(some)
            for p in range(parts):
                row, of = out[r, g, HEAD + HALF * p :], some[p:]
                for c in range((len(of) + parts - 1) // parts):
                    code = I32(np.rint(of[parts * c] * inverse))
                    row[c] = np.uint8(code)
                    total = I32(total + code)
            words[r, g, 0], words[r, g, 1] = FLOAT(scale).view(np.int32), total
    return out


@njit(**FAST)
def word(x, i):
    """Four bytes of x as a number."""
    low = U32(U32(x[i]) | (U32(x[i + 1]) << U32(8)))
    return U32(low | (U32(x[i + 2]) << U32(16)) | (U32(x[i + 3]) << U32(24)))


@njit(**FAST)
def factor(row, g, x):
    """Scale of the row's group g times that of x [136]."""
    return bfloat(row[2 * g], row[2 * g + 1]) * U32(word(x, 0)).view(np.float32)


@njit(**FAST)
def int8_dot(row, x):
    """A row of Int8 times x [groups, 136]."""
    groups, total = len(x), FLOAT(0)
    codes = row[2 * groups :]
    for g in range(groups):
        sum_ = signed(codes[SIDE * g : SIDE * (g + 1)], x[g, HEAD:])
        total += FLOAT(sum_) * factor(row, g, x[g])
    return total


@njit(**FAST)
def int4_dot(row, x):
    """A row of Int4 times x [groups, 136], each group its even and its odd columns."""
    groups, total = len(x), FLOAT(0)
    codes = row[2 * groups :]
    for g in range(groups):
        sum_ = nibbles(codes[HALF * g : HALF * (g + 1)], x[g, HEAD:])
        sum_ = I32(sum_ - I32(word(x[g], 4) << U32(3)))  # 8 stands for 0
        total += FLOAT(sum_) * factor(row, g, x[g])
    return total
