"""The chunked delta rule in Triton beside the rule itself, in float64."""

import pytest
import torch

from minqwen.model.delta import delta_recurrent
from tests.gpu_forms import CLOSE, DTYPES, call, error, exact, random, rule_inputs

pytestmark = pytest.mark.slow

gpu = pytest.importorskip("minqwen.kernels.gpu")


def compare(inputs, close=None):
    """Outputs and last state, after a look at how near float64's they are."""
    out = call(gpu.delta_rule, inputs)
    for mine, reference in zip(out, exact(inputs), strict=True):
        assert error(mine, reference) < (close or CLOSE[inputs[0].dtype])
    return out


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("T", [1, 64, 130])
def test_forward(T, dtype):
    inputs = rule_inputs(T, dtype, K=24, V=40, B=2)
    o, last = compare(inputs)
    assert o.dtype == dtype and last.dtype == torch.float32


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("T", [1, 66])
def test_backward(T, dtype):
    inputs = rule_inputs(T, dtype, K=24, V=40)
    mine = [x.requires_grad_() for x in inputs]
    theirs = [x.detach().cpu().double().requires_grad_() for x in inputs]
    out = [call(gpu.delta_rule, mine), call(delta_recurrent, theirs)]
    ways = [random(*x.shape, seed=9, dtype=x.dtype) for x in out[0]]
    gradients = torch.autograd.grad(out[0], mine, ways)
    expected = torch.autograd.grad(out[1], theirs, [x.cpu().double() for x in ways])
    for name, a, b in zip("qkvgbs", gradients, expected, strict=True):
        assert a.dtype == (dtype if name in "qkv" else torch.float32)
        assert error(a, b) < 2 * CLOSE[dtype], name


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_keys_that_are_all_the_same(dtype):
    """The hardest system to solve: every write is of what the last one wrote."""
    q, k, v, g, beta, state = rule_inputs(70, dtype)
    same = [q, k[:, :1].expand_as(k), v, g * 0, beta * 0 + 0.999, state]
    compare(same)


@pytest.mark.parametrize("memory", [0.01, 1e6])
def test_decays_of_any_length(memory):
    """Of a hundred e-folds a token, which overflow where exp comes before the mask."""
    inputs = [x.requires_grad_() for x in rule_inputs(100, memory=memory)]
    # In fp32, a sum of large decays loses what is small: 1e-5, as in torch's form.
    out = compare(inputs, 1e-5)
    for x in torch.autograd.grad(out[0].sum() + out[1].sum(), inputs):
        assert x.isfinite().all()


def test_nothing_before_is_a_state_of_zeros():
    q, k, v, g, beta, state = rule_inputs(66)
    mine = gpu.delta_rule(q, k, v, g=g, beta=beta)
    assert torch.equal(mine[0], call(gpu.delta_rule, [q, k, v, g, beta, state * 0])[0])


def test_in_pieces():
    inputs = rule_inputs(130)
    whole, last = call(gpu.delta_rule, inputs)
    state, parts = inputs[5], []
    for piece in zip(*(x.split([65, 1, 64], dim=1) for x in inputs[:5]), strict=True):
        o, state = call(gpu.delta_rule, [*piece, state])
        parts.append(o)
    close = CLOSE[torch.float32]
    assert error(torch.cat(parts, 1), whole) < close and error(state, last) < close


def test_heads_of_397B():
    """16 key heads and 64 value heads, each group of four reading its own key."""
    inputs = rule_inputs(40, H=64, Hk=16, K=16, V=16)
    compare(inputs)


@pytest.mark.parametrize("dtype", [torch.float32, *DTYPES[2:]], ids=str)
def test_four_thousand_tokens(dtype):
    """Errors do not pile up: the same bound as for a hundred."""
    inputs = rule_inputs(4096, dtype, H=1, Hk=1, K=16, V=16, memory=1000)
    compare(inputs)
