"""Inputs for the Triton kernels' tests, and how far from float64 a result is.

Where there is a GPU the kernels run on it, bf16 as well; elsewhere in the interpreter,
whose products of bf16 numbers are wrong.
"""

import pytest
import torch

from minqwen.model.delta import delta_recurrent

pytest.importorskip("triton", reason="Triton is for Linux")

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
DTYPES = [torch.float32, torch.float16] + [torch.bfloat16] * (DEVICE == "cuda")
# Roundings of inputs to the dtype are the same for both sides, so not in the error.
CLOSE = {
    torch.float32: 2e-6 if DEVICE == "cpu" else 1e-5,
    torch.float16: 2e-3,
    torch.bfloat16: 1.5e-2,
}


def random(*shape, seed=0, dtype=torch.float32):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=g).to(dtype).to(DEVICE)


def rule_inputs(T, dtype=torch.float32, H=2, Hk=1, K=32, V=32, B=1, memory=10, seed=0):
    """[q, k, v, g, beta, state]; `memory` is the tokens after which 1/e is left."""
    q, k = (random(B, T, Hk, K, seed=seed + i) for i in range(2))
    q, k = (torch.nn.functional.normalize(x, dim=-1).to(dtype) for x in (q, k))
    v, state = random(B, T, H, V, seed=seed + 2), random(B, H, K, V, seed=seed + 3)
    g = random(B, T, H, seed=seed + 4).abs() / -memory
    return [q, k, v.to(dtype), g, random(B, T, H, seed=seed + 5).sigmoid(), state]


def call(rule, inputs):
    q, k, v, g, beta, state = inputs
    return rule(q, k, v, g=g, beta=beta, state=state)


def exact(inputs):
    """The rule token by token in float64: what every form is measured by."""
    return call(delta_recurrent, [x.detach().cpu().double() for x in inputs])


def error(mine, reference):
    """Largest difference over the largest number, as a float."""
    mine, reference = mine.detach().cpu().double(), reference.detach().cpu().double()
    return ((mine - reference).abs().max() / reference.abs().max()).item()
