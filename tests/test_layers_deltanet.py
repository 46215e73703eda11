"""Gated DeltaNet beside its float64 NumPy form, and what stays fp32 in a bf16 model.

The bound stands in numpy_forms.BOUND.
"""

import numpy as np
import numpy_forms as forms
import pytest
import torch
from numpy_forms import BOUND, error, mean_error, weights, wide
from tiny_models import small_config, small_model

from minqwen.model.cache import DeltaState
from minqwen.model.deltanet import causal_conv

F32 = BOUND[torch.float32]
DTYPES = pytest.mark.parametrize("dtype", BOUND, ids=["fp32", "bf16"])
HEADS = dict(linear_num_key_heads=4, linear_num_value_heads=16)


@pytest.fixture(autouse=True)
def no_grad():
    with torch.no_grad():
        yield


@DTYPES
@pytest.mark.parametrize("W", [3, 4])
@pytest.mark.parametrize("cuts", [(), (1, 2, 3), (2, 9)])
def test_causal_conv(dtype, W, cuts):
    """Kernel 3 and 4, whole and in pieces shorter than the kernel, window carried."""
    g = torch.Generator().manual_seed(W)
    u = torch.randn(2, 13, 10, generator=g).to(dtype)
    w = torch.randn(10, 1, W, generator=g).to(dtype)
    window, parts, start = None, [], 0
    for end in (*cuts, 13):
        y, window = causal_conv(u[:, start:end], w, window)
        parts.append(y)
        start = end
    y = torch.cat(parts, 1)
    assert y.dtype == window.dtype == dtype
    for b in range(2):
        want, last = forms.causal_conv(wide(w), wide(u[b]), np.zeros((W - 1, 10)))
        assert error(y[b], want) < BOUND[dtype]
        assert (wide(window[b]) == last).all()


def test_causal_conv_by_hand():
    """Taps 1 10 100 1000 on 1 2 3 4: the last tap meets the newest token."""
    w = torch.tensor([1.0, 10.0, 100.0, 1000.0])[None, None]
    y, window = causal_conv(torch.tensor([1.0, 2, 3, 4])[None, :, None], w)
    # silu leaves large numbers alone
    assert y.flatten().tolist() == [1000, 2100, 3210, 4321]
    assert window.flatten().tolist() == [2, 3, 4]


def deltanet(dtype, **changes):
    cfg = small_config(**changes).text
    module = small_model(seed=4, **changes).model.language_model.layers[1].linear_attn
    return cfg, module.to(dtype)


def deltanet_form(cfg, module, x):
    zeros = np.zeros((cfg.linear_conv_kernel_dim - 1, cfg.conv_dim))
    H, K = cfg.linear_num_value_heads, cfg.linear_key_head_dim
    S = np.zeros((H, K, cfg.linear_value_head_dim))
    return forms.deltanet(
        weights(module), wide(x), cfg.linear_num_key_heads, H, zeros, S
    )


@DTYPES
@pytest.mark.parametrize("changes", [{}, {"linear_conv_kernel_dim": 3}, HEADS])
@pytest.mark.parametrize("cuts", [(), (1, 65, 66, 68, 69)])
def test_gated_deltanet(dtype, changes, cuts):
    """70 tokens at once, and in pieces through the cache: output, window, state.

    The gated norm enlarges a head that reads next to nothing, rounding included, so
    in bf16 the output is judged by root mean squares.
    """
    cfg, module = deltanet(dtype, **changes)
    x = torch.randn(2, 70, 64, generator=torch.Generator().manual_seed(0)).to(dtype)
    cache, parts, start = DeltaState(cfg, 2, dtype, "cpu"), [], 0
    for end in (*cuts, 70):
        parts.append(module(x[:, start:end], cache=cache))
        start = end
    y = torch.cat(parts, 1)
    assert y.dtype == cache.conv.dtype == dtype and cache.state.dtype == torch.float32
    for b in range(2):
        want, window, S = deltanet_form(cfg, module, x[b])
        measure = error if dtype == torch.float32 else mean_error
        assert measure(y[b], want) < BOUND[dtype]
        assert error(cache.conv[b], window) < BOUND[dtype]
        assert error(cache.state[b], S) < BOUND[dtype]


@DTYPES
def test_gated_deltanet_left_padded(dtype):
    cfg, module = deltanet(dtype)
    x = torch.randn(2, 30, 64, generator=torch.Generator().manual_seed(1)).to(dtype)
    real = torch.ones(2, 30, dtype=torch.bool)
    real[1, :7] = False
    cache = DeltaState(cfg, 2, dtype, "cpu")
    y = module(x, real, cache)
    for b, pad in [(0, 0), (1, 7)]:
        want, window, S = deltanet_form(cfg, module, x[b, pad:])
        assert mean_error(y[b, pad:], want) < BOUND[dtype]
        assert error(cache.state[b], S) < BOUND[dtype]


def test_bf16_leaves_the_islands_unrounded():
    """A_log and the gated norm's weight keep dtype and every bit; all else is bf16."""
    model = small_model(seed=4)
    before = {n: p.clone() for n, p in model.named_parameters()}
    model.to(torch.bfloat16)
    islands = 0
    for name, p in model.named_parameters():
        if name.endswith(("linear_attn.A_log", "linear_attn.norm.weight")):
            assert p.dtype == torch.float32 and torch.equal(p, before[name])
            assert not torch.equal(p, p.bfloat16().float())  # rounding would show
            islands += 1
        else:
            assert p.dtype == torch.bfloat16, name
            assert torch.equal(p, before[name].bfloat16())
    assert islands == 6


def test_rates_are_computed_in_fp32():
    """g of a bf16 layer is exact to fp32 given its bf16 projection a + dt_bias."""
    cfg, module = deltanet(torch.bfloat16)
    x = torch.randn(1, 9, 64, generator=torch.Generator().manual_seed(2)).bfloat16()
    q, k, v, g, beta = module.gates(x, module.in_proj_qkv(x))
    assert {y.dtype for y in (q, k, v, g, beta)} == {torch.float32}
    a = wide(module.in_proj_a(x)) + wide(module.dt_bias)
    want = -np.exp(wide(module.A_log)) * np.log1p(np.exp(a))
    assert error(g, want) < F32
    assert error(k.norm(dim=-1), np.ones(k.shape[:-1])) < 1e-5
