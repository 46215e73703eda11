"""Causes in the routers: who may be chosen, who must be, and what is chosen instead."""

from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager

import numpy as np
import torch

from ..errors import InputError, number
from ..model.moe import route
from ..model.qwen import Qwen
from ..model.taps import listen
from ..trace.file import check_experts
from ..trace.trace import Trace

Cause = AbstractContextManager[None]
ABOVE = 0.01  # logits that a forced expert stands above the best of the others


def masked(model: Qwen, experts: Mapping[int, Iterable[int]]) -> Cause:
    """A block in which no token is sent to `experts`, {layer: [expert, ...]}.

    Their logits are -inf before the router chooses, so the next best take their places
    and the weights, a softmax of the winners alone, still sum to one. This is what
    SAFEx (arXiv 2506.17368) does to silence experts; SteerMoE (2509.09660) puts them
    just below the worst, which chooses the same. InputError for a layer or expert that
    is not there, and where fewer than top_k experts would be left.
    """
    chosen, text = by_layer(model, experts), model.cfg.text
    for layer, own in chosen.items():
        left = text.num_experts - len(own)
        if left < text.num_experts_per_tok:
            raise InputError(
                f"layer {layer}: {left} experts would be left, and each token needs "
                f"{text.num_experts_per_tok}; mask fewer"
            )
    return by_logits(model, chosen, lambda x, own: set_to(x, own, -torch.inf))


def forced(model: Qwen, experts: Mapping[int, Iterable[int]]) -> Cause:
    """A block in which every token is sent to `experts`, {layer: [expert, ...]}.

    Their logits become the token's highest and ABOVE more, so they also have its
    largest weights: SteerMoE's activation (arXiv 2509.09660). At most top_k in a layer.
    """
    chosen, most = by_layer(model, experts), model.cfg.text.num_experts_per_tok
    for layer, own in chosen.items():
        if len(own) > most:
            raise InputError(
                f"layer {layer}: {len(own)} experts are forced, but a token is sent to "
                f"{most}; force fewer"
            )
    return by_logits(
        model, chosen, lambda x, own: set_to(x, own, x.amax(1, keepdim=True) + ABOVE)
    )


def biased(model: Qwen, amounts: Mapping[int, Mapping[int, float]]) -> Cause:
    """A block in which logits are raised by `amounts`, {layer: {expert: logits}}."""
    for each in by_layer(model, amounts, pairs=True).values():
        for value in each.values():
            number(value, "a bias")

    def raised(x, own):
        return x.index_add(
            1, at(x, own), x.new_tensor([*own.values()]).expand(len(x), -1)
        )

    return by_logits(model, amounts, raised)


def rerouted(model: Qwen, experts: Mapping[int, Mapping[int, int]]) -> Cause:
    """A block in which one expert's tokens go to another, {layer: {from: to}}.

    `to` is given the larger of both logits and `from` -inf. A token that had chosen
    both is sent to its next best as well.
    """
    for layer, pairs in by_layer(model, experts, pairs=True).items():
        by_layer(model, {layer: set(pairs.values())})
        if set(pairs) & set(pairs.values()):
            raise InputError(
                f"layer {layer}: an expert is both left and gone to; give each one role"
            )
    masked(model, experts)  # the same experts must be left over

    def swapped(x, pairs):
        for old, new in pairs.items():
            x = x.index_copy(1, at(x, [new]), x[:, [old, new]].amax(1, keepdim=True))
        return set_to(x, pairs, -torch.inf)

    return by_logits(model, experts, swapped)


def replayed(model: Qwen, chosen: Trace | np.ndarray) -> Cause:
    """A block in which tokens are sent where `chosen` says: a Trace, or whole numbers
    [T, L, top_k], tokens of one sequence from its first on.

    R3, routing replay (arXiv 2510.11370): the choice is forced, the weights are the
    softmax of the live router's logits over it. Tokens after T choose for themselves.
    InputError for another shape, an expert that is not there or named twice, and, when
    the model is called, for more than one row.
    """
    ids, text = routes(chosen), model.cfg.text
    by_layer(model, {})
    wanted = text.num_hidden_layers, text.num_experts_per_tok
    if ids.ndim != 3 or ids.shape[1:] != wanted or not len(ids):
        raise InputError(
            f"routes are {list(ids.shape)}; this model's are [tokens, {wanted[0]}, "
            f"{wanted[1]}]"
        )
    check_experts(ids, text.num_experts, "routes")
    kept, place = torch.from_numpy(ids.astype(np.int64)), Place()

    def replay(layer, weights, ids, logits):
        if layer == "mtp":
            return None
        own = kept[place.start : place.start + len(ids), layer].to(ids.device)
        ids = torch.cat([own, ids[len(own) :]])
        weights = logits.float().gather(1, ids).softmax(-1).to(weights.dtype)
        return {"weights": weights, "ids": ids}

    return listen(model, tokens=place.begin, router=replay)


def routes(trace: Trace | np.ndarray) -> np.ndarray:
    """The choices of a trace, int32 [T, L, top_k]: what RL's routing replay passes on.

    An array is checked to be of whole numbers. Of vLLM's and SGLang's answers,
    `trace.engines.from_routed_experts` makes a trace.
    """
    ids = np.asarray(trace["expert_ids"] if isinstance(trace, Trace) else trace)
    if ids.dtype.kind not in "iu" or ids.size and ids.min() < 0:
        raise InputError(
            f"routes are {ids.dtype}{' below 0' * (ids.dtype.kind == 'i')}; expected "
            "whole numbers, 0 or more, [tokens, layers, top_k]"
        )
    return ids.astype(np.int32)


class Place:
    """Where the call under way stands in its sequence, of which there may be one."""

    start = 0

    def begin(self, layer, input_ids, cache, **_):
        if len(input_ids) > 1:
            raise InputError(
                f"tokens are counted along one sequence, and these are "
                f"{len(input_ids)} rows; call the model for each"
            )
        self.start = 0 if cache is None else cache.length


def by_layer(model, experts, pairs=False):
    """`experts`, each layer's a list or a mapping; InputError for what is not there."""
    text = model.cfg.text
    if not text.num_experts:
        raise InputError("the model is dense: it has no experts to choose from")
    if not isinstance(experts, Mapping):
        raise InputError("experts are given by layer, such as {6: [9]}")
    found = {}
    for layer, own in experts.items():
        number(layer, "layer", int, 0, text.num_hidden_layers - 1)
        if not isinstance(own, Mapping if pairs else Iterable):
            wanted = "{expert: number}" if pairs else "a list of experts, such as [9]"
            raise InputError(f"layer {layer}: give {wanted}")
        found[layer] = own if isinstance(own, Mapping) else [*dict.fromkeys(own)]
        for expert in found[layer]:
            number(expert, f"layer {layer}: expert", int, 0, text.num_experts - 1)
    return found


def by_logits(model, experts, change):
    """A block in which layers route by change(logits [N, E], experts[layer]), fp32."""

    def again(layer, weights, ids, logits):
        if layer not in experts:
            return None
        logits = change(logits.float(), experts[layer])
        chosen, ids = route(logits, ids.shape[1])
        return {"weights": chosen.to(weights.dtype), "ids": ids, "logits": logits}

    return listen(model, router=again)


def at(logits, experts):
    return torch.tensor([*experts], device=logits.device, dtype=torch.long)


def set_to(logits, experts, value):
    """The logits with some experts' columns at `value`, a number or [N, 1]."""
    wanted = logits.new_zeros(logits.shape[1], dtype=torch.bool)
    wanted[at(logits, experts)] = True
    value = torch.as_tensor(value, dtype=logits.dtype, device=logits.device)
    return torch.where(wanted, value, logits)
