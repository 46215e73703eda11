"""One layer of the language model: a mixer of tokens, then a mixer of features."""

import torch
from torch import nn

from .attention import GatedAttention, causal_mask
from .config import FULL
from .deltanet import GatedDeltaNet
from .moe import MLP, SparseMoE
from .norm import RMSNorm
from .rope import rope_angles


class Block(nn.Module):
    """x + mixer(norm(x)), then x + mlp(norm(x)). The mixer is attention or DeltaNet."""

    def __init__(self, cfg, kind):
        super().__init__()
        D, eps = cfg.hidden_size, cfg.rms_norm_eps
        self.kind = kind
        self.input_layernorm = RMSNorm(D, eps)
        if kind == FULL:
            self.self_attn = GatedAttention(cfg)
        else:
            self.linear_attn = GatedDeltaNet(cfg)
        self.post_attention_layernorm = RMSNorm(D, eps)
        self.mlp = SparseMoE(cfg) if cfg.num_experts else MLP(D, cfg.intermediate_size)

    def forward(self, x, call, cache=None):
        """x [B, T, D] -> [B, T, D]; `cache` is this layer's own part of it."""
        h = self.input_layernorm(x)
        if self.kind == FULL:
            x = x + self.self_attn(h, call.cos, call.sin, call.mask, cache)
        else:
            x = x + self.linear_attn(h, call.real, cache)
        return x + self.mlp(self.post_attention_layernorm(x))


class Call:
    """What all layers of one call share: rotations, and who may look at whom.

    position_ids [3, B, T]; S, tokens seen including these T; real [B, T] and seen
    [B, S], False for padding, or None where there is none.
    """

    def __init__(self, cfg, position_ids, S, real=None, seen=None):
        T = position_ids.shape[2]
        self.cos, self.sin = rope_angles(position_ids, cfg.rope, cfg.head_dim)
        self.real, self.mask = real, None
        if seen is None and T > 1 and S > T:
            seen = torch.ones(1, S, dtype=torch.bool, device=position_ids.device)
        if seen is not None:
            self.mask = causal_mask(seen, T)
