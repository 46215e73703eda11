"""The Triton kernels under the names and signatures of the torch forms they stand for.

16-bit or fp32 tensors on a CUDA device; on a CPU in Triton's interpreter alone, which
is how they are tested where there is no GPU.
"""

import torch

from .chunk_backward import Rule
from .conv import causal_conv
from .experts import experts
from .norm import gated_rms_norm, rms_norm
from .router import route
from .step import delta_token

__all__ = ["causal_conv", "delta_rule", "delta_token", "experts", "gated_rms_norm",
           "rms_norm", "route"]  # fmt: skip


def delta_rule(q, k, v, *, g, beta, state=None):
    """`delta.delta_chunked`, with gradients. o [B, T, H, V] in v's dtype.

    q, k and v may be fp32, fp16 or bf16, one dtype for all three: the products are
    made in it and added up in fp32. The state is fp32 in and out.
    """
    B, _, H, V = v.shape
    if state is None:
        state = v.new_zeros(B, H, k.shape[-1], V, dtype=torch.float32)
    return Rule.apply(*(x.contiguous() for x in (q, k, v, g, beta, state)))
