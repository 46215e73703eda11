"""The other Triton kernels beside the modules they stand for, in float64."""

import copy

import pytest
import torch
import torch.nn.functional as F

from minqwen.model.cache import DeltaState
from minqwen.model.deltanet import GatedDeltaNet, causal_conv
from minqwen.model.moe import Experts, Router
from minqwen.model.norm import GatedRMSNorm, RMSNorm
from tests.gpu_forms import CLOSE, DEVICE, DTYPES, error, random
from tests.tiny_models import scatter, small_config

pytestmark = pytest.mark.slow

gpu = pytest.importorskip("minqwen.kernels.gpu")
in_dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=str)


def double(module):
    """The module on the CPU in float64, its fp32 islands too."""
    module = copy.deepcopy(module).cpu()
    for p in module.parameters():
        p.data = p.data.double()
    return module


@in_dtypes
@pytest.mark.parametrize("T, W", [(1, 4), (2, 4), (70, 4), (33, 3)])
def test_causal_conv(T, W, dtype):
    x, weight = random(2, T, 200, dtype=dtype), random(200, 1, W, seed=1, dtype=dtype)
    window = random(2, W - 1, 200, seed=2, dtype=dtype)
    for start in (None, window):
        y, after = gpu.causal_conv(x, weight, start)
        reference, expected = causal_conv(x, weight, start)
        assert y.dtype == dtype and torch.equal(after, expected)
        assert error(y, reference) < CLOSE[dtype]


@in_dtypes
def test_norms(dtype):
    for X in (24, 128, 5120):
        x, z = random(3, 7, X, dtype=dtype), random(3, 7, X, seed=1, dtype=dtype)
        zero_centred, gated = (
            scatter(kind(X)).to(DEVICE) for kind in (RMSNorm, GatedRMSNorm)
        )
        y = gpu.rms_norm(x, zero_centred.weight, 1e-6)
        assert y.dtype == dtype and y.shape == x.shape
        assert error(y, zero_centred(x)) < CLOSE[dtype]
        y = gpu.gated_rms_norm(x, z, gated.weight, 1e-6)
        assert y.dtype == dtype and error(y, gated(x, z)) < CLOSE[dtype]


@in_dtypes
@pytest.mark.parametrize("E, top_k", [(33, 5), (512, 10)])
def test_router(E, top_k, dtype):
    router, x = (
        scatter(Router(64, E, top_k)).to(DEVICE, dtype),
        random(9, 64, dtype=dtype),
    )
    weights, ids, logits = router(x)
    mine, chosen = gpu.route(logits, top_k)
    assert mine.dtype == dtype and chosen.dtype == torch.int64
    assert error(mine, logits.double().gather(1, chosen).softmax(-1)) < CLOSE[dtype]
    # Equal logits are common in 16 bits: what was chosen must be as good, in order.
    assert torch.equal(logits.gather(1, chosen), logits.gather(1, ids))


def test_router_between_equals():
    weights, ids = gpu.route(torch.zeros(2, 40, device=DEVICE), 3)
    assert ids.tolist() == [[0, 1, 2]] * 2
    assert torch.allclose(weights, torch.tensor(1 / 3, device=DEVICE))
    assert gpu.route(torch.zeros(0, 40, device=DEVICE), 3)[1].shape == (0, 3)


def each_choice(module, x, weights, ids):
    """The experts' sum, a choice at a time."""
    y = torch.zeros_like(x)
    for n, row in enumerate(ids.tolist()):
        for k, e in enumerate(row):
            gate, up = (module.gate_up_proj[e] @ x[n]).chunk(2)
            y[n] += weights[n, k] * module.down_proj[e] @ (F.silu(gate) * up)
    return y


@in_dtypes
@pytest.mark.parametrize("N", [1, 3, 9, 150])
def test_experts(N, dtype):
    """Few tokens and many; some experts with more rows than a tile, some with none."""
    module = scatter(Experts(72, 12, 40)).to(DEVICE, dtype)
    x, weights = random(N, 72, dtype=dtype), random(N, 5, seed=1).softmax(-1).to(dtype)
    ids = random(N, 12, seed=2).add(torch.arange(12, device=DEVICE) / 4).topk(5)[1]
    y = gpu.experts(x, weights, ids, module.gate_up_proj, module.down_proj)
    y64 = each_choice(double(module), x.cpu().double(), weights.cpu().double(), ids)
    assert y.dtype == dtype and error(y, y64) < CLOSE[dtype]


@in_dtypes
@pytest.mark.parametrize("W", [3, 4])
def test_delta_token(W, dtype):
    """One token through a whole layer with a cache, the kernel in its middle."""
    cfg = small_config(linear_conv_kernel_dim=W, linear_key_head_dim=24).text
    layer = scatter(GatedDeltaNet(cfg)).to(DEVICE, dtype)
    memory = DeltaState(cfg, 3, dtype, DEVICE)
    memory.conv, memory.state = (
        random(*memory.conv.shape, dtype=dtype),
        random(*memory.state.shape, seed=1),
    )
    exact = copy.copy(memory)
    exact.conv, exact.state = memory.conv.cpu().double(), memory.state.cpu().double()
    x = random(3, 1, cfg.hidden_size, seed=2, dtype=dtype)
    theirs = double(layer)
    expected = theirs(x.cpu().double(), cache=exact)
    parts = (
        project(x[:, 0])
        for project in (layer.in_proj_qkv, layer.in_proj_a, layer.in_proj_b)
    )
    o, window = gpu.delta_token(
        *parts, weight=layer.conv1d.weight, window=memory.conv, A_log=layer.A_log,
        dt_bias=layer.dt_bias, state=memory.state,
    )  # fmt: skip
    z = layer.in_proj_z(x).view_as(o)
    y = layer.out_proj(
        gpu.gated_rms_norm(o, z, layer.norm.weight, cfg.rms_norm_eps).flatten(1)
    )
    assert error(y, expected[:, 0]) < 3 * CLOSE[dtype]
    assert error(memory.state, exact.state) < 3 * CLOSE[dtype]
    assert error(window, exact.conv) < 3 * CLOSE[dtype]
