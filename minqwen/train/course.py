"""A step of training: two halves of a batch, each on a thread of its own."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn

from .muon import Muon
from .recipe import rate


@dataclass
class Course:
    """A stretch of training: what is learned, from what and how."""

    name: str
    steps: int
    learners: nn.ModuleList
    optimizers: list
    parts: Callable  # step -> the halves of a batch
    loss: Callable  # (half, step) -> what is minimised, {name: loss}
    look: Callable  # () -> {ability: figure}, for the learning curve
    end: Callable = lambda: None


def learn(course, step, recipe, pool):
    """One step: each half's gradients by a thread, then both added. The mean losses."""
    params = [p for p in course.learners.parameters() if p.requires_grad]

    def one(part):
        total, figures = course.loss(part, step)
        return torch.autograd.grad(total, params, allow_unused=True), figures

    parts = course.parts(step)
    results = list(pool.map(one, parts))
    for p, *grads in zip(params, *(grads for grads, _ in results), strict=True):
        grads = [grad for grad in grads if grad is not None]
        p.grad = sum(grads[1:], grads[0]) / len(parts) if grads else None
    torch.nn.utils.clip_grad_norm_(params, recipe.clip)
    for optimizer in course.optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group["top"] * rate(step, course.steps, recipe)
        optimizer.step(*[pool.map] * isinstance(optimizer, Muon))
    return {k: sum(r[k].item() for _, r in results) / len(parts) for k in results[0][1]}


@contextmanager
def threads_of(count):
    """A pool of `count` threads, in which torch's products use one each."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(count) as pool:
            yield pool
    finally:
        torch.set_num_threads(before)


def optimizers(model, recipe, slower=lambda name: 1.0):
    """Muon for the matrices between the states, AdamW for all else.

    Embeddings, the output head, norms, rates and biases do not decay. `slower` gives a
    factor of the rates by a parameter's name.
    """
    made = {Muon: {}, torch.optim.AdamW: {}}  # class -> (rate, decay) -> parameters
    for name, p in model.named_parameters():
        word = "embed" in name or "head" in name
        matrix = p.dim() == 2 and min(p.shape) > 16 and not word
        kind = Muon if matrix else torch.optim.AdamW
        lr = recipe.matrix_lr if matrix else recipe.word_lr if word else recipe.lr
        lr = lr * slower(name)
        decay = recipe.weight_decay if p.dim() >= 2 and not word else 0.0
        made[kind].setdefault((lr, decay), []).append(p)
    groups = {
        kind: [
            {"params": params, "lr": lr, "top": lr, "weight_decay": decay}
            for (lr, decay), params in parts.items()
        ]
        for kind, parts in made.items()
    }
    adam = torch.optim.AdamW(
        groups.pop(torch.optim.AdamW), betas=(0.9, 0.95), fused=True
    )
    return [Muon(groups[Muon]), adam]
