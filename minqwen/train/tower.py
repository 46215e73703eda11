"""The tower's own course: to see before it speaks.

Reading a tower that sees nothing yet, the language model learns to ignore it. So the
tower first says, of each cell that becomes a token, what is there, in which colour and
in which part of the picture, and says it in the language model's own embeddings: a cell
with a red star becomes much like the tokens "red" and "star" and those of "at the top",
which a model that can copy can then say.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from .corpus import IGNORED, pictures, stack
from .corpus.scenes import LABELS, WHAT
from .corpus.shapes import NAMES, PLACES
from .course import Course, optimizers

PICTURES = 16  # a step
ALONE = 2**39  # stands where a training row has its step


class Seer(nn.Module):
    """The tower, and what names each of its outputs: words, and a head for the rest.

    words [WHAT, NAMES and PLACES, D], directions of unit length. In them is said whose
    middle a cell holds, which is in one cell alone, so that digits in a row can be read
    off, and in which part of the picture that is.
    """

    def __init__(self, visual, words):
        super().__init__()
        self.visual = visual
        self.register_buffer("words", words)
        self.rest = nn.Linear(words.shape[1], 2 * len(WHAT))

    def forward(self, pixels, grids):
        """-> {name of LABELS: logits [tokens, its classes]}."""
        out = self.visual(pixels, grids)
        parts = len(WHAT), len(NAMES), len(PLACES)
        first, colour, place = (out @ self.words.T).split(parts, dim=-1)
        most, second = self.rest(out).chunk(2, dim=-1)
        return {
            "most": most, "colour": colour, "first": first, "second": second,
            "place": place,
        }  # fmt: skip


@torch.no_grad()
def words_of(model, tokenizer):
    """Where the embeddings of what may be seen point to: [WHAT, NAMES and PLACES, D].

    Of each word's first token, and of a place its words' sum; and the first half of the
    embedding alone, in which the state holds what a token is (see start.py).
    """
    table = model.model.language_model.embed_tokens.weight.clone()
    table[:, 0] = 0  # which all embeddings have
    table[:, table.shape[1] // 2 :] = 0
    names = [[n if n.isdigit() else f" {n}"] for n in (*WHAT, *NAMES)]
    for place in PLACES.values():
        names.append([f" {word}" for word in place.split() if word != "the"])
    words = [
        sum(table[tokenizer.encode(word).ids[0]] for word in name) for name in names
    ]
    return F.normalize(torch.stack(words), dim=-1)


def tower_course(model, corpus, recipe):
    visual = model.model.visual
    seer = Seer(visual, words_of(model, corpus.tokenizer))

    def parts(step):
        return lessons(corpus.seed, step, step / max(1, recipe.tower_steps // 2))

    def loss(part, step):
        labels, *shown = part
        logits = seer(*shown)
        each = {
            name: mean_loss(logits[name], labels[:, i]) for i, name in enumerate(LABELS)
        }
        return sum(each.values()), each

    def end():
        """Outputs become as long as embeddings, and have what all embeddings have."""
        _, *shown = lessons(corpus.seed, recipe.tower_steps, 1.0)[0]
        words = model.model.language_model.embed_tokens.weight
        out = visual.merger.linear_fc2
        with torch.no_grad():
            spread = words[:, 1:].norm(dim=1).mean()
            ratio = spread / visual(*shown)[:, 1:].norm(dim=1).mean()
            out.weight *= ratio
            out.bias *= ratio
            out.weight[0] = 0
            out.bias[0] = words[:, 0].mean()

    learning = optimizers(seer, recipe)
    learners = nn.ModuleList([seer])
    return Course(
        "tower", recipe.tower_steps, learners, learning, parts, loss, dict, end
    )


def lessons(seed, step, level):
    """Halves of a batch: labels int64 [tokens, 5], pixels, grids."""
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
