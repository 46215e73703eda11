"""Whole modules of the model in Triton: another forward for the same weights.

The model part knows nothing of this. `dress` gives instances another `forward`, which
returns what the module's own returns and is found by hooks as that is. Where another
kind of kernels was asked for since, it calls the module's own; under gradients too, but
for the delta layer, whose rule has them.
"""

from types import MethodType

import torch
import torch.nn.functional as F

from ...deltanet import GatedDeltaNet
from ...moe import Experts, Router
from ...norm import GatedRMSNorm, RMSNorm, l2norm
from .. import kind_for, pick
from . import delta_rule, delta_token, experts, gated_rms_norm, rms_norm, route


def rms(self, x):
    return rms_norm(x, self.weight, self.eps)


def gated_rms(self, x, z):
    return gated_rms_norm(x, z, self.weight, self.eps)


def router(self, x):
    logits = F.linear(x, self.weight)
    return *route(logits, self.top_k), logits


def routed(self, x, weights, ids):
    return experts(x, weights, ids, self.gate_up_proj, self.down_proj)


def delta_net(self, x, real=None, cache=None):
    """One kernel for a token with a cache; else q, k and v stay in x's dtype.

    The module's own form widens them to fp32, and the rule would then be computed, and
    read and written, in that.
    """
    if "gates" in vars(self):  # somebody listens to what the rule is fed
        return GatedDeltaNet.forward(self, x, real, cache)
    B, T, _ = x.shape
    if real is not None:
        x = x * real[..., None]
    qkv, a, b = self.in_proj_qkv(x), self.in_proj_a(x), self.in_proj_b(x)
    weight = self.conv1d.weight
    if T == 1 and cache is not None and not torch.is_grad_enabled():
        o, cache.conv = delta_token(
            qkv[:, 0], a[:, 0], b[:, 0], weight=weight, window=cache.conv,
            A_log=self.A_log, dt_bias=self.dt_bias, state=cache.state,
        )  # fmt: skip
    else:
        window, state = (None, None) if cache is None else (cache.conv, cache.state)
        qkv, window = pick("causal_conv", qkv)(qkv, weight, window)
        keys = self.key_heads * self.K
        q, k, v = qkv.split([keys, keys, self.heads * self.V], dim=-1)
        q, k = (l2norm(y.view(B, T, self.key_heads, self.K)) for y in (q, k))
        q, k = (q * self.K**-0.5).to(x.dtype), k.to(x.dtype)
        v = v.view(B, T, self.heads, self.V)
        g = -self.A_log.float().exp() * F.softplus(a.float() + self.dt_bias.float())
        o, state = delta_rule(q, k, v, g=g, beta=b.sigmoid(), state=state)
        if cache is not None:
            cache.conv, cache.state = window.detach(), state.detach()
    z = self.in_proj_z(x).view(B, T, self.heads, self.V)
    return self.out_proj(self.norm(o.view_as(z), z).flatten(2))


FORMS = {RMSNorm: rms, GatedRMSNorm: gated_rms, Router: router, Experts: routed,
         GatedDeltaNet: delta_net}  # fmt: skip


def forward(self, x, *args, **kwargs):
    kind = type(self)
    able = kind is GatedDeltaNet or not torch.is_grad_enabled()
    fast = able and kind_for(x, 1) == "triton"
    return (FORMS[kind] if fast else kind.forward)(self, x, *args, **kwargs)


def dress(model):
    """Every module of `model` that has a form here gets it. A subclass does not."""
    for module in model.modules():
        if type(module) in FORMS:
            module.forward = MethodType(forward, module)
