"""One layer of the language model: a mixer of tokens, then a mixer of features."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .attention import GatedAttention, causal_mask
from .cache import KV, DeltaState
from .deltanet import GatedDeltaNet
from .forms import OptTensor
from .moe import MLP, SparseMoE
from .norm import RMSNorm
from .rope import rope_angles
from .shapes import FULL, TextConfig
from .taps import tap


@dataclass
class Context:
    """What all layers of one call share: rotations, and who may look at whom.

    cos, sin [B, T, R]; mask [B, 1, T, S] bool, or None for causal; real [B, T] bool,
    False for padding, or None where there is none.
    """

    cos: Tensor
    sin: Tensor
    mask: OptTensor = None
    real: OptTensor = None


class Block(nn.Module):
    """x + mixer(norm(x)), then x + mlp(norm(x)). The mixer is attention or DeltaNet."""

    def __init__(
        self, cfg: TextConfig, kind: str, layer: int | str | None = None
    ) -> None:
        super().__init__()
        D, eps = cfg.hidden_size, cfg.rms_norm_eps
        self.kind, self.layer = kind, layer
        self.input_layernorm = RMSNorm(D, eps)
        if kind == FULL:
            self.self_attn = GatedAttention(cfg, layer)
        else:
            self.linear_attn = GatedDeltaNet(cfg, layer)
        self.post_attention_layernorm = RMSNorm(D, eps)
        dense = not cfg.num_experts
        self.mlp = MLP(D, cfg.intermediate_size) if dense else SparseMoE(cfg, layer)

    def forward(
        self, x: Tensor, context: Context, cache: KV | DeltaState | None = None
    ) -> Tensor:
        """x [B, T, D] -> [B, T, D]; `cache` is this layer's own part of it."""
        x = tap("resid_pre", self.layer, x=x)
        h = self.input_layernorm(x)
        if self.kind == FULL:
            out = self.self_attn(h, context.cos, context.sin, context.mask, cache)
        else:
            out = self.linear_attn(h, context.real, cache)
        x = x + tap("attn_out", self.layer, x=out)
        out = self.mlp(self.post_attention_layernorm(x))
        x = x + tap("mlp_out", self.layer, x=out)
        return tap("resid_post", self.layer, x=x)


def context_of(
    cfg: TextConfig,
    position_ids: Tensor,
    S: int,
    real: OptTensor = None,
    seen: OptTensor = None,
) -> Context:
    """The Context of T tokens at position_ids [3, B, T], after which S have been seen.

    real [B, T] and seen [B, S] are False for padding, or None where there is none.
    """
    T, mask = position_ids.shape[2], None
    if seen is None and T > 1 and S > T:
        seen = torch.ones(1, S, dtype=torch.bool, device=position_ids.device)
    if seen is not None:
        mask = causal_mask(seen, T)
    return Context(*rope_angles(position_ids, cfg.rope, cfg.head_dim), mask, real)
