"""Packed matrices on a GPU: multiplied as they lie, each tile widened where it is used.

The forms int8, int4 and fp8 are those of weights/quantised/codecs.py. A tile of codes
is loaded in the widest pieces there are, becomes fp32 in registers, times its scales,
and goes on as if the matrix had been plain; no widened one is ever written down.

One row of x: nothing but reading takes time, so programs own some rows of the matrix
and add up in registers. More: tiles on the tensor cores, in x's dtype.
"""

# NOTE: never run on a GPU by us; blocks and stages are reckoned. An H200 reads some 21
# bytes a clock and SM, and carries out 128 operations there. By the machine code, one
# row of x takes 6 of them for a weight of int8, 7 of fp8 and of int4: int8 should be
# read as fast as memory allows, fp8 nearly, int4 at half of that, so that it gains no
# time over int8. With 128 rows a tile of W takes about as long to widen as to multiply.
# From 8.9 on one instruction widens two E4M3; here it is three for each.
import torch
import triton
import triton.language as tl

from .tiles import dot

SIDE = tl.constexpr(128)  # columns, in fp8 rows too, that share a scale
TILE = dict(BN=128, BK=64, num_stages=3)  # of products of 16-bit numbers


@triton.jit
def widened(w, scales, row, left, first, C: tl.constexpr, BN: tl.constexpr,
            BK: tl.constexpr, FORM: tl.constexpr, HALF: tl.constexpr):  # fmt: skip
    """Rows row..row+BN and columns first..first+BK of a matrix: [BN, BK].

    w, scales, FORM as `parts` gives them; plain tiles keep their dtype, others are
    fp32. row, first: scalars, first a multiple of BK. `left` rows and C columns are
    real, and what stands for the rest is finite. fp8's blocks begin anew after HALF
    rows. int4 puts the even column into the low half of a byte.
    """
    n = tl.arange(0, BN)
    if FORM is None:
        i = first + tl.arange(0, BK)
        real = (n < left)[:, None] & (i < C)[None, :]
        tile = tl.load(w + row * C + n[:, None] * C + i[None, :], real, 0.0)
    else:
        # [BN, groups, columns]: so each thread loads a scale once for its columns
        W: tl.constexpr = BK if BK < SIDE else SIDE
        PER: tl.constexpr = 2 if FORM == "int4" else 1  # codes a byte
        GROUPS: tl.constexpr = (C + SIDE - 1) // SIDE
        SIZE: tl.constexpr = (C + PER - 1) // PER
        HEAD: tl.constexpr = 0 if FORM == "fp8" else 2 * GROUPS
        ROW: tl.constexpr = SIZE if FORM == "fp8" else HEAD + (SIZE + 1) // 2 * 2
        group = tl.arange(0, BK // W)
        i = (first // PER + group * (W // PER))[:, None] + tl.arange(0, W // PER)
        real = (n < left)[:, None, None] & (i < SIZE)[None, :, :]
        codes = w + row * ROW + HEAD + n[:, None, None] * ROW + i[None, :, :]
        codes = tl.load(codes, real, 0)
        group += first // SIDE
        if FORM == "fp8":
            BLOCKS: tl.constexpr = (HALF + SIDE - 1) // SIDE
            block = (row + n) // HALF * BLOCKS + (row + n) % HALF // SIDE
            at = scales + block[:, None] * GROUPS + group[None, :]
        else:  # a row of bytes is half as many numbers of 16 bits
            at = scales + row * (ROW // 2) + n[:, None] * (ROW // 2) + group[None, :]
        scale = tl.load(at, (n < left)[:, None] & (group < GROUPS)[None, :], 0.0)
        scale = scale.to(tl.float32)[:, :, None]
        if FORM == "fp8":
            # E4M3's bits are those of an fp16, but for eight powers of two, and for a
            # second sign (bit 14) where the byte was widened with it.
            bits = codes.to(tl.int8, bitcast=True).to(tl.int16) << 7 & -16385
            tile = bits.to(tl.float16, bitcast=True).to(tl.float32) * (scale * 256)
        else:
            codes = codes.to(tl.int32)
            if FORM == "int4":
                codes = tl.interleave(codes & 15, codes >> 4)
            # Exact, as (code - zero) * scale is: these are numbers of few bits.
            zero: tl.constexpr = 8.0 if FORM == "int4" else 128.0
            tile = codes.to(tl.float32) * scale - zero * scale
        tile = tl.reshape(tile, [BN, BK])
    return tile


@triton.jit
def one_row(x, w, scales, y, R: tl.constexpr, C: tl.constexpr, FORM: tl.constexpr,
            BN: tl.constexpr, BK: tl.constexpr):  # fmt: skip
    """BN numbers of y [R] = W x. x [C]; W [R, C]."""
    n = tl.program_id(0) * BN
    total = tl.zeros([BN, BK], tl.float32)
    for first in range(0, C, BK):
        i = first + tl.arange(0, BK)
        some = tl.load(x + i, i < C, 0.0).to(tl.float32)[None, :]
        row = n.to(tl.int64)
        total += some * widened(w, scales, row, R - n, first, C, BN, BK, FORM, R)
    out = tl.sum(total, 1).to(y.dtype.element_ty)
    tl.store(y + n + tl.arange(0, BN), out, tl.arange(0, BN) < R - n)


@triton.jit
def product(x, w, scales, y, N, R: tl.constexpr, C: tl.constexpr, FORM: tl.constexpr,
            BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr):  # fmt: skip
    """A tile [BM, BN] of y [N, R] = x W^T. x [N, C]; W [R, C]."""
    m = tl.program_id(0).to(tl.int64) * BM  # the neighbours read the same tile of W
    n = tl.program_id(1) * BN
    j, k = tl.arange(0, BM)[:, None], tl.arange(0, BN)[None, :]
    x, y = x + m * C, y + m * R + n
    total = tl.zeros([BM, BN], tl.float32)
    for first in range(0, C, BK):
        i = (first + tl.arange(0, BK))[None, :]
        some = tl.load(x + j * C + i, (m + j < N) & (i < C), 0.0)
        row = n.to(tl.int64)
        tile = widened(w, scales, row, R - n, first, C, BN, BK, FORM, R)
        total += dot(some, tile.to(some.dtype).T)
    tl.store(y + j * R + k, total.to(y.dtype.element_ty), (m + j < N) & (n + k < R))


def parts(weight):
    """(codes, scales, FORM) of a Packed weight; of a plain one (itself, None, None)."""
    if torch.is_tensor(weight):
        return weight, None, None
    first, *scales = weight.parts().values()
    codes = first.view(torch.uint8)
    if scales:
        return codes, scales[0], "fp8"
    return codes, codes.view(torch.bfloat16), weight.form


def linear(x, weight):
    """`forms.linear`: x [..., C], weight Packed [R, C] -> [..., R]."""
    R, C = weight.shape
    x, y = x.contiguous(), x.new_empty(*x.shape[:-1], R)
    N = y.numel() // R
    *matrix, form = parts(weight)
    if N == 1:
        BN, BK = 4, most_columns(C, 1024)
        one_row[triton.cdiv(R, BN),](x, *matrix, y, R, C, form, BN, BK, num_warps=4)
        return y
    blocks = tile_of(N, x.dtype)
    grid = triton.cdiv(N, blocks["BM"]), triton.cdiv(R, blocks["BN"])
    product[grid](x, *matrix, y, N, R, C, form, **blocks)
    return y


def most_columns(C, most):
    """Of a tile as wide as the matrix, but for a part of a group and beyond `most`."""
    return min(most, max(16, triton.next_power_of_2(C)))


def tile_of(N, dtype):
    """For few rows a small tile, so that there are programs enough to read W."""
    BM = min(128, max(16, triton.next_power_of_2(N)))
    if dtype.itemsize == 4:
        shape = dict(BN=64, BK=32, num_stages=2)
    elif BM == 16:
        shape = dict(BN=32, BK=128, num_stages=5)
    else:
        shape = TILE
    return shape | dict(BM=BM, num_warps=8 if BM == 128 else 4)
