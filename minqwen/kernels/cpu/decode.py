"""Decoding one token on a CPU without Python in the way: see layers.py and loops.py."""

from functools import partial

import numpy as np
import torch

from ...model.forms import wanted
from ...model.moe import SparseMoE
from ...model.rope import inverse_frequencies
from ...model.shapes import FULL
from .. import PATIENCE, heavy
from . import numbers, share_threads
from .attention import attention_layer
from .layers import (
    choose,
    delta_layer,
    mlp,
    moe_layer,
    shared_expert,
    some_experts,
)
from .loops import rms_norm
from .packed import product, rows


def step(model, cache, tokens):
    """The form "step" of a model on a CPU: at once where it was asked for by name."""
    # Unasked, only when the answer has proved long: it may end soon, numba compiles.
    fast, begun = Decoder(model), cache.length
    if wanted() != "auto" or heavy(model, PATIENCE):
        return fast

    def patient(ids, cache):
        if cache.length >= begun + PATIENCE:
            return fast(ids, cache)
        return model(ids, cache=cache, last_only=True)

    return patient


class Decoder:
    """`model(ids, cache=cache, last_only=True)` for a single token, in few calls.

    Holds no weights, only where they are: make one for a generation, not for keeps.
    """

    def __init__(self, model):
        self.cfg, core = model.cfg.text, model.model.language_model
        self.embedding, self.norm = core.embed_tokens, numbers(core.norm)
        tied = model.cfg.tie_word_embeddings
        self.head = pairs(self.embedding if tied else model.lm_head)
        turns, self.scale = inverse_frequencies(self.cfg.rope, self.cfg.head_dim)
        self.turns = torch.cat([turns, turns])
        self.layers = [
            (numbers(block.input_layernorm), mixer(block, self.cfg.rms_norm_eps),
             numbers(block.post_attention_layernorm), feed(block.mlp))
            for block in core.layers
        ]  # fmt: skip

    def __call__(self, ids, cache):
        """ids [1, 1]; returns logits [1, 1, vocab], float32. Moves the cache on."""
        cache.expect(1, 1)
        share_threads()
        place, eps = cache.next_position, self.cfg.rms_norm_eps
        angle = place * self.turns  # as rope_angles has it where its three axes agree
        cos, sin = ((f(angle) * self.scale).numpy() for f in (torch.cos, torch.sin))
        cache.advance(None, 1, place + 1)
        x = self.embedding(ids)[0, 0].float().numpy()
        for (before, mix, between, think), memory in zip(
            self.layers, cache.layers, strict=True
        ):
            x += mix(rms_norm(x, before, eps), cos, sin, memory)
            x += think(rms_norm(x, between, eps))
        return self.logits(x)

    def logits(self, x):
        """What the last layer's x [D] says of the next token: [1, 1, vocab]."""
        normed = rms_norm(x, self.norm, self.cfg.rms_norm_eps)
        return torch.from_numpy(product(self.head, normed))[None, None]


def pairs(x):
    """`numbers` of what is multiplied by: of bfloat16, two columns at a time."""
    x = numbers(x)
    return rows(x) if isinstance(x, np.ndarray) else x


def mixer(block, eps):
    """The block's attention or DeltaNet as a function of x, angles and its memory."""
    if block.kind == FULL:
        m = block.self_attn
        w = tuple(map(pairs, (m.q_proj, m.k_proj, m.v_proj, m.o_proj)))
        norms = numbers(m.q_norm), numbers(m.k_norm)

        def attend(x, cos, sin, kv):
            kv.length += 1
            keys, values = numbers(kv.k[0]), numbers(kv.v[0])
            return attention_layer(
                x, w, norms, cos, sin, keys, values, kv.length, eps
            )  # fmt: skip

        return attend
    m = block.linear_attn
    w = m.in_proj_qkv, m.in_proj_z, m.in_proj_b, m.in_proj_a, m.out_proj
    w, conv = tuple(map(pairs, w)), numbers(m.conv1d)[:, 0]
    rates, norm = (numbers(m.A_log), numbers(m.dt_bias)), numbers(m.norm)

    def remember(x, cos, sin, memory):
        window, state = numbers(memory.conv[0]), numbers(memory.state[0])
        return delta_layer(x, w, conv, rates, norm, window, state, m.key_heads, eps)

    return remember


def feed(m):
    """The block's experts, or its one MLP, as a function of x."""
    if not isinstance(m, SparseMoE):
        gate, up, down = map(pairs, (m.gate_proj, m.up_proj, m.down_proj))
        return lambda x: mlp(x, gate, up, down)
    router, e, s = pairs(m.gate), m.experts, m.shared_expert
    shared = s.gate_proj, s.up_proj, s.down_proj, m.shared_expert_gate
    shared = tuple(map(pairs, shared))
    routed = pairs(e.gate_up_proj), pairs(e.down_proj)
    if hasattr(e.down_proj, "visit"):
        return partial(visit, m, router, routed, shared)
    return lambda x: moe_layer(x, router, routed, shared, m.gate.top_k)


def visit(m, router, routed, shared, x):
    """`moe_layer` where the routed experts are read as they are chosen."""
    ids, weights = choose(x, router, m.gate.top_k)
    each = np.empty((len(ids), len(x)), np.float32)

    def multiply(which, slots):
        rows = some_experts(x, *routed, np.array(slots), weights[which])
        each[which] = rows
        return rows

    wait = m.experts.down_proj.visit
    out = wait(ids.tolist(), lambda: shared_expert(x, shared), multiply)
    for row in each:  # in the router's order, whichever came first
        out += row
    return out
