"""One token of a Gated DeltaNet layer, between its projections: one kernel.

What `GatedDeltaNet.forward` does at T = 1 with a cache, after `in_proj_*` and before
the gated norm. For a value head h that reads key head h // R:

    q, k, v  = silu(short convolution of the token and the window)
    q, k     = q / |q| / sqrt(K), k / |k|
    beta     = sigmoid(b)     g = -exp(A_log) softplus(a + dt_bias)
    S <- exp(g) S;  e = beta (v - S^T k);  S <- S + k e^T;  o = S^T q

Each program owns some columns of one head's state: reads them once, writes them once,
and works out q and k, which it needs whole, for itself. Of 8.6 MB that move in a layer
of 397B, 8.4 are the state. What that costs is all that a step costs on a large GPU;
torch's form passes over the state seven times.
"""

import torch
import triton
import triton.language as tl

COLUMNS = 32  # of the state in one program: at 64 heads and V = 128, 256 programs


@triton.jit
def slide(u, weight, window, moved, b, c, real, keep, channels: tl.constexpr,
          W: tl.constexpr):  # fmt: skip
    """The convolution and its silu for channels c of row b, in fp32."""
    # With `keep`, also writes their part of the next window: others may be reading this
    # one, so it is a tensor of its own.
    now = tl.load(u + b * channels + c, real, 0.0)
    total = tl.zeros_like(now).to(tl.float32)
    for j in tl.static_range(W - 1):
        old = tl.load(window + (b * (W - 1) + j) * channels + c, real, 0.0)
        total += old.to(tl.float32) * tl.load(weight + c * W + j, real, 0.0)
        if j > 0:
            tl.store(moved + (b * (W - 1) + j - 1) * channels + c, old, real & keep)
    tl.store(moved + (b * (W - 1) + W - 2) * channels + c, now, real & keep)
    total += now.to(tl.float32) * tl.load(weight + c * W + W - 1, real, 0.0)
    total = total.to(now.dtype).to(tl.float32)  # rounded where torch rounds
    return (total * tl.sigmoid(total)).to(now.dtype).to(tl.float32)


@triton.jit
def softplus(x):
    """log(1 + exp(x)), to fp32's last digits where exp(x) is small beside 1 too."""
    y = tl.exp(-tl.abs(x))
    return tl.maximum(x, 0.0) + tl.where(y < 1e-3, y * (1 - y / 2), tl.log(1 + y))


@triton.jit
def remember(qkv, a, b, weight, window, moved, A_log, dt_bias, state, o,
             H: tl.constexpr, R: tl.constexpr, K: tl.constexpr, V: tl.constexpr,
             W: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr):  # fmt: skip
    """BV columns of one value head of one row: its state moves on, o [B, H, V] is read.

    Tensors as `delta_token` has them; moved: the next window.
    """
    Hk: tl.constexpr = H // R
    channels: tl.constexpr = 2 * Hk * K + H * V
    row, h = (tl.program_id(1) // H).to(tl.int64), tl.program_id(1) % H
    i, x = tl.arange(0, BK), tl.program_id(0) * BV + tl.arange(0, BV)
    first = (tl.program_id(0) == 0) & (h % R == 0)  # of those that share this key head
    c = h // R * K + i
    q = slide(qkv, weight, window, moved, row, c, i < K, first, channels, W)
    c += Hk * K
    k = slide(qkv, weight, window, moved, row, c, i < K, first, channels, W)
    c = 2 * Hk * K + h * V + x
    v = slide(qkv, weight, window, moved, row, c, x < V, x < V, channels, W)
    q *= tl.rsqrt(tl.sum(q * q, 0) + 1e-6) * K**-0.5
    k *= tl.rsqrt(tl.sum(k * k, 0) + 1e-6)
    believed = tl.load(b + row * H + h)
    dtype: tl.constexpr = believed.dtype
    believed = tl.sigmoid(believed.to(tl.float32)).to(dtype).to(tl.float32)
    opened = tl.load(a + row * H + h).to(tl.float32) + tl.load(dt_bias + h)
    g = -tl.exp(tl.load(A_log + h).to(tl.float32)) * softplus(opened)
    at = ((row * H + h) * K + i[:, None]) * V + x[None, :]
    real = (i < K)[:, None] & (x < V)[None, :]
    S = tl.load(state + at, real, 0.0) * tl.exp(g)
    e = believed * (v - tl.sum(S * k[:, None], 0))
    S += k[:, None] * e[None, :]
    tl.store(state + at, S, real)
    out = tl.sum(S * q[:, None], 0)
    tl.store(o + (row * H + h) * V + x, out.to(o.dtype.element_ty), x < V)


def delta_token(qkv, a, b, *, weight, window, A_log, dt_bias, state):
    """The kernel for B rows. Changes `state`; returns o [B, H, V] and the next window.

    qkv [B, channels], a, b [B, H] as projected; weight [channels, 1, W] of the
    convolution; window [B, W - 1, channels]; A_log, dt_bias [H]; state [B, H, K, V],
    fp32, contiguous. o has qkv's dtype.
    """
    B, H, K, V = state.shape
    W = weight.shape[-1]
    R = H // ((qkv.shape[-1] - H * V) // (2 * K))
    o, moved = qkv.new_empty(B, H, V), torch.empty_like(window)
    BV = min(COLUMNS, triton.next_power_of_2(V))
    remember[triton.cdiv(V, BV), B * H](
        qkv, a, b, weight, window, moved, A_log, dt_bias, state, o,
        H, R, K, V, W, triton.next_power_of_2(K), BV, num_warps=4,
    )  # fmt: skip
    return o, moved
