"""Three small languages, and a hybrid that learns them in a minute: notebook 09.

All three are written in the same symbols, so a token alone does not say which one it
belongs to: only the mark at the beginning of a row does. What cannot be known is drawn
evenly, so that the least possible loss is a sum of logarithms.

Which experiments there are on them: tools/languages.py.
"""

import math
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..model.config import Config
from ..model.deltanet import GatedDeltaNet
from ..model.forms import using
from ..model.moe import balance_loss
from ..model.qwen import Qwen
from ..model.taps import listen
from .course import Course, optimizers
from .loop import row_loss
from .recipe import Recipe
from .start import start_decay

SYMBOLS, KEYS, LENGTH = 8, 4, 24
ROWS = 16  # of each language in a batch


def notes(rows: int, gen: torch.Generator) -> Tensor:
    """A key, a value to note, a key, its newest value (0 at first): [rows, LENGTH]."""
    memory, every = torch.zeros(rows, KEYS, dtype=torch.long), torch.arange(rows)
    tokens = []
    for _ in range(LENGTH // 4):
        key, asked = torch.randint(KEYS, (2, rows), generator=gen)
        value = torch.randint(SYMBOLS, (rows,), generator=gen)
        memory[every, key] = value
        tokens += [key, value, asked, memory[every, asked]]
    return torch.stack(tokens, dim=1)


def copies(rows: int, gen: torch.Generator) -> Tensor:
    """Symbols, and then the same ones again: [rows, LENGTH]."""
    return torch.randint(SYMBOLS, (rows, LENGTH // 2), generator=gen).repeat(1, 2)


def sums(rows: int, gen: torch.Generator) -> Tensor:
    """Two symbols and their sum modulo SYMBOLS, over and over: [rows, LENGTH]."""
    pair = torch.randint(SYMBOLS, (rows, LENGTH // 3, 2), generator=gen)
    return torch.cat([pair, pair.sum(2, keepdim=True) % SYMBOLS], dim=2).flatten(1)


LANGUAGES = (notes, copies, sums)
VOCABULARY = SYMBOLS + len(LANGUAGES)  # a mark for each language


def batch(rows: int, gen: torch.Generator) -> Tensor:
    """So many rows of each language, each after its mark: [3 rows, 1 + LENGTH]."""
    parts = []
    for number, language in enumerate(LANGUAGES):
        mark = torch.full((rows, 1), SYMBOLS + number)
        parts.append(torch.cat([mark, language(rows, gen)], dim=1))
    return torch.cat(parts)


def answers() -> Tensor:
    """Which tokens follow from those before them: [3, LENGTH] bool."""
    at = torch.arange(LENGTH)
    return torch.stack([at % 4 == 3, at >= LENGTH // 2, at % 3 == 2])


def small(**changes) -> Config:
    """Every part of the 397B's text model: 3 delta layers, then one of attention."""
    text = dict(
        model_type="qwen3_5_moe_text",
        vocab_size=VOCABULARY,
        hidden_size=64,
        num_hidden_layers=4,
        full_attention_interval=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        linear_num_key_heads=2,
        linear_num_value_heads=4,
        linear_key_head_dim=16,
        linear_value_head_dim=16,
        linear_conv_kernel_dim=4,
        num_experts=8,
        num_experts_per_tok=2,
        moe_intermediate_size=32,
        shared_expert_intermediate_size=32,
        router_aux_loss_coef=0.02,
        initializer_range=0.08,
        mtp_num_hidden_layers=0,
        max_position_embeddings=1024,
        rms_norm_eps=1e-6,
        eos_token_id=0,
        rope_parameters=dict(
            rope_type="default",
            rope_theta=10_000,
            partial_rotary_factor=0.5,
            mrope_section=[2, 1, 1],
            mrope_interleaved=True,
        ),
    )
    return Config.from_dict(text).replace(**changes)


@torch.no_grad()
def untrained(config: Config, seed: int) -> Qwen:
    """A new model whose delta heads keep what they hold for longer or shorter."""
    torch.manual_seed(seed)
    model = Qwen(config)
    for part in model.modules():
        if isinstance(part, nn.Embedding):
            part.weight.normal_()
        elif isinstance(part, nn.Conv1d):
            part.reset_parameters()  # larger than the other weights, as torch has it
        elif isinstance(part, GatedDeltaNet):
            start_decay(part)
    return model


def recipe_of(steps: int, seed: int) -> Recipe:
    """Warm-up, level ground, descent, with rates for so short a run."""
    rates = dict(lr=0.005, matrix_lr=0.01, word_lr=0.005)
    return Recipe.read(steps=steps, seed=seed, warmup=0.05, **rates)


def lesson(
    model: Qwen, recipe: Recipe, balancing: Callable = balance_loss, form: str = "train"
) -> Course:
    """All languages in each batch. `balancing` is given what a router made of half of
    it, logits [N, E] and ids [N, top_k]; `form` is of operations (model/forms.py)."""

    def parts(step):
        # NOTE: a step is a function of (seed, step), so any of them can be done again.
        gen = torch.Generator().manual_seed(10_000 * recipe.seed + step)
        rows = batch(ROWS, gen)
        return rows[0::2], rows[1::2]

    def loss(rows, step):
        uneven = []

        def weigh(layer, weights, ids, logits):
            uneven.append(balancing(logits, ids))

        with listen(model, router=weigh), using(form):
            hidden = model.hidden(rows[:, :-1])
        found = {"next": row_loss(model, hidden, rows[:, 1:])}
        found["balance"] = torch.stack(uneven).mean()
        weight = model.cfg.text.router_aux_loss_coef
        return found["next"] + weight * found["balance"], found

    learners = nn.ModuleList([model])
    learning = optimizers(model, recipe)
    look = partial(seen, model, form)
    return Course("languages", recipe.steps, learners, learning, parts, loss, look)


@torch.no_grad()
def seen(model: Qwen, form: str = "train") -> dict[str, Tensor]:
    """On rows that no seed trains on: bits [3] a token of each language, right [3] of
    its answers, shares [3, L, E] of its choices that each expert has."""
    rows = batch(ROWS, torch.Generator().manual_seed(2**40))
    targets, choices = rows[:, 1:], []

    def hear(layer, weights, ids, logits):
        experts = logits.shape[-1]
        by_language = ids.view(len(LANGUAGES), -1)
        count = [one.bincount(minlength=experts) for one in by_language]
        choices.append(torch.stack(count) / by_language.shape[1])

    with listen(model, router=hear), using(form):
        logits = model(rows[:, :-1])
    each = F.cross_entropy(logits.mT, targets, reduction="none") / math.log(2)
    hit = (logits.argmax(-1) == targets).view(len(LANGUAGES), -1, LENGTH)
    asked = answers()
    right = [
        one[:, where].float().mean() for one, where in zip(hit, asked, strict=True)
    ]
    return {
        "bits": each.view(len(LANGUAGES), -1).mean(1),
        "right": torch.stack(right),
        "shares": torch.stack(choices, dim=1),
    }
