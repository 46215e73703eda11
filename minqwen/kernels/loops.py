"""The model's inner loops for a CPU, compiled by numba: one pass over memory each.

At one token a step the work is reading weights, so each product is a loop over rows
that LLVM turns into vector instructions, and what follows a product (a gate, a sum) is
done while its numbers are still in a register. The torch forms beside which these
are tested: norm.py, deltanet.py, delta.py, attention.py, moe.py.

Weights come as float32, or as bfloat16 in the guise of uint16: bfloat16 is the upper
half of a float32, so `wide` is a shift. Everything is added up in float32.
"""

import numpy as np
from numba import njit, prange, types
from numba.extending import overload

# Sums may be reordered, which vectors need; NaN and infinity stay what they are.
FAST = dict(fastmath={"reassoc", "contract", "nsz", "arcp"}, cache=True)
ONE = np.float32(1)


def wide(w):
    """float32 of a stored number."""


@overload(wide)
def _wide(w):
    if isinstance(w, types.Integer):
        return lambda w: np.uint32(np.uint32(w) << np.uint32(16)).view(np.float32)
    return lambda w: w


def store(array, i, x):
    """array[i] = x, rounded to the nearest bfloat16 (ties to even) where it is one."""


@overload(store)
def _store(array, i, x):
    if not isinstance(array.dtype, types.Integer):

        def plain(array, i, x):
            array[i] = x

        return plain

    def rounded(array, i, x):
        bits = np.float32(x).view(np.uint32)
        half = np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))
        array[i] = np.uint16((bits + half) >> np.uint32(16))

    return rounded


@njit(**FAST)
def dot(w, x):
    total = np.float32(0)
    for i in range(len(x)):
        total += wide(w[i]) * x[i]
    return total


@njit(**FAST)
def sigmoid(x):
    return ONE / (ONE + np.exp(-x))


@njit(**FAST)
def softplus(x):
    return max(x, np.float32(0)) + np.log1p(np.exp(-abs(x)))


@njit(**FAST)
def rms_norm(x, weight, eps):
    """x * rsqrt(mean(x^2) + eps) * (1 + w): the zero-centred norm."""
    scale = ONE / np.sqrt(dot(x, x) / np.float32(len(x)) + np.float32(eps))
    out = np.empty_like(x)
    for i in range(len(x)):
        out[i] = x[i] * scale * (ONE + wide(weight[i]))
    return out


@njit(parallel=True, **FAST)
def product(weight, x):
    """weight [out, in] times x [in]."""
    out = np.empty(len(weight), np.float32)
    for i in prange(len(weight)):
        out[i] = dot(weight[i], x)
    return out


@njit(**FAST)
def unit(x, scale):
    """x / |x| * scale, with the 1e-6 of `l2norm`."""
    return x * (scale / np.sqrt(dot(x, x) + np.float32(1e-6)))


@njit(**FAST)
def correct(state, q, k, v, keep, beta):
    """One token of the delta rule on one head's state [K, V], which is changed."""
    error, out = v.copy(), np.zeros_like(v)
    for i in range(len(k)):
        for j in range(len(v)):
            state[i, j] *= keep
            error[j] -= state[i, j] * k[i]
    for j in range(len(v)):
        error[j] *= beta
    for i in range(len(k)):
        for j in range(len(v)):
            state[i, j] += k[i] * error[j]
            out[j] += state[i, j] * q[i]
    return out


@njit(parallel=True, **FAST)
def many(q, k, v, g, beta, state, out):
    """The delta rule over T tokens of a row, one pass over the state for each.

    A column of the state (a row here, where it lies as [H, V, K]) never meets another
    column: it is decayed, corrected and read in the pass that also reads what the next
    token's key will find. q, k [T, Hk, K]; v, out [T, H, V]; g, beta [T, H]; fp32.
    """
    T, H, V = v.shape
    K = k.shape[2]
    for h in prange(H):
        key = h // (H // k.shape[1])
        found = np.empty(V, np.float32)
        for j in range(V):
            found[j] = dot(state[h, j], k[0, key])
        for t in range(T):
            keep = np.exp(g[t, h])
            now, ask, then = k[t, key], q[t, key], k[min(t + 1, T - 1), key]
            for j in range(V):
                column = state[h, j]
                error = beta[t, h] * (v[t, h, j] - keep * found[j])
                answer = finds = np.float32(0)
                for i in range(K):
                    s = keep * column[i] + error * now[i]
                    column[i] = s
                    answer += s * ask[i]
                    finds += s * then[i]
                out[t, h, j] = answer
                found[j] = finds


@njit(parallel=True, **FAST)
def convolve(seen, taps, out):
    """silu of each channel's weighted last tokens, in one pass.

    seen [W - 1 + T, channels]; taps [W, channels] float32; out [T, channels].
    """
    T, channels = out.shape
    for t in prange(T):
        for c in range(channels):
            total = np.float32(0)
            for j in range(len(taps)):
                total += wide(seen[t + j, c]) * taps[j, c]
            store(out[t], c, total * sigmoid(total))
