"""Every layer once more, in float64 NumPy, written from the published equations.

Nothing here is shared with minqwen, and one row at a time is computed, without padding,
cache or chunks: where a loop says it most plainly, there is a loop. `w` is always a
module's weights as `weights` gives them, under the names of the checkpoint.
"""

import math

import numpy as np
import torch

# The largest difference over the largest value that a layer may show beside these.
BOUND = {torch.float32: 1e-5, torch.bfloat16: 2e-2}


def error(ours, want):
    """Largest difference over largest value; ours a tensor, want float64."""
    got = ours.detach().double().numpy()
    assert got.shape == want.shape
    return abs(got - want).max() / abs(want).max()


def mean_error(ours, want):
    """Root mean square of the difference over that of the values."""
    return math.sqrt(((wide(ours) - want) ** 2).mean() / (want**2).mean())


def wide(x):
    return x.detach().double().numpy()


def weights(module, prefix=""):
    """A module's parameters as float64; only those under `prefix`, without it."""
    return {
        name.removeprefix(prefix): p.detach().double().numpy()
        for name, p in module.named_parameters()
        if name.startswith(prefix)
    }


def part(w, prefix):
    return {n.removeprefix(prefix): x for n, x in w.items() if n.startswith(prefix)}


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def silu(x):
    return x * sigmoid(x)


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def rms(x, eps=1e-6):
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + eps)


def rms_norm(w, x):
    return rms(x) * (1 + w)


def gated_rms_norm(w, x, z):
    return rms(x) * w * silu(z)


def l2norm(x):
    return x / np.sqrt((x * x).sum(-1, keepdims=True) + 1e-6)


def angles(position, theta, section):
    """position [3, T] -> the angle of every pair, [T, pairs]: T H W T H W ..."""
    pairs = sum(section)
    out = np.empty((position.shape[1], pairs))
    for i in range(pairs):
        axis = i % 3 if i < 3 * section[i % 3] else 0
        out[:, i] = position[axis] * theta ** (-2 * i / (2 * pairs))
    return out


def rotate(x, angle):
    """x [T, H, K]: numbers i and i + pairs of a head are one complex number, turned."""
    pairs = angle.shape[1]
    z = (x[..., :pairs] + 1j * x[..., pairs : 2 * pairs]) * np.exp(1j * angle[:, None])
    return np.concatenate([z.real, z.imag, x[..., 2 * pairs :]], -1)


def attention(w, x, angle, heads, kv_heads):
    """Gated attention of one row, x [T, D], head by head and token by token."""
    T, H = len(x), heads
    q, gate = np.split((x @ w["q_proj.weight"].T).reshape(T, H, -1), 2, axis=-1)
    k = (x @ w["k_proj.weight"].T).reshape(T, kv_heads, -1)
    v = (x @ w["v_proj.weight"].T).reshape(T, kv_heads, -1)
    q = rotate(rms_norm(w["q_norm.weight"], q), angle)
    k = rotate(rms_norm(w["k_norm.weight"], k), angle)
    out = np.empty_like(q)
    for h in range(H):
        shared = h // (H // kv_heads)
        for t in range(T):
            score = k[: t + 1, shared] @ q[t, h] / math.sqrt(q.shape[-1])
            out[t, h] = softmax(score) @ v[: t + 1, shared]
    return (out * sigmoid(gate)).reshape(T, -1) @ w["o_proj.weight"].T


def causal_conv(w, u, window):
    """u [T, channels]; w [channels, 1, W]; window [W - 1, channels] before u."""
    W, seen = w.shape[-1], np.concatenate([window, u])
    y = np.zeros_like(u)
    for t in range(len(u)):
        for j in range(W):
            y[t] += w[:, 0, j] * seen[t + j]
    return silu(y), seen[len(u) :]


def delta_rule(q, k, v, g, beta, S):
    """One head. q, k [T, K]; v [T, V]; g, beta [T]; S [K, V]. Outputs, all states."""
    out, states = np.empty_like(v), []
    for t in range(len(v)):
        S = np.exp(g[t]) * S
        e = beta[t] * (v[t] - S.T @ k[t])
        S = S + np.outer(k[t], e)
        out[t] = S.T @ q[t]
        states.append(S)
    return out, np.array(states)


def delta_heads(q, k, v, g, beta, S):
    """The same for [T, heads, ...]: neighbouring value heads share a key head."""
    R = v.shape[1] // k.shape[1]
    pairs = [
        delta_rule(q[:, h // R], k[:, h // R], v[:, h], g[:, h], beta[:, h], S[h])
        for h in range(v.shape[1])
    ]
    out, states = zip(*pairs, strict=True)
    return np.stack(out, 1), np.stack(states, 1)  # [T, H, V], [T, H, K, V]


def deltanet(w, x, key_heads, heads, window, S):
    """A whole DeltaNet layer of one row: output, last window, last state."""
    T, V = len(x), w["norm.weight"].shape[0]
    K = (len(w["in_proj_qkv.weight"]) - heads * V) // (2 * key_heads)
    u, window = causal_conv(w["conv1d.weight"], x @ w["in_proj_qkv.weight"].T, window)
    q, k, v = np.split(u, [key_heads * K, 2 * key_heads * K], axis=1)
    q = l2norm(q.reshape(T, key_heads, K)) / math.sqrt(K)
    k = l2norm(k.reshape(T, key_heads, K))
    beta = sigmoid(x @ w["in_proj_b.weight"].T)
    dt = np.log1p(np.exp(x @ w["in_proj_a.weight"].T + w["dt_bias"]))
    g = -np.exp(w["A_log"]) * dt
    o, states = delta_heads(q, k, v.reshape(T, heads, V), g, beta, S)
    z = (x @ w["in_proj_z.weight"].T).reshape(T, heads, V)
    y = gated_rms_norm(w["norm.weight"], o, z).reshape(T, -1)
    return y @ w["out_proj.weight"].T, window, states[-1]


def mlp(w, x):
    hidden = silu(x @ w["gate_proj.weight"].T) * (x @ w["up_proj.weight"].T)
    return hidden @ w["down_proj.weight"].T


def best(logits, k):
    """The k largest of every row, best first."""
    return np.argsort(-logits, axis=-1, kind="stable")[:, :k]


def expert(w, e, x):
    gate, up = np.split(w["experts.gate_up_proj"][e], 2)
    return w["experts.down_proj"][e] @ (silu(gate @ x) * (up @ x))


def moe(w, x, ids):
    """x [N, D], with the experts `ids` [N, k] that were chosen for each token."""
    shared = mlp(part(w, "shared_expert."), x)
    out = sigmoid(x @ w["shared_expert_gate.weight"].T) * shared
    probability = softmax(x @ w["gate.weight"].T)
    for n, chosen in enumerate(ids):
        total = probability[n, chosen].sum()
        for e in chosen:
            out[n] += probability[n, e] / total * expert(w, e, x[n])
    return out


def drafter(w, embeds, hidden, angle, heads, kv_heads, top_k):
    """The MTP head of one row: embeds and hidden [T, D] -> states [T, D]."""
    e = rms_norm(w["pre_fc_norm_embedding.weight"], embeds)
    h = rms_norm(w["pre_fc_norm_hidden.weight"], hidden)
    x = np.concatenate([e, h], -1) @ w["fc.weight"].T
    layer = part(w, "layers.0.")
    y = rms_norm(layer["input_layernorm.weight"], x)
    x = x + attention(part(layer, "self_attn."), y, angle, heads, kv_heads)
    y = rms_norm(layer["post_attention_layernorm.weight"], x)
    experts = part(layer, "mlp.")
    if "gate.weight" in experts:
        x = x + moe(experts, y, best(y @ experts["gate.weight"].T, top_k))
    else:
        x = x + mlp(experts, y)
    return rms_norm(w["norm.weight"], x)


def layer_norm(w, x):
    centred = x - x.mean(-1, keepdims=True)
    return rms(centred) * w["weight"] + w["bias"]


def linear(w, x):
    return x @ w["weight"].reshape(len(w["weight"]), -1).T + w["bias"]


def gelu(x):
    return x * (1 + np.vectorize(math.erf)(x / math.sqrt(2))) / 2


def gelu_tanh(x):
    return x / 2 * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def patch_order(h, w):
    """Row and column of every patch of one frame pair: 2 x 2 blocks, row by row."""
    blocks = [(r, c) for r in range(0, h, 2) for c in range(0, w, 2)]
    return [(r + i, c + j) for r, c in blocks for i in (0, 1) for j in (0, 1)]


def learned_position(table, r, c, h, w):
    """The square table read between its entries; corner falls on corner."""
    side = math.isqrt(len(table))
    y, x = r * (side - 1) / (h - 1), c * (side - 1) / (w - 1)
    out = 0
    for i in range(side):
        for j in range(side):
            near = max(0, 1 - abs(i - y)) * max(0, 1 - abs(j - x))
            out = out + near * table[i * side + j]
    return out


def vision_attention(w, x, angle, heads):
    """x [N, D], the patches of one frame pair: all see all."""
    N = len(x)
    q, k, v = linear(part(w, "qkv."), x).reshape(N, 3, heads, -1).transpose(1, 0, 2, 3)
    q, k = rotate(q, angle), rotate(k, angle)
    out = np.empty_like(q)
    for h in range(heads):
        out[:, h] = softmax(q[:, h] @ k[:, h].T / math.sqrt(q.shape[-1])) @ v[:, h]
    return linear(part(w, "proj."), out.reshape(N, -1))


def merger(w, x):
    four = layer_norm(part(w, "norm."), x).reshape(len(x) // 4, -1)
    return linear(part(w, "linear_fc2."), gelu(linear(part(w, "linear_fc1."), four)))


def frame_pair(w, pixels, h, wide, heads, depth):
    """The tower on one frame pair: pixels [h * wide, 1536] -> tokens before merging."""
    order = patch_order(h, wide)
    table = w["pos_embed.weight"]
    x = linear(part(w, "patch_embed.proj."), pixels)
    x = x + np.array([learned_position(table, r, c, h, wide) for r, c in order])
    quarter = x.shape[1] // heads // 4
    speed = 10000.0 ** (-np.arange(quarter) / quarter)
    angle = np.array([np.concatenate([r * speed, c * speed]) for r, c in order])
    for n in range(depth):
        block = part(w, f"blocks.{n}.")
        y = layer_norm(part(block, "norm1."), x)
        x = x + vision_attention(part(block, "attn."), y, angle, heads)
        y = linear(part(block, "mlp.linear_fc1."), layer_norm(part(block, "norm2."), x))
        x = x + linear(part(block, "mlp.linear_fc2."), gelu_tanh(y))
    return x


def tower(w, pixels, grids, heads, depth):
    """pixels [N, 1536] of all items, grids [(t, h, w)] -> [N / 4, out]."""
    tokens, start = [], 0
    for t, h, wide in grids:
        for _ in range(t):  # frame pairs never see each other
            patch = pixels[start : start + h * wide]
            x = frame_pair(w, patch, h, wide, heads, depth)
            tokens.append(merger(part(w, "merger."), x))
            start += h * wide
    return np.concatenate(tokens)


def positions(tokens):
    """tokens: "text" or (h, w) for a picture. [3, T], and where the next stands."""
    out, at = [], 0
    for token in tokens:
        if token == "text":
            out.append((at, at, at))
            at += 1
        else:
            h, w = token
            out += [(at, at + r, at + c) for r in range(h) for c in range(w)]
            at += max(h, w)
    return np.array(out).T, at
