"""Three ways to set a vector's length, each of which another port has got wrong."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .forms import operation


def l2norm(x: Tensor) -> Tensor:
    """x / |x| over the last axis. x [..., K], any dtype; returns fp32."""
    x = x.float()
    # NOTE: 1e-6 is added to the sum, not to the mean; all-zero padding stays zero.
    return x * torch.rsqrt(x.square().sum(-1, keepdim=True) + 1e-6)


@operation
def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """y = x * rsqrt(mean(x^2) + eps) * (1 + w), all in fp32, cast back at the end.

    x [..., D]; weight [D]. Returns x's shape and dtype.
    """
    y = x.float()
    y = y * torch.rsqrt(y.square().mean(-1, keepdim=True) + eps)
    # NOTE: 1 + w, where most models have w. Without the 1 it still runs, and babbles.
    return (y * (1 + weight.float())).to(x.dtype)


@operation
def gated_rms_norm(x: Tensor, z: Tensor, weight: Tensor, eps: float) -> Tensor:
    """y = x * rsqrt(mean(x^2) + eps) * w * silu(z). x, z [..., V]; gives z's dtype."""
    y = x.float()
    y = y * torch.rsqrt(y.square().mean(-1, keepdim=True) + eps)
    y = weight * y.to(z.dtype)  # NOTE: w alone here, no 1 +; and rounded before it
    return (y * F.silu(z.float())).to(z.dtype)


class RMSNorm(nn.Module):
    """`rms_norm` and its weight.

    Zero-centred: the checkpoint stores w, the distance of the gain from one, so that
    weight decay pulls the gain to 1 and not to 0. x [..., D]; weight [D], 0 at first.
    """

    def __init__(self, dim: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(dim))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return rms_norm(x, self.weight, self.eps)


class GatedRMSNorm(nn.Module):
    """`gated_rms_norm` and its weight, on each head's output of the delta rule.

    weight [V], 1 at first, and fp32 on disk and in memory.
    """

    def __init__(self, dim: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.eps = eps

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        return gated_rms_norm(x, z, self.weight, self.eps)
