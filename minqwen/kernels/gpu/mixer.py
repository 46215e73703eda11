"""`deltanet.remember` on a GPU: one kernel for a token, 16 bits for more."""

import torch
import torch.nn.functional as F

from ...model import deltanet
from ...model.norm import l2norm
from ...model.taps import heard
from .chunk_backward import delta_rule
from .step import delta_token


def remember(qkv, x, mixer, window=None, state=None):
    """For a token of a cache, delta_token, which changes `state` where it lies."""
    if heard("rule") or heard("state"):  # still on the kernels of its operations
        return deltanet.remember.__wrapped__(qkv, x, mixer, window, state)
    (B, T, _), m = x.shape, mixer
    a, b = m.in_proj_a(x), m.in_proj_b(x)
    if T == 1 and state is not None and not torch.is_grad_enabled():
        o, window = delta_token(
            qkv[:, 0], a[:, 0], b[:, 0], weight=m.conv1d.weight, window=window,
            A_log=m.A_log, dt_bias=m.dt_bias, state=state,
        )  # fmt: skip
        return o[:, None], window, state
    # q, k and v stay in x's dtype: the reference widens them to fp32, and the rule
    # would then be computed, and read and written, in that.
    qkv, window = deltanet.causal_conv(qkv, m.conv1d.weight, window)
    keys = m.key_heads * m.head_k_dim
    q, k, v = qkv.split([keys, keys, m.heads * m.head_v_dim], dim=-1)
    q, k = (l2norm(y.view(B, T, m.key_heads, m.head_k_dim)) for y in (q, k))
    q, k = (q * m.head_k_dim**-0.5).to(x.dtype), k.to(x.dtype)
    v = v.view(B, T, m.heads, m.head_v_dim)
    g = -m.A_log.float().exp() * F.softplus(a.float() + m.dt_bias.float())
    o, state = delta_rule(q, k, v, g=g, beta=b.sigmoid(), state=state)
    return o, window, state
