"""Gated DeltaNet: three layers of four, with a memory that does not grow."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .cache import DeltaState
from .delta import delta_rule
from .forms import Linear, OptTensor, operation
from .norm import GatedRMSNorm, l2norm
from .shapes import TextConfig
from .taps import tap


@operation
def causal_conv(
    x: Tensor, weight: Tensor, window: OptTensor = None
) -> tuple[Tensor, Tensor]:
    """Each channel mixes its last few tokens: silu(sum_j w_j x_{t-W+1+j}).

    x [B, T, channels]; weight [channels, 1, W] as nn.Conv1d stores it; window
    [B, W - 1, channels], the inputs before x, or None for zeros. Returns the result
    and the window for what follows. Products are summed in fp32.
    """
    W = weight.shape[-1]
    if window is None:
        window = x.new_zeros(x.shape[0], W - 1, x.shape[2])
    seen = torch.cat([window, x], dim=1)  # [B, W - 1 + T, channels]
    w = weight[:, 0].float()
    T = x.shape[1]
    mixed = sum(seen[:, j : j + T] * w[:, j] for j in range(W))
    # NOTE: the window is of inputs, before silu; a clone, for a view would keep it all.
    return F.silu(mixed.to(x.dtype)), seen[:, T:].clone()


@operation
def remember(
    qkv: Tensor,
    x: Tensor,
    mixer: "GatedDeltaNet",
    window: OptTensor = None,
    state: OptTensor = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """What lies between a delta layer's projections: convolution, gates, rule.

    qkv [B, T, conv_dim] and x [B, T, D], from which `mixer`, a GatedDeltaNet, takes its
    gates; window and state as the last call left them, or None. Returns o [B, T, H, V],
    the window and the state.
    """
    qkv, window = causal_conv(qkv, mixer.conv1d.weight, window)
    q, k, v, g, beta = mixer.gates(x, qkv)
    q, k, v, g, beta = tap("rule", mixer.layer, q=q, k=k, v=v, g=g, beta=beta)
    o, state = delta_rule(q, k, v, g=g, beta=beta, state=state)
    return o, window, tap("state", mixer.layer, state=state)


class GatedDeltaNet(nn.Module):
    """Projections, short convolution and gates around the gated delta rule.

    Two numbers steer each value head's memory at each token: g <= 0, how much of all
    it holds to forget (a head's own rate `A_log`, opened or shut by the token), and
    beta, how strongly to write the new pair. Value heads outnumber key heads:
    neighbours share one. Source: arXiv 2412.06464 and the checkpoint's tensor names.
    """

    def __init__(self, cfg: TextConfig, layer: int | str | None = None) -> None:
        super().__init__()
        self.layer = layer
        D, H, V = cfg.hidden_size, cfg.linear_num_value_heads, cfg.linear_value_head_dim
        self.heads, self.key_heads = H, cfg.linear_num_key_heads
        self.head_k_dim, self.head_v_dim = cfg.linear_key_head_dim, V
        channels, W = cfg.conv_dim, cfg.linear_conv_kernel_dim
        self.in_proj_qkv = Linear(D, channels)
        self.in_proj_z = Linear(D, H * V)
        self.in_proj_b = Linear(D, H)
        self.in_proj_a = Linear(D, H)
        self.conv1d = nn.Conv1d(channels, channels, W, groups=channels, bias=False)
        self.A_log = nn.Parameter(torch.zeros(H))
        self.dt_bias = nn.Parameter(torch.ones(H))
        self.norm = GatedRMSNorm(V, cfg.rms_norm_eps)
        self.out_proj = Linear(H * V, D)

    def forward(
        self, x: Tensor, real: OptTensor = None, cache: DeltaState | None = None
    ) -> Tensor:
        """x [B, T, D] -> [B, T, D]. real [B, T] bool, False for padding, or None."""
        B, T, _ = x.shape
        # NOTE: padding is zeroed before the projections, which keeps window and state
        # at zero: a left-padded row computes what it would alone.
        if real is not None:
            x = x * real[..., None]
        window, state = (None, None) if cache is None else (cache.conv, cache.state)
        o, window, state = remember(self.in_proj_qkv(x), x, self, window, state)
        if cache is not None:
            cache.keep(window.detach(), state.detach())
        o = tap("head_out", self.layer, x=o)
        z = self.in_proj_z(x).view(B, T, self.heads, -1)
        return self.out_proj(self.norm(o.to(x.dtype), z).flatten(2))

    def gates(self, x: Tensor, qkv: Tensor) -> tuple[Tensor, ...]:
        """What the rule is fed, fp32: q, k [B, T, Hk, K], v [B, T, H, V], g, beta."""
        B, T, _ = x.shape
        K, V = self.head_k_dim, self.head_v_dim
        keys = self.key_heads * K
        q, k, v = qkv.split([keys, keys, self.heads * V], dim=-1)
        q = l2norm(q.view(B, T, -1, K)) * K**-0.5  # NOTE: only q is scaled
        k = l2norm(k.view(B, T, -1, K))
        v = v.view(B, T, -1, V).float()
        # NOTE: an fp32 island from here through the rule, whatever x is; beta's sigmoid
        # alone is taken in x's dtype.
        beta = self.in_proj_b(x).sigmoid().float()  # [B, T, H]
        dt = F.softplus(self.in_proj_a(x).float() + self.dt_bias.float())
        g = -self.A_log.float().exp() * dt
        return q, k, v, g, beta
