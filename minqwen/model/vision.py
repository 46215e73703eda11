"""The vision tower: pictures become tokens the language model reads like words."""

from itertools import groupby

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import InputError
from .shapes import VisionConfig


class PatchEmbed(nn.Module):
    """A patch of 2 frames x 16 x 16 pixels to one vector: a convolution whose stride
    is its size, hence one matrix product. x [N, 1536] -> [N, D]."""

    def __init__(self, cfg: VisionConfig) -> None:
        super().__init__()
        size = (cfg.temporal_patch_size, cfg.patch_size, cfg.patch_size)
        self.proj = nn.Conv3d(cfg.in_channels, cfg.hidden_size, size, stride=size)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.proj.weight.flatten(1), self.proj.bias)


class VisionAttention(nn.Module):
    """Every patch looks at every patch of the same frame pair, and at no other."""

    def __init__(self, cfg: VisionConfig) -> None:
        super().__init__()
        self.heads = cfg.num_heads
        self.qkv = nn.Linear(cfg.hidden_size, 3 * cfg.hidden_size)
        self.proj = nn.Linear(cfg.hidden_size, cfg.hidden_size)

    def forward(
        self, x: Tensor, cos: Tensor, sin: Tensor, segments: list[int]
    ) -> Tensor:
        """x [N, D]; cos, sin [N, 1, K]; segments: patches of each frame pair."""
        q, k, v = self.qkv(x).view(len(x), 3, self.heads, -1).unbind(1)  # [N, H, K]
        q, k = rotate_heads(q, cos, sin), rotate_heads(k, cos, sin)
        parts, start = [], 0
        for size, run in groupby(segments):
            end = start + size * len(list(run))
            # Neighbours of one size are a batch: [frame pairs, H, size, K].
            batch = [
                y[start:end].unflatten(0, (-1, size)).transpose(1, 2) for y in (q, k, v)
            ]
            out = F.scaled_dot_product_attention(*batch)
            parts.append(out.transpose(1, 2).flatten(2).flatten(0, 1))
            start = end
        return self.proj(torch.cat(parts))


def rotate_heads(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate whole heads, in fp32. x [N, H, K]; cos, sin [N, 1, K]."""
    first, second = x.float().chunk(2, dim=-1)
    return (x.float() * cos + torch.cat([-second, first], -1) * sin).to(x.dtype)


class VisionMLP(nn.Module):
    def __init__(self, cfg: VisionConfig) -> None:
        super().__init__()
        self.linear_fc1 = nn.Linear(cfg.hidden_size, cfg.intermediate_size)
        self.linear_fc2 = nn.Linear(cfg.intermediate_size, cfg.hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear_fc2(F.gelu(self.linear_fc1(x), approximate="tanh"))


class VisionBlock(nn.Module):
    def __init__(self, cfg: VisionConfig) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(cfg.hidden_size, eps=1e-6)
        self.norm2 = nn.LayerNorm(cfg.hidden_size, eps=1e-6)
        self.attn = VisionAttention(cfg)
        self.mlp = VisionMLP(cfg)

    def forward(
        self, x: Tensor, cos: Tensor, sin: Tensor, segments: list[int]
    ) -> Tensor:
        x = x + self.attn(self.norm1(x), cos, sin, segments)
        return x + self.mlp(self.norm2(x))


class PatchMerger(nn.Module):
    """Four neighbouring patches become one token: [N, D] -> [N / 4, out]."""

    def __init__(self, cfg: VisionConfig) -> None:
        super().__init__()
        wide = cfg.hidden_size * cfg.spatial_merge_size**2
        self.norm = nn.LayerNorm(cfg.hidden_size, eps=1e-6)
        self.linear_fc1 = nn.Linear(wide, wide)
        self.linear_fc2 = nn.Linear(wide, cfg.out_hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(x).view(-1, self.linear_fc1.in_features)
        # NOTE: the exact GELU, where the blocks have the tanh form.
        return self.linear_fc2(F.gelu(self.linear_fc1(x)))


class VisionTower(nn.Module):
    """`model.visual`: patches in, one vector a token out."""

    def __init__(self, cfg: VisionConfig) -> None:
        super().__init__()
        self.cfg = cfg
        self.patch_embed = PatchEmbed(cfg)
        self.pos_embed = nn.Embedding(cfg.num_position_embeddings, cfg.hidden_size)
        self.blocks = nn.ModuleList(VisionBlock(cfg) for _ in range(cfg.depth))
        self.merger = PatchMerger(cfg)

    def forward(self, pixel_values: Tensor, grid_thw: Tensor) -> Tensor:
        """pixel_values [N, 1536] in blocks of 2 x 2; grid_thw [items, 3], in patches.

        Returns [N / 4, out_hidden_size]: items in order, rows of 2 x 2 blocks in each.
        """
        grids = grid_thw.tolist()
        if len(pixel_values) != sum(t * h * w for t, h, w in grids):
            raise InputError(
                f"pixel_values holds {len(pixel_values)} patches and grid_thw {grids} "
                "describes another number; take both from one Processor call"
            )
        x = self.patch_embed(pixel_values.to(self.pos_embed.weight.dtype))
        learned = []
        for t, h, w in grids:
            place = stretch(self.pos_embed.weight, h, w)
            learned.append(in_blocks(place, self.cfg.spatial_merge_size).repeat(t, 1))
        x = x + torch.cat(learned).to(x.dtype)
        cos, sin = self.angles(grids, x.device)
        segments = [h * w for t, h, w in grids for _ in range(t)]
        for block in self.blocks:
            x = block(x, cos, sin, segments)
        return self.merger(x)

    def angles(
        self, grids: list[list[int]], device: torch.device
    ) -> tuple[Tensor, Tensor]:
        """cos and sin [N, 1, K]: a quarter of a head turns with the row, a quarter
        with the column, and the second half repeats the first."""
        quarter = self.cfg.hidden_size // self.cfg.num_heads // 4
        exponent = torch.arange(quarter, device=device).float() / quarter
        inv_freq = 1.0 / 10000.0**exponent
        parts = []
        for t, h, w in grids:
            row, column = (torch.arange(n, device=device).float() for n in (h, w))
            place = torch.cartesian_prod(row, column).view(h, w, 2)
            place = in_blocks(place, self.cfg.spatial_merge_size).repeat(t, 1)  # [N, 2]
            parts.append((place[..., None] * inv_freq).flatten(1).repeat(1, 2))
        angle = torch.cat(parts)[:, None]  # [N, 1, K]
        return angle.cos(), angle.sin()


def stretch(table: Tensor, h: int, w: int) -> Tensor:
    """Learned positions on a square, sampled bilinearly for an h x w picture.

    The corners of the picture get the corners of the square. table [side^2, D] -> fp32
    [h, w, D].
    """
    side = int(len(table) ** 0.5)
    grid = table.float().view(side, side, -1)

    # The two neighbours of each sample, and how near the second is.
    def line(count: int) -> tuple[Tensor, Tensor, Tensor]:
        at = torch.linspace(0, side - 1, count, device=table.device)
        low = at.floor().long()
        return low, (low + 1).clamp(max=side - 1), at - low

    top, bottom, down = line(h)
    left, right, across = line(w)
    down, across = down[:, None, None], across[:, None]
    upper = grid[top][:, left] * (1 - across) + grid[top][:, right] * across
    lower = grid[bottom][:, left] * (1 - across) + grid[bottom][:, right] * across
    return upper * (1 - down) + lower * down


def in_blocks(x: Tensor, merge: int) -> Tensor:
    """[h, w, D] -> [h * w, D] in the patches' order: blocks of merge x merge."""
    x = x.unflatten(1, (-1, merge)).unflatten(0, (-1, merge))  # [h/m, m, w/m, m, D]
    return x.transpose(1, 2).flatten(0, 3)
