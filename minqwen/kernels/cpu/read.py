"""Reading a long prompt on a CPU: few large products, one pass between two of them.

A piece of the prompt goes through a layer in stages, and in each stage every thread
takes a share: tokens where each is computed by itself, heads for the delta rule, blocks
of queries for attention, experts for the experts. Products are torch's, the passes
between them passes.py's. Threads are our own, with one of torch's each: torch's and
numba's, side by side, would wait for each other's cores (NOTES.md).

The last layer computes its memory alone, and for the last token the rest as well.
"""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
import torch.nn.functional as F

from ...model.moe import SparseMoE
from ...model.rope import rope_angles
from ...model.shapes import FULL
from . import numbers as n
from . import passes, share_threads
from .decode import Decoder
from .loops import rms_norm
from .read_mlp import experts, mlp
from .tiles import into

PIECE = 1024  # tokens at a time
THREADS = 8  # of ours at most; on a larger machine each has several of torch's
SCORE_ROWS, SCORE_KEYS = 256, 1024  # of a block of scores in attention: 1 MB


class Team:
    """Threads that share out a range."""

    def __init__(self):
        self.all = share_threads()  # else a loop loaded later may set torch's number
        self.size = min(self.all, THREADS)
        each = (self.all // self.size,)
        self.pool = ThreadPoolExecutor(self.size, "part", torch.set_num_threads, each)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.pool.shutdown()
        torch.set_num_threads(self.all)  # what threads to come will begin with

    def share(self, count, work):
        """work(first, last) for as many parts of range(count) as there are threads."""

        @torch.inference_mode()
        def part(i):
            first, last = count * i // self.size, count * (i + 1) // self.size
            if first < last:
                work(first, last)

        list(self.pool.map(part, range(self.size)))


def read(model, cache, tokens):
    """The form "read" of a model on a CPU: see forms.py."""
    return PromptReader(model)


class PromptReader:
    """`model(ids, cache=cache, last_only=True)` for a prompt of one row, no padding.

    Holds no weights, only where they are, and the buffers of a piece.
    """

    def __init__(self, model):
        self.model, self.decoder = model, Decoder(model)
        self.eps, self.buffers = model.cfg.text.rms_norm_eps, {}

    def __call__(self, ids, cache):
        """ids [1, T]; returns the last token's logits [1, 1, vocab], float32."""
        cache.expect(*ids.shape)
        with Team() as self.team:
            for piece in ids.split(PIECE, dim=1):
                self.read(piece, cache)
        return self.answer(cache.layers[-1])

    def read(self, ids, cache):
        """Take a piece through all layers, the last as far as its memory needs."""
        cfg, self.T, self.past = self.model.cfg.text, ids.shape[1], cache.length
        core = self.model.model.language_model
        self.y = core.embed(ids)[0]  # [T, D], to be added to x by the next pass
        self.x = np.zeros(self.y.shape, np.float32)  # the residual stream
        self.h = torch.empty_like(self.y)
        place = cache.next_position + torch.arange(self.T)
        angles = rope_angles(place.expand(3, 1, -1), cfg.rope, cfg.head_dim)
        self.cos, self.sin = (a[0].numpy() for a in angles)
        cache.advance(None, self.T, place[-1:] + 1)
        *blocks, last = zip(core.layers, cache.layers, strict=True)
        for block, memory in blocks:
            mix = attention if block.kind == FULL else delta
            mix(self, block, memory)
            (experts if isinstance(block.mlp, SparseMoE) else mlp)(self, block)
        (keys if last[0].kind == FULL else delta)(self, *last)

    def answer(self, memory):
        """The last token through what `read` left out, and the logits."""
        before, mix, between, think = self.decoder.layers[-1]
        x = self.x[-1]
        if self.model.model.language_model.layers[-1].kind == FULL:
            memory.length -= 1  # it stores its own key again
            x += mix(rms_norm(x, before, self.eps), self.cos[-1], self.sin[-1], memory)
        else:
            x += self.y[-1].float().numpy()
        x += think(rms_norm(x, between, self.eps))
        return self.decoder.logits(x)

    def room(self, name, *shape, dtype=None):
        """A buffer of that shape, the same memory each time: new pages cost."""
        size, dtype = int(np.prod(shape)), dtype or self.y.dtype
        held = self.buffers.get(name)
        if held is None or len(held) < size or held.dtype != dtype:
            held = self.buffers[name] = torch.empty(size, dtype=dtype)
        return held[:size].view(shape)

    def normed(self, norm, first, last):
        """x += y; returns the normed rows, which are self.h's."""
        h = self.h[first:last]
        x, y = self.x[first:last], n(self.y[first:last])
        passes.add_and_norm(x, y, n(norm), self.eps, n(h))
        return h


def delta(reader, block, memory):
    """The block's GatedDeltaNet; leaves its output in y."""
    m, T = block.linear_attn, reader.T
    taps = m.conv1d.weight[:, 0].float().T.contiguous().numpy()  # [W, channels]
    before = len(taps) - 1
    seen = reader.room("seen", before + T, taps.shape[1])
    z = reader.room("z", T, m.heads * m.head_v_dim)
    a, b = reader.room("a", T, m.heads), reader.room("b", T, m.heads)
    shape, real = (T, m.key_heads, m.head_k_dim), torch.float32
    q, k = (reader.room(x, *shape, dtype=real).numpy() for x in "qk")
    v = reader.room("v", T, m.heads, m.head_v_dim, dtype=real).numpy()
    keep, beta = (reader.room(x, T, m.heads, dtype=real).numpy() for x in ("g", "beta"))
    state, rate = memory.state[0].numpy(), -m.A_log.float().exp()

    def project(first, last):
        h, s = reader.normed(block.input_layernorm, first, last), slice(first, last)
        into(h, m.in_proj_qkv.weight, seen[before + first : before + last])
        into(h, m.in_proj_z.weight, z[s])
        into(h, m.in_proj_a.weight, a[s])
        into(h, m.in_proj_b.weight, b[s])
        keep[s] = (rate * F.softplus(a[s].float() + m.dt_bias.float())).exp()
        beta[s] = b[s].float().sigmoid()

    def mix(first, last):
        s = slice(first, last)
        passes.mix(n(seen[first : last + before]), taps, q[s], k[s], v[s])

    def remember(first, last):
        passes.delta_heads(q, k, v, keep, beta, state, first, last)

    def out(first, last):
        s = slice(first, last)
        gated = torch.empty_like(z[s])
        passes.gated_norm(v[s], n(z[s]), n(m.norm), reader.eps, n(gated))
        into(gated, m.out_proj.weight, reader.y[s])

    seen[:before] = memory.conv[0]
    reader.team.share(T, project)
    reader.team.share(T, mix)
    reader.team.share(m.heads, remember)
    reader.team.share(T, out)
    memory.conv[0] = seen[T:]


def keys(reader, block, memory):
    """Of the block's attention only what it must remember."""
    m = block.self_attn
    cached = n(memory.k[0]), n(memory.v[0])

    def project(first, last):
        h = reader.normed(block.input_layernorm, first, last)
        k, v = h.new_empty(2, len(h), len(m.k_proj.weight))
        into(h, m.k_proj.weight, k)
        into(h, m.v_proj.weight, v)
        norm, cos, sin = n(m.k_norm), reader.cos[first:last], reader.sin[first:last]
        at = reader.past + first
        passes.place_keys(n(k), n(v), norm, reader.eps, cos, sin, at, *cached)

    reader.team.share(reader.T, project)
    memory.length += reader.T


def attention(reader, block, memory):
    """The block's GatedAttention; leaves its output in y."""
    m, T, past = block.self_attn, reader.T, reader.past
    K, kv_heads, G = m.head_dim, m.kv_heads, m.heads // m.kv_heads
    shape = kv_heads, T, G, K
    q, total = (reader.room(x, *shape, dtype=torch.float32) for x in ("q", "total"))
    weight = reader.room("weight", *shape[:3], dtype=torch.float32)
    qg = reader.room("qg", T, 2 * m.heads * K)
    tokens = max(1, SCORE_ROWS // G)
    blocks = [(h, t) for t in range(0, T, tokens) for h in range(kv_heads)]

    def project(first, last):
        s = slice(first, last)
        into(reader.h[s], m.q_proj.weight, qg[s])
        norm, cos, sin = n(m.q_norm), reader.cos[s], reader.sin[s]
        passes.place_queries(n(qg[s]), norm, reader.eps, cos, sin, first, n(q))

    def look(i, _):  # turn about, since later blocks see more keys
        scores = torch.empty(tokens * G, SCORE_KEYS)
        for h, t in blocks[i :: reader.team.size]:
            e = min(t + tokens, T)
            rows, sums = q[h, t:e].view(-1, K), total[h, t:e].view(-1, K)
            k, v = memory.k[0, h, : past + e], memory.v[0, h, : past + e]
            attend(rows, k, v, past + t, G, sums, weight[h, t:e].view(-1), scores)

    def out(first, last):
        gated = torch.empty(last - first, m.heads * K, dtype=qg.dtype)
        passes.gate_heads(n(total), n(weight), n(qg[first:last]), first, n(gated))
        into(gated, m.o_proj.weight, reader.y[first:last])

    keys(reader, block, memory)
    reader.team.share(T, project)
    reader.team.share(reader.team.size, look)
    reader.team.share(T, out)


def attend(q, k, v, at, group, total, weight, buffer):
    """softmax(q k^T) v, some keys at a time: sums in `total`, what to divide by apart.

    q, total [rows, K] and weight [rows], float32; `group` rows are a token's, the first
    token stands at `at`; k, v [S, K], S being what the last token sees.
    """
    top = torch.full_like(weight, -torch.inf)
    total.zero_(), weight.zero_()
    for s in range(0, len(k), SCORE_KEYS):
        count = min(SCORE_KEYS, len(k) - s)
        scores = buffer.view(-1)[: len(q) * count].view(len(q), count)
        torch.mm(q, k[s : s + count].float().T, out=scores)
        visible = at + 1 - s
        passes.soften(n(scores), visible, group, n(top), n(weight), n(total))
        if v.dtype == scores.dtype:
            total.addmm_(scores, v[s : s + count])
        else:
            total += scores.to(v.dtype) @ v[s : s + count]
