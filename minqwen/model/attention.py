"""Gated attention: every fourth layer, the one that keeps all it has seen."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .cache import KV
from .forms import Linear, OptTensor, operation
from .norm import RMSNorm
from .rope import rotate
from .shapes import TextConfig
from .taps import tap


class GatedAttention(nn.Module):
    """Softmax attention whose output passes a gate (Qiu et al., arXiv 2505.06708).

    Queries and keys are normed per head, then their first quarter is rotated. Several
    query heads share a key head. The gate's sigmoid multiplies the result, element by
    element, before `o_proj`, so a head can say nothing without attending anywhere.
    """

    def __init__(self, cfg: TextConfig, layer: int | str | None = None) -> None:
        super().__init__()
        self.layer = layer
        D, H, K = cfg.hidden_size, cfg.num_attention_heads, cfg.head_dim
        self.heads, self.kv_heads, self.head_dim = H, cfg.num_key_value_heads, K
        self.q_proj = Linear(D, H * 2 * K)
        self.k_proj = Linear(D, self.kv_heads * K)
        self.v_proj = Linear(D, self.kv_heads * K)
        self.o_proj = Linear(H * K, D)
        self.q_norm = RMSNorm(K, cfg.rms_norm_eps)
        self.k_norm = RMSNorm(K, cfg.rms_norm_eps)

    def forward(
        self,
        x: Tensor,
        cos: Tensor,
        sin: Tensor,
        mask: OptTensor = None,
        cache: KV | None = None,
    ) -> Tensor:
        """x [B, T, D] -> the same; cos, sin [B, T, R]; mask [B, 1, T, S] or causal."""
        B, T, _ = x.shape
        # NOTE: a head's query and gate lie side by side, not all queries first.
        q, gate = self.q_proj(x).view(B, T, self.heads, -1).chunk(2, dim=-1)
        k = self.k_proj(x).view(B, T, self.kv_heads, self.head_dim)
        v = self.v_proj(x).view(B, T, self.kv_heads, self.head_dim)
        q = rotate(self.q_norm(q), cos, sin)  # [B, T, H, K]
        k = rotate(self.k_norm(k), cos, sin)
        q, k, v = tap("qkv", self.layer, q=q, k=k, v=v)
        q, k, v = (y.transpose(1, 2) for y in (q, k, v))  # [B, heads, T, K]
        if cache is not None:
            k, v = cache.append(k, v)  # [B, heads, S, K]
        out = attend(q, k, v, mask).transpose(1, 2)  # [B, T, H, K]
        out = tap("head_out", self.layer, x=out)
        return self.o_proj((out * gate.sigmoid()).reshape(B, T, -1))


@operation
def attend(q: Tensor, k: Tensor, v: Tensor, mask: OptTensor = None) -> Tensor:
    """softmax(q k^T / sqrt(K)) v. q [B, H, T, K]; k, v [B, Hkv, S, K]; H >= Hkv.

    Causal when mask is None, with T = S or T = 1.
    """
    B, H, T, K = q.shape
    if T == 1:
        # One token: the heads that share a key head are rows of one small product.
        q = q.reshape(B, k.shape[1], -1, K)
        return F.scaled_dot_product_attention(q, k, v, mask).view(B, H, 1, K)
    return F.scaled_dot_product_attention(
        q, k, v, attn_mask=mask, is_causal=mask is None, enable_gqa=H != k.shape[1]
    )


def causal_mask(real: Tensor, T: int) -> Tensor:
    """Who may look at whom: real [B, S] bool, the last T of them asking.

    Returns [B, 1, T, S] bool. A padding token may see itself, since a row of the
    softmax with nothing in it would be NaN.
    """
    S = real.shape[1]
    query = torch.arange(S - T, S, device=real.device)[:, None]
    key = torch.arange(S, device=real.device)
    return ((key <= query) & real[:, None, None]) | (key == query)
