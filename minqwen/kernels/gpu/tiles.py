"""What the chunk kernels share: where a tile lies, and how tiles are multiplied."""

import triton
import triton.language as tl


@triton.jit
def rows(b, h, first, T, H: tl.constexpr, X: tl.constexpr, C: tl.constexpr,
         BX: tl.constexpr, x=0):  # fmt: skip
    """Offsets and mask of tokens first..first+C, one head, numbers x..x+BX.

    Of a tensor [B, T, H, X]. Beyond T and X the mask is false, so that a load gives
    zeros: a token of zeros neither writes nor forgets.
    """
    t = first + tl.arange(0, C)
    x += tl.arange(0, BX)
    at = ((b * T + t)[:, None] * H + h) * X + x[None, :]
    return at, (t < T)[:, None] & (x < X)[None, :]


@triton.jit
def column(b, h, first, T, H: tl.constexpr, C: tl.constexpr):
    """The same for one number a token: a tensor [B, T, H]."""
    t = first + tl.arange(0, C)
    return (b * T + t) * H + h, t < T


@triton.jit
def square(index, v, K: tl.constexpr, V: tl.constexpr, BK: tl.constexpr,
           BV: tl.constexpr):  # fmt: skip
    """The same for columns v..v+BV of matrix number `index` of a tensor [..., K, V]."""
    x, y = tl.arange(0, BK)[:, None], (v + tl.arange(0, BV))[None, :]
    return (index * K + x) * V + y, (x < K) & (y < V)


@triton.jit
def dot(a, b):
    """A product on the tensor cores, added up in fp32.

    16-bit numbers are multiplied as they are. fp32 ones are split in three (tf32x3):
    a third of the speed of tf32, and 1e-6 instead of 1e-3 off.
    """
    return tl.dot(a, b, input_precision="tf32x3")
