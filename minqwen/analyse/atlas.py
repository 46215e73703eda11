"""What each expert does to the next token: masked one by one, beside others as busy."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..engine.inputs import as_inputs
from ..errors import InputError, number
from ..model.qwen import Qwen
from ..model.taps import listen
from .routers import by_layer, masked

ALIKE = 3  # experts of the same layer, the nearest in load, that one is held against


@dataclass(frozen=True)
class CausalMap:
    """What masking each expert does to a text's next-token distributions: [L, E] each.

    kl: bits; load: share of the text's tokens that are sent there; control: the mean kl
    of the ALIKE experts of the same layer that are nearest in load.
    """

    kl: np.ndarray = field(repr=False)
    load: np.ndarray = field(repr=False)

    @property
    def control(self) -> np.ndarray:
        found = np.empty_like(self.kl)
        for layer, row in enumerate(self.load):
            for expert, load in enumerate(row):
                others = np.delete(np.arange(len(row)), expert)
                near = np.argsort(abs(row[others] - load), kind="stable")[:ALIKE]
                found[layer, expert] = self.kl[layer, others[near]].mean()
        return found


@torch.inference_mode()
def causal_map(
    model: Qwen,
    inputs: Any,
    start: int = 0,
    experts: Mapping[int, Iterable[int]] | None = None,
) -> CausalMap:
    """Mask every expert that the text uses, one at a time: KL of what comes next.

    KL(whole || masked) in bits, the mean over the next-token distributions after the
    tokens from `start` on: activation patching's usual measure, for experts. inputs:
    one row, as `generate` takes them, pictures too. experts: of these alone,
    {layer: [expert, ...]}; NaN for the rest. One call of the model for each expert in
    use (masking another changes nothing, so its KL is 0).
    """
    inputs, text = as_inputs(inputs, model.device), model.cfg.text
    chosen = by_layer(model, {i: range(text.num_experts) for i in
                              range(text.num_hidden_layers)})  # fmt: skip
    if experts is not None:
        chosen = by_layer(model, experts)
    rows, length = inputs["input_ids"].shape
    if rows != 1:
        raise InputError(f"the map is of one text, and these are {rows} rows")
    number(start, "start", int, 0, length - 1)
    load = np.zeros((text.num_hidden_layers, text.num_experts))

    def hear(layer, weights, ids, logits):
        load[layer] = np.bincount(ids.flatten().cpu(), minlength=len(load[0])) / length

    with listen(model, last=True, router=hear):
        whole = after(model, inputs, start)
    kl = np.full(load.shape, np.nan)
    for layer, own in chosen.items():
        for expert in own:
            kl[layer, expert] = 0
            if load[layer, expert]:
                with masked(model, {layer: [expert]}):
                    kl[layer, expert] = apart(whole, after(model, inputs, start))
    return CausalMap(kl, load)


def after(model, inputs, start):
    """Log probabilities after the tokens from `start` on: [T - start, vocab], fp32."""
    with model.calling():
        hidden = model.hidden(**inputs)[0, start:]
        return model.logits(hidden).float().log_softmax(-1)


def apart(whole: Tensor, other: Tensor) -> float:
    """The mean KL(whole || other) in bits, of log probabilities [n, vocab]."""
    kl = (whole.exp() * (whole - other)).sum(-1)
    return kl.mean(dtype=torch.float64).item() / math.log(2)


def matched(
    load: np.ndarray, experts: Mapping[int, Iterable[int]], seed: int = 0
) -> dict[int, list[int]]:
    """As many other experts, drawn at random among those as busy: {layer: [...]}.

    For each of `experts` one of the same layer that is not among them, drawn from the
    ALIKE nearest in load [L, E] that are not taken yet. What a set of experts does is
    held against such sets, since any busy expert is missed (pre-registered ablation,
    arXiv 2606.25092). InputError where a layer has too few others.
    """
    random = np.random.default_rng(seed)
    found: dict[int, list[int]] = {}
    for layer, own in experts.items():
        own, row = [*own], np.asarray(load)[layer]
        free = [e for e in range(len(row)) if e not in own]
        if len(free) < len(own):
            raise InputError(
                f"layer {layer}: {len(own)} experts have only {len(free)} others to be "
                "held against"
            )
        found[layer] = []
        for expert in sorted(own, key=lambda e: -row[e]):
            near = sorted(free, key=lambda e: abs(row[e] - row[expert]))[:ALIKE]
            taken = near[random.integers(len(near))]
            free.remove(taken)
            found[layer].append(taken)
    return found
