"""One token through each kind of layer but attention, on a CPU: loops.py put together.

Each function does what the forward of its torch module does at B = T = 1, on the same
weights, and leaves the same things in the cache. x is the normed input [D], float32;
weights are float32, or bfloat16 as uint16; the result [D] is to be added to the
residual stream. What torch rounds to bfloat16 between two products stays float32 here.
"""

import numpy as np
from numba import njit, prange

from . import loops
from .loops import FAST, dot, sigmoid, store, wide
from .packed import height, part, product, ready, times

LINES = 32  # outputs that one task sums over all experts


@njit(**FAST)
def delta_layer(x, w, conv, rates, norm, window, state, key_heads, eps):
    """GatedDeltaNet. w: qkv, z, b, a, out; rates: A_log, dt_bias [H].

    window [W - 1, channels] and state [H, K, V] move on by one token.
    """
    every = products(w[0], w[1], w[2], w[3], x)
    first, H = height(w[0]), height(w[2])
    last = first + height(w[1])
    qkv = slide(every[:first], conv, window)
    z, b, a = every[first:last], every[last : last + H], every[last + H :]
    return product(w[4], heads(qkv, z, b, a, rates, norm, state, key_heads, eps))


@njit(parallel=True, **FAST)
def products(a, b, c, d, x):
    """Four weights times x, one after the other: to start threads costs a while."""
    ab, abc = height(a) + height(b), height(a) + height(b) + height(c)
    out, row = np.empty(abc + height(d), np.float32), x.reshape(1, -1)
    xa, xb, xc, xd = (
        ready(a, row)[0],
        ready(b, row)[0],
        ready(c, row)[0],
        ready(d, row)[0],
    )
    for i in prange(len(out)):
        if i < height(a):
            out[i] = times(a, i, xa)
        elif i < ab:
            out[i] = times(b, i - height(a), xb)
        elif i < abc:
            out[i] = times(c, i - ab, xc)
        else:
            out[i] = times(d, i - abc, xd)
    return out


@njit(**FAST)
def slide(u, conv, window):
    """The short convolution and its silu; the window takes u [channels] in."""
    out = np.empty_like(u)
    last = len(window)
    for c in range(len(u)):
        total = u[c] * wide(conv[c, last])
        for j in range(last):
            total += wide(window[j, c]) * wide(conv[c, j])
        out[c] = total * sigmoid(total)
    for j in range(last - 1):
        window[j] = window[j + 1]
    for c in range(len(u)):
        store(window[last - 1], c, u[c])
    return out


@njit(parallel=True, **FAST)
def heads(qkv, z, b, a, rates, norm, state, key_heads, eps):
    """Gates, rule and gated norm of every value head: [H * V]."""
    H, K, V = state.shape
    out = np.empty(H * V, np.float32)
    for h in prange(H):
        key = h // (H // key_heads)
        q = loops.unit(qkv[key * K : (key + 1) * K], np.float32(1 / np.sqrt(K)))
        k = qkv[(key_heads + key) * K : (key_heads + key + 1) * K]
        k = loops.unit(k, np.float32(1))
        first = 2 * key_heads * K + h * V
        rate = np.exp(wide(rates[0][h]))
        keep = np.exp(-rate * loops.softplus(a[h] + wide(rates[1][h])))
        v = qkv[first : first + V]
        o = loops.delta_step(state[h], q, k, v, keep, sigmoid(b[h]))
        scale = np.float32(1) / np.sqrt(dot(o, o) / np.float32(V) + np.float32(eps))
        for j in range(V):
            gate = z[h * V + j]
            out[h * V + j] = o[j] * scale * norm[j] * gate * sigmoid(gate)
    return out


@njit(**FAST)
def moe_layer(x, router, experts, shared, top_k):
    """SparseMoE. experts: gate_up, down; shared: gate, up, down, and its own gate."""
    every = products(router, shared[0], shared[1], shared[3], x)
    E, width = len(router), height(shared[0])
    logits, gate, up = every[:E], every[E : E + width], every[E + width : -1]
    ids = np.argsort(-logits)[:top_k]
    weights = np.exp(logits[ids] - logits[ids[0]])
    weights /= weights.sum()
    always, open_ = np.empty(width, np.float32), sigmoid(every[-1])
    for i in range(width):
        always[i] = gate[i] * sigmoid(gate[i]) * up[i] * open_
    h = experts_up(experts[0], ids, weights, x)
    return experts_down(experts[1], ids, h, shared[2], always)


@njit(parallel=True, **FAST)
def experts_up(gate_up, ids, weights, x):
    """weight * silu(gate x) * up x of the chosen experts: [top_k, I]."""
    width, y = height(part(gate_up, 0)) // 2, ready(gate_up, x.reshape(1, -1))[0]
    out = np.empty((len(ids), width), np.float32)
    for task in prange(len(ids) * width):
        n, i = task // width, task % width
        w = part(gate_up, ids[n])
        gate, up = times(w, i, y), times(w, width + i, y)
        out[n, i] = weights[n] * gate * sigmoid(gate) * up
    return out


@njit(parallel=True, **FAST)
def experts_down(down, ids, h, shared, always):
    """The shared expert's down product plus those of the chosen, some rows a task."""
    out = np.empty(height(shared), np.float32)
    mine, each = ready(shared, always.reshape(1, -1))[0], ready(down, h)
    for task in prange((len(out) + LINES - 1) // LINES):
        first, last = task * LINES, min(len(out), (task + 1) * LINES)
        for d in range(first, last):
            out[d] = times(shared, d, mine)
        for n in range(len(ids)):
            w = part(down, ids[n])
            for d in range(first, last):
                out[d] += times(w, d, each[n])
    return out


# Without Python's lock, so that threads that read experts go on meanwhile.


@njit(nogil=True, **FAST)
def choose(x, router, top_k):
    """The router: ids and weights [top_k], best first."""
    logits = product(router, x)
    ids = np.argsort(-logits)[:top_k]
    weights = np.exp(logits[ids] - logits[ids[0]])
    return ids, weights / weights.sum()


@njit(nogil=True, **FAST)
def shared_expert(x, shared):
    """What `moe_layer` adds of the shared expert: [D]."""
    gate, up, down, own = shared
    every, width = products(gate, up, own, part(own, slice(0, 0)), x), height(gate)
    open_, h = sigmoid(every[-1]), np.empty(width, np.float32)
    for i in range(width):
        h[i] = every[i] * sigmoid(every[i]) * every[width + i] * open_
    return product(down, h)


@njit(parallel=True, nogil=True, **FAST)
def some_experts(x, gate_up, down, slots, weights):
    """What each of some experts adds, of those chosen: [slots, D]."""
    h = experts_up(gate_up, slots, weights, x)
    D, each = height(part(down, 0)), ready(down, h)
    out = np.empty((len(slots), D), np.float32)
    for task in prange(len(slots) * D):
        n, d = task // D, task % D
        out[n, d] = times(part(down, slots[n]), d, each[n])
    return out


@njit(parallel=True, **FAST)
def mlp(x, gate, up, down):
    """SwiGLU: down(silu(gate x) * up x)."""
    h, row = np.empty(height(gate), np.float32), x.reshape(1, -1)
    a, b = ready(gate, row)[0], ready(up, row)[0]
    for i in prange(len(h)):
        g = times(gate, i, a)
        h[i] = g * sigmoid(g) * times(up, i, b)
    return product(down, h)
