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
from .delta import delta_step
from .errors import InputError
from .model import real_tokens
from .moe import Router
from .record_rows import Sequence
from .rope import rotate
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
    """Listens to one model. `heard` collects what one call of it says, by layer."""

    def __init__(self, model, heads, norms):
        self.model, self.heads, self.norms = model, heads, norms
        self.layers = {layer for layer, _ in heads}
        self.core = model.model.language_model
        self.sequences, self.by_cache = [], WeakKeyDictionary()
        self.heard, self.hooks, self.covered = {}, [], []

    # ---- listening ----

    def attach(self):
        self.cover(self.model, "hidden", self.hidden)
        self.signature = signature(type(self.model).hidden)
        for i, block in enumerate(self.core.layers):
            if isinstance(getattr(block.mlp, "gate", None), Router):
                self.hook(block.mlp.gate, i, "router")
                self.hook(block.mlp.shared_expert_gate, i, "shared")
            if block.kind == LINEAR and (self.norms or i in self.layers):
                gates = block.linear_attn.gates
                self.cover(block.linear_attn, "gates", partial(self.gates, gates, i))
            elif i in self.layers:
                self.hook(block.self_attn.q_norm, i, "q")
                self.hook(block.self_attn.k_norm, i, "k")
                self.hooks.append(
                    block.self_attn.register_forward_pre_hook(
                        partial(self.angles, i), with_kwargs=True
                    )
                )

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
        past = cache.length if cache else 0
        sequence = self.by_cache.get(cache) if past else None
        new = sequence is None or past < sequence.start_at
        before = self.states(cache) if past and (new or self.norms) else {}
        self.heard = {}
        hidden = type(self.model).hidden(self.model, *args, **kwargs)
        with torch.no_grad():
            real = real_tokens(call.get("attention_mask"), ids.shape[1], past)
            if new:
                sequence = Sequence(self.model.cfg, past, before)
                self.sequences.append(sequence)
                if cache:
                    self.by_cache[cache] = sequence
            sequence.cut(past)
            sequence.add(ids, real, self.columns(ids.shape, before), call)
        return hidden

    def states(self, cache):
        """The states of the delta layers listened to: {layer: [B, H, K, V]}."""
        return {
            i: cache.layers[i].state.clone()
            for i, block in enumerate(self.core.layers)
            if block.kind == LINEAR and (self.norms or i in self.layers)
        }

    # ---- keeping ----

    def columns(self, shape, before):
        """What was heard, as {tensor's name: [B, T, ...]}, on the cpu."""
        result = self.routing(shape)
        for layer, head in self.heads:
            if ("rule", layer) in self.heard:
                kind, parts = "delta", self.rule(layer, head)
            else:
                kind, parts = "attention", self.attention(layer, head)
            for part, value in parts.items():
                result[f"{kind}.{layer}.{head}.{part}"] = value.float()
        if self.norms:
            result |= self.overview(before)
        return {name: value.detach().cpu() for name, value in result.items()}

    def routing(self, shape):
        """Choices, weights, margins and the shared gate of all layers at once."""
        layers = [i for what, i in self.heard if what == "router"]
        if not layers:
            return {}
        routers = zip(*(self.heard["router", i] for i in layers), strict=True)
        weights, ids, logits = map(torch.stack, routers)  # [L, B T, K], same, [.., E]
        shared = torch.stack([self.heard["shared", i] for i in layers])[..., 0]
        found = {
            "expert_ids": ids.to(torch.int32),  # torch's u16 has few operations
            "expert_weights": weights.half(),
            "shared_gate": shared.float().sigmoid().half(),
        }
        if logits.shape[-1] > ids.shape[-1]:
            logits = logits.float()
            last = logits.gather(-1, ids[..., -1:])[..., 0]
            others = logits.scatter(-1, ids, -torch.inf)
            following, runner_up = others.max(-1)
            found["router_margin"] = (last - following).half()
            found["runner_up"] = runner_up.to(torch.int32)
        return {
            name: value.unflatten(1, shape).movedim(0, 2)  # [B, T, L, ...]
            for name, value in found.items()
        }

    def rule(self, layer, head):
        """One value head's share of what the rule was fed: [B, T, ...] each."""
        q, k, v, g, beta = self.heard["rule", layer]
        own = head // (v.shape[2] // k.shape[2])  # the key head that it reads
        own = {"q": q[:, :, own], "k": k[:, :, own], "v": v[:, :, head]}
        return own | {"g": g[:, :, head], "beta": beta[:, :, head]}

    def attention(self, layer, head):
        """One query head's queries, and its keys, both rotated: [B, T, K]."""
        cos, sin = self.heard["angles", layer]
        q, k = self.heard["q", layer], self.heard["k", layer]  # [B, T, heads, K]
        own = head // (q.shape[2] // k.shape[2])
        pair = rotate(q[:, :, [head]], cos, sin), rotate(k[:, :, [own]], cos, sin)
        return {"q": pair[0][:, :, 0], "k": pair[1][:, :, 0]}

    def overview(self, before):
        """Norm of every state after every token, decay and beta: [B, T, Ld, H]."""
        norms, decays, betas = [], [], []
        for i, block in enumerate(self.core.layers):
            if block.kind != LINEAR:
                continue
            q, k, v, g, beta = self.heard["rule", i]
            R = v.shape[2] // k.shape[2]
            q, k = q.repeat_interleave(R, 2), k.repeat_interleave(R, 2)
            state = before.get(i)
            if state is None:
                state = v.new_zeros(*k.shape[::2], k.shape[3], v.shape[3])
            layer = []
            for t in range(k.shape[1]):
                step = (x[:, t] for x in (q, k, v))
                _, state = delta_step(*step, g=g[:, t], beta=beta[:, t], state=state)
                layer.append(state.flatten(2).norm(dim=-1))
            norms.append(torch.stack(layer, 1))  # [B, T, H]
            decays.append(g)
            betas.append(beta)
        names = ("state_norm", "state_decay", "state_beta")
        parts = (torch.stack(part, 2).half() for part in (norms, decays, betas))
        return dict(zip(names, parts, strict=True)) if norms else {}

    def rows(self):
        """A Trace for each row of each sequence, in the order they began."""
        return [row for sequence in self.sequences for row in sequence.rows()]
