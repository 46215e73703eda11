"""Packed matrices times rows rounded to 8 bits: sums of whole numbers.

So llama.cpp has it. A row of x is, for every 128 columns, 41 words of 32 bits: the
float32 scale, the sums of the codes of each 16 columns, the codes, a byte each.
The reference: weights/quantised/codecs.py: rounded.
"""

from typing import NamedTuple

import numpy as np
from numba import njit
from numba.extending import overload

from . import ggml
from .ggml import FIVES, FOURS, Ggml, digit, fours, half, six_bits, sixes
from .loops import FAST, FLOAT, ONE
from .packed import SIDE, Int4, Int8, bfloat, kind, part, ready, times
from .vectors import (
    load,
    load_bytes,
    load_sums,
    no_sums,
    products,
    sizes,
    total,
    with_signs,
)

HEAD = 36  # bytes before the codes
I32 = np.int32
LEAST = np.finfo(FLOAT).tiny  # no scale is smaller, since a row is divided by it
OURS = {Int8: 1, Int4: 2}  # beside ggml's numbers


class Rounded(NamedTuple):
    """Rows uint8 [R, bytes], to be multiplied with rounded x; their form's number.

    order: the column at each place of a row of x, unless it is empty.
    """

    rows: np.ndarray
    number: int
    order: np.ndarray


def matrix(weight):
    """`ggml.matrix`, or Rounded where the weight asks for it."""
    w = ggml.matrix(weight)
    if not weight.rounded:
        return w
    if isinstance(w, Ggml):
        return Rounded(*w)
    order = np.empty(0, np.int64)
    if isinstance(w, Int4):  # the even columns of a group, then its odd ones
        order = np.arange(-(-weight.shape[-1] // SIDE) * SIDE)
        order = order.reshape(-1, SIDE // 2, 2).transpose(0, 2, 1).ravel()
    return Rounded(w.rows, OURS[type(w)], order)


@overload(part)
def _part(w, s):
    if kind(w) is Rounded:
        return lambda w, s: Rounded(w.rows[s], w.number, w.order)
    return None


@overload(ready)
def _ready(w, x):
    if kind(w) is Rounded:
        return lambda w, x: rounded_rows(x, w.order)
    return None


@overload(times)
def _times(w, i, x):
    if kind(w) is Rounded:
        return lambda w, i, x: row_dot(w.number, w.rows[i], x)
    return None


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
def rounded_rows(x, order):
    """x [n, C] -> int32 [n, groups, 41]."""
    n, width = x.shape
    groups = (width + SIDE - 1) // SIDE
    out, row = np.zeros((n, groups, (HEAD + SIDE) // 4), I32), np.zeros(SIDE, FLOAT)
    codes = out.view(np.uint8)
    for r in range(n):
        for g in range(groups):
            for c in range(SIDE):
                p = SIDE * g + c
                p = order[p] if p < len(order) else p
                row[c] = x[r, p] if p < width else FLOAT(0)
            scale, inverse = scales(row)
            out[r, g, 0] = FLOAT(scale).view(I32)
            for c in range(SIDE):
                code = I32(np.rint(row[c] * inverse))
                codes[r, g, HEAD + c] = np.uint8(code)
                out[r, g, 1 + c // 16] += code
    return out


@njit(**FAST)
def row_dot(number, row, x):
    """A row of a form times x [groups, 41]."""
    if number == 1:
        return int8_dot(row, x)
    if number == 2:
        return int4_dot(row, x)
    if number == 8:
        return q8_dot(row, x)
    if number == 6:
        return q6_dot(row, x)
    if number == 5:
        return q5_dot(row, x)
    return q4_dot(row, x)


@njit(**FAST)
def scale_of(words):
    return I32(words[0]).view(FLOAT)


@njit(**FAST)
def code(words, c):
    """Code c of a group, one by one."""
    word = np.uint32(words[HEAD // 4 + c // 4])
    return I32(np.int8(np.uint8(word >> np.uint32(c % 4 * 8))))


@njit(**FAST)
def signed(codes, words, c):
    """Sums of int8 codes times those of x from column c on."""
    x = with_signs(load_bytes(words, HEAD + c), codes)
    return products(sizes(codes), x, 1, 1)


@njit(**FAST)
def int8_dot(row, x):
    groups, sum_ = len(x), FLOAT(0)
    for g in range(groups):
        words, sums, at = x[g], no_sums(), 2 * groups + SIDE * g
        if len(row) >= at + SIDE:
            for c in range(0, SIDE, 32):
                sums += signed(load(row, at + c) ^ 128, words, c)
            whole = total(sums)
        else:
            whole = I32(0)
            for c in range(len(row) - at):
                whole = I32(whole + I32(I32(I32(row[at + c]) - 128) * code(words, c)))
        scale = bfloat(row[2 * g], row[2 * g + 1]) * scale_of(words)
        sum_ += scale * FLOAT(whole)
    return sum_


@njit(**FAST)
def int4_dot(row, x):
    groups, some, sum_ = len(x), SIDE // 2, FLOAT(0)
    for g in range(groups):
        words, at = x[g], 2 * groups + some * g
        sums = no_sums() - (load_sums(words, 1) << 3)  # 8 stands for 0
        if len(row) >= at + some:
            for c in range(0, some, 32):
                q = load(row, at + c)
                sums += products(q & 15, load_bytes(words, HEAD + c), 1, 1)
                sums += products(q >> 4, load_bytes(words, HEAD + some + c), 1, 1)
        whole = total(sums)
        if len(row) < at + some:
            for c in range(len(row) - at):
                low = I32(I32(row[at + c] & 15) * code(words, c))
                high = I32(I32(row[at + c] >> 4) * code(words, some + c))
                whole = I32(whole + I32(low + high))
        scale = bfloat(row[2 * g], row[2 * g + 1]) * scale_of(words)
        sum_ += scale * FLOAT(whole)
    return sum_


@njit(**FAST)
def q8_dot(row, x):
    sum_ = FLOAT(0)
    for b in range(len(row) // 34):
        words = x[b // 4]
        some = FLOAT(total(signed(load(row, 34 * b + 2), words, b % 4 * 32)))
        sum_ += half(row, 34 * b) * scale_of(words) * some
    return sum_


def of_fours(size):
    """`row_dot` for the blocks of Q4_K or Q5_K: see ggml.py."""

    @njit(**FAST)
    def dot(row, x):
        sum_ = FLOAT(0)
        for b in range(len(row) // size):
            at = size * b
            s, t = six_bits(row, at + 4)
            fifth = load(row, at + 16)
            for h in range(2):
                words, sums, least = x[2 * b + h], no_sums(), I32(0)
                for j in range(2):
                    codes, k = at + size - 128 + 64 * h + 32 * j, 4 * h + 2 * j
                    low, high = fours(row, codes, size, fifth)
                    fifth = fifth >> 2
                    y, first, second = HEAD + 64 * j, digit(s, k), digit(s, k + 1)
                    sums += products(low, load_bytes(words, y), first, first)
                    sums += products(high, load_bytes(words, y + 32), second, second)
                for j in range(4):
                    two = I32(words[1 + 2 * j] + words[2 + 2 * j])
                    least = I32(least + I32(digit(t, 4 * h + j) * two))
                d, m = half(row, at), half(row, at + 2)
                some = d * FLOAT(total(sums)) - m * FLOAT(least)
                sum_ += scale_of(words) * some
        return sum_

    return dot


q4_dot, q5_dot = of_fours(FOURS), of_fours(FIVES)


@njit(**FAST)
def q6_dot(row, x):
    sum_ = FLOAT(0)
    for b in range(len(row) // 210):
        at, d = 210 * b, half(row, 210 * b + 208)
        for h in range(2):
            words, sums, least, s = x[2 * b + h], no_sums(), I32(0), at + 192 + 8 * h
            for j in range(2):
                (low, high), k = sixes(row, at, h, j), s + 2 * j
                y = load_bytes(words, HEAD + 32 * j)
                z = load_bytes(words, HEAD + 32 * j + 64)
                sums += products(low, y, np.int8(row[k]), np.int8(row[k + 1]))
                sums += products(high, z, np.int8(row[k + 4]), np.int8(row[k + 5]))
            for k in range(8):
                least = I32(least + I32(I32(np.int8(row[s + k])) * words[1 + k]))
            some = I32(total(sums) - I32(least << I32(5)))  # 32 stands for 0
            sum_ += d * scale_of(words) * FLOAT(some)
    return sum_
