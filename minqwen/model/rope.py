"""Positions: which tokens turn which dimensions of a query by how much.

A text token stands at one position. A token of a picture stands at three: its frame,
its row and its column. Each pair of rotated dimensions listens to one of the three
axes, so text, where the three agree, is rotated as by ordinary RoPE.
"""

import math
from collections.abc import Iterator
from itertools import groupby, zip_longest

import torch
from torch import Tensor

from ..errors import InputError
from .config import Config
from .shapes import RopeConfig


def inverse_frequencies(
    rope: RopeConfig, head_dim: int, device: torch.device | None = None
) -> tuple[Tensor, float]:
    """Radians a position, one per rotated pair: theta^(-2i/dim), YaRN-scaled if asked.

    Returns ([pairs] fp32, the factor by which YaRN scales cos and sin). YaRN (Peng et
    al., arXiv 2309.00071) leaves fast pairs alone, divides slow ones by `factor`, and
    blends in between.
    """
    dim = int(head_dim * rope.partial_rotary_factor)
    exponent = torch.arange(0, dim, 2, device=device).float() / dim
    inv_freq = 1.0 / rope.rope_theta**exponent
    if rope.rope_type == "default":
        return inv_freq, 1.0

    # The pair that turns so often over the original context.
    def pair_turning(times: float) -> float:
        wavelength = rope.original_max_position_embeddings / (times * 2 * math.pi)
        return dim * math.log(wavelength) / (2 * math.log(rope.rope_theta))

    low = max(math.floor(pair_turning(rope.beta_fast)), 0)
    high = min(math.ceil(pair_turning(rope.beta_slow)), dim - 1)
    pair = torch.arange(dim // 2, device=device).float()
    slow = ((pair - low) / max(high - low, 0.001)).clamp(0, 1)  # 0 keep, 1 divide
    inv_freq = inv_freq * (1 - slow) + inv_freq / rope.factor * slow
    return inv_freq, 0.1 * math.log(rope.factor) + 1.0


def rope_angles(
    position_ids: Tensor, rope: RopeConfig, head_dim: int
) -> tuple[Tensor, Tensor]:
    """cos and sin for every token. position_ids [3, B, T] -> two of [B, T, 2 * pairs].

    Pair i listens to rows when i mod 3 = 1, to columns when i mod 3 = 2, as long as
    that axis has pairs left in mrope_section, and to time otherwise. fp32.
    """
    inv_freq, scale = inverse_frequencies(rope, head_dim, position_ids.device)
    _, rows, columns = rope.mrope_section
    # NOTE: pairs are dealt out in turn, T H W T H W ..., not in three blocks.
    axis = torch.zeros(len(inv_freq), dtype=torch.long, device=position_ids.device)
    axis[1 : 3 * rows : 3] = 1
    axis[2 : 3 * columns : 3] = 2
    position = position_ids[axis].permute(1, 2, 0)  # [B, T, pairs]
    angle = position.float() * inv_freq
    angle = torch.cat([angle, angle], dim=-1)
    return angle.cos() * scale, angle.sin() * scale


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn the first dimensions of x; the rest pass through.

    x [B, T, H, K]; cos, sin [B, T, R] with R <= K.
    """
    cos, sin = cos[:, :, None].to(x.dtype), sin[:, :, None].to(x.dtype)  # [B, T, 1, R]
    turned, passed = x.split([cos.shape[-1], x.shape[-1] - cos.shape[-1]], dim=-1)
    # NOTE: dimension i is paired with i + R/2, not with its neighbour.
    first, second = turned.chunk(2, dim=-1)
    turned = turned * cos + torch.cat([-second, first], dim=-1) * sin
    return torch.cat([turned, passed], dim=-1)


def positions(
    input_ids: Tensor, mask: Tensor, start: Tensor, cfg: Config, *grids: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Three positions for every token, and where the next token of each row stands.

    A run of text advances all three axes by one a token. A picture of h x w tokens
    stands still in time, counts rows and columns from where it begins, and the text
    after it goes on max(h, w) further. Frames of a video are pictures of their own.
    input_ids [B, T]; mask [B, T] bool, False for padding (which gets position 0);
    start [B], the position at which each row goes on; grids: those of the images, then
    those of the videos, each [items, 3] or None. Returns [3, B, T], [B].
    """
    B, T = input_ids.shape
    if all(grid_thw is None for grid_thw in grids):
        position = (mask.long().cumsum(1) - 1 + start[:, None]) * mask
        return position.expand(3, B, T), start + mask.sum(1)
    tokens = cfg.image_token_id, cfg.video_token_id
    merge = cfg.vision.spatial_merge_size
    frames = {t: _frames(g, merge) for t, g in zip_longest(tokens, grids)}
    out = torch.zeros(3, B, T, dtype=torch.long)
    following = start.clone()
    for b in range(B):
        at, parts = int(start[b]), []
        row = input_ids[b, mask[b]].tolist()
        for token, run in groupby(row, key=lambda t: t if t in frames else None):
            count = len(list(run))
            while token is not None and count > 0:
                h, w = next(frames[token], (0, 0))
                count -= h * w
                if h * w == 0 or count < 0:
                    raise InputError(_unlike(cfg, token))
                place = torch.cartesian_prod(*map(torch.arange, (1, h, w)))
                parts.append(at + place.T)  # [3, h * w]: time stands still
                at += max(h, w)
            if token is None:
                parts.append(at + torch.arange(count).expand(3, count))
                at += count
        if parts:
            out[:, b, mask[b].cpu()] = torch.cat(parts, dim=1)
        following[b] = at
    for token, left in frames.items():
        if next(left, None):
            raise InputError(_unlike(cfg, token))
    return out.to(input_ids.device), following


def _frames(grid_thw: Tensor | None, merge: int) -> Iterator[tuple[int, int]]:
    """(h, w) in tokens of every frame pair, in the order of their placeholders."""
    for t, h, w in [] if grid_thw is None else grid_thw.tolist():
        yield from [(h // merge, w // merge)] * t


def _unlike(cfg: Config, token: int | None) -> str:
    kind = "image" if token == cfg.image_token_id else "video"
    return (
        f"the prompt's {kind} placeholders (id {token}) do not match {kind}_grid_thw: "
        "each picture needs one unbroken run of t*h*w/4 of them in this call"
    )
