"""Symbols that are drawn, and a hybrid that reads them: notebook 10.

In a drawn row of notebook 09's copies and sums, some of the symbols that answers follow
from are pictures. Each is one token, and stands where the word would have stood.

Which experiments there are on them: tools/drawn.py.
"""

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..model.config import Config
from ..model.forms import using
from ..model.moe import balance_loss
from ..model.qwen import Qwen
from ..model.taps import listen
from ..prompt.images import frames_to_patches
from .course import Course, optimizers
from .languages import LENGTH, SYMBOLS, VOCABULARY, answers, batch, small
from .loop import row_loss
from .recipe import Recipe

FONT = "75557 26227 71747 71717 55711 74717 74757 71111"  # of 0 to 7, three bits a line
GLYPHS = torch.tensor(
    [[[int(line) >> bit & 1 for bit in (2, 1, 0)] for line in d] for d in FONT.split()]
)  # [SYMBOLS, 5, 3]
PAD, SIDE, PATCH = VOCABULARY, 8, 4  # the placeholder; pixels of a picture and a patch
BATCH = 32  # rows, of text and drawn ones


def draw(symbols: Tensor, gen: torch.Generator) -> Tensor:
    """Symbols [N] -> pictures [N, SIDE, SIDE], levels from about -1 to 1.

    Ink is lighter or darker, paper is not even, and a digit not quite in the middle.
    """
    N = len(symbols)
    down, right = torch.randint(4, (2, N, 1, 1), generator=gen)
    ink = 1 + torch.rand(N, 1, 1, generator=gen)
    sheets = 0.1 * torch.randn(N, SIDE, SIDE, generator=gen) - 1
    lines, columns = down + torch.arange(5)[:, None], 1 + right + torch.arange(3)
    sheets[torch.arange(N)[:, None, None], lines, columns] += ink * GLYPHS[symbols]
    return sheets


def written(rows: int, gen: torch.Generator) -> Tensor:
    """So many rows of copies and of sums: [2 rows, 1 + LENGTH]."""
    return batch(rows, gen)[rows:]


def drawn_at() -> Tensor:
    """What is drawn: symbols to copy, the first of two to add. [2, LENGTH] bool."""
    at = torch.arange(LENGTH)
    return torch.stack([at < LENGTH // 2, at % 3 == 0])


def withheld(first: Tensor, second: Tensor) -> Tensor:
    """Pairs that training never shows with the first one drawn: a quarter of them."""
    return first % 4 == second % 4


def drawn_batch(
    rows: int, gen: torch.Generator, every: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """So many rows of both languages: tokens [2 rows, 1 + LENGTH], what they say, and
    the pictures' patches, four each. With `every`, sums have the withheld pairs too."""
    said = written(rows, gen)
    if not every:
        first, second = said[-rows:, 1::3], said[-rows:, 2::3]
        other = second + torch.randint(1, 4, second.shape, generator=gen)
        second.copy_(torch.where(withheld(first, second), other % SYMBOLS, second))
        said[-rows:, 3::3] = (first + second) % SYMBOLS
    where = F.pad(drawn_at().repeat_interleave(rows, 0), (1, 0))
    # A still picture counts twice.
    frames = draw(said[where], gen)[:, None].repeat_interleave(2, 0)
    patches, _ = frames_to_patches(frames, PATCH, 2, 2)
    return said.masked_fill(where, PAD), said, patches


def seeing() -> Config:
    """Notebook 09's hybrid, and a tower."""
    text = small(vocab_size=VOCABULARY + 4).to_dict()
    vision = dict(
        depth=2, hidden_size=32, intermediate_size=64, num_heads=2, in_channels=1,
        patch_size=PATCH, temporal_patch_size=2, spatial_merge_size=2,
        out_hidden_size=text["hidden_size"], num_position_embeddings=4,
        initializer_range=0.08,
    )  # fmt: skip
    names = ("image_token", "video_token", "vision_start_token", "vision_end_token")
    ids = {f"{name}_id": PAD + n for n, name in enumerate(names)}
    parts = {"text_config": text, "vision_config": vision, "tie_word_embeddings": False}
    return Config.from_dict({"model_type": "qwen3_5_moe"} | parts | ids)


def fused(model: Qwen, tokens: Tensor, patches: Tensor) -> Tensor:
    """States [B, T, D] of rows with drawn symbols, whose patches come in order."""
    seen = {"position_ids": torch.arange(tokens.shape[1]).expand(3, *tokens.shape)}
    if len(patches):  # all in one go, like frame pairs, which do not see each other
        grid = torch.tensor([[len(patches) // 4, 2, 2]])
        seen |= {"pixel_values": patches, "image_grid_thw": grid}
    with using("train"):
        return model.hidden(tokens, **seen)


def lesson(
    model: Qwen, recipe: Recipe, shown: int, learners: nn.Module | None = None, begin=0
) -> Course:
    """`shown` rows of a batch are drawn, the others text; `learners`, by default the
    whole model, learn from them. `begin` counts the steps of an earlier lesson."""
    learners = learners or model
    model.requires_grad_(False)
    learners.requires_grad_(True)

    def parts(step):
        gen = torch.Generator().manual_seed(10_000 * recipe.seed + begin + step)
        halves = []
        for _ in range(2):
            text = written((BATCH - shown) // 4, gen)
            tokens, said, patches = drawn_batch(max(shown // 4, 1), gen)
            tokens, said = (torch.cat([text, x[: shown // 2]]) for x in (tokens, said))
            halves.append((tokens, said, patches if shown else patches[:0]))
        return halves

    def loss(part, step):
        tokens, said, patches = part
        uneven = []

        def weigh(layer, weights, ids, logits):
            uneven.append(balance_loss(logits, ids))

        with listen(model, router=weigh):
            hidden = fused(model, tokens[:, :-1], patches)
        asked = answers()[said[:, 0] - SYMBOLS]  # by the row's mark
        targets = said[:, 1:].masked_fill(~asked, -100)
        found = {"next": row_loss(model, hidden, targets)}
        found["balance"] = torch.stack(uneven).mean()
        weight = model.cfg.text.router_aux_loss_coef
        return found["next"] + weight * found["balance"], found

    learning, look = optimizers(learners, recipe), partial(seen, model)
    whole = nn.ModuleList([learners])
    return Course("drawn", recipe.steps, whole, learning, parts, loss, look)


@torch.no_grad()
def seen(model: Qwen, rows: int = 64) -> dict[str, Tensor]:
    """Answers right, on rows that no seed trains on, of copies and of sums [2]: of
    `text`, of `drawn` rows, of these with `others`' pictures; of drawn sums of pairs
    `withheld` in training or `shown`. And `shares` [2, L, E] of the choices of
    pictures and of words that each expert has."""
    gen, asked = torch.Generator().manual_seed(2**40), answers()[1:]
    plain, (tokens, said, patches) = written(rows, gen), drawn_batch(rows, gen, True)
    choices = []

    def logits(tokens, patches):
        return model.logits(fused(model, tokens[:, :-1], patches))

    def hits(found, said):
        return (found.argmax(-1) == said[:, 1:]).view(2, rows, LENGTH)

    def right(hit):
        pairs = zip(hit, asked, strict=True)
        return torch.stack([one[:, where].float().mean() for one, where in pairs])

    def hear(layer, ids, logits, **_):
        is_drawn = (tokens[:, :-1] == PAD).flatten()
        chosen = F.one_hot(ids, logits.shape[1]).sum(1)
        kinds = [chosen[is_drawn].sum(0), chosen[~is_drawn].sum(0)]
        choices.append(torch.stack([kind / kind.sum() for kind in kinds]))

    with listen(model, router=hear):
        hit = hits(logits(tokens, patches), said)
    others = patches.view(-1, 4, patches.shape[1]).flip(0).flatten(0, 1)
    new, added = withheld(said[-rows:, 1::3], said[-rows:, 2::3]), hit[1, :, 2::3]
    return {
        "text": right(hits(logits(plain, patches[:0]), plain)),
        "drawn": right(hit),
        "others": right(hits(logits(tokens, others), said)),
        "withheld": added[new].float().mean(),
        "shown": added[~new].float().mean(),
        "shares": torch.stack(choices, dim=1),
    }
