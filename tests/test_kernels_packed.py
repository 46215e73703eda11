"""Packed matrices, multiplied as they lie, beside what they stand for in float64."""

import gguf_files
import numpy as np
import pytest
import torch

import minqwen
from minqwen import kernels
from minqwen.kernels.cpu import packed, tiles
from minqwen.kernels.cpu.decode import Decoder
from minqwen.kernels.cpu.ggml import half, matrix
from minqwen.kernels.cpu.read import PromptReader
from minqwen.model import forms
from minqwen.weights.convert import convert
from minqwen.weights.quantised import ggml
from minqwen.weights.quantised.codecs import FORMS
from minqwen.weights.quantised.modules import Packed
from tests.test_kernels_cpu import error, same_memory
from tests.tiny_models import small_model

pytestmark = pytest.mark.slow

# Rows of whole groups of 128, of a part of one, odd ones; more rows than a block has.
SHAPES = [(5, 256), (7, 200), (3, 131), (300, 384), (9, 768)]
CASES = [
    (form, shape) for form in kernels.PACKED for shape in SHAPES
    if form not in ggml.BLOCKS or shape[1] % ggml.BLOCKS[form][0] == 0
]  # fmt: skip


def stored(form, kind, w):
    """w [R, C], or [E, R, C], in a form, as a model holds it."""
    weight = Packed(form, kind, w.shape, w.dtype)
    if form in ggml.BLOCKS:
        raw = gguf_files.encode(w.numpy(), gguf_files.Kind[form])
        weight.get_buffer("part").copy_(torch.from_numpy(raw))
        return weight
    wide = w.unflatten(1, (2, -1)) if kind == "gate_up_proj" else w
    for suffix, part in FORMS[form].pack(wide).items():
        weight.get_buffer("part" + suffix).copy_(
            part.flatten(1, 2) if kind == "gate_up_proj" else part
        )
    return weight


@pytest.mark.parametrize("form, shape", CASES)
def test_a_product_is_that_of_what_is_stored(form, shape):
    weight, x = stored(form, "weight", torch.randn(shape)), torch.randn(shape[1])
    wide = weight.widened().double()
    y = torch.from_numpy(packed.product(matrix(weight), x.numpy()))
    assert error(y, wide @ x.double()) < 1e-6


@pytest.mark.parametrize("shape", SHAPES)
def test_bfloat16_is_multiplied_two_columns_at_a_time(shape):
    """Where rows have whole pairs and lie one after the other; else one at a time."""
    w, x = torch.randn(shape).bfloat16(), torch.randn(shape[1])
    rows = packed.rows(packed.bits(w))
    assert (rows.dtype == np.uint32) == (shape[1] % 2 == 0)
    assert packed.rows(packed.bits(w)[:, 2:]).dtype == np.uint16
    y = torch.from_numpy(packed.product(rows, x.numpy()))
    assert error(y, w.double() @ x.double()) < 1e-6


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("form, shape", CASES)
def test_a_widened_tile_is_the_same_to_the_last_bit(form, shape, dtype):
    weight = stored(form, "weight", torch.randn(shape))
    weight.to(dtype)
    tile = torch.empty(shape[0] - 2, shape[1], dtype=dtype)
    tiles.widen(matrix(weight), 2, packed.bits(tile))
    assert torch.equal(tile, weight.widened()[2:])


def test_small_floats_are_widened_to_the_last_bit():
    """All E4M3 and all float16, infinities and NaN aside."""
    codes = torch.arange(256, dtype=torch.uint8)
    wide = codes.view(torch.float8_e4m3fn).float().numpy()
    ours = np.array([packed.e4m3(code) for code in codes.numpy()])
    some = ~np.isnan(wide)
    assert some.sum() == 254 and np.array_equal(ours[some], wide[some])
    halves = np.arange(1 << 16, dtype=np.uint16)
    wide, raw = halves.view(np.float16).astype(np.float32), halves.view(np.uint8)
    ours = np.array([half(raw, 2 * i) for i in range(len(halves))])
    some = np.isfinite(wide)
    assert some.sum() == 63488 and np.array_equal(ours[some], wide[some])


@pytest.mark.parametrize("form", kernels.PACKED)
def test_an_experts_halves_have_blocks_of_their_own(form):
    """With 130 rows a half, whose second block of 128 rows has two."""
    width = 256 if form in ggml.BLOCKS else 150
    weight = stored(form, "gate_up_proj", torch.randn(2, 260, width))
    x = torch.randn(3, width)
    out = torch.empty(3, 260)
    tiles.into(x, weight, out, expert=1)
    exact = x.double() @ weight.widened()[1].double().T
    assert error(out, exact) < 1e-6


@pytest.mark.parametrize("form", ggml.BLOCKS)
def test_columns_in_another_order(form):
    """As those of a delta layer's out_proj, whose heads llama.cpp stores tiled."""
    weight, x = stored(form, "weight", torch.randn(6, 512)), torch.randn(4, 512)
    plain, order = weight.widened().double(), torch.randperm(512)
    weight.columns, out = order, torch.empty(4, 6)
    exact = x.double()[:, order] @ plain.T
    assert error(x.double() @ weight.widened().double().T, exact) < 1e-12
    assert error(forms.linear(x, weight), exact) < 1e-6
    tiles.into(x, weight, out)
    assert error(out, exact) < 1e-6
    y = torch.from_numpy(packed.product(matrix(weight), x[0].numpy()))
    assert error(y, exact[0]) < 1e-6


@pytest.fixture(params=["int4:int8", "fp8", "GGUF"])
def model(request, tmp_path):
    if request.param == "GGUF":  # all kinds in turn, and two value heads a key head
        plain = small_model(vision=False, **gguf_files.WHOLE)
        kinds = [gguf_files.Kind[form] for form in ggml.BLOCKS]
        gguf_files.write(plain, tmp_path / "x.gguf", kinds)
        return minqwen.load(tmp_path / "x.gguf")
    minqwen.save(small_model(), tmp_path / "plain")
    if request.param == "fp8":
        convert(tmp_path / "plain", tmp_path / "fp8", quantize="fp8")
        return minqwen.load(tmp_path / "fp8", dtype=torch.float32)
    return minqwen.load(tmp_path / "plain", quantize=request.param)


@torch.inference_mode()
def test_a_packed_model_reads_and_writes_as_its_reference(model):
    # Random K blocks are larger weights, of which float32 loses more: on them the
    # reference itself was 2e-5 from float64, as the compiled form was.
    near = 1e-4 if getattr(model.lm_head.weight, "form", "") in ggml.BLOCKS else 2e-5
    ids = torch.randint(0, 300, (1, 300))
    ours, reference = model.new_cache(1, 320), model.new_cache(1, 320)
    mine = PromptReader(model)(ids, ours)
    assert error(mine, model(ids, cache=reference, last_only=True)) < near
    decode = Decoder(model)
    for token in torch.randint(0, 300, (5, 1, 1)):
        assert error(decode(token, ours), model(token, cache=reference)) < near
    assert same_memory(ours, reference) < near


@pytest.mark.parametrize("expert", [None, 1])
@pytest.mark.parametrize("form", [None, "int8"])
def test_bfloat16_without_hardware_is_computed_in_float32(form, expert, monkeypatch):
    """Tile by tile, plain and packed weights, rounded once, at the end."""
    monkeypatch.setattr(tiles, "BFLOAT16", False)
    monkeypatch.setattr(tiles, "TILE", 4 * 160 * 7)  # seven rows
    w, x = torch.randn(2, 60, 160).bfloat16(), torch.randn(5, 160).bfloat16()
    w = w if expert else w[0]
    weight = stored(form, "weight", w.float()) if form else w
    exact = x.double() @ (weight.widened() if form else w)[expert or ...].double().mT
    out = torch.empty(5, 60, dtype=torch.bfloat16)
    tiles.into(x, weight.to(torch.bfloat16), out, expert)
    # No farther than half a step of bfloat16, and the rounding of float32 sums.
    assert ((out - exact).abs() <= exact.abs() * 2**-8 + 1e-5).all()


@torch.no_grad()
def test_what_is_packed_or_on_disk_is_decoded_and_read_so(tmp_path):
    minqwen.save(small_model(), tmp_path / "plain")
    for options in {"quantize": "int8"}, {"experts": "disk"}:
        model = minqwen.load(tmp_path / "plain", **options)
        with forms.using("numba"):
            cache = model.new_cache(1, 9)
            assert isinstance(forms.whole("step", model, cache, 1), Decoder)
            assert isinstance(forms.whole("read", model, cache, 1), PromptReader)
