"""A delta layer between its projections, with gradients, in one pass on a CPU.

A stretch of a row, STRIDE tokens, goes through it all while it is in a near cache: the
convolution with silu and, for queries and keys, unit length (`mix`); then, head by
head, the gated delta rule token by token (`rule`). S is a head's state [V, K] (the
transpose of what it is elsewhere), P the one before it, d the loss's gradient:

    S  = a P + e k^T     a = exp(g)     e = beta u     u = v - a P k     o = S q

Backward, from the last token to the first, with dS the gradient that later tokens left:

    de = dS k + do (k . q)         dv = beta de          dbeta = de . u
    dP = a (dS + do q^T - dv k^T)
    dq = a P^T do + k (e . do)     dk = dS^T e + q (e . do) - a P^T dv
    dg = a (<dS, P> + q . P^T do - k . P^T dv)

Of the way forward the states between stretches are kept, and u; the rest is made again.
"""

import numpy as np
import torch
import torch.nn.functional as F
from numba import njit
from torch.autograd.function import once_differentiable

from ..cpu.loops import FAST, FLOAT, ONE, sigmoid

# Two threads may work on halves of a batch. A loop here sums or stores, not both: where
# it stores, the compiler makes two of it, one for arrays that might overlap by their
# addresses, and a sum would be rounded in another order there.
FAST = {**FAST, "nogil": True}
# For what is passed an array made by its caller, whose shape is then known to it.
INLINE = {**FAST, "forceinline": True}
STRIDE = 16
WIDTH = 32  # no head is wider, which lets the compiler know how long its loops are
# Rows of one array, below the WIDTH rows of dS: what is one array has no aliases.
Q, KEY, DO, ERROR, DV, P_DO, P_DV, DS_E, DS_P, ROWS = range(WIDTH, WIDTH + 10)


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
        Hk, K, H, V = sizes
        B, T, _ = qkv.shape
        inputs = [x.contiguous() for x in (qkv, weight[:, 0].T, g.exp(), beta)]
        o, u = (qkv.new_empty(B, T, H, V) for _ in range(2))
        states = qkv.new_empty(B, 1 + (T + STRIDE - 1) // STRIDE, H, V, K)
        states[:, 0] = 0
        forward(*numbers(*inputs, o, u, states), Hk)
        ctx.save_for_backward(*inputs, u, states)
        ctx.key_heads = Hk
        return o, states[:, -1].mT

    @staticmethod
    @once_differentiable
    def backward(ctx, do, end):
        *inputs, u, states = ctx.saved_tensors
        dS = end.mT.clone(memory_format=torch.contiguous_format)
        dqkv, dtaps, dg, dbeta = grads = [torch.zeros_like(x) for x in inputs]
        backward(
            *numbers(*inputs, u, states, do.contiguous(), dS, *grads), ctx.key_heads
        )
        return dqkv, dtaps.T[:, None], dg, dbeta, None


def numbers(*tensors):
    return [x.detach().numpy() for x in tensors]


@njit(**FAST)
def forward(x, taps, keep, beta, out, u, states, Hk):
    """x [B, T, channels]: q and k of Hk heads, then v; taps [W, channels]; keep = e^g.

    states [B, 1 + stretches, H, V, K]: the first is given. Writes the others, out and u
    [B, T, H, V].
    """
    B, T, channels = x.shape
    _, stretches, H, V, K = states.shape
    mixed = np.empty((STRIDE, channels), FLOAT)
    scale = np.empty((STRIDE, 2 * Hk), FLOAT)
    for b in range(B):
        for n in range(stretches - 1):
            first, last = n * STRIDE, min(T, (n + 1) * STRIDE)
            mix(x[b], taps, first, last, K, mixed, scale)
            states[b, n + 1] = states[b, n]
            for h in range(H):
                at, s = places(h, H, Hk, K, V), slice(first, last)
                S = states[b, n + 1, h]
                rule(mixed, at, keep[b, s], beta[b, s], h, S, out[b, s], u[b, s])


@njit(**FAST)
def backward(x, taps, keep, beta, u, states, do, dS, dx, dtaps, dg, dbeta, Hk):
    """`forward` backward. dS [B, H, V, K], at the last states, becomes that at zero."""
    B, T, channels = x.shape
    _, stretches, H, V, K = states.shape
    mixed = np.empty((STRIDE, channels), FLOAT)
    scale = np.empty((STRIDE, 2 * Hk), FLOAT)
    dmixed = np.empty((STRIDE, channels), FLOAT)
    near = np.empty((2, STRIDE, H, V), FLOAT)
    P, work = np.zeros((STRIDE, WIDTH, WIDTH), FLOAT), np.zeros((ROWS, WIDTH), FLOAT)
    for b in range(B):
        for n in range(stretches - 2, -1, -1):
            first, last = n * STRIDE, min(T, (n + 1) * STRIDE)
            mix(x[b], taps, first, last, K, mixed, scale)
            dmixed[:] = 0
            # Copied in the order of memory: heads are read in another one.
            near[0, : last - first] = u[b, first:last]
            near[1, : last - first] = do[b, first:last]
            for h in range(H):
                at, s = places(h, H, Hk, K, V), slice(first, last)
                P[0, :V, :K] = states[b, n, h]
                work[:V, :K] = dS[b, h]
                replay(mixed, at, K, keep[b, s], beta[b, s], h, near[0], P, work)
                rule_back(mixed, at, K, keep[b, s], beta[b, s], h, near[0], near[1],
                          P, work, dmixed, dg[b, s], dbeta[b, s])  # fmt: skip
                dS[b, h] = work[:V, :K]
            mix_back(x[b], taps, first, last, K, mixed, scale, dmixed, dx[b], dtaps)


@njit(**FAST)
def convolved(x, taps, t, out):
    """out [channels] = sum_j taps_j x_{t-W+1+j}, for x [T, channels]."""
    W, channels = taps.shape
    out[:] = 0
    for j in range(max(0, W - 1 - t), W):
        for c in range(channels):
            out[c] += x[t - W + 1 + j, c] * taps[j, c]


@njit(**FAST)
def mix(x, taps, first, last, K, out, scale):
    """silu of the convolution; then the first heads, of K channels, as unit vectors.

    out [STRIDE, channels] for tokens first to last of x [T, channels]; scale [STRIDE,
    heads] is what the unit vectors were multiplied by.
    """
    channels = x.shape[1]
    total = np.empty(channels, FLOAT)
    for t in range(last - first):
        convolved(x, taps, first + t, total)
        for c in range(channels):
            out[t, c] = total[c] * sigmoid(total[c])
        for h in range(scale.shape[1]):
            squares = FLOAT(1e-6)  # as `l2norm` has it
            for c in range(h * K, h * K + K):
                squares += out[t, c] * out[t, c]
            s = scale[t, h] = ONE / np.sqrt(squares)
            for c in range(h * K, h * K + K):
                out[t, c] *= s


@njit(**FAST)
def mix_back(x, taps, first, last, K, out, scale, dout, dx, dtaps):
    """The gradients dx [T, channels] and dtaps, added to what is there."""
    W, channels = taps.shape
    total, d = np.empty(channels, FLOAT), np.empty(channels, FLOAT)
    for t in range(last - first):
        d[:] = dout[t]
        for h in range(scale.shape[1]):
            along = FLOAT(0)  # in its own direction a unit vector cannot change
            for c in range(h * K, h * K + K):
                along += out[t, c] * d[c]
            for c in range(h * K, h * K + K):
                d[c] = scale[t, h] * (d[c] - out[t, c] * along)
        convolved(x, taps, first + t, total)
        for c in range(channels):
            s = sigmoid(total[c])
            d[c] *= s * (ONE + total[c] * (ONE - s))
        for j in range(max(0, W - 1 - first - t), W):
            at = first + t - W + 1 + j
            for c in range(channels):
                dx[at, c] += d[c] * taps[j, c]
            for c in range(channels):
                dtaps[j, c] += d[c] * x[at, c]


@njit(**FAST)
def places(h, H, Hk, K, V):
    """Where in a row of `mixed` the query, the key and the value of head h begin."""
    shared = h // (H // Hk)
    return shared * K, (Hk + shared) * K, 2 * Hk * K + h * V


@njit(**FAST)
def rule(mixed, at, keep, beta, h, S, out, u):
    """The rule on head h over a stretch. S [V, K] is changed; u and out are written."""
    V, K = S.shape
    query, key, value = at
    root = FLOAT(K**-0.5)
    q, k = np.empty(K, FLOAT), np.empty(K, FLOAT)
    for t in range(len(keep)):
        a, kq = keep[t, h], FLOAT(0)
        for i in range(K):
            q[i], k[i] = root * mixed[t, query + i], mixed[t, key + i]
        for i in range(K):
            kq += k[i] * q[i]
        for j in range(V):
            read, asked = FLOAT(0), FLOAT(0)
            for i in range(K):
                read += S[j, i] * k[i]
                asked += S[j, i] * q[i]
            u[t, h, j] = mixed[t, value + j] - a * read
            e = beta[t, h] * u[t, h, j]
            out[t, h, j] = a * asked + e * kq
            for i in range(K):
                S[j, i] = a * S[j, i] + e * k[i]


@njit(**INLINE)
def replay(mixed, at, K, keep, beta, h, u, P, work):
    """The states before each token of a stretch, from that before the first, P[0]."""
    for t in range(len(keep) - 1):
        for i in range(K):
            work[KEY, i] = mixed[t, at[1] + i]
        for j in range(u.shape[2]):
            e = beta[t, h] * u[t, h, j]
            for i in range(K):
                P[t + 1, j, i] = keep[t, h] * P[t, j, i] + e * work[KEY, i]


@njit(**INLINE)
def rule_back(mixed, at, K, keep, beta, h, u, do, P, work, dmixed, dg, dbeta):
    """`rule` backward. The first WIDTH rows of `work` are dS, and become dP."""
    V = u.shape[2]
    query, key, value = at
    root = FLOAT(K**-0.5)
    for t in range(len(keep) - 1, -1, -1):
        a, qk, edo, believed = keep[t, h], FLOAT(0), FLOAT(0), FLOAT(0)
        for i in range(K):
            work[Q, i], work[KEY, i] = root * mixed[t, query + i], mixed[t, key + i]
        for i in range(K):
            qk += work[Q, i] * work[KEY, i]
        for j in range(V):
            de = do[t, h, j] * qk
            for i in range(K):
                de += work[j, i] * work[KEY, i]
            believed += de * u[t, h, j]
            work[DO, j], work[DV, j] = do[t, h, j], beta[t, h] * de
            work[ERROR, j] = beta[t, h] * u[t, h, j]
            edo += work[ERROR, j] * work[DO, j]
            dmixed[t, value + j] = work[DV, j]
        token_back(P, t, work, a)
        forgot = FLOAT(0)
        for i in range(K):
            forgot += work[DS_P, i] + work[Q, i] * work[P_DO, i]
            forgot -= work[KEY, i] * work[P_DV, i]
        for i in range(K):
            q, k = work[Q, i], work[KEY, i]
            dmixed[t, query + i] += root * (a * work[P_DO, i] + edo * k)
            dmixed[t, key + i] += work[DS_E, i] + edo * q - a * work[P_DV, i]
        dg[t, h], dbeta[t, h] = forgot * a, believed


@njit(**INLINE)
def token_back(P, t, work, a):
    """The one pass over dS and P[t]: what is summed over their rows, and dP."""
    for i in range(WIDTH):
        work[P_DO, i] = work[P_DV, i] = work[DS_E, i] = work[DS_P, i] = 0
    for j in range(WIDTH):
        d, dv, e = work[DO, j], work[DV, j], work[ERROR, j]
        for i in range(WIDTH):
            p, s = P[t, j, i], work[j, i]
            work[P_DO, i] += d * p
            work[P_DV, i] += dv * p
            work[DS_E, i] += e * s
            work[DS_P, i] += s * p
            work[j, i] = a * (s + d * work[Q, i] - dv * work[KEY, i])
