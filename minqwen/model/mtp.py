"""The multi-token-prediction head: a guess at the token after next."""

import torch
from torch import Tensor, nn

from .block import Block, Context
from .cache import KV
from .forms import Linear
from .norm import RMSNorm
from .shapes import FULL, TextConfig


class Drafter(nn.Module):
    """`mtp`: from a token's final state and the next token, a state for the one after.

    Its one layer is a full-attention block; embedding and output head are the main
    model's. `hidden` is the main model's state after
    its final norm, or what this head returned for the token before.
    """

    def __init__(self, cfg: TextConfig) -> None:
        super().__init__()
        D, eps = cfg.hidden_size, cfg.rms_norm_eps
        self.fc = Linear(2 * D, D)
        self.pre_fc_norm_embedding = RMSNorm(D, eps)
        self.pre_fc_norm_hidden = RMSNorm(D, eps)
        self.layers = nn.ModuleList([Block(cfg, FULL, "mtp")])
        self.norm = RMSNorm(D, eps)

    def forward(
        self, embeds: Tensor, hidden: Tensor, context: Context, cache: KV | None = None
    ) -> Tensor:
        """embeds, hidden [B, T, D] -> [B, T, D], to be drafted from or fed back."""
        # NOTE: the embedding's half comes first.
        pair = [self.pre_fc_norm_embedding(embeds), self.pre_fc_norm_hidden(hidden)]
        x = self.fc(torch.cat(pair, dim=-1))
        return self.norm(self.layers[0](x, context, cache))
