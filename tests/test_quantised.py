"""Our own int8 and int4: what is stored, what it loses, and what damage is told."""

import shutil

import pytest
import torch
from loading import measured
from safetensors.torch import load_file, save_file
from test_bad_weights import edit, edit_json, refused
from test_paged import logits
from tiny_models import small_model

import minqwen
from minqwen.errors import InputError
from minqwen.kernels import whole_on_cpu
from minqwen.weights.convert import convert
from minqwen.weights.quantised.codecs import FORMS, KEPT, rows_of, take
from minqwen.weights.quantised.modules import Packed

LAYER = "model.language_model.layers."
Q_PROJ = LAYER + "3.self_attn.q_proj.weight"
GATE_UP = LAYER + "1.mlp.experts.gate_up_proj"
SHAPES = [(192, 192), (300, 16), (5, 2, 17, 130), (128, 256), (1, 1), (7, 129)]
MADE = [form for form in FORMS if hasattr(FORMS[form], "pack")]  # not llama.cpp's


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bf16")
    minqwen.save(small_model(mtp_num_hidden_layers=1).to(torch.bfloat16), folder)
    return folder


@pytest.fixture(scope="module")
def converted(source, tmp_path_factory):
    folder = tmp_path_factory.mktemp("mixed")
    convert(source, folder / "out", "int4:int8")
    return folder / "out"


@pytest.fixture
def one(converted, tmp_path):
    """A good checkpoint of int4 experts and int8 for the rest, to be spoilt."""
    return shutil.copytree(converted, tmp_path / "one")


# ---- the forms by themselves


def by_hand(row, width, bits):
    """A row's numbers out of its bytes, one by one, as forms.py says they lie."""
    row, count = row.tolist(), -(-width // 128)
    numbers = []
    for column in range(width):
        low, high = row[2 * (column // 128) : 2 * (column // 128) + 2]
        half = torch.tensor([high * 256 + low], dtype=torch.uint16)
        scale = half.view(torch.bfloat16).item()
        if bits == 8:
            code = row[2 * count + column]
        else:
            code = row[2 * count + column // 2] >> 4 * (column % 2) & 15
        numbers.append((code - 2 ** (bits - 1)) * scale)
    return torch.tensor(numbers)


@pytest.mark.parametrize("form, bits", [("int8", 8), ("int4", 4)])
@pytest.mark.parametrize("width", [1, 16, 129, 256])
def test_a_row_by_hand(form, bits, width):
    w = torch.randn(3, width, generator=torch.Generator().manual_seed(width))
    rows = FORMS[form].pack(w)[""]
    wide = FORMS[form].widen({"": rows}, width)
    for row, numbers in zip(rows, wide, strict=True):
        assert torch.equal(by_hand(row, width, bits), numbers)


@pytest.mark.parametrize("form", MADE)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_every_shape(form, shape):
    """Sizes as announced, a bounded error, itself when packed again, row by row."""
    w = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    w[..., -1, :] = 0
    packed = FORMS[form].pack(w)
    stored = FORMS[form].stored(shape)
    assert {s: (tuple(t.shape), t.dtype) for s, t in packed.items()} == stored
    assert FORMS[form].fault(packed, shape[-1]) is None
    wide = FORMS[form].widen(packed, shape[-1])
    largest = w.abs().max()
    # of the largest: half a step, and the step's own rounding; E4M3 has 3 bits
    bound = {"int8": 1 / 128, "int4": 1 / 8, "fp8": 1 / 15, "fp8 f32": 1 / 15}[form]
    assert (wide - w).abs().max() <= bound * largest
    assert not wide[..., -1, :].any()
    again = FORMS[form].pack(wide)
    assert all(torch.equal(bytes_of(t), bytes_of(again[s])) for s, t in packed.items())
    if len(shape) == 2:
        for low in range(0, shape[0], 128):
            high = min(low + 128, shape[0])
            piece = take(packed, low, high, shape[0])
            assert torch.equal(FORMS[form].widen(piece, shape[1]), wide[low:high])


def bytes_of(tensor):
    return tensor.contiguous().view(torch.uint8)


@pytest.mark.parametrize("form", MADE)
@pytest.mark.parametrize("size", [0.0, 1e-45, 1e-39, 1e-30, 1e30])
def test_any_size_of_weights(form, size):
    w = torch.full((2, 130), size)
    packed = FORMS[form].pack(w)
    assert FORMS[form].fault(packed, 130) is None
    wide = FORMS[form].widen(packed, 130)
    assert (wide - w).abs().max() <= max(size * 0.01, 1e-36)


def test_rows_of_two_matrices():
    """gate and up of 136 rows: blocks of 128 and 8, twice, and none across."""
    assert [rows_of((4, 1), *rows, 272) for rows in
            ((0, 128), (128, 136), (136, 264), (264, 272), (136, 272))] == [
        (0, 1), (1, 2), (2, 3), (3, 4), (2, 4)]  # fmt: skip


@pytest.mark.parametrize("shift", [0.0, 3.0])
def test_a_symmetric_range_would_lose_more(shift):
    """The lowest of 16 codes for the largest: beside 15, which round-to-nearest has."""
    w = torch.randn(512, 512, generator=torch.Generator().manual_seed(2)) + shift
    ours = FORMS["int4"].widen(FORMS["int4"].pack(w), 512)
    groups = w.unflatten(1, (4, 128))
    step = (groups.abs().amax(-1, True) / 7).bfloat16().float()
    theirs = ((groups / step).round().clamp(-7, 7) * step).flatten(1)
    assert (ours - w).square().mean() < 0.95 * (theirs - w).square().mean()


# ---- models


@pytest.mark.parametrize("choice", ["int8", "int4", "int4:int8", "int8:stored"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_same_as_widened_first(source, choice, dtype):
    model = minqwen.load(source, quantize=choice, dtype=dtype)
    wide = minqwen.load(source, dtype=dtype)
    parameters = dict(wide.named_parameters())
    for name, weight in model.named_modules():
        if isinstance(weight, Packed):
            parameters[name].data = weight.widened()
            assert weight.widened().dtype == dtype
    assert torch.equal(logits(model), logits(wide))


def test_what_is_quantised(source):
    """Experts and the large matrices; nothing of plan's list of what is kept."""
    model = minqwen.load(source, quantize="int4:int8")
    packed = {n: m for n, m in model.named_modules() if isinstance(m, Packed)}
    for name, weight in packed.items():
        assert weight.form == ("int4" if ".experts." in name else "int8")
        assert not any(word in name for word in KEPT)
    left = {n for n, p in model.named_parameters() if p.dim() > 1}
    assert all(any(word in name for word in KEPT) for name in left)
    experts = minqwen.load(source, quantize="int4:stored")
    found = {m.kind for m in experts.modules() if isinstance(m, Packed)}
    assert found == {"gate_up_proj", "down_proj"}


@pytest.mark.slow
def test_generates_with_any_kernels(source):
    model = minqwen.load(source, quantize="int4", kernels="numba")
    with torch.no_grad():
        assert whole_on_cpu(model, model.new_cache(1, 9), 9)
    inputs = dict(input_ids=torch.arange(5, 20)[None])
    fast = [step.token for step in minqwen.generate(model, inputs, 8)]
    model.kernels = "torch"
    assert fast == [step.token for step in minqwen.generate(model, inputs, 8)]


def test_a_packed_model_cannot_be_saved(source, tmp_path):
    with pytest.raises(InputError, match="int4.*minqwen convert"):
        minqwen.save(minqwen.load(source, quantize="int4"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("choice", ["int3", "fp8", "int4:bf16", "stored", ":int4"])
def test_choices_that_do_not_exist(source, choice):
    with pytest.raises(InputError, match="quantize="):
        minqwen.load(source, quantize=choice)


def test_nothing_to_quantise(tmp_path):
    minqwen.save(small_model(moe=False), tmp_path)
    with pytest.raises(InputError, match="no experts"):
        minqwen.load(tmp_path, quantize="int4:stored")


MEASURE = """
minqwen.load(sys.argv[2], quantize="int4")  # what is loaded on first use
before = peak()
model = minqwen.load(sys.argv[1], quantize="int4")
held = [*model.parameters(), *model.buffers()]
print(peak() - before, sum(t.nbytes for t in held if not t.is_meta))
"""


@pytest.mark.slow
def test_peak_memory_is_the_quantised_model(source, tmp_path):
    """512 MB of bf16 experts are read; never more than their int4, and a piece."""
    changes = dict(hidden_size=1024, moe_intermediate_size=640, vision=False)
    model = small_model(**changes).to(torch.bfloat16)
    minqwen.save(model, tmp_path)
    grown, held = measured(MEASURE, tmp_path, source)
    stored = (tmp_path / "model.safetensors").stat().st_size
    print(f"{stored / 1e6:.0f} MB of bf16 became {held / 1e6:.0f} MB in a peak of "
          f"{grown / 1e6:.0f}")  # fmt: skip
    assert held < 0.3 * stored and grown < held + 250e6


# ---- corruptions


def fill(name, value, columns):
    """Write a BF16 scale into the first bytes of every row."""

    def change(tensors):
        head = tensors[name][..., :columns]
        head.copy_(torch.tensor([value], dtype=torch.bfloat16).view(torch.uint8))

    return change


SPOILT = [
    ("NaN scale", fill(Q_PROJ, torch.nan, 2), [Q_PROJ, "NaN, infinite or zero"]),
    ("infinite scale", fill(GATE_UP, torch.inf, 2), [GATE_UP, "infinite"]),
    ("zero scale", fill(GATE_UP, 0.0, 2), [GATE_UP, "zero"]),
    ("a row too short", lambda t: t.update({Q_PROJ: t[Q_PROJ][:, :-2].clone()}),
     [Q_PROJ, "[256, 64]", "[256, 66]"]),
    ("a row too few", lambda t: t.update({GATE_UP: t[GATE_UP][:, 1:].clone()}),
     [GATE_UP, "[33, 47, 34]", "[33, 48, 34]"]),
    ("signed codes", lambda t: t.update({Q_PROJ: t[Q_PROJ].view(torch.int8)}),
     [Q_PROJ, "I8", "U8"]),
    ("int8 for int4", lambda t: t.update(
        {GATE_UP: torch.zeros(33, 48, 66, dtype=torch.uint8)}),
     [GATE_UP, "[33, 48, 66]", "[33, 48, 34]"]),
    ("plain for packed", lambda t: t.update(
        {Q_PROJ: torch.zeros(256, 64, dtype=torch.bfloat16)}), [Q_PROJ, "BF16", "U8"]),
    ("packed for plain", lambda t: t.update(
        {"lm_head.weight": torch.zeros(320, 66, dtype=torch.uint8)}),
     ["lm_head.weight", "U8", "expected BF16"]),
    ("missing", lambda t: t.pop(GATE_UP), ["missing " + GATE_UP]),
    ("a scale of another form", lambda t: t.update(
        {Q_PROJ + "_scale_inv": torch.ones(2, 1)}),
     ["unexpected", Q_PROJ + "_scale_inv"]),
]  # fmt: skip


@pytest.mark.parametrize("change, words", [row[1:] for row in SPOILT],
                         ids=[row[0] for row in SPOILT])  # fmt: skip
def test_corruptions(one, change, words):
    edit(one, change)
    refused(one, *words)


@pytest.mark.parametrize("key, value, word", [
    ("experts", "int8", GATE_UP),
    ("rest", "int4", "in_proj_z"),
    ("rest", "bf16", "expected BF16"),
    ("experts", "int2", "'int2'"),
    ("experts", None, "None"),
    ("group_size", 64, "64"),
    ("group_size", None, "None"),
    ("quant_method", "fp8", "U8"),
])  # fmt: skip
def test_config_that_contradicts(one, key, value, word):
    edit_json(one / "config.json", lambda c: c["quantization_config"].update(
        {key: value}))  # fmt: skip
    refused(one, word.strip("'"))


def test_config_without_its_word(one):
    edit_json(one / "config.json", lambda c: c.pop("quantization_config"))
    refused(one, "U8", "no quantization_config")


@pytest.mark.parametrize("value", [torch.nan, torch.inf, 0.0])
def test_bad_scales_on_disk(one, value):
    """Told when such an expert is read; a zero would silence it without a sign."""
    file = one / "model.safetensors"
    tensors = load_file(file)
    name = LAYER + "2.mlp.experts.down_proj"
    fill(name, value, 2)(tensors)
    save_file(tensors, file)
    model = minqwen.load(one, experts="disk", expert_cache=10**5)
    with pytest.raises(InputError, match=r"layers\.2\.mlp.*expert \d+ "):
        logits(model)
