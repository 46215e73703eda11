"""A delta layer between its projections, with gradients, in two passes on a CPU.

`mix` is the convolution with what follows it channel by channel or head by head: silu,
and unit length for queries and keys. `rule` is the gated delta rule token by token.
The state of one head, [V, K] here and so its own transpose elsewhere, stays in the
nearest cache. Backward, d is the loss's gradient, and for each token from the last

    S  = exp(g) P + e k^T       o = S q       e = beta (v - exp(g) P k)
    dS += do q^T                dq = S^T do
    de = dS k                   dk = dS^T e - beta exp(g) P^T de
    dP = exp(g) (dS - beta de k^T)            dv = beta de
    dbeta = de . (v - exp(g) P k)             dg = <dP, P>

where P is the state before the token. A row of S meets no other row, so all of that is
one pass over the rows. The states are made again from the misss e, which are kept:
those at every STRIDE tokens first, then the ones in between, as they are needed.
"""

import numpy as np
import torch
import torch.nn.functional as F
from numba import njit
from torch.autograd.function import once_differentiable

from ..kernels.cpu.loops import FAST, FLOAT, ONE, sigmoid

# Two threads work on halves of a batch, so loops let go of Python's lock.
FAST = {**FAST, "nogil": True}
WIDTH = 32  # no key is wider; known to the compiler, a row of S is a few vectors
Q, KEY, DQ, DK, DG = range(5)
SLOTS = 5
STRIDE = 16  # tokens whose states are in memory at a time


def remember(qkv, x, mixer, window=None, state=None):
    """`deltanet.remember` for whole rows: no window and no state to begin with."""
    m, W = mixer, mixer.conv1d.weight.shape[-1]
    g = -m.A_log.exp() * F.softplus(m.in_proj_a(x) + m.dt_bias)
    beta = m.in_proj_b(x).sigmoid()
    sizes = m.key_heads, m.head_k_dim, m.heads, m.head_v_dim
    o, last = Memory.apply(qkv, m.conv1d.weight, g, beta, sizes)
    missing = max(0, W - 1 - qkv.shape[1])
    return o, F.pad(qkv[:, 1 - W :], (0, 0, missing, 0)), last


class Memory(torch.autograd.Function):
    """From qkv [B, T, channels] to o [B, T, H, V] and the last state [B, H, K, V]."""

    @staticmethod
    def forward(ctx, qkv, weight, g, beta, sizes):
        Hk, K, H, V = ctx.sizes = sizes
        B, T, _ = qkv.shape
        qkv, g, beta = qkv.contiguous(), g.contiguous(), beta.contiguous()
        mixed, scale = torch.empty_like(qkv), qkv.new_empty(B, T, 2 * Hk)
        mix(*numbers(qkv, taps(weight), mixed, scale), K)
        o, miss = (qkv.new_empty(B, T, H, V) for _ in range(2))
        last = qkv.new_empty(B, H, V, K)
        rule(*numbers(mixed, g.exp(), beta, o, miss, last), Hk)
        ctx.save_for_backward(qkv, weight, g, beta, mixed, scale, miss)
        return o, last.mT

    @staticmethod
    @once_differentiable
    def backward(ctx, do, end):
        qkv, weight, g, beta, mixed, scale, miss = ctx.saved_tensors
        do, end = do.contiguous(), end.mT.contiguous()
        dmixed, dg, dbeta = torch.zeros_like(mixed), torch.empty_like(g), beta * 0
        rule_back(
            *numbers(mixed, g.exp(), beta, miss, do, end, dmixed, dg, dbeta),
            ctx.sizes[0],
        )  # fmt: skip
        dqkv, dtaps = torch.zeros_like(qkv), torch.zeros_like(taps(weight))
        mix_back(
            *numbers(qkv, taps(weight), mixed, scale, dmixed, dqkv, dtaps), ctx.sizes[1]
        )
        return dqkv, dtaps.T[:, None], dg, dbeta, None


def taps(weight):
    """[W, channels] of a convolution's weight [channels, 1, W]."""
    return weight[:, 0].T.contiguous()


def numbers(*tensors):
    return [x.detach().numpy() for x in tensors]


@njit(**FAST)
def convolved(x, taps, t, out):
    """out [channels] = sum_j taps_j x_{t-W+1+j}, for x [T, channels]."""
    W, channels = taps.shape
    out[:] = 0
    for j in range(max(0, W - 1 - t), W):
        for c in range(channels):
            out[c] += x[t - W + 1 + j, c] * taps[j, c]


@njit(**FAST)
def mix(x, taps, out, scale, K):
    """silu of the convolution; then the first heads, of K channels, as unit vectors.

    x, out [B, T, channels]; taps [W, channels]; scale [B, T, heads], 1 / length.
    """
    B, T, channels = x.shape
    total = np.empty(channels, FLOAT)
    for b in range(B):
        for t in range(T):
            convolved(x[b], taps, t, total)
            row = out[b, t]
            for c in range(channels):
                row[c] = total[c] * sigmoid(total[c])
            for h in range(scale.shape[2]):
                squares = FLOAT(1e-6)  # as `l2norm` has it
                for c in range(h * K, h * K + K):
                    squares += row[c] * row[c]
                scale[b, t, h] = ONE / np.sqrt(squares)
                for c in range(h * K, h * K + K):
                    row[c] *= scale[b, t, h]


@njit(**FAST)
def mix_back(x, taps, out, scale, dout, dx, dtaps, K):
    """The gradients dx and dtaps, added to what is there; dout is changed."""
    B, T, channels = x.shape
    W = len(taps)
    total = np.empty(channels, FLOAT)
    for b in range(B):
        for t in range(T):
            row, d = out[b, t], dout[b, t]
            for h in range(scale.shape[2]):
                along = FLOAT(0)  # the length does not change with it
                for c in range(h * K, h * K + K):
                    along += row[c] * d[c]
                for c in range(h * K, h * K + K):
                    d[c] = scale[b, t, h] * (d[c] - row[c] * along)
            convolved(x[b], taps, t, total)
            for c in range(channels):
                s = sigmoid(total[c])
                d[c] *= s * (ONE + total[c] * (ONE - s))
            for j in range(max(0, W - 1 - t), W):
                to, of = dx[b, t - W + 1 + j], x[b, t - W + 1 + j]
                for c in range(channels):
                    to[c] += d[c] * taps[j, c]
                    dtaps[j, c] += d[c] * of[c]


@njit(**FAST)
def rule(mixed, keep, beta, out, miss, last, Hk):
    """The rule over rows [T, channels] of mixed: q and k of Hk heads each, then v.

    keep = exp(g), beta [B, T, H]; out and miss [B, T, H, V]; last [B, H, V, K].
    """
    B, T, H, V = out.shape
    K = last.shape[3]
    root = FLOAT(K**-0.5)
    q, k = np.empty(K, FLOAT), np.empty(K, FLOAT)
    S = np.empty((V, K), FLOAT)
    for b in range(B):
        for h in range(H):
            key, value = h // (H // Hk), 2 * Hk * K + h * V
            S[:] = 0
            for t in range(T):
                a, kq = keep[b, t, h], FLOAT(0)
                for i in range(K):
                    q[i] = root * mixed[b, t, key * K + i]
                    k[i] = mixed[b, t, (Hk + key) * K + i]
                    kq += k[i] * q[i]
                for j in range(V):
                    read, asked = FLOAT(0), FLOAT(0)
                    for i in range(K):
                        read += S[j, i] * k[i]
                        asked += S[j, i] * q[i]
                    u = mixed[b, t, value + j] - a * read
                    e = beta[b, t, h] * u
                    miss[b, t, h, j] = u
                    out[b, t, h, j] = a * asked + e * kq
                    for i in range(K):
                        S[j, i] = a * S[j, i] + e * k[i]
            last[b, h] = S


@njit(**FAST)
def replay(states, at, to, miss, mixed, b, t, h, k, keep, beta):
    """states[to], after a token, from the one before it, states[at]."""
    for i in range(len(k)):
        k[i] = mixed[b, t, first + i]
    for j in range(states.shape[1]):
        e = beta * miss[b, t, h, j]
        for i in range(len(k)):
            states[to, j, i] = keep * states[at, j, i] + e * k[i]


@njit(**FAST)
def rule_back(mixed, keep, beta, miss, do, end, dmixed, dg, dbeta, Hk):
    """`rule` backward: dmixed is added to; dg and dbeta [B, T, H] are written.

    do [B, T, H, V] and end [B, H, V, K] are the gradients at its results.
    """
    B, T, H, V = do.shape
    K = end.shape[3]
    root, R = FLOAT(K**-0.5), H // Hk
    work = np.empty((SLOTS, K), FLOAT)
    starts = np.empty((T // STRIDE + 1, V, K), FLOAT)
    P = np.empty((STRIDE, V, K), FLOAT)
    dS = np.empty((V, K), FLOAT)
    for b in range(B):
        for h in range(H):
            key, value = h // R, 2 * Hk * K + h * V
            P[0] = 0
            for t in range(T):
                if t % STRIDE == 0:
                    starts[t // STRIDE] = P[0]
                for i in range(K):
                    work[KEY, i] = mixed[b, t, (Hk + key) * K + i]
                for j in range(V):
                    e = beta[b, t, h] * miss[b, t, h, j]
                    for i in range(K):
                        P[0, j, i] = keep[b, t, h] * P[0, j, i] + e * work[KEY, i]
            dS[:] = end[b, h]
            for t in range(T - 1, -1, -1):
                at = t % STRIDE
                if t == T - 1 or at == STRIDE - 1:
                    P[0] = starts[t // STRIDE]
                    for n in range(at):
                        s = t - at + n
                        for i in range(K):
                            work[KEY, i] = mixed[b, s, (Hk + key) * K + i]
                        for j in range(V):
                            e = beta[b, s, h] * miss[b, s, h, j]
                            for i in range(K):
                                P[n + 1, j, i] = keep[b, s, h] * P[n, j, i] + e * work[KEY, i]
                for i in range(K):
                    work[Q, i] = root * mixed[b, t, key * K + i]
                    work[KEY, i] = mixed[b, t, (Hk + key) * K + i]
                    work[DQ, i] = work[DK, i] = work[DG, i] = 0
                a, dbelief = keep[b, t, h], FLOAT(0)
                for j in range(V):
                    d, de = do[b, t, h, j], FLOAT(0)
                    for i in range(K):
                        dS[j, i] += d * work[Q, i]
                        de += dS[j, i] * work[KEY, i]
                    dbelief += de * miss[b, t, h, j]
                    dv = beta[b, t, h] * de
                    e = beta[b, t, h] * miss[b, t, h, j]
                    dmixed[b, t, value + j] = dv
                    for i in range(K):
                        old = a * P[at, j, i]
                        work[DQ, i] += d * (old + e * work[KEY, i])
                        work[DK, i] += dS[j, i] * e - old * dv
                        x = dS[j, i] - dv * work[KEY, i]
                        work[DG, i] += x * old
                        dS[j, i] = a * x
                dbeta[b, t, h] = dbelief
                total = FLOAT(0)
                for i in range(K):
                    total += work[DG, i]
                    dmixed[b, t, key * K + i] += root * work[DQ, i]
                    dmixed[b, t, (Hk + key) * K + i] += work[DK, i]
                dg[b, t, h] = total
