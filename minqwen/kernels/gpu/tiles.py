"""What the chunk kernels share: tiles of tensors in memory, and their products.

A tile's place is a scalar, in 64 bits, and its numbers lie around it, in 32: an offset
of 64 bits for each of them would take more registers than the numbers.
"""

import triton
import triton.language as tl


@triton.jit
def row_tile(ptr, b, h, first, x, T, H: tl.constexpr, X: tl.constexpr,
             C: tl.constexpr, BX: tl.constexpr):  # fmt: skip
    """Tokens first..first+C, numbers x..x+BX of head h, [B, T, H, X]: where, which."""
    # Beyond T and X zeros are loaded, and a token of zeros neither writes nor forgets.
    t, i = tl.arange(0, C)[:, None], tl.arange(0, BX)[None, :]
    ptr += ((b * T + first) * H + h) * X + x
    return ptr + t * (H * X) + i, (first + t < T) & (x + i < X)


@triton.jit
def load_rows(ptr, b, h, first, x, T, H: tl.constexpr, X: tl.constexpr,
              C: tl.constexpr, BX: tl.constexpr):  # fmt: skip
    at, real = row_tile(ptr, b, h, first, x, T, H, X, C, BX)
    return tl.load(at, real, 0.0)


@triton.jit
def store_rows(tile, ptr, b, h, first, x, T, H: tl.constexpr, X: tl.constexpr,
               C: tl.constexpr, BX: tl.constexpr):  # fmt: skip
    at, real = row_tile(ptr, b, h, first, x, T, H, X, C, BX)
    tl.store(at, tile.to(ptr.dtype.element_ty), real)


@triton.jit
def load_column(ptr, b, h, first, T, H: tl.constexpr, C: tl.constexpr):
    """One number a token, [C] fp32, of a tensor [B, T, H]."""
    t = tl.arange(0, C)
    x = tl.load(ptr + (b * T + first) * H + h + t * H, first + t < T, 0.0)
    return x.to(tl.float32)


@triton.jit
def store_column(tile, ptr, b, h, first, T, H: tl.constexpr, C: tl.constexpr):
    t = tl.arange(0, C)
    tl.store(ptr + (b * T + first) * H + h + t * H, tile, first + t < T)


@triton.jit
def square_tile(ptr, index, v, K: tl.constexpr, V: tl.constexpr, BK: tl.constexpr,
                BV: tl.constexpr):  # fmt: skip
    """Columns v..v+BV of matrix number `index` in [..., K, V]: where, which."""
    i, j = tl.arange(0, BK)[:, None], tl.arange(0, BV)[None, :]
    return ptr + index * (K * V) + v + i * V + j, (i < K) & (v + j < V)


@triton.jit
def load_square(ptr, index, v, K: tl.constexpr, V: tl.constexpr, BK: tl.constexpr,
                BV: tl.constexpr):  # fmt: skip
    at, real = square_tile(ptr, index, v, K, V, BK, BV)
    return tl.load(at, real, 0.0)


@triton.jit
def store_square(tile, ptr, index, v, K: tl.constexpr, V: tl.constexpr,
                 BK: tl.constexpr, BV: tl.constexpr):  # fmt: skip
    at, real = square_tile(ptr, index, v, K, V, BK, BV)
    tl.store(at, tile.to(ptr.dtype.element_ty), real)


@triton.jit
def dot(a, b):
    """A product on the tensor cores, added up in fp32."""
    # 16-bit numbers are multiplied as they are. fp32 ones are split in three (tf32x3):
    # a third of the speed of tf32, and 1e-6 instead of 1e-3 off.
    return tl.dot(a, b, input_precision="tf32x3")
