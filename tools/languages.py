"""The hybrid of notebook 09, trained with one part changed: equal time, three seeds.

    python -m tools.experiment languages

Writes notebooks/retrained.json, run by run, and goes on where it stopped. No part
(`PARTS`) is given more time than another: how long a step without each takes is
measured first, in turn on one thread, and each does as many steps as fit into the time
of `STEPS` steps of the whole model. Ways of balancing do equal steps.
"""

import json
import math
import statistics
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from minqwen.bench.machine import hardware
from minqwen.files import as_json, write_whole
from minqwen.model.config import FULL
from minqwen.model.forms import register, register_kind
from minqwen.model.moe import balance_loss
from minqwen.model.shapes import LINEAR
from minqwen.model.taps import listen
from minqwen.train.course import learn, threads_of
from minqwen.train.languages import LENGTH, lesson, recipe_of, small, untrained

from .execute import NOTEBOOKS

FILE = NOTEBOOKS / "retrained.json"
STEPS, POINTS = 300, 6
SEEDS = (0, 1, 2)
RATES = "steps lr matrix_lr word_lr warmup decay weight_decay clip".split()
PACED = 8  # steps of each, timed in turn
BIAS = 0.003  # by which a bias moves in a step


def row_balance(logits, ids):
    """`balance_loss` of each row alone, and their mean."""
    experts = logits.shape[1]
    chosen = F.one_hot(ids, experts).sum(1).float()  # [N, E]
    shares = [x.view(-1, LENGTH, experts).mean(1) for x in (chosen, logits.softmax(-1))]
    return experts * (shares[0] * shares[1]).sum(1).mean()


class Silent(nn.Module):
    """In place of a shared expert: nothing is added, and nothing computed."""

    def forward(self, x):
        return torch.zeros_like(x)


class LossFree:
    """Biases beside the shares steer the choice (Wang and others, arXiv 2408.15664)."""

    def __init__(self, layers, experts):
        self.bias, self.count = torch.zeros(2, layers, experts)

    def choose(self, layer, weights, ids, logits):
        shares = logits.softmax(-1)
        ids = (shares + self.bias[layer]).topk(ids.shape[1])[1]
        self.count[layer] += ids.flatten().bincount(minlength=logits.shape[1])
        weights = shares.gather(1, ids)
        return {"weights": weights / weights.sum(1, keepdim=True), "ids": ids}

    def step(self):
        fair = self.count.mean(1, keepdim=True)
        self.bias += BIAS * (fair - self.count).sign()
        self.count.zero_()


def hebbian(q, k, v, *, g, beta, state=None):
    """`delta_rule` without its correction: beta v is added, whatever is there.

    As decayed linear attention, for a row that fits into one chunk; no state is left.
    """
    share, T = v.shape[2] // k.shape[2], q.shape[1]
    q, k = (x.repeat_interleave(share, dim=2) for x in (q, k))
    kept = g.cumsum(1).mT  # [B, H, T]
    gap = kept[..., None] - kept[:, :, None]
    gap = gap.masked_fill(torch.ones(T, T).triu(1).bool(), -math.inf)
    scores = torch.einsum("bthk, bshk -> bhts", q, k) * gap.exp()
    return torch.einsum("bhts, bshv -> bthv", scores, beta[..., None] * v), state


register_kind("hebbian")
register("delta_rule", "hebbian", hebbian)
for _name in ("rms_norm", "gated_rms_norm"):  # as fast as those of "train"
    register(_name, "hebbian", f"minqwen.kernels.train:{_name}")


class Variant(NamedTuple):
    changes: dict = {}  # of the config
    balancing: Callable = balance_loss
    form: str = "train"
    shared: bool = True
    loss_free: bool = False


LAYERS = small().text.num_hidden_layers
VARIANTS = {
    "whole": Variant(),
    "all delta": Variant({"layer_types": (LINEAR,) * LAYERS}),
    "all attention": Variant({"layer_types": (FULL,) * LAYERS}),
    "Hebbian": Variant(form="hebbian"),
    # One more expert, and one more chosen: as many parameters, all and active.
    "no shared expert": Variant(
        {"num_experts": 9, "num_experts_per_tok": 3}, shared=False
    ),
    # Ways of balancing.
    "no balance": Variant({"router_aux_loss_coef": 0.0}),
    "each row": Variant(balancing=row_balance),
    "loss-free": Variant({"router_aux_loss_coef": 0.0}, loss_free=True),
}

PARTS = list(VARIANTS)[:5]


class Learner:
    """A variant's model, to be trained for so many steps from a seed."""

    def __init__(self, name, seed, steps):
        variant = VARIANTS[name]
        self.recipe = recipe_of(steps, seed)
        self.model = untrained(small(**variant.changes), seed)
        if not variant.shared:
            for layer in self.model.model.language_model.layers:
                layer.mlp.shared_expert = Silent()
        text = self.model.cfg.text
        self.steering = None
        if variant.loss_free:
            self.steering = LossFree(text.num_hidden_layers, text.num_experts)
        self.course = lesson(self.model, self.recipe, variant.balancing, variant.form)

    def steered(self):
        choose = self.steering and self.steering.choose
        return listen(self.model, router=choose) if choose else nullcontext()

    def step(self, number, pool):
        with self.steered():
            learn(self.course, number, self.recipe, pool)
        if self.steering:
            self.steering.step()

    def look(self):
        with self.steered():
            return self.course.look()


def paces():
    """Seconds of the processor that a step takes without each part, medians."""
    with threads_of(1) as pool:
        learners = {name: Learner(name, 0, 100) for name in PARTS}
        times = {name: [] for name in PARTS}
        for number in range(2 + PACED):  # the first two compile
            for name, learner in learners.items():
                begun = time.process_time()
                learner.step(number, pool)
                times[name].append(time.process_time() - begun)
    return {name: statistics.median(some[2:]) for name, some in times.items()}


def trained(name, seed, steps):
    """One run: what `Course.look` sees on the way, and in the end."""
    learner, curve = Learner(name, seed, steps), []
    begun = time.process_time()
    with threads_of(1) as pool:
        for number in range(steps):
            learner.step(number, pool)
            if (number + 1) * POINTS // steps > number * POINTS // steps:
                seen = learner.look()
                curve.append({"step": number + 1, "right": plain(seen["right"])})
    return {
        "seed": seed, "steps": steps, "curve": curve,
        "seconds": round(time.process_time() - begun, 1),
        "parameters": learner.model.num_parameters()["total"],
        **{key: plain(value) for key, value in seen.items()},
    }  # fmt: skip


def plain(x):
    return [plain(y) for y in x] if x.dim() else round(x.item(), 4)


def facts(steps=STEPS):
    """What all runs of a file have in common."""
    recipe = asdict(recipe_of(steps, 0))
    return {"recipe": {name: recipe[name] for name in RATES}, "bias": BIAS}


def run(seeds=SEEDS, file=FILE, steps=STEPS):
    """Make the runs that are not there yet; write them after each."""
    found = json.loads(file.read_bytes()) if file.exists() else {}
    if not found.items() >= facts(steps).items():
        found = facts(steps) | {"machine": hardware(1), "paces": paces(), "runs": {}}
    for seed in seeds:
        for name in VARIANTS:
            runs = found["runs"].setdefault(name, [])
            if any(run["seed"] == seed for run in runs):
                continue
            whole = found["paces"]["whole"]
            share = whole / found["paces"].get(name, whole)
            runs.append(trained(name, seed, round(steps * share)))
            print(name, seed, runs[-1]["right"], runs[-1]["seconds"], flush=True)
            write_whole(file, as_json(found))
