"""Gated DeltaNet: three layers of four, with a memory that does not grow."""

import torch
import torch.nn.functional as F
from torch import nn

from .kernels import pick
from .norm import GatedRMSNorm, l2norm


def causal_conv(x, weight, window=None):
    """Each channel mixes its last few tokens: silu(sum_j w_j x_{t-W+1+j}).

    x [B, T, channels]; weight [channels, 1, W] as nn.Conv1d stores it; window
    [B, W - 1, channels], the inputs before x, or None for zeros. Returns the result
    and the window for what follows, taken before the silu. Products are summed in fp32.
    """
    W = weight.shape[-1]
    if window is None:
        window = x.new_zeros(x.shape[0], W - 1, x.shape[2])
    seen = torch.cat([window, x], dim=1)  # [B, W - 1 + T, channels]
    taps = weight[:, 0].float()
    T = x.shape[1]
    mixed = sum(seen[:, j : j + T] * taps[:, j] for j in range(W))
    return F.silu(mixed.to(x.dtype)), seen[:, T:].clone()  # a view would keep it all


class GatedDeltaNet(nn.Module):
    """Projections, short convolution and gates around the gated delta rule.

    Two numbers steer each value head's memory at each token: g <= 0, how much of all
    it holds to forget (a head's own rate `A_log`, opened or shut by the token), and
    beta, how much of the new pair to believe. Value heads outnumber key heads:
    neighbours share one. Source: arXiv 2412.06464 and the checkpoint's tensor names.
    """

    FP32 = ("A_log", "norm.weight")  # stay fp32 whatever the rest is cast to

    def __init__(self, cfg):
        super().__init__()
        D, H = cfg.hidden_size, cfg.linear_num_value_heads
        self.key_heads, self.K = cfg.linear_num_key_heads, cfg.linear_key_head_dim
        self.heads, self.V = H, cfg.linear_value_head_dim
        self.in_proj_qkv = nn.Linear(D, cfg.conv_dim, bias=False)
        self.in_proj_z = nn.Linear(D, H * self.V, bias=False)
        self.in_proj_b = nn.Linear(D, H, bias=False)
        self.in_proj_a = nn.Linear(D, H, bias=False)
        self.conv1d = nn.Conv1d(
            cfg.conv_dim, cfg.conv_dim, cfg.linear_conv_kernel_dim,
            groups=cfg.conv_dim, bias=False,
        )  # fmt: skip
        self.A_log = nn.Parameter(torch.zeros(H))
        self.dt_bias = nn.Parameter(torch.ones(H))
        self.norm = GatedRMSNorm(self.V, cfg.rms_norm_eps)
        self.out_proj = nn.Linear(H * self.V, D, bias=False)

    def forward(self, x, real=None, cache=None):
        """x [B, T, D]; real [B, T] bool, False for padding, or None; cache or None.

        Returns [B, T, D]. Padding is set to zero first, which leaves window and state
        at zero: a left-padded row computes what it would alone.
        """
        B, T, _ = x.shape
        if real is not None:
            x = x * real[..., None]
        window, state = (None, None) if cache is None else (cache.conv, cache.state)
        qkv = self.in_proj_qkv(x)
        qkv, window = pick("causal_conv", qkv)(qkv, self.conv1d.weight, window)
        q, k, v, g, beta = self.gates(x, qkv)
        rule = pick("delta_rule", q)  # recurrent for one token, chunked for more
        o, state = rule(q, k, v, g=g, beta=beta, state=state)  # o [B, T, H, V]
        if cache is not None:
            cache.conv, cache.state = window.detach(), state.detach()
        z = self.in_proj_z(x).view(B, T, self.heads, self.V)
        return self.out_proj(self.norm(o.to(x.dtype), z).flatten(2))

    def gates(self, x, qkv):
        """What the rule is fed, fp32: q, k [B, T, Hk, K], v [B, T, H, V], g, beta."""
        B, T, _ = x.shape
        keys = self.key_heads * self.K
        q, k, v = qkv.split([keys, keys, self.heads * self.V], dim=-1)
        q = l2norm(q.view(B, T, self.key_heads, self.K)) * self.K**-0.5
        k = l2norm(k.view(B, T, self.key_heads, self.K))
        v = v.view(B, T, self.heads, self.V).float()
        beta = self.in_proj_b(x).sigmoid().float()  # [B, T, H]
        dt = F.softplus(self.in_proj_a(x).float() + self.dt_bias.float())
        g = -self.A_log.float().exp() * dt
        return q, k, v, g, beta

    def _apply(self, fn, recurse=True):
        """Let .to(device) move the fp32 islands, but no .to(dtype) round them."""
        before = {name: self.get_parameter(name).data for name in self.FP32}
        super()._apply(fn, recurse)
        for name, old in before.items():
            p = self.get_parameter(name)
            if p.dtype != torch.float32:
                p.data = old.to(p.device)
        return self
