"""The norms of norm.py with their gradients, a row at a time on a CPU.

With n = x s, s = rsqrt(mean(x^2) + eps), and dn the loss's gradient at n,

    dx = s (dn - n mean(n dn))

Only s is kept: n and the rest are made again.
"""

import numpy as np
import torch
from numba import njit
from torch.autograd.function import once_differentiable

from ..cpu.loops import FLOAT, ONE, sigmoid
from .memory import FAST, numbers


def rms_norm(x, weight, eps):
    """`norm.rms_norm`."""
    return Norm.apply(x, weight, eps)


def gated_rms_norm(x, z, weight, eps):
    """`norm.gated_rms_norm`."""
    return GatedNorm.apply(x, z, weight, eps)


def rows_of(x):
    """[N, D], the numbers of a row side by side."""
    return x.reshape(-1, x.shape[-1]).contiguous()


class Norm(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, eps):
        rows = rows_of(x)
        y, scale = torch.empty_like(rows), x.new_empty(len(rows))
        norm(*numbers(rows, weight, y, scale), eps)
        ctx.save_for_backward(rows, weight, scale)
        return y.view(x.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx, dy):
        rows, weight, scale = ctx.saved_tensors
        dx, dweight = torch.empty_like(rows), torch.zeros_like(weight)
        norm_back(*numbers(rows, weight, scale, rows_of(dy), dx, dweight))
        return dx.view(dy.shape), dweight, None


class GatedNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, z, weight, eps):
        rows, gate = rows_of(x), rows_of(z)
        y, scale = torch.empty_like(rows), x.new_empty(len(rows))
        gated_norm(*numbers(rows, gate, weight, y, scale), eps)
        ctx.save_for_backward(rows, gate, weight, scale)
        return y.view(x.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx, dy):
        rows, gate, weight, scale = ctx.saved_tensors
        dx, dz, dweight = (torch.zeros_like(x) for x in (rows, gate, weight))
        gated_norm_back(
            *numbers(rows, gate, weight, scale, rows_of(dy), dx, dz, dweight)
        )
        return dx.view(dy.shape), dz.view(dy.shape), dweight, None


@njit(**FAST)
def scale_of(x, r, eps):
    D, squares = x.shape[1], FLOAT(0)
    for i in range(D):
        squares += x[r, i] * x[r, i]
    return ONE / np.sqrt(squares / FLOAT(D) + FLOAT(eps))


@njit(**FAST)
def norm(x, weight, y, scale, eps):
    """y = x * scale * (1 + w) for rows x [N, D]; scale [N] is kept for the way back."""
    N, D = x.shape
    for r in range(N):
        s = scale[r] = scale_of(x, r, eps)
        for i in range(D):
            y[r, i] = x[r, i] * s * (ONE + weight[i])


@njit(**FAST)
def norm_back(x, weight, scale, dy, dx, dweight):
    """dx is written, dweight added to."""
    N, D = x.shape
    for r in range(N):
        s, along = scale[r], FLOAT(0)
        for i in range(D):
            along += x[r, i] * dy[r, i] * (ONE + weight[i])
        along *= s * s / FLOAT(D)
        for i in range(D):
            dx[r, i] = s * (dy[r, i] * (ONE + weight[i]) - x[r, i] * along)
        for i in range(D):
            dweight[i] += dy[r, i] * x[r, i] * s


@njit(**FAST)
def gated_norm(x, z, weight, y, scale, eps):
    """y = x * scale * w * silu(z), as `norm`."""
    N, D = x.shape
    for r in range(N):
        s = scale[r] = scale_of(x, r, eps)
        for i in range(D):
            y[r, i] = x[r, i] * s * weight[i] * z[r, i] * sigmoid(z[r, i])


@njit(**FAST)
def gated_norm_back(x, z, weight, scale, dy, dx, dz, dweight):
    """dx and dz are written, dweight added to."""
    N, D = x.shape
    dn = np.empty(D, FLOAT)
    for r in range(N):
        s, along = scale[r], FLOAT(0)
        for i in range(D):
            g = sigmoid(z[r, i])
            n, d = x[r, i] * s, dy[r, i] * z[r, i] * g
            dz[r, i] = dy[r, i] * n * weight[i] * g * (ONE + z[r, i] * (ONE - g))
            dweight[i] += d * n
            dn[i] = d * weight[i]
        for i in range(D):
            along += x[r, i] * dn[i]
        along *= s * s / FLOAT(D)
        for i in range(D):
            dx[r, i] = s * (dn[i] - x[r, i] * along)
