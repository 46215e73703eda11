"""The released FP8 layout: read as it is stored, computed as if widened first."""

import json
import re
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from test_bad_weights import edit, edit_json, refused
from test_paged import logits, pages_of
from test_weights import split_experts
from tiny_models import small_model

import minqwen
from minqwen.errors import InputError
from minqwen.weights.quantised.codecs import FORMS
from minqwen.weights.quantised.modules import Packed

pytestmark = pytest.mark.slow

CONVERTED = re.compile(
    r".*\.(q_proj|k_proj|v_proj|o_proj|in_proj_qkv|in_proj_z|out_proj|gate_proj|"
    r"up_proj|down_proj)\.weight"
)
LAYER = "model.language_model.layers."
Q_PROJ = LAYER + "3.self_attn.q_proj.weight"
EXPERT = LAYER + "1.mlp.experts.7.up_proj.weight"
CONFIG = {
    "quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic",
    "weight_block_size": [128, 128], "modules_to_not_convert": ["lm_head"],
}  # fmt: skip


def blocks(rows, columns):
    for i in range(0, rows, 128):
        for j in range(0, columns, 128):
            yield (i // 128, j // 128), (slice(i, i + 128), slice(j, j + 128))


def to_fp8(folder, scale_dtype=torch.bfloat16):
    """Rewrite a saved bf16 checkpoint block by block; the same, widened, comes back."""
    tensors = split_experts(load_file(folder / "model.safetensors"))
    wide = {}
    for name in [n for n in tensors if CONVERTED.fullmatch(n) and "visual" not in n]:
        w = tensors[name].float()
        scales = torch.empty(*(-(-n // 128) for n in w.shape), dtype=scale_dtype)
        codes = torch.empty(w.shape, dtype=torch.float8_e4m3fn)
        wide[name] = torch.empty_like(w)
        for at, block in blocks(*w.shape):
            scales[at] = w[block].abs().max() / 448
            ratio = w[block] / scales[at].float()
            codes[block] = ratio.clamp(-448, 448).to(codes.dtype)
            wide[name][block] = codes[block].float() * scales[at].float()
        tensors |= {name: codes, name + "_scale_inv": scales}
    save_file(tensors, folder / "model.safetensors")
    edit_json(
        folder / "config.json", lambda c: c.update(quantization_config=dict(CONFIG))
    )
    return {n: t for n, t in tensors.items() if "_scale_inv" not in n} | wide


def make(folder, scale_dtype=torch.bfloat16, **changes):
    """An FP8 checkpoint in `folder`, and in folder / "wide" the same numbers in F32."""
    model = small_model(mtp_num_hidden_layers=1, **changes).to(torch.bfloat16)
    minqwen.save(model, folder)
    wide = to_fp8(folder, scale_dtype)
    wide = {n: t.float() for n, t in wide.items()}
    (folder / "wide").mkdir()
    save_file(wide, folder / "wide" / "model.safetensors")
    config = model.cfg.to_dict()
    (folder / "wide" / "config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make(tmp_path_factory.mktemp("fp8"))


@pytest.fixture
def one(folder, tmp_path):
    """A good checkpoint, to be spoilt."""
    return shutil.copytree(folder, tmp_path / "one")


# ---- reading


@pytest.mark.parametrize("changes", [
    dict(),
    dict(moe=False),
    dict(vision=False),
    # more than one block in rows and columns, ragged ones too
    dict(hidden_size=320, moe_intermediate_size=136, num_experts=6, vision=False),
], ids=["moe", "dense", "text", "blocks"])  # fmt: skip
def test_same_logits_as_widened_first(tmp_path, changes):
    make(tmp_path, **changes)
    model = minqwen.load(tmp_path)
    assert any(isinstance(m, Packed) for m in model.modules())
    assert torch.equal(logits(model), logits(minqwen.load(tmp_path / "wide")))


def test_float32_scales(tmp_path):
    """As transformers writes them."""
    make(tmp_path, torch.float32)
    model = minqwen.load(tmp_path)
    assert torch.equal(logits(model), logits(minqwen.load(tmp_path / "wide")))


def test_what_stays_in_memory(folder):
    """Codes and scales: nothing is widened for good, and counts are the model's."""
    model, wide = minqwen.load(folder), minqwen.load(folder / "wide")
    assert model.num_parameters() == wide.num_parameters()
    packed = [m for m in model.modules() if isinstance(m, Packed)]
    held = sum(b.nbytes for m in packed for b in m.buffers())
    stored = load_file(folder / "model.safetensors")
    assert held == sum(
        t.nbytes for n, t in stored.items()
        if "scale_inv" in n or t.dtype == torch.float8_e4m3fn)  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("slots", [1, 12, 1000])
def test_experts_on_disk(folder, dtype, slots):
    one = 3 * (24 * 64 + 2)  # codes of an expert, and three scales of 2 bytes
    model = minqwen.load(folder, dtype=dtype, experts="disk", expert_cache=slots * one)
    assert pages_of(model).capacity == min(slots, 5 * 33)
    assert pages_of(model).cache_bytes <= slots * one
    assert torch.equal(logits(model), logits(minqwen.load(folder, dtype=dtype)))
    misses = pages_of(model).stats.misses
    assert pages_of(model).stats.bytes_read == misses * one


def test_a_bounded_buffer_changes_nothing(folder, monkeypatch):
    """Widened 128 rows, or one expert, at a time."""
    want = logits(minqwen.load(folder))
    monkeypatch.setattr("minqwen.weights.quantised.modules.BUFFER", 1)
    got = logits(minqwen.load(folder))
    assert (got - want).abs().max() <= 1e-5 * want.abs().max()


def test_casts_and_moves(folder):
    model = minqwen.load(folder)
    codes = {n: b.clone() for n, b in model.named_buffers() if "_packed" in n}
    model.to(torch.bfloat16)
    for name, buffer in model.named_buffers():
        if name in codes:
            same = codes[name].view(torch.uint8), buffer.view(torch.uint8)
            assert torch.equal(*same) and codes[name].dtype == buffer.dtype
    again = minqwen.load(folder, dtype=torch.bfloat16)
    assert torch.equal(logits(model), logits(again))


@pytest.mark.parametrize("choice", ["int8", "int4:int8"])
def test_into_another_form_while_reading(folder, choice):
    """The same as from the widened numbers."""
    model = minqwen.load(folder, quantize=choice)
    wide = minqwen.load(folder / "wide", quantize=choice)
    assert torch.equal(logits(model), logits(wide))


def test_all_codes_come_back():
    """Each of the 254 numbers E4M3 has, exactly, times a scale that is a number."""
    codes = torch.arange(256).to(torch.uint8).view(torch.float8_e4m3fn)[None]
    codes = codes[codes.float().isfinite()][None]
    scales = torch.tensor([[0.375, 2.0]], dtype=torch.bfloat16)
    wide = FORMS["fp8"].widen({"": codes, "_scale_inv": scales}, 254)
    by = torch.where(torch.arange(254) < 128, 0.375, 2.0)
    assert torch.equal(wide, codes.float() * by)


# ---- corruptions


SPOILT = [
    ("no scale", lambda t: t.pop(Q_PROJ + "_scale_inv"), ["missing", "_scale_inv"]),
    ("no weight", lambda t: t.pop(Q_PROJ), ["missing " + Q_PROJ]),
    ("an expert's scale", lambda t: t.pop(EXPERT + "_scale_inv"), ["missing", EXPERT]),
    ("scales too few", lambda t: t.update({Q_PROJ + "_scale_inv": ones(1, 1)}),
     [Q_PROJ + "_scale_inv", "[1, 1]", "[2, 1]"]),
    ("scales of another dtype",
     lambda t: t.update({Q_PROJ + "_scale_inv": ones(2, 1).half()}),
     [Q_PROJ + "_scale_inv", "F16", "BF16"]),
    ("plain beside its scale", lambda t: t.update({Q_PROJ: t[Q_PROJ].bfloat16()}),
     ["unexpected", Q_PROJ + "_scale_inv"]),
    ("one plain expert",
     lambda t: t.update({EXPERT: t[EXPERT].bfloat16()}),
     [EXPERT, "BF16", "F8_E4M3"]),
    ("what stays plain", lambda t: t.update({"lm_head.weight": t["lm_head.weight"].to(
        torch.float8_e4m3fn)}), ["lm_head.weight", "F8_E4M3", "expected BF16"]),
    ("NaN scale", lambda t: t[Q_PROJ + "_scale_inv"].fill_(torch.nan),
     [Q_PROJ + "_scale_inv", "NaN"]),
    ("infinite scale", lambda t: t[EXPERT + "_scale_inv"].fill_(torch.inf),
     [EXPERT + "_scale_inv", "infinite"]),
    ("zero scale", lambda t: t[Q_PROJ + "_scale_inv"].fill_(0),
     [Q_PROJ + "_scale_inv", "zero"]),
    ("negative scale", lambda t: t[Q_PROJ + "_scale_inv"].fill_(-1),
     [Q_PROJ + "_scale_inv", "negative"]),
    ("NaN code", lambda t: t[EXPERT].view(torch.uint8).fill_(255), [EXPERT, "NaN"]),
]  # fmt: skip


def ones(*shape):
    return torch.ones(shape, dtype=torch.bfloat16)


@pytest.mark.parametrize("change, words", [row[1:] for row in SPOILT],
                         ids=[row[0] for row in SPOILT])  # fmt: skip
def test_corruptions(one, change, words):
    edit(one, change)
    refused(one, "model.safetensors" if "missing" not in words[0] else "", *words)


@pytest.mark.parametrize("key, value, word", [
    ("quant_method", "gptq", "gptq"),
    ("quant_method", None, "None"),
    ("fmt", "e5m2", "e5m2"),
    ("weight_block_size", [64, 64], "[64, 64]"),
    ("modules_to_not_convert", "lm_head", "list of names"),
    ("modules_to_not_convert", [Q_PROJ.removesuffix(".weight")], "q_proj is F8_E4M3"),
])  # fmt: skip
def test_config_that_contradicts(one, key, value, word):
    edit_json(one / "config.json", lambda c: c["quantization_config"].update(
        {key: value}))  # fmt: skip
    refused(one, "config.json", word)


def test_config_without_or_with_too_much(one):
    edit_json(one / "config.json", lambda c: c.pop("quantization_config"))
    refused(one, "F8_E4M3", "quantization_config")
    wide = one / "wide"
    edit_json(wide / "config.json", lambda c: c.update(quantization_config=CONFIG))
    refused(wide, "config.json", "fp8", "none is F8_E4M3")
    edit_json(wide / "config.json", lambda c: c.update(quantization_config=7))
    refused(wide, "config.json", "quantization_config is 7")


@pytest.mark.parametrize("suffix", ["", "_scale_inv"])
def test_no_numbers_on_disk(one, suffix):
    """Told when such an expert is chosen."""

    def change(tensors):
        for name, tensor in tensors.items():
            if ".layers.2.mlp.experts." in name and name.endswith("down" + ending):
                tensor.view(torch.uint8).fill_(255)

    ending = "_proj.weight" + suffix
    edit(one, change)
    model = minqwen.load(one, experts="disk", expert_cache=10**5)
    with pytest.raises(InputError, match=r"layers\.2\.mlp.*expert \d+ "):
        logits(model)
