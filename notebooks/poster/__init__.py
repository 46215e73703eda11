"""The whole architecture on one page: the stack at the left, its three parts enlarged.

Every number on it comes from a Config, so that it cannot say what the model is not.
"""

import torch
from course import PIXELS, figure

import minqwen
from minqwen.model.shapes import FULL as FULL_KIND
from minqwen.plan.budget import memory_bytes

from .boxes import (
    DELTA,
    FULL,
    MOE,
    PLAIN,
    VISION,
    area,
    box,
    flow,
    note,
    plus,
    tag,
    tile,
    tint,
)
from .layers import attention, delta, experts

WIDTH, HEIGHT = 780, 1103  # the sides of A4
COLOURS = 56  # enough for all areas and the edges of letters


def poster(name="397B-A17B"):
    """The page for a model with experts: (figure, what it shows in words)."""
    cfg = minqwen.Config.named(name)
    with torch.device("meta"):
        size = minqwen.Qwen(cfg).num_parameters()
    fig, ax = figure(WIDTH / PIXELS, HEIGHT / PIXELS)
    fig.set_layout_engine("none")
    ax.set(position=(0, 0, 1, 1), xlim=(0, WIDTH), ylim=(HEIGHT, 0))
    ax.axis("off")
    stored, active = size["text"] / 1e9, size["active"] / 1e9
    note(ax, 14, 28, f"Qwen3.5-{name}", 14, weight="bold")
    line = f"Language model: {stored:.1f} billion parameters; a token uses {active:.1f}"
    note(ax, 284, 20, line, 9)
    line = (
        "In grey: shapes, for B texts of T tokens. In a frame: the notebook about it."
    )
    note(ax, 284, 38, line, color=PLAIN)
    for part in (entrance, stack, exits, delta, attention, experts, memory):
        part(ax, cfg)
    return fig, words(name)


def words(name="397B-A17B"):
    """The page for those who cannot see it."""
    cfg = minqwen.Config.named(name)
    t = cfg.text
    full = t.layer_types.count(FULL_KIND)
    kept, grown = lasting(cfg)
    return (
        f"The architecture of Qwen3.5-{name}. At the left the whole stack: a token "
        "embedding and a vision tower, whose vectors overwrite the rows of placeholder "
        f"tokens; {t.num_hidden_layers} layers, which are {full} equal blocks of "
        f"{len(t.layer_types) // full - 1} Gated DeltaNet layers and one gated "
        "attention layer, each followed by a mixture of experts; a norm, the LM head, "
        "and a draft head. At the right three parts enlarged. Gated DeltaNet: "
        "projections q, k, v, a, b and z, a causal convolution, the delta rule on a "
        "state S of fixed size, a gated norm. Gated attention: norms of q and k, "
        "partial RoPE, a KV cache, softmax, a sigmoid gate. Mixture of experts: a "
        f"router that chooses {t.num_experts_per_tok} of {t.num_experts}, and a shared "
        "expert. Below, memory against length: the states stay at "
        f"{kept / 1e9:.1f} GB, the cache grows to {grown / 1e9:.1f} GB at "
        f"{t.max_position_embeddings:,} tokens."
    )


def lasting(cfg):
    """Bytes of a longest text: those that any text takes, those that grew with it."""
    sizes = memory_bytes(cfg, cfg.text.max_position_embeddings, 1)
    fixed = sizes["recurrent states"] + sizes["convolution windows"]
    return fixed, sizes["keys and values"]


def entrance(ax, cfg):
    """Words and pictures, until they are rows of one table."""
    t, v = cfg.text, cfg.vision
    note(ax, 66, 72, "text", 9, "center", weight="bold")
    for row, width in enumerate((70, 54, 62)):
        tile(ax, 31, 86 + 10 * row, width, 4, tint(PLAIN, 0.5))
    note(ax, 178, 72, "picture, film", 9, "center", weight="bold")
    tag(ax, 24, 72, "01")
    tag(ax, 238, 72, "10")
    for n in range(16):
        at, share = (170 + 9 * (n % 4), 84 + 9 * (n // 4)), 0.3 + 0.1 * (n * 7 % 5)
        tile(ax, *at, 9, 9, tint(VISION, share), "white")
    m, D = v.spatial_merge_size, t.hidden_size
    tile(ax, 170, 84, 9 * m, 9 * m, "none", "black", 1)
    flow(ax, (66, 122), (66, 138), label="ids [B, T]")
    patch = v.in_channels * v.temporal_patch_size * v.patch_size**2
    flow(ax, (188, 122), (188, 138), label=f"[N, {patch:,}]")
    box(ax, 14, 138, 118, f"Token embedding\n{t.vocab_size:,} rows", h=30)
    tower = f"Vision tower, {v.depth}\nblocks of {v.hidden_size:,}"
    box(ax, 130, 138, 246, tower, VISION, h=30)
    flow(ax, (188, 168), (188, 178))
    box(
        ax,
        130,
        178,
        246,
        f"Merger: {m} × {m}\npatches to one",
        VISION,
        h=30,
        size=7.5,
    )
    flow(ax, (66, 168), (66, 230))
    note(ax, 70, 218, f"[B, T, {D:,}]", 7.5, color=PLAIN)
    flow(ax, (163, 208), (163, 230), label=f"[N/{m * m}, {D:,}]")
    flow(ax, (157, 244), (157, 310), head=False)
    for n in range(9):
        paint = tint(VISION, 0.5) if 4 <= n < 8 else tint(PLAIN, 0.3)
        tile(ax, 31 + 22 * n, 230, 22, 14, paint, "white")
    lines = "Early fusion: vectors of the tower\noverwrite rows of placeholders."
    note(
        ax, 130, 265, lines, ha="center", bbox={"facecolor": "white", "lw": 0, "pad": 1}
    )


def stack(ax, cfg):
    """All layers as a strip, and beside it one of its blocks."""
    t, (top, bottom) = cfg.text, (288, 678)
    height = (bottom - top) / t.num_hidden_layers
    for n, kind in enumerate(t.layer_types):
        fill = tint(FULL if kind == FULL_KIND else DELTA, 0.7)
        tile(ax, 14, top + n * height, 10, height, fill, "white")
    every = t.layer_types.index(FULL_KIND) + 1
    beam = [(25, top), (48, top), (48, bottom), (25, top + every * height)]
    area(ax, beam, PLAIN, 0.2)
    tile(ax, 48, top, 198, bottom - top, "white", PLAIN)
    count = t.num_hidden_layers // every
    note(ax, 56, top + 11, f"block × {count}", 9, weight="bold")
    tag(ax, 234, top + 11, "08")
    layer(ax, top + 22, "Gated DeltaNet", DELTA)
    note(ax, 233, top + 35, f"× {every - 1}", 10, "right", weight="bold")
    layer(ax, top + 206, "Gated attention", FULL)
    note(ax, 14, bottom + 11, f"{t.num_hidden_layers} layers")


def layer(ax, y, name, paint):
    """A mixer and experts, each between a norm and the sum with what came in."""
    tile(ax, 56, y, 182, 174, tint(paint, 0.05), tint(paint, 0.6))
    flow(ax, (157, y - 10), (157, y + 176), head=False)
    for start, text, ink in ((y, name, paint), (y + 80, "Mixture of experts", MOE)):
        flow(ax, (157, start + 5), (68, start + 5), (68, start + 78), (150, start + 78))
        flow(ax, (157, start), (157, start + 12))
        box(ax, 112, start + 12, 202, "RMSNorm", h=16)
        box(ax, 82, start + 38, 232, text, ink, h=28, size=9, weight="bold")
        plus(ax, 157, start + 78)


def exits(ax, cfg):
    """The head that writes, and the one that guesses ahead."""
    D, vocab = cfg.text.hidden_size, cfg.text.vocab_size
    flow(ax, (157, 670), (157, 696))
    box(ax, 112, 696, 202, "RMSNorm", h=16)
    flow(ax, (157, 712), (157, 728))
    box(ax, 82, 728, 232, f"LM head\n{D:,} → {vocab:,}", h=30)
    flow(ax, (157, 758), (157, 776), label="logits [B, T, vocab]", side="right")
    note(ax, 157, 785, "token t + 1", 9, "center", weight="bold")
    tile(ax, 14, 806, 232, 186, "none", PLAIN)
    note(ax, 130, 818, "Draft head (MTP)", 8.5, "center", weight="bold")
    tag(ax, 234, 818, "11")
    flow(ax, (157, 720), (240, 720), (240, 798), (195, 798), (195, 846))
    flow(ax, (107, 785), (65, 785), (65, 846))
    note(ax, 69, 836, "embedded", 7.5, color=PLAIN)
    note(ax, 199, 836, "state t", 7.5, color=PLAIN)
    for x in (65, 195):
        box(ax, x - 43, 846, x + 43, "RMSNorm", h=16)
        flow(ax, (x, 862), (x, 874))
    box(ax, 22, 874, 238, f"side by side, {2 * D:,} → {D:,}")
    flow(ax, (130, 896), (130, 906))
    box(ax, 22, 906, 238, "gated attention, then experts", FULL)
    flow(ax, (130, 928), (130, 938))
    box(ax, 85, 938, 175, "RMSNorm", h=16)
    flow(ax, (130, 954), (130, 966))
    note(ax, 130, 977, "the same LM head: token t + 2", 8, "center")


def memory(ax, cfg):
    """Fixed against growing, up to the longest text."""
    longest, (fixed, grown) = cfg.text.max_position_embeddings, lasting(cfg)
    note(ax, 14, 1020, "Memory for one text", 10, weight="bold")
    tag(ax, 234, 1020, "14")
    note(ax, 14, 1040, f"DeltaNet: {fixed / 1e6:.0f} MB, however long it is.")
    note(ax, 14, 1056, f"Attention: {grown // longest:,} bytes a token.")
    note(ax, 14, 1072, f"Equal after {fixed * longest // grown:,} tokens.")
    x, right, top, bottom = 284, 650, 1012, 1072
    low = bottom - (bottom - top) * fixed / grown
    area(ax, [(x, bottom), (right, top), (right, bottom)], FULL, 0.2)
    ax.plot((x, right), (bottom, top), color=FULL, lw=1.5)
    ax.plot((x, right), (low, low), color=DELTA, lw=2)
    note(ax, right + 8, top + 5, f"cache {grown / 1e9:.1f} GB", color=FULL)
    note(ax, right + 8, low, f"states {fixed / 1e9:.1f} GB", color=DELTA)
    for at, text in (
        (x, "0"),
        ((x + right) / 2, f"{longest // 2:,}"),
        (right, f"{longest:,} tokens"),
    ):
        note(ax, at, 1085, text, 7.5, "center", color=PLAIN)
