"""Recording a trace: what routers chose and what the delta rule was fed, by listening.

Nothing of the model is changed. Routers get forward hooks, which see what a module
returned; `GatedDeltaNet.gates` and `Qwen.hidden` are no modules, so while the recording
lasts each is covered by a function of the same name on the instance, which calls it.
"""

from contextlib import contextmanager
from functools import partial
from inspect import signature
from weakref import WeakKeyDictionary

import torch

from .config import FULL, LINEAR
from .errors import InputError
from .model import real_tokens
from .moe import Router
from .record_columns import columns, overview
from .record_rows import Sequence
from .trace import Trace


@contextmanager
def record(model, states=(), norms=False, processor=None):
    """Record what `model` does in the block; gives a Trace, complete when it ends.

    states: (layer, head) pairs. Of a delta layer's value head, all that its memory can
    be replayed from; of a full layer's query head, its queries and keys. norms: also
    every delta head's state norm, decay and beta, which costs a step of the rule per
    token. processor: gives the tokens their texts.

    Calls with a cache continue the sequence that the cache holds, also when it was cut
    back; others begin one. Each row of a batch is a trace of its own in `trace.rows`,
    without its padding; if there is one row, the trace is that row. What `generate` fed
    and did not want is there too: a batch's rows that have ended go on being fed their
    last token, and drafts leave their last guesses. `Trace.first` cuts such ends off.
    """
    if hasattr(model, "share"):
        raise InputError(
            "one of several processes has some of the heads alone, and no whole trace; "
            "load the model in one process to record it"
        )
    recorder = Recorder(model, check_heads(model.cfg.text, states), norms)
    trace = Recording()
    try:
        recorder.attach()
        yield trace
    finally:
        recorder.detach()
        trace.rows = recorder.rows()
    if processor is not None:
        trace.name_tokens(processor)


class Recording(Trace):
    """The trace that `record` gives. Its rows appear when the block ends."""

    def __init__(self):
        self.rows = []

    @property
    def meta(self):
        return self._only().meta

    @property
    def tensors(self):
        return self._only().tensors

    def _only(self):
        if len(self.rows) == 1:
            return self.rows[0]
        raise InputError(
            f"the recording holds {len(self.rows)} sequences; take one from trace.rows"
            if self.rows
            else "nothing is recorded: call the model in the block, and read after it"
        )

    def __repr__(self):
        return repr(self.rows[0]) if len(self.rows) == 1 else f"Recording({self.rows})"


def check_heads(text, states):
    """The pairs, each once and in order; InputError for one that does not exist."""
    heads = sorted({(int(layer), int(head)) for layer, head in states})
    for layer, head in heads:
        if not 0 <= layer < text.num_hidden_layers:
            raise InputError(
                f"states: there is no layer {layer}; the model has "
                f"{text.num_hidden_layers}, counted from 0"
            )
        full = text.layer_types[layer] == FULL
        count = text.num_attention_heads if full else text.linear_num_value_heads
        if not 0 <= head < count:
            raise InputError(
                f"states: layer {layer} has no head {head}; it has {count}, counted "
                "from 0"
            )
    return heads


class Recorder:
    """Listens to one model. `heard` collects what one call of it says, by layer.

    Steps of decoding are many and small, so what they said is pooled, and made into
    columns of a trace some dozens of steps at a time.
    """

    POOL = 64  # calls

    def __init__(self, model, heads, norms):
        self.model, self.heads, self.norms = model, heads, norms
        self.layers = {layer for layer, _ in heads}
        self.blocks = model.model.language_model.layers
        self.sequences, self.by_cache = [], WeakKeyDictionary()
        self.heard, self.hooks, self.covered = {}, [], []
        self.pool, self.pooled = [], None  # (ids, real, heard) of calls, their sequence

    # ---- listening ----

    def attach(self):
        self.cover(self.model, "hidden", self.hidden)
        self.signature = signature(type(self.model).hidden)
        for i, block in enumerate(self.blocks):
            if isinstance(getattr(block.mlp, "gate", None), Router):
                self.hook(block.mlp.gate, i, "router")
                self.hook(block.mlp.shared_expert_gate, i, "shared")
            if block.kind == LINEAR and (self.norms or i in self.layers):
                gates = block.linear_attn.gates
                self.cover(block.linear_attn, "gates", partial(self.gates, gates, i))
            elif i in self.layers:
                self.hook(block.self_attn.q_norm, i, "q")
                self.hook(block.self_attn.k_norm, i, "k")
                hear = partial(self.angles, i)
                hook = block.self_attn.register_forward_pre_hook(hear, with_kwargs=True)
                self.hooks.append(hook)

    def detach(self):
        for hook in self.hooks:
            hook.remove()
        for owner, name in self.covered:
            delattr(owner, name)
        self.hooks, self.covered = [], []

    def cover(self, owner, name, function):
        if name in vars(owner):
            raise InputError("the model is being recorded already; end that block")
        self.covered.append((owner, name))
        object.__setattr__(owner, name, function)

    def hook(self, module, layer, what):
        def hear(module, args, output):
            self.heard[what, layer] = output

        self.hooks.append(module.register_forward_hook(hear))

    def angles(self, layer, attention, args, kwargs):
        names = ("x", "cos", "sin")
        given = dict(zip(names, args, strict=False)) | kwargs
        self.heard["angles", layer] = given["cos"], given["sin"]

    def gates(self, original, layer, x, qkv):
        fed = original(x, qkv)
        self.heard["rule", layer] = fed
        return fed

    def hidden(self, *args, **kwargs):
        """In place of `Qwen.hidden`: the same, then what was heard is kept."""
        call = self.signature.bind(self.model, *args, **kwargs).arguments
        cache, ids = call.get("cache"), call["input_ids"]
        past, T = cache.length if cache else 0, ids.shape[1]
        sequence = self.by_cache.get(cache) if past else None
        new = sequence is None or past < sequence.start_at
        if new or sequence is not self.pooled or past != sequence.end or T > 1:
            self.empty()
        before = self.states(cache) if past and (new or not self.pool) else {}
        self.heard = {}
        hidden = type(self.model).hidden(self.model, *args, **kwargs)
        real = real_tokens(call.get("attention_mask"), T, past)
        if new:
            sequence = Sequence(self.model.cfg, past, before)
            self.sequences.append(sequence)
            if cache:
                self.by_cache[cache] = sequence
        if past != sequence.end:
            sequence.cut(past)
        if not self.pool:
            self.pooled, self.before = sequence, before
        self.pool.append((ids.clone(), real, self.heard))
        sequence.read(T, call)
        if T > 1 or len(self.pool) == self.POOL:
            self.empty()
        return hidden

    def states(self, cache):
        """The states of the delta layers listened to: {layer: [B, H, K, V]}."""
        return {
            i: cache.layers[i].state.clone()
            for i, block in enumerate(self.blocks)
            if block.kind == LINEAR and (self.norms or i in self.layers)
        }

    # ---- keeping ----

    @torch.no_grad()
    def empty(self):
        """Make columns of the calls in the pool."""
        if not self.pool:
            return
        ids, reals, calls = zip(*self.pool, strict=True)
        found = columns(calls, ids[0].shape, self.heads)
        if self.norms:
            found |= overview(calls, self.before)
        reals = [
            torch.ones_like(part, dtype=torch.bool) if real is None else real
            for part, real in zip(ids, reals, strict=True)
        ]
        found |= {"token_ids": torch.cat(ids, 1), "real": torch.cat(reals, 1)}
        self.pooled.keep({name: value.cpu() for name, value in found.items()})
        self.pool = []

    def rows(self):
        """A Trace for each row of each sequence, in the order they began."""
        self.empty()
        return [row for sequence in self.sequences for row in sequence.rows()]
