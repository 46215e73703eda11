"""Packed weights in Triton, beside what they stand for in float64."""

import pytest
import torch

import minqwen
from minqwen import kernels
from minqwen.model import forms, moe
from minqwen.weights.convert import convert
from minqwen.weights.quantised import modules
from tests.gpu_forms import CLOSE, DEVICE, DTYPES, error, random
from tests.test_kernels_packed import stored
from tests.tiny_models import small_model

pytestmark = pytest.mark.slow

gpu = pytest.importorskip("minqwen.kernels.gpu")
in_forms = pytest.mark.parametrize("form", kernels.GROUPED)

# Rows of a part of a group of 128, odd ones, more than a tile has; more rows than a
# block has; the least.
SHAPES = [(5, 200), (3, 131), (2, 1100), (130, 40), (2, 1)]


def exact(weight):
    """What the codes stand for, before a model's dtype rounds it."""
    return modules.widen(
        weight.form, weight.parts(), weight.kind, weight.shape[-1], torch.float64
    )


@in_forms
@pytest.mark.parametrize(
    "N, dtype", [(1, torch.float32), (1, DTYPES[-1]), (3, torch.float32),
                 (20, torch.float32), (20, DTYPES[-1])]
)  # fmt: skip
def test_linear(form, N, dtype):
    for R, C in SHAPES:
        weight = stored(form, "weight", random(R, C).cpu()).to(DEVICE, dtype)
        x = random(2, N, C, seed=1, dtype=dtype)[:1]
        y = gpu.linear(x, weight)
        assert y.dtype == dtype and y.shape == (1, N, R)
        y64 = x.cpu().double() @ exact(weight).cpu().T
        assert error(y, y64) < CLOSE[dtype], (R, C)
    assert gpu.linear(x[:, :0], weight).shape == (1, 0, R)


@in_forms
def test_every_code_is_what_it_stands_for(form):
    """To the last bit: a product with rows of ones and zeros."""
    weight = stored(form, "weight", torch.randn(2, 256)).to(DEVICE)
    codes = weight.get_buffer("part").view(torch.uint8)[:, -256:]
    every = torch.arange(256, dtype=torch.uint8, device=DEVICE)
    if form.startswith("fp8"):
        every[every & 127 == 127] = 0  # NaN
    codes[:] = every[: codes.shape[1]]
    if form == "int4":  # a row is half as many bytes
        weight.get_buffer("part")[:, -128:] = every.view(2, 128)
    ones, wide = torch.eye(256, device=DEVICE), weight.widened()
    assert torch.equal(gpu.linear(ones, weight), wide.T)
    for c in (0, 3, 130):
        assert torch.equal(gpu.linear(ones[c], weight), wide[:, c])


def test_who_multiplies_a_stored():
    weight = stored("int4", "weight", torch.randn(4, 6)).to(DEVICE)
    x, plain = random(2, 6), random(4, 6)
    with forms.using("triton"):
        assert forms.chosen("linear", x, weight) is modules.linear, "gradients"
        with torch.no_grad():
            assert forms.chosen("linear", x, weight) is gpu.linear
            assert forms.chosen("linear", x.double(), weight) is modules.linear
            assert forms.chosen("linear", x, plain) is None
            weight.rounded = True  # what it is multiplied with, on a CPU
            assert forms.chosen("linear", x, weight) is modules.linear
            weight.rounded = False
    with torch.no_grad():
        for kind in ("torch", "numba"):
            with forms.using(kind):
                assert forms.chosen("linear", x, weight) is modules.linear
        alone = gpu.linear if DEVICE == "cuda" else modules.linear
        assert forms.chosen("linear", x, weight) is alone


@in_forms
@pytest.mark.parametrize("N, dtype", [(2, torch.float32), (9, DTYPES[-1])])
def test_experts(form, N, dtype):
    """Few tokens and many; gate and up of more rows than a block; experts unchosen."""
    E, D, width = 4, 43, 130
    kinds = {"gate_up_proj": (E, 2 * width, D), "down_proj": (E, D, width)}
    packed = [
        stored(form, kind, random(*shape).cpu()).to(DEVICE, dtype)
        for kind, shape in kinds.items()
    ]
    x, weights = random(N, D, seed=1, dtype=dtype), random(N, 2, seed=2).softmax(-1)
    weights = weights.to(dtype)
    ids = random(N, E, seed=3).add(torch.arange(E, device=DEVICE)).topk(2)[1]
    y = gpu.experts(x, weights, ids, *packed)
    x, weights = x.cpu().double(), weights.cpu().double()
    y64 = moe.experts(x, weights, ids.cpu(), *(exact(p).cpu() for p in packed))
    assert y.dtype == dtype and error(y, y64) < CLOSE[dtype]


@torch.inference_mode()
def test_a_packed_model_and_its_step_of_fixed_shape(tmp_path):
    """Reading, then all of a CUDA graph but the recording, which wants a GPU."""
    from minqwen.kernels.gpu.graph import Decoder, RecordedStep

    few = dict(vision=False, num_experts=9, num_experts_per_tok=2)
    minqwen.save(small_model(**few), tmp_path / "plain")
    convert(tmp_path / "plain", tmp_path / "packed", "int4:int8")
    plain, fast = (
        minqwen.load(tmp_path / "packed", DEVICE, torch.float32, kernels=kind)
        for kind in ("torch", "triton")
    )
    ids = torch.randint(0, 300, (1, 3), device=DEVICE)
    ours, theirs = fast.new_cache(1, 20), plain.new_cache(1, 20)
    assert error(fast(ids, cache=ours), plain(ids, cache=theirs)) < 2e-5
    step = RecordedStep(fast, ours, span=16)
    step.id.copy_(ids[:, :1])
    step.position.copy_(theirs.next_position)
    step.length.fill_(theirs.length)
    assert error(step(), plain(ids[:, :1], cache=theirs)) < 2e-5
    assert kernels.single(fast, ours)
    if DEVICE == "cuda":
        decode, again = Decoder(fast), theirs.copy()
        assert error(decode(ids[:, :1], again), plain(ids[:, :1], cache=theirs)) < 1e-4
