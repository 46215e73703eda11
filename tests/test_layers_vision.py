"""The vision tower beside its float64 NumPy form, and where tokens of pictures stand.

The bound stands in numpy_forms.BOUND. Biases, norms and positions are off their start.
"""

import dataclasses

import numpy as np
import numpy_forms as forms
import pytest
import torch
from numpy_forms import BOUND, error, weights, wide
from tiny_models import small_config, small_model

from minqwen.model.rope import positions
from minqwen.model.vision import in_blocks, stretch

CFG = small_config()
DTYPES = pytest.mark.parametrize("dtype", BOUND, ids=["fp32", "bf16"])
GRIDS = {
    "one picture": [(1, 4, 6)],
    "higher than wide": [(1, 8, 4)],
    "two rows": [(1, 2, 10)],
    "film of 2 frame pairs": [(2, 4, 6)],
    "all together": [(1, 4, 6), (2, 6, 4), (2, 4, 6), (1, 4, 4), (3, 6, 4)],
}


@pytest.fixture(autouse=True)
def no_grad():
    with torch.no_grad():
        yield


def tower(dtype):
    return small_model(seed=6).model.visual.to(dtype)


def pixels(grids, dtype, seed=0):
    count = sum(t * h * w for t, h, w in grids)
    g = torch.Generator().manual_seed(seed)
    return (torch.rand(count, 1536, generator=g) * 2 - 1).to(dtype)


@DTYPES
@pytest.mark.parametrize("grids", GRIDS.values(), ids=GRIDS)
def test_tower(dtype, grids):
    module, x = tower(dtype), pixels(grids, dtype)
    ours = module(x, torch.tensor(grids))
    assert ours.dtype == dtype
    want = forms.tower(weights(module), wide(x), grids, heads=4, depth=3)
    assert error(ours, want) < BOUND[dtype]


@DTYPES
@pytest.mark.parametrize("size", [0.1, 1.0, 3.0])  # small ones are moved by the bias
def test_merger(dtype, size):
    module = tower(dtype).merger
    g = torch.Generator().manual_seed(1)
    x = (torch.randn(24, 48, generator=g) * size).to(dtype)
    assert error(module(x), forms.merger(weights(module), wide(x))) < BOUND[dtype]


def test_merger_uses_the_exact_gelu():
    """The tanh form, which the blocks use, would differ by far more than the bound."""
    y = np.linspace(-4, 4, 81)
    assert forms.gelu(np.array([1.0]))[0] == pytest.approx(0.8413447, abs=1e-7)
    assert abs(forms.gelu(y) - forms.gelu_tanh(y)).max() > 10 * BOUND[torch.float32]


@DTYPES
def test_block(dtype):
    """Attention in one frame pair only, however many stand side by side."""
    module = tower(dtype).blocks[0].attn
    g = torch.Generator().manual_seed(2)
    x = torch.randn(24 + 24 + 8, 48, generator=g).to(dtype)
    angle = torch.randn(56, 6, generator=g)
    turned = torch.cat([angle, angle], -1)[:, None]
    ours, start = module(x, turned.cos(), turned.sin(), [24, 24, 8]), 0
    for size in (24, 24, 8):
        now = slice(start, start + size)
        want = forms.vision_attention(
            weights(module), wide(x[now]), wide(angle[now]), heads=4
        )
        assert error(ours[now], want) < BOUND[dtype]
        start += size


@pytest.mark.parametrize("h, w", [(4, 6), (6, 4), (2, 12), (6, 6), (48, 4)])
def test_learned_positions(h, w):
    table = torch.randn(36, 8, generator=torch.Generator().manual_seed(3))
    ours = in_blocks(stretch(table, h, w), 2)
    want = [
        forms.learned_position(wide(table), r, c, h, w)
        for r, c in forms.patch_order(h, w)
    ]
    assert error(ours, np.array(want)) < BOUND[torch.float32]
    corners = stretch(table, h, w)[[0, 0, -1, -1], [0, -1, 0, -1]]
    assert torch.allclose(corners, table[[0, 5, 30, 35]])


def test_patches_stand_in_blocks():
    """A 4 x 4 picture, by hand: the first token is the upper left 2 x 2 patches."""
    order = in_blocks(torch.arange(16).view(4, 4, 1), 2).flatten().tolist()
    assert order == [0, 1, 4, 5, 2, 3, 6, 7, 8, 9, 12, 13, 10, 11, 14, 15]


IMAGE, VIDEO = CFG.image_token_id, CFG.video_token_id


def stand(ids, mask=None, start=0, images=(), videos=(), cfg=CFG):
    """positions() of one row, as NumPy, and what follows."""
    ids = torch.tensor([ids])
    mask = torch.ones_like(ids) if mask is None else torch.tensor([mask])
    grids = [torch.tensor(x) if len(x) else None for x in (images, videos)]
    out, after = positions(ids, mask.bool(), torch.tensor([start]), cfg, *grids)
    return out[:, 0].numpy(), int(after)


def test_the_worked_example():
    """A 4 x 6 picture whose first token is the fifth of the prompt: six tokens at time
    4, rows 4 and 5, columns 4 to 6; the next word stands at 7."""
    ids = [5, 6, 7, 303] + [IMAGE] * 6 + [304]
    out, after = stand(ids, images=[(1, 4, 6)])
    assert out[:, :4].tolist() == [[0, 1, 2, 3]] * 3
    assert out[0, 4:10].tolist() == [4] * 6
    assert out[1, 4:10].tolist() == [4, 4, 4, 5, 5, 5]
    assert out[2, 4:10].tolist() == [4, 5, 6, 4, 5, 6]
    assert out[:, 10].tolist() == [7, 7, 7] and after == 8


def prompt(seed):
    """A random prompt: ids, grids of pictures and films, and the form's tokens."""
    rng = np.random.default_rng(seed)
    ids, tokens, images, videos = [5], ["text"], [], []
    for _ in range(6):
        words = int(rng.integers(1, 5))
        ids, tokens = ids + [7] * words, tokens + ["text"] * words
        h, w = (int(n) for n in rng.integers(1, 6, 2))
        if rng.random() < 0.5:
            images.append((1, 2 * h, 2 * w))
            ids, tokens = ids + [IMAGE] * (h * w), tokens + [(h, w)]
        else:
            t = int(rng.integers(1, 4))
            videos.append((t, 2 * h, 2 * w))
            for _ in range(t):  # a time stamp stands before every frame pair
                ids += [8] + [VIDEO] * (h * w) + [9]
                tokens += ["text", (h, w), "text"]
    return ids, images, videos, tokens


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("pad, start", [(0, 0), (3, 0), (0, 11)])
def test_random_prompts(seed, pad, start):
    """Left padding stays at 0 and moves nothing; a cached prompt goes on at `start`."""
    ids, images, videos, tokens = prompt(seed)
    mask = [0] * pad + [1] * len(ids)
    ours, after = stand([1] * pad + ids, mask, start, images, videos)
    want, end = forms.positions(tokens)
    assert (ours[:, pad:] == want + start).all() and after == end + start
    assert (ours[:, :pad] == 0).all()


def test_frames_that_touch():
    """Two frame pairs without a word between: the second follows the first."""
    out, after = stand([5] + [VIDEO] * 12, videos=[(2, 4, 6)])
    want, end = forms.positions(["text", (2, 3), (2, 3)])
    assert (out == want).all() and after == end == 7


def test_text_without_pictures():
    out, after = stand([1, 1, 5, 6, 7], mask=[0, 0, 1, 1, 1], start=4)
    assert out.tolist() == [[0, 0, 4, 5, 6]] * 3 and after == 7


def test_a_merge_of_one():
    vision = dataclasses.replace(CFG.vision, spatial_merge_size=1)
    cfg = dataclasses.replace(CFG, vision=vision)
    out, after = stand([5] + [IMAGE] * 6, images=[(1, 2, 3)], cfg=cfg)
    assert (out == forms.positions(["text", (2, 3)])[0]).all() and after == 4
