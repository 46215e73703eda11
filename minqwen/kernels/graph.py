"""Decoding one token on a GPU as a CUDA graph: the launches of a step, recorded once.

At one token a layer's kernels take microseconds, and Python as long for each launch. A
graph replays them all without Python, but on the same addresses and shapes. So id,
position and length live in tensors; new keys go where the length says; attention looks
at the first `span` places of the store and masks those that are still empty; and a
delta layer's memory is overwritten where it lies. `span` grows in steps of SPAN, and
with each the step is recorded anew.
"""

import torch
import torch.nn.functional as F

from ..config import FULL
from ..moe import Experts, SparseMoE
from ..rope import inverse_frequencies, rotate
from . import using

SPAN = 2048  # tokens by which the part of the KV store that a graph reads grows


def suits(model):
    """Is nobody listening in, who would not be called, and no expert elsewhere?

    The norm tells whether the model's modules run in gpu/ (`kernels.dress`).
    """
    modules = list(model.modules())
    heard = any(m._forward_hooks or m._forward_pre_hooks for m in modules)
    moes = (m for m in modules if isinstance(m, SparseMoE))
    here = all(type(m.experts) is Experts for m in moes)
    dressed = "forward" in vars(model.model.language_model.norm)
    return dressed and here and not heard and "hidden" not in vars(model)


class Step:
    """`model(ids, cache=cache, last_only=True)` for one row and token, fixed in shape.

    Reads id, position (of all three axes) and length from tensors; changes the cache's
    tensors, not the cache. Made for one cache, and for as long as its tensors stay.
    """

    def __init__(self, model, cache, span):
        self.model, self.span = model, min(span, cache.max_len)
        device = model.model.language_model.embed_tokens.weight.device
        self.id = torch.zeros(1, 1, dtype=torch.long, device=device)
        self.position = torch.zeros(1, dtype=torch.long, device=device)
        self.length = torch.zeros(1, dtype=torch.long, device=device)
        self.places = torch.arange(self.span, device=device)
        t = model.cfg.text
        self.frequency, self.scale = inverse_frequencies(t.rope, t.head_dim, device)
        self.layers = [
            memory if kind == FULL else InPlace(memory)
            for kind, memory in zip(t.layer_types, cache.layers, strict=True)
        ]

    def __call__(self):
        with using(self.model.kernels):
            return self.run()

    def run(self):
        core = self.model.model.language_model
        x = core.embed_tokens(self.id)
        angle = (self.position.float() * self.frequency).repeat(2)[None, None]
        cos, sin = angle.cos() * self.scale, angle.sin() * self.scale
        seen = (self.places <= self.length)[None, None, None]  # [1, 1, 1, span]
        for block, memory in zip(core.layers, self.layers, strict=True):
            h = block.input_layernorm(x)
            if block.kind == FULL:
                x = x + self.attend(block.self_attn, h, cos, sin, memory, seen)
            else:
                x = x + block.linear_attn(h, None, memory)
            x = x + block.mlp(block.post_attention_layernorm(x))
        return self.model.logits(core.norm(x))

    def attend(self, m, x, cos, sin, kv, seen):
        """`GatedAttention.forward` at B = T = 1 on a store whose length is a tensor."""
        q, gate = m.q_proj(x).view(1, 1, m.heads, -1).chunk(2, dim=-1)
        k = m.k_proj(x).view(1, 1, m.kv_heads, m.head_dim)
        v = m.v_proj(x).view(1, 1, m.kv_heads, m.head_dim)
        q, k = rotate(m.q_norm(q), cos, sin), rotate(m.k_norm(k), cos, sin)
        kv.k.index_copy_(2, self.length, k.transpose(1, 2).to(kv.k.dtype))
        kv.v.index_copy_(2, self.length, v.transpose(1, 2).to(kv.v.dtype))
        q = q.view(1, m.kv_heads, -1, m.head_dim)  # heads that share a key are rows
        keys, values = kv.k[:, :, : self.span], kv.v[:, :, : self.span]
        out = F.scaled_dot_product_attention(q, keys, values, attn_mask=seen)
        return m.o_proj(out.view(1, 1, -1) * gate.reshape(1, 1, -1).sigmoid())


class InPlace:
    """A DeltaState as a layer sees it, to which assigning means copying into place."""

    def __init__(self, memory):
        vars(self)["memory"] = memory

    def __getattr__(self, name):
        return getattr(self.memory, name)

    def __setattr__(self, name, value):
        getattr(self.memory, name).copy_(value)


class Decoder:
    """f(ids [1, 1], cache) -> logits [1, 1, vocab], by replaying a recorded Step."""

    def __init__(self, model):
        self.model, self.step, self.at = model, None, None

    def __call__(self, ids, cache):
        cache.expect(1, 1)
        span = (cache.length // SPAN + 1) * SPAN
        at = span, *addresses(cache)
        if at != self.at:
            self.record(cache, span)
            self.at = at
        self.step.id.copy_(ids)
        self.step.position.copy_(cache.next_position)
        self.step.length.fill_(cache.length)
        self.graph.replay()
        cache.advance(None, 1, cache.next_position + 1)
        for layer in cache.layers:
            if hasattr(layer, "length"):
                layer.length += 1
        return self.logits.clone()

    def record(self, cache, span):
        """Run the step once, so that kernels compile, then again for the record.

        The first run moves the memory on, so what it changes is put back.
        """
        self.step = Step(self.model, cache, span)
        self.step.length.fill_(cache.length)
        before = [(x, x.clone()) for x in recurrent(cache)]
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            self.step()
        torch.cuda.current_stream().wait_stream(stream)
        for x, old in before:
            x.copy_(old)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.logits = self.step()


def recurrent(cache):
    """Conv windows and states of all delta layers."""
    layers = [layer for layer in cache.layers if hasattr(layer, "state")]
    return [x for layer in layers for x in (layer.conv, layer.state)]


def addresses(cache):
    """Where every tensor lies that the graph has recorded."""
    stores = [layer.k for layer in cache.layers if hasattr(layer, "k")]
    return [x.data_ptr() for x in stores + recurrent(cache)]
