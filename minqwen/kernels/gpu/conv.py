"""The short convolution over many tokens, `deltanet.causal_conv`, in one pass.

    y_t = silu(sum_j w_j x_{t - W + 1 + j}), each channel by itself

Moves x and y once, 4 bytes a number in bf16: torch's form, one product and one sum for
each of W taps, moves x and fp32 sums some ten times.
"""

import torch
import triton
import triton.language as tl

TOKENS, CHANNELS = 32, 128  # of one program


@triton.jit
def convolve(x, weight, window, out, T, channels: tl.constexpr, W: tl.constexpr,
             BT: tl.constexpr, BC: tl.constexpr):  # fmt: skip
    """x, out [B, T, channels]; weight [channels, W]; window [B, W - 1, channels]."""
    t = tl.program_id(0) * BT + tl.arange(0, BT)[:, None]
    c = tl.program_id(1) * BC + tl.arange(0, BC)[None, :]
    b = tl.program_id(2).to(tl.int64)
    real = (t < T) & (c < channels)
    total = tl.zeros([BT, BC], tl.float32)
    for j in tl.static_range(W):
        s = t - (W - 1) + j  # the token that tap j sees: below 0 it is in the window
        now = tl.load(x + (b * T + s) * channels + c, real & (s >= 0), 0.0)
        old = tl.load(
            window + (b * (W - 1) + s + W - 1) * channels + c, real & (s < 0), 0.0
        )
        tap = tl.load(weight + c * W + j, c < channels, 0.0).to(tl.float32)
        total += tl.where(s < 0, old, now).to(tl.float32) * tap
    # Rounded before the silu, where torch rounds.
    total = total.to(out.dtype.element_ty).to(tl.float32)
    y = total * tl.sigmoid(total)
    tl.store(out + (b * T + t) * channels + c, y.to(out.dtype.element_ty), real)


def causal_conv(x, weight, window=None):
    """y [B, T, channels] in x's dtype, and the window for what follows."""
    B, T, channels = x.shape
    W = weight.shape[-1]
    if window is None:
        window = x.new_zeros(B, W - 1, channels)
    x, out = x.contiguous(), torch.empty_like(x, memory_format=torch.contiguous_format)
    grid = triton.cdiv(T, TOKENS), triton.cdiv(channels, CHANNELS), B
    convolve[grid](
        x, weight.contiguous(), window.contiguous(), out, T, channels, W,
        BT=TOKENS, BC=CHANNELS, num_warps=4,
    )  # fmt: skip
    return out, torch.cat([window, x[:, -(W - 1) :]], 1)[:, -(W - 1) :].clone()
