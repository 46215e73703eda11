"""One layer of the language model: a mixer of tokens, then a mixer of features."""

from dataclasses import dataclass

import torch
from torch import nn

from .attention import GatedAttention, causal_mask
from .deltanet import GatedDeltaNet
from .moe import MLP, SparseMoE
from .norm import RMSNorm
from .rope import rope_angles
from .shapes import FULL
from .taps import tap


class Block(nn.Module):
    """x + mixer(norm(x)), then x + mlp(norm(x)). The mixer is attention or DeltaNet."""

    def __init__(self, cfg, kind, layer=None):
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

    def forward(self, x, context, cache=None):
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


@dataclass
class Context:
    """What all layers of one call share: rotations, and who may look at whom.

    cos, sin [B, T, R]; mask [B, 1, T, S] bool, or None for causal; real [B, T] bool,
    False for padding, or None where there is none.
    """

    cos: torch.Tensor
    sin: torch.Tensor
    mask: torch.Tensor | None = None
    real: torch.Tensor | None = None


def context_of(cfg, position_ids, S, real=None, seen=None):
    """The Context of T tokens at position_ids [3, B, T], after which S have been seen.

    real [B, T] and seen [B, S] are False for padding, or None where there is none.
    """
    T, mask = position_ids.shape[2], None
    if seen is None and T > 1 and S > T:
        seen = torch.ones(1, S, dtype=torch.bool, device=position_ids.device)
    if seen is not None:
        mask = causal_mask(seen, T)
    return Context(*rope_angles(position_ids, cfg.rope, cfg.head_dim), mask, real)
