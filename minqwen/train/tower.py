"""The tower's own course: to see before it speaks.

Reading a tower that sees nothing yet, the language model learns to ignore it. So the
tower first says, of each cell that becomes a token, what is there and in which colour.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from .corpus import IGNORED, pictures, stack
from .corpus.scenes import LABELS
from .course import Course, optimizers

PICTURES = 16  # a step
ALONE = 2**39  # stands where a training row has its step


class Seer(nn.Module):
    """The tower, and a head that names what each of its outputs shows."""

    def __init__(self, visual, width):
        super().__init__()
        self.visual = visual
        self.head = nn.Linear(width, sum(LABELS.values()))

    def forward(self, pixels, grids):
        """-> logits of each label in turn, [tokens, its classes]."""
        return self.head(self.visual(pixels, grids)).split(
            list(LABELS.values()), dim=-1
        )


def tower_course(model, corpus, recipe):
    visual, width = model.model.visual, model.cfg.text.hidden_size
    seer = Seer(visual, width)

    def parts(step):
        return lessons(corpus.seed, step, step / max(1, recipe.tower_steps // 2))

    def loss(part, step):
        labels, *shown = part
        logits = seer(*shown)
        each = [mean_loss(x, labels[:, i]) for i, x in enumerate(logits)]
        return sum(each), dict(zip(LABELS, each, strict=True))

    def end():
        """Outputs become as long as embeddings: longer ones would drown all layers."""
        _, *shown = lessons(corpus.seed, recipe.tower_steps, 1.0)[0]
        words = model.model.language_model.embed_tokens.weight
        with torch.no_grad():
            ratio = words.norm(dim=1).mean() / visual(*shown).norm(dim=1).mean()
            visual.merger.linear_fc2.weight *= ratio
            visual.merger.linear_fc2.bias *= ratio

    learning = optimizers(seer, recipe)
    learners = nn.ModuleList([seer])
    return Course(
        "tower", recipe.tower_steps, learners, learning, parts, loss, dict, end
    )


def lessons(seed, step, level):
    """Halves of a batch: labels int64 [tokens, 4], pixels, grids."""
    rng = np.random.default_rng([seed, ALONE, step])
    parts = []
    for _ in range(2):
        seen = [pictures.lesson(rng, min(1.0, level)) for _ in range(PICTURES // 2)]
        shown, labels = zip(*seen, strict=True)
        parts.append((torch.cat(labels), *stack(shown)))
    return parts


def mean_loss(logits, labels):
    """Cross entropy over what has a label, 0 if nothing has."""
    total = F.cross_entropy(logits, labels, ignore_index=IGNORED, reduction="sum")
    return total / (labels != IGNORED).sum().clamp(min=1)
