"""llama.cpp's Q8_0, Q4_K, Q5_K and Q6_K, multiplied as they lie.

One class for four layouts, told apart at each row: a model mixes them, and each class
more would compile every loop anew. Layouts and their source: weights/quantised/ggml.py.
"""

from typing import NamedTuple

import numpy as np
from numba import njit
from numba.extending import overload

from . import packed
from .loops import FAST, FLOAT, store
from .packed import kind, part, ready, times
from .vectors import floats, halves, load, put, signed, total, zeros

# A widened number is that of quantised/ggml.py to the last bit: nothing is fused.
EXACT = dict(error_model="numpy", nogil=True, cache=True)
SOME = 32  # columns of a vector, and those that share a least value
WORD, SIX, FOUR, TWO = np.uint32, 0x3F3F3F3F, 0x0F0F0F0F, 0x03030303
FOURS, FIVES = 144, 176  # bytes of a block of Q4_K, and of Q5_K
NUMBERS = {"Q8_0": 8, "Q4_K": 4, "Q5_K": 5, "Q6_K": 6}


class Ggml(NamedTuple):
    """Blocks uint8 [R, bytes]; their form; where stored columns lie: [C] or [0]."""

    rows: np.ndarray
    number: int
    columns: np.ndarray


def matrix(weight):
    """`packed.matrix`, of llama.cpp's forms as well."""
    if weight.form not in NUMBERS:
        return packed.matrix(weight)
    none, order = np.empty(0, np.int64), weight.columns
    order = none if order is None else order.numpy()
    return Ggml(weight.parts()[""].numpy(), NUMBERS[weight.form], order)


@overload(part)
def _part(w, s):
    if kind(w) is Ggml:
        return lambda w, s: Ggml(w.rows[s], w.number, w.columns)
    return None


@overload(ready)
def _ready(w, x):
    """[n, C + C / 32]: x in the order of the stored columns, then the sums of 32."""
    if kind(w) is not Ggml:
        return None

    def summed(w, x):
        n, width = x.shape
        out = np.empty((n, width + width // SOME), FLOAT)
        for r in range(n):
            for c in range(width):
                out[r, c] = x[r, w.columns[c]] if len(w.columns) else x[r, c]
            for g in range(width // SOME):
                out[r, width + g] = out[r, SOME * g : SOME * (g + 1)].sum()
        return out

    return summed


@overload(times)
def _times(w, i, x):
    if kind(w) is Ggml:
        return lambda w, i, x: row_dot(w.number, w.rows[i], x)
    return None


@njit(**FAST)
def row_dot(number, row, x):
    """A row of blocks times what `ready` made of x."""
    if number == 8:
        return q8_dot(row, x)
    if number == 6:
        return q6_dot(row, x)
    if number == 5:
        return q5_dot(row, x)
    return q4_dot(row, x)


@njit(**FAST)
def half(row, at):
    """float32 of the float16 at two bytes: its bits in their places, times 2^112."""
    # NOTE: the sign comes last. Else LLVM, which takes the factors of a product in any
    # order, may multiply 2^112 with other factors first, and that overflows.
    bits = WORD(row[at]) | WORD(row[at + 1]) << WORD(8)
    size = WORD((bits & WORD(0x7FFF)) << WORD(13)).view(FLOAT)
    wide = FLOAT(size * FLOAT(2.0**112)).view(WORD)
    return WORD(wide | (bits & WORD(0x8000)) << WORD(16)).view(FLOAT)


@njit(**FAST)
def word(row, at):
    """Four bytes as a whole number, the first lowest."""
    low = WORD(row[at]) | WORD(row[at + 1]) << WORD(8)
    return WORD(low | WORD(row[at + 2]) << WORD(16) | WORD(row[at + 3]) << WORD(24))


@njit(**FAST)
def digit(words, i):
    """Byte i of two words, as int32."""
    return np.int32((words[i // 4] >> WORD(i % 4 * 8)) & WORD(255))


@njit(**FAST)
def byte(words, i):
    return FLOAT(digit(words, i))


@njit(**FAST)
def six_bits(row, at):
    """Eight s and eight t of 12 bytes, each as two words."""
    s, t, rest = word(row, at), word(row, at + 4), word(row, at + 8)
    more_s, more_t = s >> WORD(6) & WORD(TWO), t >> WORD(6) & WORD(TWO)
    return (
        (WORD(s & WORD(SIX)), WORD(rest & WORD(FOUR) | more_s << WORD(4))),
        (WORD(t & WORD(SIX)), WORD(rest >> WORD(4) & WORD(FOUR) | more_t << WORD(4))),
    )


@njit(**FAST)
def q8_dot(row, x):
    sums = zeros()
    for b in range(len(row) // 34):
        codes = signed(load(row, 34 * b + 2))
        sums += half(row, 34 * b) * (codes * load(x, SOME * b))
    return total(sums)


@njit(**FAST)
def minima(t, x, at):
    """Eight t times the sums of x that begin at `at`."""
    sum_ = FLOAT(0)
    for j in range(8):
        sum_ += byte(t, j) * x[at + j]
    return sum_


@njit(**EXACT)
def line(d, m, st, j, codes):
    return d * byte(st[0], j) * floats(codes) - m * byte(st[1], j)


@njit(**FAST)
def fours(row, at, size, fifth):
    """Codes of twice 32 columns of a block of `size` bytes; fifth: their highest."""
    q = load(row, at)
    if size == FIVES:
        return q & 15 | (fifth & 1) << 4, q >> 4 | (fifth & 2) << 3
    return q & 15, q >> 4


def of_fours(size):
    """`row_dot` and its widening for the blocks of Q4_K, or with a fifth bit of Q5_K.

    A function of its own for each size, so that the compiler knows it.
    """

    @njit(**FAST)
    def dot(row, x):
        sums, least, blocks = zeros(), FLOAT(0), len(row) // size
        for b in range(blocks):
            at, i, fifth = size * b, 256 * b, load(row, size * b + 16)
            d, s, t = half(row, at), *six_bits(row, at + 4)
            least += half(row, at + 2) * minima(t, x, 256 * blocks + 8 * b)
            for j in range(0, 8, 2):
                low, high = fours(row, at + size - 128 + 16 * j, size, fifth)
                fifth = fifth >> 2
                sums += d * byte(s, j) * (floats(low) * load(x, i + 32 * j))
                sums += d * byte(s, j + 1) * (floats(high) * load(x, i + 32 * j + 32))
        return total(sums) - least

    @njit(**EXACT)
    def wide(row, out):
        for b in range(len(row) // size):
            at, i, fifth = size * b, 256 * b, load(row, size * b + 16)
            d, m, st = half(row, at), half(row, at + 2), six_bits(row, at + 4)
            for j in range(0, 8, 2):
                low, high = fours(row, at + size - 128 + 16 * j, size, fifth)
                fifth = fifth >> 2
                put(out, i + 32 * j, line(d, m, st, j, low))
                put(out, i + 32 * j + 32, line(d, m, st, j + 1, high))

    return dot, wide


q4_dot, q4_wide = of_fours(FOURS)
q5_dot, q5_wide = of_fours(FIVES)


@njit(**FAST)
def sixes(row, at, h, j):
    """Codes of columns 32 k and 32 k + 64 on, k = 4 h + j, of the Q6_K at `at`."""
    low = load(row, at + 64 * h + 32 * j)
    high = load(row, at + 128 + 32 * h) >> 2 * j
    return low & 15 | (high & 3) << 4, low >> 4 | high & 48


@njit(**FAST)
def q6_dot(row, x):
    sums = zeros()
    for b in range(len(row) // 210):
        at, d = 210 * b, half(row, 210 * b + 208)
        for h in range(2):
            for j in range(2):
                low, high = sixes(row, at, h, j)
                k, i = at + 192 + 8 * h + 2 * j, 256 * b + 128 * h + 32 * j
                y = (floats(low) - FLOAT(32)) * load(x, i)
                sums += d * sixteens(row, k) * y
                y = (floats(high) - FLOAT(32)) * load(x, i + 64)
                sums += d * sixteens(row, k + 4) * y
    return total(sums)


@njit(**FAST)
def sixteens(row, at):
    """Two signed bytes, each for 16 columns."""
    return halves(FLOAT(np.int8(row[at])), FLOAT(np.int8(row[at + 1])))


@njit(**EXACT)
def widen_ggml(rows, number, columns, first, out):
    """Rows from `first` on into out [n, C], in the order of the stored columns."""
    room = np.empty(out.shape[1], FLOAT)
    for r in range(len(out)):
        row, numbers = rows[first + r], out[r]
        if number == 8:
            q8_wide(row, room)
        elif number == 6:
            q6_wide(row, room)
        elif number == 5:
            q5_wide(row, room)
        else:
            q4_wide(row, room)
        for c in range(len(room)):
            store(numbers, c, room[c])


@njit(**EXACT)
def q8_wide(row, out):
    for b in range(len(row) // 34):
        put(out, SOME * b, half(row, 34 * b) * signed(load(row, 34 * b + 2)))


@njit(**EXACT)
def q6_wide(row, out):
    for b in range(len(row) // 210):
        at, d = 210 * b, half(row, 210 * b + 208)
        for h in range(2):
            for j in range(2):
                low, high = sixes(row, at, h, j)
                k, i = at + 192 + 8 * h + 2 * j, 256 * b + 128 * h + 32 * j
                put(out, i, d * sixteens(row, k) * (floats(low) - FLOAT(32)))
                put(out, i + 64, d * sixteens(row, k + 4) * (floats(high) - FLOAT(32)))
