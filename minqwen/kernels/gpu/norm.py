"""The two norms of norm.py, each one pass over its input with everything in registers.

    RMSNorm        y = x rsqrt(mean(x^2) + eps) (1 + w)
    GatedRMSNorm   y = x rsqrt(mean(x^2) + eps) w silu(z)

In bf16 the first moves 4 bytes a number and the second 6. As torch runs them, five
operations with fp32 between, it is about 26 and 40.
"""

import triton
import triton.language as tl

PER_PROGRAM = 4096  # numbers: one row of 397B's residual stream, or 32 heads' rows


@triton.jit
def norm_rows(x, z, weight, out, N, eps, X: tl.constexpr, BN: tl.constexpr,
              BX: tl.constexpr, GATED: tl.constexpr):  # fmt: skip
    """BN rows of x, z, out [N, X]; weight [X]. z is read only if GATED."""
    n = (tl.program_id(0).to(tl.int64) * BN + tl.arange(0, BN))[:, None]
    i = tl.arange(0, BX)[None, :]
    at, real = n * X + i, (n < N) & (i < X)
    y = tl.load(x + at, real, 0.0).to(tl.float32)
    y *= tl.rsqrt(tl.sum(y * y, 1, keep_dims=True) / X + eps)
    gain = tl.load(weight + i, i < X, 0.0).to(tl.float32)
    dtype = out.dtype.element_ty
    if GATED:
        gate = tl.load(z + at, real, 0.0).to(tl.float32)
        y = y.to(dtype).to(tl.float32) * gain  # rounded where torch rounds
        y *= gate * tl.sigmoid(gate)
    else:
        y *= 1 + gain
    tl.store(out + at, y.to(dtype), real)


def rms_norm(x, weight, eps):
    """`RMSNorm`: x [..., D] -> the same shape and dtype."""
    return launch(x, None, weight, x.new_empty(x.shape), eps)


def gated_rms_norm(x, z, weight, eps):
    """`GatedRMSNorm`: x, z [..., V] -> z's dtype."""
    return launch(x, z.contiguous(), weight, z.new_empty(z.shape), eps)


def launch(x, z, weight, out, eps):
    x, X = x.contiguous(), x.shape[-1]
    BX, N = triton.next_power_of_2(X), x.numel() // X
    BN = max(1, PER_PROGRAM // BX)
    norm_rows[(triton.cdiv(N, BN),)](
        x, z, weight, out, N, eps, X, BN, BX, GATED=z is not None,
        num_warps=4 if BX <= 4096 else 8,
    )  # fmt: skip
    return out
