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
# error_model: a division that may raise is a branch, and a branch is no vector.
FAST = dict(
    fastmath={"reassoc", "contract", "nsz", "arcp"}, error_model="numpy", cache=True
)
FLOAT = np.float32
ONE = FLOAT(1)
# The delta rule keeps so many columns of a state, and goes through so many of its rows
# at a time: the sums over 8 rows stay in registers, and what is set up for them pays
# over a whole row of 128 (64 columns fit a nearer cache, and took a fifth longer).
COLUMNS, ROWS = 128, 8
SMALLEST = np.float32(1e-12)


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
        total += wide(w[i]) * wide(x[i])
    return total


@njit(fastmath={"contract"}, error_model="numpy", cache=True)
def exp(x):
    """e^x within 2e-7 of itself, in steps that a vector can take (np.exp is a call)."""
    # x = n ln 2 + r: 2^n is written into the exponent's bits, e^r is a polynomial (that
    # of Cephes). ln 2 is subtracted in two parts, so these sums must not be reordered.
    x = np.float32(-87) if x < np.float32(-87) else x
    x = np.float32(88) if x > np.float32(88) else x
    n = np.floor(x * np.float32(1.44269504) + np.float32(0.5))
    r = x - n * np.float32(0.693359375) + n * np.float32(2.12194440e-4)
    p = np.float32(1.9875691e-4) * r + np.float32(1.3981999e-3)
    p = (p * r + np.float32(8.3334519e-3)) * r + np.float32(4.1665795e-2)
    p = (p * r + np.float32(1.6666665e-1)) * r + np.float32(5.0000001e-1)
    p = p * r * r + r + ONE
    return p * np.int32((np.int32(n) + np.int32(127)) << np.int32(23)).view(np.float32)


@njit(**FAST)
def sigmoid(x):
    return ONE / (ONE + exp(-x))


@njit(**FAST)
def softplus(x):
    return max(x, np.float32(0)) + np.log1p(np.exp(-abs(x)))


@njit(fastmath={"nnan", "nsz", "reassoc"}, cache=True)
def largest(row, count, most):
    """The largest of `most` and count numbers. NaN may be lost: exp brings it back."""
    for c in range(count):
        most = max(most, row[c])
    return most


@njit(**FAST)
def rms_norm(x, weight, eps):
    """x * rsqrt(mean(x^2) + eps) * (1 + w): the zero-centred norm."""
    scale = ONE / np.sqrt(dot(x, x) / np.float32(len(x)) + np.float32(eps))
    out = np.empty(len(x), FLOAT)
    for i in range(len(x)):
        out[i] = wide(x[i]) * scale * (ONE + wide(weight[i]))
    return out


@njit(**FAST)
def unit(x, scale):
    """x / |x| * scale, with the 1e-6 of `l2norm`."""
    return x * (scale / np.sqrt(dot(x, x) + np.float32(1e-6)))


@njit(**FAST)
def delta_step(state, q, k, v, keep, beta):
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
def delta_once(q, k, v, keep, beta, state, out):
    """The delta rule over one token of each of B rows.

    q, k [B, Hk, K]; v, out [B, H, V]; keep, beta [B, H]; state [B, H, K, V], changed.
    """
    B, H = keep.shape
    for task in prange(B * H):
        b, h = task // H, task % H
        key = h // (H // k.shape[1])
        values = v[b, h], keep[b, h], beta[b, h]
        out[b, h] = delta_step(state[b, h], q[b, key], k[b, key], *values)


@njit(parallel=True, **FAST)
def delta_many(q, k, v, keep, beta, state, out):
    """The delta rule over T tokens of a row, one pass over the state for each.

    A column of the state never meets another column, so a task is some columns of one
    head: they are decayed, corrected and read in the pass that also reads what the next
    token's key will find. q, k [T, Hk, K]; v, out [T, H, V]; keep = exp(g), beta
    [T, H]; state [H, K, V], which is changed; all float32. `out` may be `v`.
    """
    H, V = v.shape[1:]
    blocks = (V + COLUMNS - 1) // COLUMNS
    for task in prange(H * blocks):
        h, first = task // blocks, task % blocks * COLUMNS
        key = h // (H // k.shape[1])
        delta_columns(q, k, v, keep, beta, state, out, key, h, first)


@njit(**FAST)
def delta_columns(q, k, v, keep, beta, state, out, key, h, first):
    """`delta_many` for the columns of head h from `first` on, at most COLUMNS."""
    # The state is `scale` * S: to forget is then one product and not one for each
    # number of it, until the scale is too small to divide by. The work arrays' sizes
    # are known to the compiler; what is unused there stays zero.
    T, K, width = q.shape[0], q.shape[2], min(COLUMNS, v.shape[2] - first)
    rows = (K + ROWS - 1) // ROWS * ROWS
    S = np.zeros((rows, COLUMNS), np.float32)
    ask, now, then = np.zeros(rows, FLOAT), np.zeros(rows, FLOAT), np.zeros(rows, FLOAT)
    error, found = np.zeros(COLUMNS, FLOAT), np.zeros(COLUMNS, FLOAT)
    answer, scale = np.zeros(COLUMNS, FLOAT), ONE
    for i in range(K):
        then[i] = k[0, key, i]
        for j in range(width):
            S[i, j] = state[h, i, first + j]
            found[j] += S[i, j] * then[i]
    for t in range(T):
        following, scale = min(t + 1, T - 1), scale * keep[t, h]
        for i in range(K):
            now[i], ask[i], then[i] = then[i], q[t, key, i], k[following, key, i]
        for j in range(width):
            error[j] = beta[t, h] * (v[t, h, first + j] - scale * found[j])
        if scale < SMALLEST:
            S *= scale
            scale = ONE
        for j in range(COLUMNS):
            error[j] /= scale
            answer[j] = found[j] = 0
        for i in range(0, rows, ROWS):
            for j in range(COLUMNS):
                e, a, f = error[j], answer[j], found[j]
                for r in range(ROWS):
                    s = S[i + r, j] + now[i + r] * e
                    S[i + r, j] = s
                    a += s * ask[i + r]
                    f += s * then[i + r]
                answer[j], found[j] = a, f
        for j in range(width):
            out[t, h, first + j] = scale * answer[j]
    for i in range(K):
        for j in range(width):
            state[h, i, first + j] = scale * S[i, j]


@njit(parallel=True, **FAST)
def convolve(seen, taps, out):
    """silu of each channel's weighted last tokens, in one pass.

    seen [W - 1 + T, channels]; taps [W, channels] float32; out [T, channels].
    """
    T, channels = out.shape
    for t in prange(T):
        total = np.zeros(channels, np.float32)
        for j in range(len(taps)):
            row, tap = seen[t + j], taps[j]
            for c in range(channels):
                total[c] += wide(row[c]) * tap[c]
        mixed = out[t]
        for c in range(channels):
            store(mixed, c, total[c] * sigmoid(total[c]))
