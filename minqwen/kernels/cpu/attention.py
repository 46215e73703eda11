"""One token through attention on a CPU: see layers.py."""

import numpy as np
from numba import njit, prange

from .. import WIDE
from . import loops
from .layers import products
from .loops import FAST, exp, sigmoid, store, wide
from .packed import height, part, product

SPLIT = 256  # tokens of a KV cache that one task looks at


@njit(**FAST)
def attention_layer(x, w, norms, cos, sin, keys, values, length, eps):
    """GatedAttention. w: q (and gate), k, v, out; norms: of q, of k.

    keys, values [Hkv, max_len, K]: this token's are stored at `length` - 1.
    """
    Hkv, _, K = keys.shape
    every = products(w[0], w[1], w[2], part(w[2], slice(0, 0)), x)
    qg, kv = every[: height(w[0])], every[height(w[0]) :]
    k, v, H = kv[: Hkv * K], kv[Hkv * K :], len(qg) // (2 * K)
    q = np.empty((H, K), np.float32)
    for h in range(H):
        query = loops.rms_norm(qg[2 * h * K : (2 * h + 1) * K], norms[0], eps)
        q[h] = rotate(query, cos, sin) * np.float32(1 / np.sqrt(K))
    for h in range(Hkv):
        key = rotate(loops.rms_norm(k[h * K : (h + 1) * K], norms[1], eps), cos, sin)
        for i in range(K):
            store(keys[h, length - 1], i, key[i])
            store(values[h, length - 1], i, v[h * K + i])
    out = attend(q.reshape(Hkv, H // Hkv, K), keys, values, length)
    for h in range(H):
        for i in range(K):
            out[h * K + i] *= sigmoid(qg[(2 * h + 1) * K + i])
    return product(w[3], out)


@njit(**FAST)
def rotate(x, cos, sin):
    """Rotate the first len(cos) numbers of x [K], i with i + len(cos) / 2."""
    out, half = x.copy(), len(cos) // 2
    for i in range(half):
        out[i] = x[i] * cos[i] - x[i + half] * sin[i]
        out[i + half] = x[i + half] * cos[i + half] + x[i] * sin[i + half]
    return out


@njit(parallel=True, **FAST)
def attend(q, keys, values, length):
    """softmax(q k^T) v, [Hkv * G * K], for q [Hkv, G, K] over `length` tokens."""
    # The tokens are split among tasks; each gives its sum relative to its own largest
    # score, and those are joined at the end.
    # NOTE: numba makes a parallel loop of each whole array's sum or copy in here, which
    # takes longer to start than to do. So those are in functions of their own.
    parts, queries = (length + SPLIT - 1) // SPLIT, in_fours(q)
    Hkv, fours, K = queries.shape
    top = np.empty((Hkv, parts, q.shape[1]), np.float32)
    weight = np.empty((Hkv, parts, q.shape[1]), np.float32)
    total = np.empty((Hkv, parts, fours, K), np.float32)
    for task in prange(Hkv * parts):
        h, p = task // parts, task % parts
        first, last = p * SPLIT, min(length, (p + 1) * SPLIT)
        look(queries[h], keys[h], values[h], first, last,
             top[h, p], weight[h, p], total[h, p])  # fmt: skip
    return joined(top, weight, total)


@njit(**FAST)
def in_fours(q):
    """q [Hkv, G, K] with zeros, so that the queries of a key head are whole fours."""
    Hkv, G, K = q.shape
    out = np.zeros((Hkv, (G + 3) // 4 * 4, K), np.float32)
    out[:, :G] = q
    return out


@njit(**FAST)
def look(q, keys, values, first, last, top, weight, total):
    """Of some tokens: top and weight [G], largest score and sum; total [4 n, K]."""
    # The queries that share a key head read each key once.
    scores = np.zeros((len(q), SPLIT), np.float32)
    score_keys(q, keys, first, last, scores)
    for g in range(len(top)):
        row, sum_ = scores[g], np.float32(0)
        most = loops.largest(row, last - first, np.float32(-np.inf))
        for t in range(last - first):
            row[t] = exp(row[t] - most)
            sum_ += row[t]
        top[g], weight[g] = most, sum_
    for g in range(0, len(q), 4):
        mixture(scores[g : g + 4], values, first, last, total[g : g + 4])


@njit(**FAST)
def joined(top, weight, total):
    """The outputs [Hkv * G * K] of what `look` found in several parts."""
    Hkv, parts, G = top.shape
    out = np.zeros((Hkv, G, total.shape[3]), np.float32)
    for h in range(Hkv):
        for g in range(G):
            most, sum_ = top[h, :, g].max(), np.float32(0)
            for p in range(parts):
                share = np.exp(top[h, p, g] - most)
                sum_ += share * weight[h, p, g]
                out[h, g] += share * total[h, p, g]
            out[h, g] /= sum_
    return out.reshape(out.size)


@njit(**FAST)
def score_keys(q, keys, first, last, scores):
    """scores [4 n, tokens] of queries q [4 n, K]: each number loaded serves eight."""
    for t in range(first, last, 2):
        key, other = keys[t], keys[min(t + 1, last - 1)]
        here, there = t - first, min(t + 1, last - 1) - first
        for n in range(0, len(q), 4):
            q0, q1, q2, q3 = q[n], q[n + 1], q[n + 2], q[n + 3]
            a = b = c = d = e = f = g = h = np.float32(0)
            for i in range(len(key)):
                k, o = wide(key[i]), wide(other[i])
                a += k * q0[i]
                b += k * q1[i]
                c += k * q2[i]
                d += k * q3[i]
                e += o * q0[i]
                f += o * q1[i]
                g += o * q2[i]
                h += o * q3[i]
            scores[n, here], scores[n + 1, here] = a, b
            scores[n + 2, here], scores[n + 3, here] = c, d
            scores[n, there], scores[n + 1, there] = e, f
            scores[n + 2, there], scores[n + 3, there] = g, h


@njit(**FAST)
def mixture(shares, values, first, last, total):
    """total [4, K] = shares [4, n] of the rows first to last of values, in fours."""
    # Each number of a row serves four queries, and sums are loaded and stored once for
    # four rows.
    width, whole = total.shape[1], last - (last - first) % 4
    some = np.zeros((4, WIDE), np.float32)  # of a size that the compiler knows
    for t in range(first, whole, 4):
        for i in range(width):
            a, b, c, d = some[0, i], some[1, i], some[2, i], some[3, i]
            for r in range(4):
                v = wide(values[t + r, i])
                a += shares[0, t - first + r] * v
                b += shares[1, t - first + r] * v
                c += shares[2, t - first + r] * v
                d += shares[3, t - first + r] * v
            some[0, i], some[1, i], some[2, i], some[3, i] = a, b, c, d
    for t in range(whole, last):
        for g in range(4):
            for i in range(width):
                some[g, i] += shares[g, t - first] * wide(values[t, i])
    total[:] = some[:, :width]
