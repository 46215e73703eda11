"""Activations rounded to 8 bits, beside whole numbers and float64."""

import gguf_files
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numba import njit

import minqwen
from minqwen.errors import InputError
from minqwen.kernels.cpu import packed, rounded, vectors
from minqwen.kernels.cpu.decode import Decoder
from minqwen.kernels.cpu.read import PromptReader
from minqwen.kernels.cpu.vectors import load, products, total
from minqwen.model.forms import linear
from minqwen.model.moe import experts
from minqwen.plan.contents import describe
from minqwen.weights.convert import convert
from minqwen.weights.load import _check_activations
from minqwen.weights.quantised import codecs, ggml
from minqwen.weights.quantised.modules import WHOLE
from minqwen.weights.quantised.settings import OWN
from tests.test_kernels_cpu import error
from tests.test_kernels_packed import CASES, stored
from tests.tiny_models import small_model


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


def undecided(h):
    """A step where h [W] lies within a thousandth of one from the middle, else 0."""
    some = codecs.by_group(h)
    steps = some.abs().amax(-1, keepdim=True) / 127
    near = (some / steps % 1 - 0.5).abs() < 1e-3
    return (near * steps).flatten()[: len(h)]


@pytest.mark.parametrize("form", WHOLE)
def test_experts_round_what_enters_either_product(form):
    D, width = (140, 150) if form in OWN else (256, 512)
    up = packed_weight(form, "gate_up_proj", 5, 2 * width, D)
    down = packed_weight(form, "down_proj", 5, D, width)
    x, ids = torch.randn(7, D), torch.randint(0, 5, (7, 2))
    weights = torch.rand(7, 2)
    want = torch.zeros(7, D, dtype=torch.float64)
    either = torch.zeros_like(want)  # what a sum in another order may change
    for n in range(7):
        for e, share in zip(ids[n], weights[n], strict=True):
            both = codecs.rounded(x[n]).double() @ up.widened()[e].double().T
            h = F.silu(both[:width]) * both[width:]
            wide = down.widened()[e].double()
            want[n] += share * (codecs.rounded(h.float()).double() @ wide.T)
            either[n] += share * (undecided(h) @ wide.abs().T)
    off = (experts(x, weights, ids, up, down) - want).abs()
    assert (off <= 1e-5 * want.abs().max() + either).all()


def test_what_cannot_be_rounded(tmp_path):
    minqwen.save(small_model(), tmp_path / "plain")
    with pytest.raises(InputError, match="activations='int4' is not supported; give"):
        minqwen.load(tmp_path / "plain", activations="int4")
    for quantize in None, "int4:stored":
        options = {"experts": "disk", "quantize": quantize, "activations": "int8"}
        with pytest.raises(InputError, match="plain has none; leave it out"):
            minqwen.load(tmp_path / "plain", **options)
    gguf_files.write(small_model(vision=False), tmp_path / "x.gguf")
    with pytest.raises(InputError, match="x.gguf has none; leave it out"):
        minqwen.load(tmp_path / "x.gguf", activations="int8")
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


def largest_sums(codes, x):
    out = np.empty(8, np.int32)
    for i in range(8):  # pairs of factors of either sign, and 0
        out[i] = total(products(load(codes, 0), load(x, 0), i - 4, 3 - i))
    return out


@pytest.mark.slow
@pytest.mark.parametrize("named", [True, False])
def test_sums_of_products_of_bytes(monkeypatch, named):
    """Also of the largest numbers, which must not wrap in 16 bits, and without AVX2."""
    monkeypatch.setattr(vectors, "AVX2", named and vectors.AVX2)
    compiled, drawn = njit(largest_sums), np.random.default_rng(0)
    for codes in drawn.integers(0, 128, 32), np.full(32, 128), np.full(32, 127):
        for x in drawn.integers(-127, 128, 32), np.full(32, 127), np.full(32, -127):
            halves = (codes * x).reshape(2, 16).sum(1)
            want = [halves @ (i - 4, 3 - i) for i in range(8)]
            got = compiled(codes.astype(np.uint8), x.astype(np.int8).view(np.uint8))
            assert got.tolist() == want


@pytest.mark.slow
@pytest.mark.parametrize("form, shape", [case for case in CASES if case[0] in WHOLE])
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
@pytest.mark.parametrize("form", ["int4:int8", "GGUF"])
@torch.inference_mode()
def test_a_rounded_model_reads_and_writes_as_its_reference(tmp_path, form):
    """Most texts of three tokens do: now and then one of some 10,000 numbers lies so
    near the middle of a step that fp32 sums in another order round it the other way."""
    wide = {"hidden_size": 256, "moe_intermediate_size": 128}  # whole groups
    path, options = tmp_path / "plain", {"quantize": form}
    if form == "GGUF":
        path, options = tmp_path / "x.gguf", {}
        kinds = [gguf_files.Kind[kind] for kind in ggml.BLOCKS]
        gguf_files.write(small_model(vision=False, **gguf_files.WHOLE), path, kinds)
    else:
        minqwen.save(small_model(**wide), path)
    plain, model = (
        minqwen.load(path, activations=choice, **options) for choice in (None, "int8")
    )
    equal, ids = 0, torch.randint(0, 300, (12, 1, 3))
    for text in ids:
        ours, reference, other = (m.new_cache(1, 3) for m in (model, model, plain))
        near = [error(PromptReader(model)(text[:, :2], ours),
                      model(text[:, :2], cache=reference, last_only=True))]  # fmt: skip
        want = model(text[:, 2:], cache=reference)
        near += [error(Decoder(model)(text[:, 2:], ours), want)]
        equal += max(near) < 1e-5
        plain(text[:, :2], cache=other)
        assert error(plain(text[:, 2:], cache=other), want) > 1e-3
    assert equal > len(ids) / 2
