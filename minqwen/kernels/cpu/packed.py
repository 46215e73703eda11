"""Matrices that are multiplied as they lie: `row i of w` times x, whatever w is.

A plain array is a matrix (of bfloat16 also as uint32, two columns in each: `rows`); so
are the forms below, with the bytes that codecs.py stores, and those of other files
here, which overload these functions too. A row is widened in registers, some codes at a
time, and never written down.

    height(w)      how many rows
    part(w, s)     some of its rows, or one of its experts: w[s]
    ready(w, x)    rows x [n, C], put in the order in which w's codes are read
    times(w, i, x) the product of w's row i with one row that `ready` made
"""

from typing import NamedTuple

import numpy as np
import torch
from numba import njit, prange, types
from numba.extending import overload

from .loops import FAST, FLOAT, dot, wide

SIDE = 128  # columns that share a scale


class Int8(NamedTuple):
    """Each row its bfloat16 scales, then a byte for each column: uint8 [R, bytes]."""

    rows: np.ndarray


class Int4(NamedTuple):
    """The same with two columns a byte, the even one in the low half."""

    rows: np.ndarray


class Fp8(NamedTuple):
    """E4M3 codes uint8 [R, C], scales [blocks of 128 rows, blocks of 128 columns].

    half: the rows after which blocks begin anew, as in gate_up_proj.
    """

    codes: np.ndarray
    scales: np.ndarray
    half: int


def bits(x):
    """A tensor as an array; of bfloat16, its bits as uint16."""
    return (x.view(torch.uint16) if x.dtype == torch.bfloat16 else x).numpy()


def rows(w):
    """An array of bfloat16 two columns at a time, as uint32, where they lie so.

    Half the shifts of one by one, which is what AVX2 spends its time on.
    """
    fits = w.shape[-1] % 2 == 0 and w.flags.c_contiguous and w.ctypes.data % 4 == 0
    return w.view(np.uint32) if w.dtype == np.uint16 and fits else w


def matrix(weight):
    """What the loops take for a Packed weight of weights/quantised/modules.py."""
    first, *scales = weight.parts().values()
    codes = first.view(torch.uint8).numpy()
    if not scales:
        return Int8(codes) if weight.form == "int8" else Int4(codes)
    rows = weight.shape[-2]
    half = rows // 2 if weight.kind == "gate_up_proj" else rows
    return Fp8(codes, bits(scales[0]), half)


def kind(w):
    """The class of a packed matrix in numba's type, None for an array."""
    return getattr(w, "instance_class", None)


def paired(w):
    """Does numba's type say that w is an array of `rows`?"""
    return getattr(w, "dtype", None) == types.uint32


def height(w):
    """How many rows w has."""


@overload(height)
def _height(w):
    if kind(w) is None:
        return lambda w: len(w)
    return lambda w: len(w[0])


def part(w, s):
    """w[s]: some rows, or one expert."""


@overload(part)
def _part(w, s):
    if kind(w) is None:
        return lambda w, s: w[s]
    if kind(w) is Int8:
        return lambda w, s: Int8(w.rows[s])
    if kind(w) is Int4:
        return lambda w, s: Int4(w.rows[s])
    if kind(w) is Fp8:
        return lambda w, s: Fp8(w.codes[s], w.scales[s], w.half)
    return None


def ready(w, x):
    """x [n, C] as `times` reads it: for forms [n, groups, 128], with zeros after C.

    For pairs [n, C], the even columns before the odd ones.
    """


@overload(ready)
def _ready(w, x):
    if paired(w):
        return lambda w, x: np.concatenate((x[:, ::2], x[:, 1::2]), axis=1)
    if kind(w) is None:
        return lambda w, x: x

    def grouped(w, x):
        n, width = x.shape
        out = np.zeros((n, (width + SIDE - 1) // SIDE, SIDE), FLOAT)
        out.reshape(n, -1)[:, :width] = x
        return out

    def halved(w, x):  # the even columns of a group, then its odd ones
        n, width = x.shape
        out = np.zeros((n, (width + SIDE - 1) // SIDE, SIDE), FLOAT)
        for r in range(n):
            for c in range(width):
                out[r, c // SIDE, c % SIDE // 2 + c % 2 * (SIDE // 2)] = x[r, c]
        return out

    return {Int8: grouped, Int4: halved, Fp8: grouped}.get(kind(w))


def times(w, i, x):
    """Row i of w times x, a row of what `ready` made."""


@overload(times, inline="always")
def _times(w, i, x):
    if paired(w):
        return lambda w, i, x: pair_dot(w[i], x)
    if kind(w) is None:
        return lambda w, i, x: dot(w[i], x)
    if kind(w) is Int8:
        return lambda w, i, x: int8_dot(w.rows[i], x)
    if kind(w) is Int4:
        return lambda w, i, x: int4_dot(w.rows[i], x)
    if kind(w) is Fp8:
        return lambda w, i, x: fp8_dot(w.codes[i], w.scales[block(i, w.half)], x)
    return None


@njit(**FAST)
def block(i, half):
    """The row of scales for row i, where blocks begin anew after `half` rows."""
    return i // half * ((half + SIDE - 1) // SIDE) + i % half // SIDE


@njit(**FAST)
def pair_dot(row, x):
    """A row of pairs times x [C], its even columns before its odd ones."""
    half, total = len(row), FLOAT(0)
    even, odd = x[:half], x[half:]
    for c in range(half):
        low = np.uint32(row[c] << np.uint32(16)).view(np.float32)
        high = np.uint32(row[c] & np.uint32(0xFFFF0000)).view(np.float32)
        total += low * even[c] + high * odd[c]
    return total


@njit(**FAST)
def bfloat(low, high):
    """float32 of the two bytes of a bfloat16."""
    return np.uint32(
        (np.uint32(high) << np.uint32(24)) | (np.uint32(low) << np.uint32(16))
    ).view(np.float32)


@njit(**FAST)
def e4m3(code):
    """float32 of an E4M3 number: its exponent goes up by 120, but in the smallest."""
    # NOTE: not its bits times 2^120: LLVM takes the factors of a product in any order,
    # and sums of numbers that are 2^120 too small have lost their last bits.
    size = np.uint32(np.uint32(code) & np.uint32(127))
    wide = np.uint32((size << np.uint32(20)) + np.uint32(120 << 23))
    small = FLOAT(FLOAT(np.int32(size)) * FLOAT(2.0**-9)).view(np.uint32)
    wide = wide if size > np.uint32(7) else small
    sign = np.uint32((np.uint32(code) & np.uint32(128)) << np.uint32(24))
    return np.uint32(wide | sign).view(np.float32)


# The inner loops are of a length that the compiler knows. A nibble must be a byte again
# before it becomes a float32: numba's integers are 64 bits wide, which no vector likes.


@njit(**FAST)
def int8_dot(row, x):
    """A row of Int8 times x [groups, 128]."""
    groups, total = len(x), FLOAT(0)
    codes = row[2 * groups :]
    for g in range(groups - 1):
        some, y, sum_ = codes[SIDE * g : SIDE * (g + 1)], x[g], FLOAT(0)
        for c in range(SIDE):
            sum_ += (FLOAT(some[c]) - FLOAT(128)) * y[c]
        total += sum_ * bfloat(row[2 * g], row[2 * g + 1])
    some, y, sum_ = codes[SIDE * (groups - 1) :], x[groups - 1], FLOAT(0)
    for c in range(min(len(some), SIDE)):
        sum_ += (FLOAT(some[c]) - FLOAT(128)) * y[c]
    return total + sum_ * bfloat(row[2 * groups - 2], row[2 * groups - 1])


@njit(**FAST)
def int4_dot(row, x):
    """A row of Int4 times x [groups, 128], each group its even and its odd columns."""
    groups, half, total = len(x), SIDE // 2, FLOAT(0)
    codes = row[2 * groups :]
    for g in range(groups - 1):
        some, even, odd = codes[half * g : half * (g + 1)], x[g, :half], x[g, half:]
        sum_ = FLOAT(0)
        for c in range(half):
            sum_ += low(some[c]) * even[c] + high(some[c]) * odd[c]
        total += sum_ * bfloat(row[2 * g], row[2 * g + 1])
    some, even, odd = codes[half * (groups - 1) :], x[groups - 1, :half], x[-1, half:]
    sum_ = FLOAT(0)
    for c in range(min(len(some), half)):
        sum_ += low(some[c]) * even[c] + high(some[c]) * odd[c]
    return total + sum_ * bfloat(row[2 * groups - 2], row[2 * groups - 1])


@njit(**FAST)
def low(byte):
    return FLOAT(np.uint8(byte & np.uint8(15))) - FLOAT(8)


@njit(**FAST)
def high(byte):
    return FLOAT(np.uint8(byte >> np.uint8(4))) - FLOAT(8)


@njit(**FAST)
def fp8_dot(codes, scales, x):
    """A row of E4M3 codes and its scales times x [groups, 128]."""
    groups, total = len(x), FLOAT(0)
    for g in range(groups - 1):
        some, y, sum_ = codes[SIDE * g : SIDE * (g + 1)], x[g], FLOAT(0)
        for c in range(SIDE):
            sum_ += e4m3(some[c]) * y[c]
        total += sum_ * wide(scales[g])
    some, y, sum_ = codes[SIDE * (groups - 1) :], x[groups - 1], FLOAT(0)
    for c in range(len(some)):
        sum_ += e4m3(some[c]) * y[c]
    return total + sum_ * wide(scales[groups - 1])


@njit(parallel=True, **FAST)
def product(w, x):
    """w [out, in] times x [in]."""
    y = ready(w, x.reshape(1, -1))[0]
    out = np.empty(height(w), FLOAT)
    for i in prange(len(out)):
        out[i] = times(w, i, y)
    return out
