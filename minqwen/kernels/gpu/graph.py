"""Decoding one token on a GPU as a CUDA graph: the launches of a step, recorded once.

At one token a layer's kernels take microseconds, and Python as long for each launch. A
graph replays them all without Python, but on the same addresses and shapes. So id,
position and length live in tensors, and the model's own layers run on a memory of fixed
shape: new keys go where the length says, attention looks at the first `span` places of
the store and is masked where those are still empty, and a delta layer's memory is
overwritten where it lies. `span` grows in steps of SPAN, and with each the step is
recorded anew.
"""

import torch

from ...model.block import Context
from ...model.cache import KV
from ...model.forms import using
from ...model.rope import inverse_frequencies

SPAN = 2048  # tokens by which the part of the KV store that a graph reads grows


def step(model, cache, tokens):
    """The form "step" of a model whose kernels are Triton's: see forms.py."""
    return Decoder(model)


class FixedKV:
    """The first `span` places of a KV, as a layer sees it: its length is a tensor."""

    def __init__(self, kv, span, length):
        self.k, self.v, self.length = kv.k[:, :, :span], kv.v[:, :, :span], length
        for x in (self.k, self.v):  # what is masked is read all the same, and 0 * NaN
            x[:, :, kv.length :] = 0  # would be NaN

    def append(self, k, v):
        """Store k, v [1, Hkv, 1, K]; returns all places, [1, Hkv, span, K]."""
        self.k.index_copy_(2, self.length, k.to(self.k.dtype))
        self.v.index_copy_(2, self.length, v.to(self.v.dtype))
        return self.k, self.v


class FixedDelta:
    """A DeltaState as a layer sees it, which keeps what is new where the old lies."""

    def __init__(self, memory):
        self.conv, self.state = memory.conv, memory.state

    def keep(self, conv, state):
        self.conv.copy_(conv)
        if state.data_ptr() != self.state.data_ptr():  # a kernel may have changed it
            self.state.copy_(state)


class RecordedStep:
    """`model(ids, cache=cache, last_only=True)` for one row and token, fixed in shape.

    Reads id, position (of all three axes) and length from tensors; changes the cache's
    tensors, not the cache. Made for one cache, and for as long as its tensors stay.
    """

    def __init__(self, model, cache, span):
        self.model, span = model, min(span, cache.max_len)
        self.id = torch.zeros(1, 1, dtype=torch.long, device=model.device)
        self.position = torch.zeros(1, dtype=torch.long, device=model.device)
        self.length = torch.zeros(1, dtype=torch.long, device=model.device)
        self.places = torch.arange(span, device=model.device)
        t = model.cfg.text
        self.frequency, self.scale = inverse_frequencies(
            t.rope, t.head_dim, model.device
        )
        self.layers = [
            FixedKV(x, span, self.length) if isinstance(x, KV) else FixedDelta(x)
            for x in cache.layers
        ]

    def __call__(self):
        core = self.model.model.language_model
        angle = (self.position.float() * self.frequency).repeat(2)[None, None]
        cos, sin = angle.cos() * self.scale, angle.sin() * self.scale
        seen = (self.places <= self.length)[None, None, None]  # [1, 1, 1, span]
        with using(self.model.kernels):
            x = core.embed_tokens(self.id)
            return self.model.logits(core(x, Context(cos, sin, seen), self))


class Decoder:
    """f(ids [1, 1], cache) -> logits [1, 1, vocab], by replaying a RecordedStep."""

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
        """Run the step once, so that kernels compile, then again for the record."""
        # The first run moves the memory on, so what it changes is put back.
        self.step = RecordedStep(self.model, cache, span)
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
