"""Causes in the layers: a part that says nothing, a write that is another or none."""

from collections.abc import Iterable
from typing import Any

import torch

from ..engine.inputs import listed
from ..errors import InputError, number
from ..model.qwen import Qwen
from ..model.shapes import LINEAR
from ..model.taps import listen
from ..trace.record import check_heads
from .routers import Cause, Place


def skipped(
    model: Qwen,
    mixers: Iterable[int] = (),
    mlps: Iterable[int] = (),
    layers: Iterable[int] = (),
    heads: Iterable[tuple[int, int]] = (),
) -> Cause:
    """A block in which parts add nothing to the residual stream (zero ablation).

    mixers: layers whose attention or memory is left out; mlps: whose experts (or MLP)
    are; layers: both. heads: (layer, head), value heads of a delta layer and query
    heads of a full one; memories are still written. Whole kinds of layers taken out:
    arXiv 2603.22473.
    """
    L = model.cfg.text.num_hidden_layers
    mixers, mlps = listed(mixers, "mixers"), listed(mlps, "mlps")
    layers = listed(layers, "layers")
    for layer in (*mixers, *mlps, *layers):
        number(layer, "layer", int, 0, L - 1)
    silent: dict[int, list[int]] = {}
    for layer, head in whole(model, heads):
        silent.setdefault(layer, []).append(head)

    def without(chosen):
        def nothing(layer, x):
            return {"x": torch.zeros_like(x)} if layer in chosen else None

        return nothing

    def headless(layer, x):
        if layer not in silent:
            return None
        own = torch.tensor(silent[layer], device=x.device)
        return {"x": x.index_fill(2, own, 0)}  # [B, T, H, V]

    parts = {"attn_out": {*mixers, *layers}, "mlp_out": {*mlps, *layers}}
    functions: dict[str, Any] = {n: without(own) for n, own in parts.items() if own}
    if silent:
        functions["head_out"] = headless
    return listen(model, **functions)


def edited(
    model: Qwen,
    head: tuple[int, int],
    token: int,
    k: Any = None,
    v: Any = None,
    beta: float | None = None,
) -> Cause:
    """A block in which one write of a delta layer's value head is another.

    head: (layer, head); token: counted from 0 along one sequence, as in a trace. k [K],
    v [V] and beta, from 0 to 1, replace what the rule is fed there; beta=0 deletes the
    write, and decay goes on. Keys have length 1 in the model. The key of this head
    alone is changed, not of others that share it. WriteSAE (arXiv 2605.12770) edits
    such rank-1 writes. InputError for a head that is none of a delta layer's, for
    shapes and, when the model is called, for more than one row.
    """
    ((layer, own),) = whole(model, [head])
    text = model.cfg.text
    if text.layer_types[layer] != LINEAR:
        raise InputError(
            f"layer {layer} has full attention: it holds no writes to edit"
        )
    number(token, "token", int, 0)
    sizes = {"k": text.linear_key_head_dim, "v": text.linear_value_head_dim}
    given = {name: vector(value, name, sizes[name]) for name, value in
             (("k", k), ("v", v)) if value is not None}  # fmt: skip
    if beta is not None:
        given["beta"] = torch.tensor(number(beta, "beta", float, 0, 1))
    if not given:
        raise InputError("nothing is edited: give k, v or beta; beta=0 deletes a write")
    place = Place()

    def edit(layer_now, **fed):
        t = token - place.start
        if layer_now != layer or not 0 <= t < fed["v"].shape[1]:
            return None
        if "k" in given:  # each value head its own key and query: the same rule
            each = fed["v"].shape[2] // fed["k"].shape[2]
            for name in ("q", "k"):
                fed[name] = fed[name].repeat_interleave(each, 2)
        for name, value in given.items():
            fed[name] = fed[name].clone()
            fed[name][:, t, own] = value.to(fed[name])
        return fed

    return listen(model, tokens=place.begin, rule=edit)


def vector(value, name, size):
    try:
        found = torch.as_tensor(value, dtype=torch.float32)
    except (TypeError, ValueError, RuntimeError):
        raise InputError(f"{name} holds no numbers; expected {size}") from None
    if found.shape != (size,) or not found.isfinite().all():
        raise InputError(
            f"{name} is {list(found.shape)}; expected [{size}], all finite"
        )
    return found


def whole(model, heads):
    """The (layer, head) pairs; InputError where they are not there, or not all here."""
    heads = check_heads(model.cfg.text, heads, "heads")
    if heads and model.ranks > 1:
        raise InputError(
            "one of several processes has some of the heads alone; load the model in "
            "one process"
        )
    return heads
