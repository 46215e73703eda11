"""The three parts of every block, enlarged: what a token meets on its way down."""

from minqwen.model.shapes import FULL as FULL_KIND
from minqwen.plan.budget import memory_bytes

from .boxes import (
    DELTA,
    FULL,
    LEFT,
    MOE,
    PLAIN,
    RIGHT,
    VISION,
    box,
    enlarged,
    flow,
    note,
    plus,
    projections,
    tile,
    tint,
)


def delta(ax, cfg):
    t = cfg.text
    H, Hk = t.linear_num_value_heads, t.linear_num_key_heads
    K, V, W = t.linear_key_head_dim, t.linear_value_head_dim, t.linear_conv_kernel_dim
    layers = t.num_hidden_layers - t.layer_types.count(FULL_KIND)
    kept = memory_bytes(cfg, 1, 1)
    size = (kept["recurrent states"] + kept["convolution windows"]) / layers
    keeps = (
        f"Keeps S [B, {H}, {K}, {V}] and the convolution's last {W - 1} inputs: always "
        f"{size / 1e6:.1f} MB a layer"
    )
    count, parts = f"{layers} of {t.num_hidden_layers} layers", ["04", "05", "06"]
    enlarged(ax, 56, 410, (348, 376), DELTA, "Gated DeltaNet", count, parts, keeps)
    columns = (LEFT, 344, "q"), (350, 410, "k"), (416, 496, "v"), (512, 572, "a")
    columns += (580, 640, "b"), (660, RIGHT, "z")
    q, k, v, a, b, z = projections(ax, 98, t.hidden_size, columns)
    keys, values = f"{Hk} × {K}", f"{H} × {V}"
    for x, shape in ((q, keys), (k, keys), (v, values)):
        flow(ax, (x, 130), (x, 146), label=shape)
    box(ax, LEFT, 146, 496, f"causal convolution over {W} tokens, SiLU", size=7.5)
    for x, name in ((a, "decay"), (b, "sigmoid")):
        flow(ax, (x, 130), (x, 182), label=f"{H}")
        box(ax, x - 30, 182, x + 30, name, DELTA)
    for x in (q, k):
        flow(ax, (x, 168), (x, 182))
    box(ax, LEFT, 182, 410, "L2 norm, per head")
    for x, start, label in (
        (q, 204, ""), (k, 204, ""), (v, 168, ""), (a, 204, "g ≤ 0"),
        (b, 204, "0 < β < 1"),
    ):  # fmt: skip
        flow(ax, (x, start), (x, 222), label=label)
    box(ax, LEFT, 222, 640, "", DELTA, h=90)
    heading = f"gated delta rule: {H} heads, {H // Hk} to a key head"
    note(ax, 292, 234, heading, 8, weight="bold")
    rules = {
        "decay": r"$g = -e^{\rm{A\_log}}\,{\rm softplus}(a + {\rm dt\_bias})$",
        "forget": r"$S \leftarrow e^{g}\,S$",
        "correct": r"$S \leftarrow S + k\,\beta\,(v - S^{T}k)^{T}$",
        "read": rf"$o = S^{{T}}q \,/ \sqrt{{{K}}}$",
    }
    for row, (word, rule) in enumerate(rules.items()):
        note(ax, 292, 251 + 16 * row, word)
        note(ax, 342, 251 + 16 * row, rule, 9)
    for n in (2, 1, 0):
        at = 563 + 4 * n, 247 - 4 * n
        tile(ax, *at, 60, 60, tint(DELTA, 0.4), DELTA, zorder=4 - n / 9)
    for y, text, size in (
        (265, "$S$", 12),
        (282, f"{K} × {V}", 7.5),
        (294, "fp32", 7.5),
    ):
        note(ax, 593, y, text, size, "center")
    flow(ax, (462, 312), (462, 328), label=f"o  {values}")
    flow(ax, (z, 130), (z, 328), label=values)
    box(ax, LEFT, 328, RIGHT, "RMSNorm of o, per head, times SiLU(z)", h=18)
    flow(ax, (518, 346), (518, 358))
    box(ax, LEFT, 358, RIGHT, f"out: {H * V:,} → {t.hidden_size:,}", h=18, fill=0.05)


def attention(ax, cfg):
    t = cfg.text
    H, Hkv, K = t.num_attention_heads, t.num_key_value_heads, t.head_dim
    layers = t.layer_types.count(FULL_KIND)
    grows = memory_bytes(cfg, 1, 1)["keys and values"] // layers
    keeps = (
        f"Keeps k and v of every token: {grows:,} bytes a token in each layer (bf16)"
    )
    count, parts = f"{layers} of {t.num_hidden_layers} layers", ["02", "03"]
    enlarged(ax, 420, 744, (532, 560), FULL, "Gated attention", count, parts, keeps)
    columns = (LEFT, 374, "q"), (384, 444, "k"), (454, 514, "v"), (660, RIGHT, "gate")
    q, k, v, gate = projections(ax, 462, t.hidden_size, columns)
    for x, heads in ((q, H), (k, Hkv)):
        flow(ax, (x, 494), (x, 508), label=f"{heads} × {K}")
        flow(ax, (x, 530), (x, 542))
    flow(ax, (v, 494), (v, 580))
    note(ax, v + 4, 500, f"{Hkv} × {K}", 7.5, color=PLAIN)
    box(ax, LEFT, 508, 444, "RMSNorm, per head")
    box(ax, LEFT, 542, 444, "partial RoPE")
    flow(ax, (q, 564), (q, 616))
    flow(ax, (k, 564), (k, 580))
    turned = int(K * t.rope.partial_rotary_factor)
    for n in range(16):  # the share of a head that turns, its pairs by axis in turn
        rotated = n < 16 * turned / K
        paint = tint((FULL, MOE, VISION)[n % 3], 0.6) if rotated else tint(PLAIN, 0.16)
        tile(ax, 500 + 10 * n, 520, 10, 10, paint, "white")
    pairs = "{} + {} + {}".format(*t.rope.mrope_section)
    note(ax, 500, 541, f"{turned} of {K} numbers turn, their", 7.5)
    note(ax, 500, 552, f"{turned // 2} pairs with time, row,", 7.5)
    note(ax, 500, 563, f"column: {pairs}", 7.5)
    box(ax, 384, 580, 640, "", FULL)
    note(ax, 392, 591, "KV cache", 8, weight="bold")
    for n in range(16):
        fill = tint(FULL, 0.55) if n < 11 else "white"
        tile(ax, 457 + 11 * n, 585, 11, 12, fill, FULL, 0.6, zorder=4)
    flow(ax, (512, 602), (512, 616), label="k, v of all tokens so far")
    box(ax, LEFT, 616, 640, "", FULL, h=34)
    note(
        ax, 462, 626, rf"causal softmax$(q\,k^{{T}} / \sqrt{{{K}}})\,v$", 8.5, "center"
    )
    note(ax, 462, 641, f"{H // Hkv} query heads share a key head (GQA)", 8, "center")
    flow(ax, (462, 650), (462, 664), label=f"{H} × {K}")
    flow(ax, (gate, 494), (gate, 664), label=f"{H} × {K}")
    box(ax, LEFT, 664, RIGHT, "times sigmoid(gate), number by number", h=18)
    flow(ax, (518, 682), (518, 692))
    box(ax, LEFT, 692, RIGHT, f"out: {H * K:,} → {t.hidden_size:,}", h=18, fill=0.05)


def experts(ax, cfg):
    t = cfg.text
    D, E, width = t.hidden_size, t.num_experts, t.moe_intermediate_size
    k, one = t.num_experts_per_tok, 3 * D * width
    keeps = (
        f"Keeps nothing. To store: {E} × {one / 1e6:.1f} million parameters a layer, "
        f"{2 * E * one / 1e9:.1f} GB in bf16"
    )
    count, title = (
        f"{t.num_hidden_layers} of {t.num_hidden_layers} layers",
        "Mixture of experts",
    )
    enlarged(ax, 754, 992, (612, 640), MOE, title, count, ["07"], keeps)
    note(ax, LEFT, 787, f"x  [B, T, {D:,}], after RMSNorm", 7.5, color=PLAIN)
    flow(ax, (334, 797), (696, 797), head=False)
    for x in (334, 526, 696):
        flow(ax, (x, 797), (x, 808))
    box(ax, LEFT, 808, 384, "router", fill=0.05, weight="bold")
    flow(ax, (334, 830), (334, 846), label=f"{E} scores")
    box(ax, LEFT, 846, 384, f"softmax, top {k}", MOE)
    flow(ax, (384, 857), (428, 857))
    flow(ax, (334, 868), (334, 943), (424, 943))
    note(ax, 339, 892, f"{k} weights,", 7.5, color=PLAIN)
    note(ax, 339, 903, "sum 1", 7.5, color=PLAIN)
    chosen = {(211 * n * n + 97 * n + 58) % E for n in range(k)}
    row = 88 / (E // 32)
    for n in range(E):
        fill = MOE if n in chosen else tint(MOE, 0.2)
        tile(ax, 431 + 6 * (n % 32), 811 + row * (n // 32), 5, row - 1, fill)
    note(ax, 526, 907, f"{E} experts, each down(SiLU(gate x) · up x)", 7.5, "center")
    flow(ax, (526, 916), (526, 932), label=f"{D:,} → {width:,} → {D:,}")
    box(ax, 424, 932, 629, f"weighted sum of the {k} chosen", MOE)
    box(ax, 640, 808, RIGHT, "shared expert", MOE)
    flow(ax, (696, 830), (696, 846))
    box(ax, 640, 846, RIGHT, "× its sigmoid gate", MOE)
    flow(ax, (696, 868), (696, 936))
    flow(ax, (629, 943), (689, 943))
    plus(ax, 696, 943)
    flow(ax, (696, 950), (696, 966))
