"""Activations rounded to 8 bits, beside whole numbers and float64."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import minqwen
from minqwen.errors import InputError
from minqwen.kernels.cpu import bytes as products
from minqwen.kernels.cpu import packed, rounded
from minqwen.kernels.cpu.decode import Decoder
from minqwen.kernels.cpu.read import PromptReader
from minqwen.model.forms import linear
from minqwen.model.moe import experts
from minqwen.plan.contents import describe
from minqwen.weights.convert import convert
from minqwen.weights.load import _check_activations
from minqwen.weights.quantised import codecs
from tests.test_kernels_cpu import error
from tests.test_kernels_packed import SHAPES, stored
from tests.tiny_models import small_model

WHOLE = "int8", "int4"


def test_rounded_by_hand():
    """Groups of 128 columns: the first has steps of 2, the second of 0.5."""
    x = torch.zeros(1, 130)
    x[0, :4], x[0, 128:] = (
        torch.tensor([-254.0, 3.0, 5.0, 0.9]),
        torch.tensor([63.5, 1]),
    )
    want = torch.zeros(1, 130)
    want[0, :4], want[0, 128:] = torch.tensor([-254.0, 4, 4, 0]), x[0, 128:]
    assert torch.allclose(codecs.rounded(x), want, rtol=1e-6)  # 1.5 and 2.5 become 2
    assert not codecs.rounded(torch.zeros(2, 3)).any()
    for bad in torch.nan, torch.inf:
        assert codecs.rounded(torch.tensor([1.0, bad])).isnan().all()


def packed_weight(form, kind, *shape):
    weight = stored(form, kind, torch.randn(shape))
    weight.rounded = True
    return weight


@pytest.mark.parametrize("form", WHOLE)
def test_experts_round_what_enters_either_product(form):
    up = packed_weight(form, "gate_up_proj", 5, 2 * 150, 140)
    down = packed_weight(form, "down_proj", 5, 140, 150)
    x, ids = torch.randn(7, 140), torch.randint(0, 5, (7, 2))
    weights = torch.rand(7, 2)
    want = torch.zeros(7, 140, dtype=torch.float64)
    for n in range(7):
        for e, share in zip(ids[n], weights[n], strict=True):
            both = codecs.rounded(x[n]).double() @ up.widened()[e].double().T
            h = F.silu(both[:150]) * both[150:]
            h = codecs.rounded(h.float()).double() @ down.widened()[e].double().T
            want[n] += share * h
    assert error(experts(x, weights, ids, up, down), want) < 1e-5


def test_what_cannot_be_rounded(tmp_path):
    minqwen.save(small_model(), tmp_path / "plain")
    with pytest.raises(InputError, match="activations='int4' is not supported; give"):
        minqwen.load(tmp_path / "plain", activations="int4")
    for quantize in None, "int4:stored":
        options = {"experts": "disk", "quantize": quantize, "activations": "int8"}
        with pytest.raises(InputError, match="plain has none; leave it out"):
            minqwen.load(tmp_path / "plain", **options)
    with pytest.raises(InputError, match="for a CPU, and the model is for cuda"):
        _check_activations("int8", torch.device("cuda"))


@pytest.mark.slow
def test_rounded_with_experts_in_memory_and_on_disk(tmp_path):
    minqwen.save(small_model(), tmp_path / "plain")
    convert(tmp_path / "plain", tmp_path / "packed", "int4:int8")
    told = " ".join(describe(tmp_path / "packed").split())
    assert "int4, int8 kept as they are, activations rounded if asked for" in told
    ids = torch.randint(0, 300, (1, 9))
    plain, memory, disk = (
        minqwen.load(tmp_path / "packed", **options)(ids)
        for options in ({}, {"activations": "int8"},
                        {"activations": "int8", "experts": "disk"})
    )  # fmt: skip
    assert torch.equal(memory, disk)
    assert not torch.equal(memory, plain)


@pytest.mark.slow
@pytest.mark.parametrize("width", [1, 2, 63, 64])
def test_sums_of_products_of_bytes(width):
    """Plain loops and vectors, also of the largest numbers, which must not wrap."""
    drawn = np.random.default_rng(0)
    for low, high in ((0, 256), (0, 1), (255, 256)):
        codes = drawn.integers(low, high, 2 * width, np.uint8)
        for x in drawn.integers(-127, 128, 128), np.full(128, 127), np.full(128, -127):
            q = x.astype(np.int8).view(np.uint8)
            whole = codes.astype(int)
            want = (whole - 128) @ x[: 2 * width]
            assert products.signed(codes, q) == want
            assert products.plain_signed(codes, q) == want
            whole = whole[:width]
            want = whole % 16 @ x[:width] + whole // 16 @ x[64 : 64 + width]
            assert products.nibbles(codes[:width], q) == want
            assert products.plain_nibbles(codes[:width], q) == want


@pytest.mark.slow
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("form", WHOLE)
def test_a_compiled_product_is_the_reference(form, shape):
    weight, x = packed_weight(form, "weight", *shape), torch.randn(shape[1])
    x[:128] *= 1000  # a group of another scale than the others
    y = torch.from_numpy(packed.product(rounded.matrix(weight), x.numpy()))
    assert error(y, linear(x, weight)) < 1e-6
    exact = codecs.rounded(x).double() @ weight.widened().double().T
    assert error(y, exact) < 1e-6
    x[1] = torch.nan
    y = packed.product(rounded.matrix(weight), x.numpy())
    assert np.isnan(y).all()


@pytest.mark.slow
@torch.inference_mode()
def test_a_rounded_model_reads_and_writes_as_its_reference(tmp_path):
    """But where fp32 sums differ, a number now and then is rounded the other way."""
    wide = {"hidden_size": 256, "moe_intermediate_size": 128}  # whole groups
    minqwen.save(small_model(**wide), tmp_path / "plain")
    plain, model = (
        minqwen.load(tmp_path / "plain", quantize="int4:int8", activations=choice)
        for choice in (None, "int8")
    )
    ids = torch.randint(0, 300, (1, 300))
    ours, reference, other = (m.new_cache(1, 320) for m in (model, model, plain))
    mine, read = PromptReader(model), lambda m, x, c: m(x, cache=c, last_only=True)
    decode = Decoder(model)
    for x in ids, *torch.randint(0, 300, (8, 1, 1)):
        y = read(model, x, reference)
        near = error((decode if x.shape[1] == 1 else mine)(x, ours), y)
        assert near < error(read(plain, x, other), y) / 4
