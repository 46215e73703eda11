"""Known wrong versions must fail the parity test, or passing it proves little.

Right and wrong models are measured by one figure: the largest logit difference to
transformers over the largest logit, on a batch that has everything in it.
"""

import inspect

import pytest
import torch
import torch.nn.functional as F
import wrong_delta
import wrong_others
from tiny_models import parity_error, small_model, transformers_twin
from wrong_delta import any_chunk, by_steps, library_conv, outer, read
from wrong_others import gathered_experts

from minqwen.model import delta, deltanet, moe

BOUND, FAR = 2e-5, 1e-3
VERSIONS = [
    function
    for file in (wrong_delta, wrong_others)
    for _, function in inspect.getmembers(file, inspect.isfunction)
    if [*inspect.signature(function).parameters] == ["patch"]
]
# Faster turns than the real 1e7, so that a few rows and columns show in every pair.
ROPE = dict(
    rope_type="default", rope_theta=100.0, partial_rotary_factor=0.25,
    mrope_section=[2, 1, 1], mrope_interleaved=True,
)  # fmt: skip


@pytest.fixture(scope="module")
def trio():
    """A model, its twin, and a batch for both."""
    model = small_model(seed=1, rope_parameters=ROPE)
    mixer = model.model.language_model.layers[1].linear_attn
    with torch.no_grad():
        # Keys so short that the 1e-6 of their norm shows.
        mixer.conv1d.weight[: 2 * mixer.key_heads * mixer.head_k_dim] *= 0.01
        # More sums below zero, where exact GELU and tanh form are furthest apart.
        model.model.visual.merger.linear_fc1.bias -= 1.0
    return model, transformers_twin(model), everything()


def everything():
    """Pictures of h unlike w, a film of two frame pairs, left padding, > 64 tokens."""
    g = torch.Generator().manual_seed(16)  # no expert ties within 3e-4
    words = [torch.randint(10, 300, (n,), generator=g).tolist() for n in (60, 9, 5)]
    low, high = ([303] + [301] * n + [304] for n in (6, 8))
    film = ([7, 303] + [302] * 6 + [304]) * 2
    rows = [words[0] + low + words[1] + film + words[2], words[2] + high + words[0]]
    T = max(map(len, rows))
    pad = [T - len(row) for row in rows]

    def pixels(count):
        return torch.rand(count, 1536, generator=g) * 2 - 1

    return dict(
        input_ids=torch.tensor([[5] * n + r for n, r in zip(pad, rows, strict=True)]),
        attention_mask=torch.tensor([[0] * n + [1] * (T - n) for n in pad]),
        pixel_values=pixels(24 + 32),
        image_grid_thw=torch.tensor([(1, 4, 6), (1, 8, 4)]),
        pixel_values_videos=pixels(48),
        video_grid_thw=torch.tensor([(2, 4, 6)]),
    )


def test_the_right_model_passes(trio):
    model, twin, inputs = trio
    assert parity_error(model, twin, **inputs) < BOUND


@pytest.mark.parametrize("version", VERSIONS, ids=lambda v: v.__name__)
def test_a_wrong_model_fails(version, trio, monkeypatch):
    model, twin, inputs = trio
    version(monkeypatch)
    assert parity_error(model, twin, **inputs) > FAR


def winners_softmax(self, x):
    """The router as a softmax over the winning logits alone."""
    logits = F.linear(x, self.weight)
    best, ids = logits.topk(self.top_k, dim=-1)
    return best.softmax(-1), ids, logits


def erase_then_write(S, k, v, alpha, beta):
    """S <- alpha (I - beta k k^T) S + beta k v^T, the paper's form."""
    S = alpha * S
    return S - outer(k, beta * read(S, k)) + outer(k, beta * v)


paper = any_chunk(by_steps(erase_then_write))
SAME = {
    "token by token": (delta, "delta_chunked", any_chunk(delta.delta_recurrent)),
    "erase, then write": (delta, "delta_chunked", paper),
    "torch's convolution": (deltanet, "causal_conv", library_conv(F.silu)),
    "softmax of winners": (moe.Router, "forward", winners_softmax),
    "gathered experts": (moe.Experts, "forward", gathered_experts(gate_first=True)),
}


@pytest.mark.parametrize("other", SAME.values(), ids=SAME)
def test_other_words_for_the_same_pass(other, trio, monkeypatch):
    """The test fails mistakes, not changes."""
    model, twin, inputs = trio
    monkeypatch.setattr(*other)
    assert parity_error(model, twin, **inputs) < BOUND


def test_every_version_says_what_and_where():
    assert len(VERSIONS) >= 12
    for version in VERSIONS:
        what, blank, where, *_ = version.__doc__.splitlines()
        assert what.endswith(".") and not blank and len(where.strip()) > 10
