"""Layers of the language model beside their float64 NumPy forms, in fp32 and in bf16.

The bound stands in numpy_forms.BOUND. Weights are random and off their start; in bf16
the form is given the same rounded weights and inputs, so only arithmetic differs.
"""

import numpy as np
import numpy_forms as forms
import pytest
import torch
from numpy_forms import BOUND, error, weights, wide
from tiny_models import small_config, small_model

from minqwen.model.attention import attend, causal_mask
from minqwen.model.cache import KV
from minqwen.model.config import Config, RopeConfig
from minqwen.model.moe import (
    MLP,
    Experts,
    Router,
    SparseMoE,
    balance_loss,
    grouped_linear,
)
from minqwen.model.norm import GatedRMSNorm, RMSNorm, l2norm
from minqwen.model.rope import inverse_frequencies, rope_angles, rotate

DTYPES = pytest.mark.parametrize("dtype", BOUND, ids=["fp32", "bf16"])
REAL_ROPE = Config.named("397B-A17B").text.rope
TEXT = small_config().text
SECTION, THETA = TEXT.rope.mrope_section, TEXT.rope.rope_theta


def draw(*shape, dtype=torch.float32, seed=0, size=1.0):
    g = torch.Generator().manual_seed(seed)
    return (torch.randn(shape, generator=g) * size).to(dtype)


def scattered(module, dtype, seed=0):
    """Random weights, large enough for gates and norms to leave their middle."""
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in module.parameters():
            size = 0.3 if p.dim() == 1 else 1.4 * p.shape[-1] ** -0.5
            p.copy_(torch.randn(p.shape, generator=g) * size)
    return module.to(dtype)


def layer(index, dtype, **changes):
    """A layer of a small model whose weights are all off their start."""
    return small_model(seed=3, **changes).model.language_model.layers[index].to(dtype)


@DTYPES
@pytest.mark.parametrize("size", [1e-3, 1.0, 300.0])
def test_rms_norm(dtype, size):
    norm, x = scattered(RMSNorm(64), dtype), draw(5, 64, dtype=dtype, size=size)
    want = forms.rms_norm(weights(norm)["weight"], wide(x))
    assert error(norm(x), want) < BOUND[dtype]
    assert norm(x).dtype == dtype


@DTYPES
@pytest.mark.parametrize("size", [1e-3, 1.0, 300.0])
def test_gated_rms_norm(dtype, size):
    norm = scattered(GatedRMSNorm(24), torch.float32)  # its weight stays fp32
    x = draw(5, 3, 24, dtype=dtype, size=size)
    z = draw(5, 3, 24, dtype=dtype, seed=1, size=2)
    want = forms.gated_rms_norm(weights(norm)["weight"], wide(x), wide(z))
    assert error(norm(x, z), want) < BOUND[dtype]
    assert norm(x, z).dtype == dtype


@DTYPES
@pytest.mark.parametrize("size", [1e-4, 1.0, 300.0])  # at 1e-4 the 1e-6 decides
def test_l2norm(dtype, size):
    x = draw(5, 3, 16, dtype=dtype, size=size)
    assert error(l2norm(x), forms.l2norm(wide(x))) < BOUND[torch.float32]
    assert l2norm(x).dtype == torch.float32
    assert (l2norm(x * 0) == 0).all()


def check_angles(position, rope, head_dim, speed=1.0, scale=1.0):
    cos, sin = rope_angles(torch.tensor(position)[:, None], rope, head_dim)
    angle = forms.angles(np.array(position), rope.rope_theta, rope.mrope_section)
    angle = np.tile(angle * speed, 2)
    # An fp32 angle of a radians is off by a few times a * 2^-24.
    bound = BOUND[torch.float32] * (1 + abs(angle))
    assert (abs(wide(cos[0]) - np.cos(angle) * scale) < bound).all()
    assert (abs(wide(sin[0]) - np.sin(angle) * scale) < bound).all()
    assert cos.dtype == torch.float32


@pytest.mark.parametrize("rope, head_dim", [(REAL_ROPE, 256), (TEXT.rope, 32)])
def test_angles_of_text(rope, head_dim):
    check_angles([[0, 1, 2, 63, 4095, 262143]] * 3, rope, head_dim)


@pytest.mark.parametrize("rope, head_dim", [(REAL_ROPE, 256), (TEXT.rope, 32)])
def test_angles_on_three_axes(rope, head_dim):
    check_angles([[4, 4, 9, 700], [4, 5, 2, 1], [7, 4, 3, 90]], rope, head_dim)


def test_pairs_dealt_to_the_axes():
    """Of the real 32 pairs 11 listen to time, 11 to rows (31 too), 10 to columns."""
    cos = [rope_angles(torch.eye(3).long()[:, a, None, None], REAL_ROPE, 256)[1]
           for a in range(3)]  # fmt: skip
    turned = [set(c[0, 0, :32].nonzero().flatten().tolist()) for c in cos]
    assert turned[0] == set(range(0, 31, 3))
    assert turned[1] == set(range(1, 32, 3)) and 31 in turned[1]
    assert turned[2] == set(range(2, 30, 3))


def test_yarn_by_its_published_numbers():
    """Factor 4 from 262144: 15 pairs stay, 10 are divided by 4, 7 lie between."""
    values = vars(REAL_ROPE) | dict(
        rope_type="yarn", factor=4.0, original_max_position_embeddings=262144
    )
    i = np.arange(32)
    speed = np.where(i <= 14, 1, np.where(i >= 22, 1 / 4, 1 - 0.75 * (i - 14) / 8))
    plain, one = inverse_frequencies(REAL_ROPE, 256)
    ours, scale = inverse_frequencies(RopeConfig(**values), 256)
    assert one == 1 and scale == pytest.approx(1.1386294, abs=1e-7)
    assert error(ours / plain, speed) < 2e-7
    rows = [[0, 7, 99, 1_000_000], [0, 8, 2, 1_000_000], [0, 7, 5, 1_000_000]]
    check_angles(rows, RopeConfig(**values), 256, speed, scale)


@DTYPES
def test_rotate(dtype):
    x, position = draw(1, 7, 4, 32, dtype=dtype), [list(range(7)), [3] * 7, [9] * 7]
    cos, sin = rope_angles(torch.tensor(position)[:, None], TEXT.rope, 32)
    want = forms.rotate(wide(x[0]), forms.angles(np.array(position), THETA, SECTION))
    ours = rotate(x, cos, sin)
    assert error(ours[0], want) < BOUND[dtype]
    assert torch.equal(ours[..., 8:], x[..., 8:])


def attention_form(module, x, position, heads=4, kv_heads=2):
    angle = forms.angles(position, THETA, SECTION)
    return forms.attention(weights(module), wide(x), angle, heads, kv_heads)


def text_positions(T, start=0):
    return np.tile(np.arange(start, start + T), (3, 1))


def turns(position):
    return rope_angles(torch.tensor(position)[:, None], TEXT.rope, TEXT.head_dim)


@DTYPES
@pytest.mark.parametrize("heads, kv_heads", [(4, 2), (4, 4), (6, 1)])
def test_attention(dtype, heads, kv_heads):
    changes = dict(num_attention_heads=heads, num_key_value_heads=kv_heads)
    module = layer(3, dtype, **changes).self_attn
    x, position = draw(2, 21, 64, dtype=dtype), text_positions(21)
    ours = module(x, *turns(position))
    for b in range(2):
        want = attention_form(module, x[b], position, heads, kv_heads)
        assert error(ours[b], want) < BOUND[dtype]


def test_attention_on_three_axes():
    module, x = layer(3, torch.float32).self_attn, draw(1, 12, 64)
    position = np.stack([[5] * 12, np.arange(12) // 4 + 5, np.arange(12) % 4 + 5])
    want = attention_form(module, x[0], position)
    assert error(module(x, *turns(position))[0], want) < BOUND[torch.float32]


def test_attention_left_padded():
    """A row with six tokens of padding before it computes what it would alone."""
    module, x = layer(3, torch.float32).self_attn, draw(2, 20, 64)
    real = torch.ones(2, 20, dtype=torch.bool)
    real[1, :6] = False
    position = torch.arange(20).expand(3, 2, 20).clone()
    position[:, 1] -= 6
    cos, sin = rope_angles(position.clamp(min=0), TEXT.rope, TEXT.head_dim)
    ours = module(x, cos, sin, causal_mask(real, 20))
    assert ours.isfinite().all()
    for b, pad in [(0, 0), (1, 6)]:
        want = attention_form(module, x[b, pad:], text_positions(20 - pad))
        assert error(ours[b, pad:], want) < BOUND[torch.float32]


def test_attention_in_pieces():
    """Thirteen tokens, then five, then one by one, through the KV store."""
    module, x = layer(3, torch.float32).self_attn, draw(1, 21, 64)
    cos, sin = turns(text_positions(21))
    store, parts, start = KV(1, 2, 21, 32, torch.float32, "cpu"), [], 0
    for T in (13, 5, 1, 1, 1):
        now = slice(start, start + T)
        mask = causal_mask(torch.ones(1, now.stop, dtype=torch.bool), T)
        mask = None if T == 1 else mask
        parts.append(module(x[:, now], cos[:, now], sin[:, now], mask, store))
        start += T
    want = attention_form(module, x[0], text_positions(21))
    assert error(torch.cat(parts, 1)[0], want) < BOUND[torch.float32]


def test_attention_looks_back_only():
    q, k, v = draw(1, 4, 9, 8), draw(1, 2, 9, 8, seed=1), draw(1, 2, 9, 8, seed=2)
    before, k, v = attend(q, k, v), k.clone(), v.clone()
    k[:, :, 5:], v[:, :, 5:] = 99, 99
    assert torch.equal(attend(q, k, v)[:, :, :5], before[:, :, :5])


@DTYPES
def test_mlp(dtype):
    module, x = scattered(MLP(64, 96), dtype), draw(2, 9, 64, dtype=dtype)
    assert error(module(x), forms.mlp(weights(module), wide(x))) < BOUND[dtype]


def test_router():
    router, x = scattered(Router(64, 33, 5), torch.float32), draw(40, 64)
    share, ids, logits = router(x)
    want = wide(x) @ weights(router)["weight"].T
    order = np.sort(want)[:, ::-1]
    assert (order[:, 4] - order[:, 5]).min() > 1e-4  # no near tie in these 40 tokens
    assert error(logits, want) < BOUND[torch.float32]
    assert (ids.numpy() == forms.best(want, 5)).all()
    winners = forms.softmax(np.take_along_axis(want, ids.numpy(), 1))
    assert error(share, winners) < BOUND[torch.float32]


def test_router_by_hand():
    """Logits 2 1 0 -1: the two best weigh 0.731 and 0.269, the softmax of 2 and 1."""
    router = Router(4, 4, 2)
    router.weight.data = torch.eye(4)
    share, ids, _ = router(torch.tensor([[1.0, 2.0, -1.0, 0.0]]))
    assert ids.tolist() == [[1, 0]]
    assert share[0].tolist() == pytest.approx([0.731059, 0.268941], abs=1e-6)


@DTYPES
@pytest.mark.parametrize("width", [24, 26, 25])  # 25 and 26 are no whole 16 bytes
@pytest.mark.parametrize("N", [1, 40])
def test_moe_of_33(dtype, width, N):
    """The experts that bf16 logits choose are given to the form, and are near-best."""
    changes = dict(moe_intermediate_size=width, shared_expert_intermediate_size=39)
    module = scattered(SparseMoE(small_config(**changes).text), dtype)
    x = draw(1, N, 64, dtype=dtype)
    _, ids, _ = module.gate(x[0])
    w, row = weights(module), wide(x[0])
    logits = row @ w["gate.weight"].T
    lost = np.sort(logits)[:, -5:].sum(1) - np.take_along_axis(
        logits, ids.numpy(), 1
    ).sum(1)
    assert lost.max() < BOUND[dtype] * abs(logits).max()
    assert error(module(x)[0], forms.moe(w, row, ids.numpy())) < BOUND[dtype]


@pytest.mark.parametrize("widths", [(32, 48), (30, 48), (32, 47), (7, 5)])
def test_grouped_linear(widths):
    """Experts without a token, first and last included, with and without the kernel."""
    x, weight = draw(11, widths[0]), draw(6, widths[1], widths[0], seed=1)
    ends = torch.tensor([0, 4, 4, 5, 11, 11])
    want = np.empty((11, widths[1]))
    for n, e in enumerate([1] * 4 + [3] + [4] * 6):
        want[n] = wide(weight)[e] @ wide(x)[n]
    assert error(grouped_linear(x, weight, ends), want) < BOUND[torch.float32]
    assert grouped_linear(x[:0], weight, ends * 0).shape == (0, widths[1])


def test_experts_alone():
    """Any weights and ids: order of the choices and repeated experts do not matter."""
    experts = scattered(Experts(64, 33, 24), torch.float32)
    x, share = draw(17, 64), draw(17, 5, seed=1)
    ids = torch.randint(0, 33, (17, 5), generator=torch.Generator().manual_seed(2))
    w = {f"experts.{name}": value for name, value in weights(experts).items()}
    want = [
        sum(s * forms.expert(w, e, row) for s, e in zip(*pair, strict=True))
        for *pair, row in zip(wide(share), ids.tolist(), wide(x), strict=True)
    ]
    assert error(experts(x, share, ids), np.array(want)) < BOUND[torch.float32]


def test_balance_loss():
    """top_k when even, E when one expert has all, and the published sum between."""
    even = torch.arange(33).repeat(5).view(33, 5)
    assert balance_loss(torch.zeros(33, 33), even).item() == pytest.approx(5)
    one = torch.full((9, 33), -99.0).index_fill(1, torch.tensor([7]), 99.0)
    assert balance_loss(one, torch.full((9, 1), 7)).item() == pytest.approx(33)
    logits = draw(40, 33)
    ids = logits.topk(5).indices
    share = np.bincount(ids.flatten().numpy(), minlength=33) / 40
    want = 33 * (share * forms.softmax(wide(logits)).mean(0)).sum()
    assert balance_loss(logits, ids).item() == pytest.approx(want, rel=1e-6)
    assert want > 5


@pytest.mark.parametrize("moe", [True, False])
@pytest.mark.parametrize("pieces", [(14,), (9, 4, 1)])
def test_drafter(moe, pieces):
    model = small_model(seed=5, moe=moe, mtp_num_hidden_layers=1)
    g = torch.Generator().manual_seed(1)
    ids, hidden = torch.randint(0, 300, (1, 14), generator=g), draw(1, 14, 64)
    embeds = weights(model)["model.language_model.embed_tokens.weight"][ids[0].numpy()]
    angle = forms.angles(text_positions(14), THETA, SECTION)
    want = forms.drafter(
        weights(model, "mtp."), embeds, wide(hidden[0]), angle, 4, 2, 5
    )
    cache, states, logits, start = model.new_cache(1, 14), [], [], 0
    for T in pieces:
        now = slice(start, start + T)
        drawn = model.draft(hidden[:, now], ids[:, now], cache=cache)
        logits, states = logits + [drawn[0]], states + [drawn[1]]
        start += T
    assert error(torch.cat(states, 1)[0], want) < BOUND[torch.float32]
    want = want @ weights(model)["lm_head.weight"].T
    assert error(torch.cat(logits, 1)[0], want) < BOUND[torch.float32]
