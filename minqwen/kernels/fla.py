"""The delta rule of flash-linear-attention, where it was asked for by name.

    here     [B, T, H, K]; g and beta keyword-only; q already divided by sqrt(K)
    fla      the same order and heads; a `scale` of its own, 1 here; made for 16 bits

Its recurrent kernel for one token without a gradient, its chunked one for the rest.
"""

import torch


def delta_rule(q, k, v, *, g, beta, state=None):
    """`delta.delta_chunked` by fla. o [B, T, H, V] in v's dtype, the state fp32."""
    from fla.ops.gated_delta_rule import (
        chunk_gated_delta_rule,
        fused_recurrent_gated_delta_rule,
    )

    half = torch.bfloat16 if v.dtype == torch.float32 else v.dtype
    alone = v.shape[1] == 1 and not torch.is_grad_enabled()
    rule = fused_recurrent_gated_delta_rule if alone else chunk_gated_delta_rule
    o, state = rule(
        *(x.to(half) for x in (q, k, v)), g=g.float(), beta=beta.to(half), scale=1.0,
        initial_state=state, output_final_state=True,
    )  # fmt: skip
    return o.to(v.dtype), state
