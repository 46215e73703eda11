"""The delta rule with its gradients: the kernels of chunk.py and chunk_backward.py."""

import torch

from .chunk_backward import Rule


def delta_rule(q, k, v, *, g, beta, state=None):
    """`delta.delta_chunked`, with gradients. o [B, T, H, V] in v's dtype.

    q, k and v may be fp32, fp16 or bf16, one dtype for all three: the products are
    made in it and added up in fp32. The state is fp32 in and out.
    """
    B, _, H, V = v.shape
    if state is None:
        state = v.new_zeros(B, H, k.shape[-1], V, dtype=torch.float32)
    return Rule.apply(*(x.contiguous() for x in (q, k, v, g, beta, state)))
