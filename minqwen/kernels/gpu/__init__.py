"""The Triton kernels under the names and signatures of the torch forms they stand for.

16-bit or fp32 tensors on a CUDA device, weights also packed; on a CPU in Triton's
interpreter alone, which is how they are tested where there is no GPU.
"""

from .chunk_backward import delta_rule
from .conv import causal_conv
from .experts import experts
from .mixer import remember
from .norm import gated_rms_norm, rms_norm
from .packed import linear
from .router import route
from .step import delta_token

__all__ = ["causal_conv", "delta_rule", "delta_token", "experts", "gated_rms_norm",
           "linear", "remember", "rms_norm", "route"]  # fmt: skip
