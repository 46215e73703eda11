"""What lies between two matrix products of a prefill, in one pass over memory each.

Rows are tokens. Each loop runs on one thread, without Python's lock, over the rows that
it is given, so that several threads can share the rows out (read.py). Weights and
activations are float32, or bfloat16 as uint16; what is computed here is float32.
"""

import numpy as np
from numba import njit

from . import loops
from .attention import rotate
from .loops import FAST, FLOAT, ONE, dot, exp, sigmoid, store, wide

FAST = FAST | {"nogil": True}


@njit(**FAST)
def add_and_norm(x, y, weight, eps, out):
    """x += y, then out = RMSNorm(x). x [T, D] float32."""
    for t in range(len(x)):
        row, new, normed = x[t], y[t], out[t]
        for i in range(len(row)):
            row[i] += wide(new[i])
        scale = ONE / np.sqrt(dot(row, row) / FLOAT(len(row)) + FLOAT(eps))
        for i in range(len(row)):
            store(normed, i, row[i] * scale * (ONE + wide(weight[i])))


@njit(**FAST)
def mix(seen, taps, q, k, v):
    """Convolution, silu and unit length, from seen [W - 1 + T, channels].

    taps [W, channels], float32. Fills q, k [T, Hk, K] (K^-1/2 in q) and v [T, H, V].
    """
    T, heads, K = q.shape
    H, V = v.shape[1:]
    total = np.empty(seen.shape[1], FLOAT)
    for t in range(T):
        total[:] = 0
        for j in range(len(taps)):
            row, tap = seen[t + j], taps[j]
            for c in range(len(total)):
                total[c] += wide(row[c]) * tap[c]
        for c in range(len(total)):
            total[c] *= sigmoid(total[c])
        for h in range(heads):
            q[t, h] = loops.unit(total[h * K : (h + 1) * K], FLOAT(1 / np.sqrt(K)))
            k[t, h] = loops.unit(total[(heads + h) * K : (heads + h + 1) * K], ONE)
        first = 2 * heads * K
        for h in range(H):
            v[t, h] = total[first + h * V : first + (h + 1) * V]


@njit(**FAST)
def delta_heads(q, k, v, keep, beta, state, first, last):
    """The delta rule for heads first to last; the outputs take v's place."""
    shared = v.shape[1] // k.shape[1]
    for h in range(first, last):
        for c in range(0, v.shape[2], loops.COLUMNS):
            loops.delta_columns(q, k, v, keep, beta, state, v, h // shared, h, c)


@njit(**FAST)
def gated_norm(o, z, weight, eps, out):
    """GatedRMSNorm of o [T, H, V] by z [T, H * V] into out [T, H * V]."""
    T, H, V = o.shape
    for t in range(T):
        for h in range(H):
            row, gate, normed = o[t, h], z[t, h * V : (h + 1) * V], out[t, h * V :]
            scale = ONE / np.sqrt(dot(row, row) / FLOAT(V) + FLOAT(eps))
            for j in range(V):
                g = wide(gate[j])
                store(normed, j, row[j] * scale * weight[j] * g * sigmoid(g))


@njit(**FAST)
def place_keys(k, v, norm, eps, cos, sin, first, keys, values):
    """k, v [T, Hkv * K] into the cache's [Hkv, max_len, K] from `first` on."""
    heads, _, K = keys.shape
    for t in range(len(k)):
        for h in range(heads):
            key = loops.rms_norm(k[t, h * K : (h + 1) * K], norm, eps)
            key = rotate(key, cos[t], sin[t])
            for i in range(K):
                store(keys[h, first + t], i, key[i])
                values[h, first + t, i] = v[t, h * K + i]


@njit(**FAST)
def place_queries(qg, norm, eps, cos, sin, first, q):
    """The queries among qg [T, H * 2 K] into q [Hkv, all T, G, K] from `first` on."""
    kv_heads, _, G, K = q.shape
    for t in range(len(qg)):
        for h in range(kv_heads * G):
            query = loops.rms_norm(qg[t, 2 * h * K : (2 * h + 1) * K], norm, eps)
            query = rotate(query, cos[t], sin[t])
            q[h // G, first + t, h % G] = query * FLOAT(1 / np.sqrt(K))


@njit(**FAST)
def soften(scores, visible, group, top, weight, total):
    """A softmax in pieces: scores [rows, n] of n keys become exp(score - top).

    Row r may see the first visible + r // group of them. top and weight [rows] are the
    largest score and the sum so far, total [rows, K] the values summed so far: all are
    brought to the new top.
    """
    rows, n = scores.shape
    for r in range(rows):
        row, count = scores[r], min(n, max(0, visible + r // group))
        most = loops.largest(row, count, top[r])
        shrink, sum_ = exp(top[r] - most), FLOAT(0)
        for c in range(count):
            row[c] = exp(row[c] - most)
            sum_ += row[c]
        row[count:] = 0
        top[r], weight[r] = most, weight[r] * shrink + sum_
        total[r] *= shrink


@njit(**FAST)
def gate_heads(total, weight, qg, first, out):
    """out [T, H * K] = softmax(...) v, times the sigmoid of the gates in qg."""
    kv_heads, _, G, K = total.shape
    for t in range(len(out)):
        for h in range(kv_heads * G):
            row, gate = total[h // G, first + t, h % G], qg[t, (2 * h + 1) * K :]
            scale, gated = ONE / weight[h // G, first + t, h % G], out[t, h * K :]
            for i in range(K):
                store(gated, i, row[i] * scale * sigmoid(wide(gate[i])))


@njit(**FAST)
def swiglu(both, scale, out):
    """out [n, I] = silu(gate) * up * scale of both [n, 2 I]; scale [n]."""
    n, width = out.shape
    for r in range(n):
        gate, up, row = both[r, :width], both[r, width:], out[r]
        for i in range(width):
            g = wide(gate[i])
            store(row, i, g * sigmoid(g) * wide(up[i]) * scale[r])


@njit(**FAST)
def collect(x, routed, place, top_k):
    """x [T, D] += each token's rows of routed; place [T * top_k]."""
    for t in range(len(x)):
        row = x[t]
        for j in range(top_k):
            new = routed[place[t * top_k + j]]
            for i in range(len(row)):
                row[i] += wide(new[i])
