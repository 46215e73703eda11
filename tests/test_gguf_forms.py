"""GGUF files as people have them: Ollama's, of any name, divided, with a tower beside.

The right values are those of the model that was written, or of the package's own
dequantisers.
"""

import os
import warnings
from enum import Enum

import gguf
import gguf_files
import numpy as np
import pytest
import torch
from gguf import quants
from gguf_files import Kind
from loading import refused
from test_gguf import same, text_model, with_value, without
from tiny_models import small_model

import minqwen
from minqwen.errors import InputError
from minqwen.weights.gguf.header import TYPES, read_gguf

IDS = torch.arange(40)[None]
PADS = {301: "<|image_pad|>", 302: "<|video_pad|>", 303: "<|vision_start|>",
        304: "<|vision_end|>"}  # fmt: skip


FEW = dict(num_experts=4, num_experts_per_tok=2)  # which are soon written


def named(writer):
    """Tokens that say which ids stand for pictures."""
    writer.add_token_list([PADS.get(i, f"t{i}") for i in range(320)])


def both(*changes):
    return lambda writer: [change(writer) for change in changes]


def picture(seed=0):
    """Inputs with one picture of 4 x 6 patches."""
    g = torch.Generator().manual_seed(seed)
    ids = torch.cat([torch.arange(8), torch.tensor([303] + [301] * 6 + [304, 9, 10])])
    pixels = torch.randn(24, 1536, generator=g)
    return dict(input_ids=ids[None], pixel_values=pixels,
                image_grid_thw=torch.tensor([[1, 4, 6]]))  # fmt: skip


def warned(path):
    """The model of a file, and what is said of what was left."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        model = minqwen.load(path)
    return model, " ".join(str(each.message) for each in said)


def equal(model, other, **inputs):
    inputs = inputs or dict(input_ids=IDS)
    with torch.no_grad():
        ours, theirs = model(**inputs), other(**inputs)
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)


# ---- Ollama's layout ----


@pytest.mark.parametrize("moe", [True, False])
def test_ollama_layout_of_text(tmp_path, moe):
    model = text_model(moe=moe, **FEW if moe else {})
    change = gguf_files.as_ollama(model, tower=False)
    gguf_files.write(model, tmp_path / "x.gguf", change=change)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        same(model, minqwen.load(tmp_path / "x.gguf"))


@pytest.mark.parametrize("moe", [True, False])
def test_ollama_keeps_the_tower_in_the_file(tmp_path, moe):
    model = small_model(moe=moe, **FEW if moe else {})
    with torch.no_grad():  # its matrices are stored in 16 bits
        for p in model.model.visual.parameters():
            p.copy_(p.half() if p.dim() > 1 else p)
    change = both(named, gguf_files.as_ollama(model))
    gguf_files.write(model, tmp_path / "sha256-0a", change=change)
    back = minqwen.load(tmp_path / "sha256-0a")
    assert back.cfg == model.cfg.replace(eos_token_id=())
    same(model, back)
    equal(model, back, **picture())


def rest(name):
    """A tensor of another part, which nothing of ours reads."""
    return lambda writer: writer.add_tensor(name, np.zeros((4, 4), np.float32))


@pytest.mark.parametrize(
    "change, word",
    [
        (rest("v.blk.0.attn_qkv.weight"), "which has no v.position_embd.weight"),
        (rest("mtp.layers.0.attn_q.weight"), "its draft head, mtp.*"),
        (with_value("qwen35.vision.block_count", 2), "tower, which its keys tell of"),
        (with_value("qwen35.nextn_predict_layers", 1), None),
        (rest("blk.0.attn_qkv.input_scale"), "the scales of activations"),
    ],
)
def test_what_is_left_is_said(tmp_path, change, word):
    model = text_model(moe=False)
    if word is None:  # counted among the layers, and not there
        change = both(change, with_value("qwen35.block_count", 5))
        word = "its draft head, which its keys tell of"
    gguf_files.write(model, tmp_path / "x.gguf", change=change)
    back, said = warned(tmp_path / "x.gguf")
    assert word in said and "loaded without" in said
    same(model, back)


def test_a_draft_head_that_no_key_tells_of(tmp_path):
    model = text_model(moe=False, mtp_num_hidden_layers=1)
    change = without("qwen35.nextn_predict_layers")
    gguf_files.write(model, tmp_path / "x.gguf", change=change)
    same(model, minqwen.load(tmp_path / "x.gguf"))


def test_kinds_of_layers_that_only_the_tensors_tell(tmp_path):
    kinds = ["linear_attention", "full_attention"] * 2
    model = text_model(layer_types=kinds, **FEW)
    change = without("qwen35moe.full_attention_interval")
    gguf_files.write(model, tmp_path / "x.gguf", change=change)
    same(model, minqwen.load(tmp_path / "x.gguf"))
    told = with_value("qwen35moe.attention.head_count_kv", [0, 2, 0, 2], "add_array")
    gguf_files.write(model, tmp_path / "x.gguf", change=told)  # and the interval is 4
    same(model, minqwen.load(tmp_path / "x.gguf"))


# ---- keys that ask for another computation ----

GROUPED = with_value("qwen35.ssm.v_head_reordered", False, "add_bool")


@pytest.mark.parametrize("heads", [1, 2, 4])
def test_value_heads_in_their_own_order(tmp_path, monkeypatch, heads):
    monkeypatch.setattr(gguf_files, "tiled", lambda x, axis, cfg, width: x)
    model = text_model(moe=False, linear_num_key_heads=heads)
    gguf_files.write(model, tmp_path / "x.gguf", change=GROUPED)
    back = minqwen.load(tmp_path / "x.gguf")
    same(model, back)
    equal(model, back)


A = "qwen35moe."
OTHER = {
    "norm_top_k_prob": (False, "add_bool"), "expert_weights_norm": (False, "add_bool"),
    "expert_weights_scale": (2.5, "add_float32"), "expert_gating_func": (2,),
    "expert_group_count": (4,), "mrope_interleaved": (False, "add_bool"),
    "rope.mrope_interleaved": (False, "add_bool"),
    "rope.mrope_section": ([4, 0, 0], "add_array"), "rope.scaling.factor": (4.0,
        "add_float32"), "rope.scaling.type": ("linear", "add_string"),
    "rope.freq_base_swa": (1e4, "add_float32"), "rope.scaling.alpha": (8.0,
        "add_float32"), "final_logit_softcapping": (30.0, "add_float32"),
    "attn_logit_softcapping": (50.0, "add_float32"), "logit_scale": (0.5,
        "add_float32"), "attention.sliding_window": (1024,), "attention.scale": (0.5,
        "add_float32"), "attention.clamp_kqv": (8.0, "add_float32"),
    "attention.head_count_kv": ([0, 2, 0, 1], "add_array"), "residual_scale": (2.0,
        "add_float32"), "embedding_scale": (8.0, "add_float32"), "pooling_type": (3,),
    "attention.causal": (False, "add_bool"), "leading_dense_block_count": (1,),
    "ssm.v_head_reordered": (1,), "ssm.dt_b_c_rms": (True, "add_bool"),
    "swiglu_clamp_exp": ([7.0] * 4, "add_array"), "attention.novel": (1,),
    "rope.scaling.yarn_ext_factor": (0.0, "add_float32"),
}  # fmt: skip


@pytest.mark.parametrize("key", OTHER)
def test_another_computation_is_refused_by_name(tmp_path, key):
    change = with_value(A + key, *OTHER[key])
    if key == "rope.scaling.type":  # which turns no angle without its factor
        change = both(change, with_value(A + "rope.scaling.factor", 4.0, "add_float32"))
        key = "rope.scaling.factor"
    gguf_files.write(text_model(**FEW), tmp_path / "x.gguf", change=change)
    refused(tmp_path / "x.gguf", f"x.gguf: {A}{key} is", "expected")


def test_keys_that_change_nothing(tmp_path):
    nothing = {
        "norm_top_k_prob": (True, "add_bool"), "expert_weights_scale": (0.0,
            "add_float32"), "expert_gating_func": (1,), "expert_group_count": (1,),
        "rope.scaling.type": ("linear", "add_string"), "rope.scaling.factor": (1.0,
            "add_float32"), "rope.scaling.finetuned": (False, "add_bool"),
        "rope.scaling.original_context_length": (4096,), "pooling_type": (0,),
        "final_logit_softcapping": (0.0, "add_float32"), "logit_scale": (1.0,
            "add_float32"), "attention.sliding_window": (0,), "attention.scale": (
            32**-0.5, "add_float32"), "expert_shared_count": (1,),
        "attention.layer_norm_epsilon": (1e-5, "add_float32"), "feed_forward_length":
            ([7] * 4, "add_array"), "attention.head_count": ([4] * 4, "add_array"),
        "swiglu_clamp_exp": ([0.0] * 4, "add_array"), "image_token_id": (301,),
    }  # fmt: skip
    model = text_model()
    change = both(*(with_value(A + key, *told) for key, told in nothing.items()))
    gguf_files.write(model, tmp_path / "x.gguf", change=change)
    back = minqwen.load(tmp_path / "x.gguf")
    assert back.cfg == model.cfg.replace(eos_token_id=())
    same(model, back)


# ---- which file ----


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A model, and its bytes."""
    model, path = text_model(moe=False), tmp_path_factory.mktemp("one") / "x.gguf"
    gguf_files.write(model, path)
    return model, path.read_bytes()


@pytest.mark.parametrize(
    "name", ["model.bin", "sha256-00ff", "x.safetensors", "x.GGUF"]
)
def test_by_first_bytes(tmp_path, written, name):
    model, raw = written
    (tmp_path / name).write_bytes(raw)
    same(model, minqwen.load(tmp_path / name))


@pytest.mark.parametrize(
    "raw, word",
    [
        (b"\x08\0\0\0\0\0\0\0{}      ", "rename it .safetensors"),
        (b"version https://git-lfs.github.com/spec/v1\noid x", "git lfs pull"),
        (b"<!DOCTYPE html><html></html>        ", "a web page"),
        (b"PK\x03\x04" + bytes(40), "a pickle or an archive"),
    ],
)
def test_other_formats_under_this_name(tmp_path, raw, word):
    (tmp_path / "x.gguf").write_bytes(raw)
    refused(tmp_path / "x.gguf", "x.gguf begins with", "not with GGUF", word)


def test_a_folder_of_one_model(tmp_path, written):
    model, raw = written
    (tmp_path / "README.md").write_text("# GGUF")
    (tmp_path / "a.gguf").write_bytes(raw)
    same(model, minqwen.load(tmp_path))
    (tmp_path / "b.gguf").write_bytes(raw)
    words = "holds 2 models and 0 vision towers", "a.gguf, b.gguf", "itself"
    refused(tmp_path, *words)
    with pytest.raises(InputError, match="holds 2 models"):
        minqwen.Processor.load(tmp_path)
    same(model, minqwen.load(tmp_path / "b.gguf"))


def test_neighbours_that_are_no_model(tmp_path, written):
    """Whatever else lies in the folder: it is not asked to be whole."""
    model, raw = written
    (tmp_path / "x.gguf").write_bytes(raw)
    writer = gguf.GGUFWriter(tmp_path / "imatrix.gguf", "x")
    writer.kv_data[0].pop("general.architecture")
    writer.add_type("imatrix")
    gguf_files.finish(writer, rest("blk.0.in_sum2"))
    (tmp_path / "mmproj.gguf").write_bytes(b"GGUF\3\0\0\0")
    (tmp_path / ".hidden.gguf").write_bytes(raw)
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "x.gguf"):
        back, said = warned(path)
        same(model, back)
        assert not said
    refused(tmp_path / "imatrix.gguf", "general.type is imatrix")
    os.symlink("x.gguf", tmp_path / "sha256-1")  # as caches have them
    same(model, minqwen.load(tmp_path / "sha256-1"))


def test_safetensors_come_before_gguf(tmp_path, written):
    model, raw = written
    (tmp_path / "a.gguf").write_bytes(raw)
    other = text_model(seed=1)
    minqwen.save(other, tmp_path)
    equal(other, minqwen.load(tmp_path))


def test_the_first_part_is_missing(tmp_path):
    gguf_files.write(text_model(**FEW), tmp_path / "x.gguf", split=40)
    (tmp_path / "x-00001-of-00002.gguf").unlink()
    refused(tmp_path / "x-00002-of-00002.gguf", "x-00001-of-00002.gguf is missing")
    refused(tmp_path, "x-00001-of-00002.gguf is missing")


@pytest.mark.parametrize(
    "change, word",
    [
        (with_value("general.type", "adapter", "add_string"), "type is adapter"),
        (with_value("general.architecture", "clip", "add_string"), "an mmproj"),
        (with_value("general.architecture", "qwen3next", "add_string"), "Qwen3.5"),
    ],
)
def test_files_that_are_no_model(tmp_path, change, word):
    gguf_files.write(text_model(**FEW), tmp_path / "x.gguf", change=change)
    refused(tmp_path / "x.gguf", "x.gguf: general.", word)


# ---- every type of the package ----


def test_all_types_that_the_package_widens_are_known():
    assert {*quants._type_traits} <= {*TYPES}


def test_every_type(tmp_path):
    """One file of all of them: each matrix as the package itself widens it."""
    kinds = [kind for kind in Kind if kind in quants._type_traits]
    model = text_model(moe=False, **gguf_files.BLOCKS | dict(intermediate_size=512))
    stored = gguf_files.write(model, tmp_path / "x.gguf", kinds)
    held = {e.dtype for e in read_gguf(tmp_path / "x.gguf").tensors.values()}
    assert held == {"F32"} | {kind.name for kind in kinds}
    again = dict(gguf_files.tensors(minqwen.load(tmp_path / "x.gguf")))
    for name, values in stored.items():
        np.testing.assert_allclose(again[name], values, rtol=1e-6, atol=1e-6)


def test_a_type_that_an_older_package_does_not_know(tmp_path, monkeypatch):
    gguf_files.write(text_model(moe=False), tmp_path / "x.gguf", Kind.Q4_0)
    known = Enum("Known", {"F32": 0})
    monkeypatch.setattr(gguf, "GGMLQuantizationType", known)
    refused(tmp_path / "x.gguf", "type Q4_0", "pip install --upgrade gguf")


@pytest.mark.parametrize("kind", [9, 15, 24, 28, 36, 41, 99])
def test_a_type_that_cannot_be_widened(tmp_path, kind):
    path = tmp_path / "x.gguf"
    gguf_files.write(text_model(moe=False), path)
    raw, name = path.read_bytes(), b"blk.0.attn_qkv.weight"
    at = raw.index(name) + len(name) + 20
    path.write_bytes(raw[:at] + bytes([kind]) + raw[at + 1 :])
    refused(path, f"x.gguf has blk.0.attn_qkv.weight of type {kind}", "NVFP4")


NARROW = dict(num_experts=3, num_experts_per_tok=2, moe_intermediate_size=64,
              shared_expert_intermediate_size=64)  # fmt: skip


@pytest.mark.parametrize(
    "kind, end", [(Kind.NVFP4, ".scale"), (Kind.Q8_0, ".weight.scale")]
)
def test_factors_of_small_floats(tmp_path, kind, end):
    """NVFP4's numbers are small: a factor for each matrix, or each expert, is apart."""
    model = text_model(**NARROW)
    names = "blk.0.ffn_gate_exps", "blk.0.ffn_down_exps", "blk.0.attn_qkv", "output"
    factors = {n: np.float32(0.5) + np.arange(1, 4, dtype=np.float32) for n in names}
    factors = {n: f if "exps" in n else f[:1] for n, f in factors.items()}

    def change(writer):
        for name, factor in factors.items():
            writer.add_tensor(name + end, factor)
            writer.add_tensor(name + end.replace("scale", "input_scale"), factor * 3)

    stored = gguf_files.write(model, tmp_path / "x.gguf", kind, change=change)
    back, said = warned(tmp_path / "x.gguf")
    again = dict(gguf_files.tensors(back))
    assert "the scales of activations" in said
    for name, values in stored.items():
        factor = factors.get(name.removesuffix(".weight"), np.ones(1, np.float32))
        values = values * factor.reshape(-1, *[1] * (values.ndim - 1))
        np.testing.assert_allclose(again[name], values, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("shape, word", [(2, "output.scale is [2]"), (0, "NaN")])
def test_factors_that_do_not_fit(tmp_path, shape, word):
    factor = np.ones(shape or 1, np.float32) if shape else np.float32([np.nan])
    add = lambda writer: writer.add_tensor("output.scale", factor)  # noqa: E731
    gguf_files.write(text_model(**NARROW), tmp_path / "x.gguf", Kind.Q8_0, change=add)
    refused(tmp_path / "x.gguf", word)


# ---- the vision tower ----


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """A model with a tower, and its two files' bytes."""
    model, folder = small_model(**FEW), tmp_path_factory.mktemp("pair")
    gguf_files.write(model, folder / "x.gguf", change=named)
    gguf_files.write_tower(model, folder / "mmproj-x.gguf")
    return model, [(folder / n).read_bytes() for n in ("x.gguf", "mmproj-x.gguf")]


def test_a_tower_beside(tmp_path, pair):
    model, (language, tower) = pair
    (tmp_path / "x.gguf").write_bytes(language)
    (tmp_path / "any-name").write_bytes(tower)
    for path in (tmp_path, tmp_path / "x.gguf"):
        back = minqwen.load(path)
        assert back.cfg == model.cfg.replace(eos_token_id=())
        same(model, back)
    equal(model, back, **picture())
    refused(tmp_path / "any-name", "an mmproj", "give the model's own file")


def test_picture_ids_that_contradict_the_tokens(tmp_path, pair):
    model, (_, tower) = pair
    (tmp_path / "mmproj").write_bytes(tower)
    change = both(named, with_value("qwen35moe.image_token_id", 300))
    gguf_files.write(model, tmp_path / "x.gguf", change=change)
    refused(tmp_path / "x.gguf", "image_token_id is 300; expected 301, which <|image")


def test_a_tower_in_16_bits_beside_parts(tmp_path):
    model = small_model(moe=False, mtp_num_hidden_layers=1)
    gguf_files.write(model, tmp_path / "x.gguf", Kind.BF16, change=named, split=40)
    gguf_files.write_tower(model, tmp_path / "mmproj.gguf", Kind.BF16)
    with torch.no_grad():
        for name, p in model.named_parameters():
            kept = p.dim() == 1 or "conv1d" in name
            p.copy_(p if kept else p.bfloat16())
    same(model, minqwen.load(tmp_path))
    (tmp_path / "mmproj.gguf").unlink()
    assert minqwen.load(tmp_path).cfg.vision is None


@pytest.mark.parametrize(
    "change, word",
    [
        (with_value("clip.projector_type", "gemma3", "add_string"), "another kind"),
        ("wide", "made for a width of 32, not 64"),
        (rest("v.deepstack.1.fc1.weight"), "as Qwen3-VL's does"),
        ("twice", "one alone could be meant"),
        ("nameless", "whose tokens none names"),
    ],
)
def test_towers_of_others_are_left(tmp_path, pair, change, word):
    model, (language, tower) = pair
    path = tmp_path / "x.gguf"
    path.write_bytes(language)
    (tmp_path / "b.gguf").write_bytes(tower)
    if change == "wide":
        other = small_model(hidden_size=32)
        gguf_files.write_tower(other, tmp_path / "b.gguf")
    elif change == "twice":
        (tmp_path / "c.gguf").write_bytes(tower)
        refused(tmp_path, "holds 1 models and 2 vision towers", "b.gguf, c.gguf")
    elif change == "nameless":
        gguf_files.write(model, path)
    else:
        gguf_files.write_tower(model, tmp_path / "b.gguf", change=change)
    back, said = warned(path)
    assert back.cfg.vision is None and word in said and "b.gguf beside it" in said
    equal(model, back)


C = "clip.vision."


@pytest.mark.parametrize(
    "change, words",
    [
        (with_value(C + "block_count", 4), ["block_count is 4; expected 3"]),
        (with_value(C + "attention.head_count", 0), ["mmproj.gguf: attention.head"]),
        (with_value(C + "attention.head_count", 5), ["num_heads"]),
        (without(C + "attention.head_count"), ["mmproj.gguf: attention.head_count"]),
        (with_value(C + "feed_forward_length", 81), ["is 81; expected 80"]),
        (with_value(C + "spatial_merge_size", 3), ["merge_size is 3; expected 2"]),
        (with_value(C + "projection_dim", 128), ["is 128; expected 64"]),
        (with_value(C + "patch_size", 14), ["patch_size is 14; expected 16"]),
        (with_value(C + "attention.layer_norm_epsilon", 1e-5, "add_float32"), ["1e-0"]),
        (with_value(C + "is_deepstack_layers", [True] * 3, "add_array"), ["deepstack"]),
        (with_value(C + "n_wa_pattern", 8), ["n_wa_pattern is 8"]),
        ("v.blk.1.ffn_up.weight", ["missing v.blk.1.ffn_up.weight", "unexpected odd"]),
        ("v.patch_embd.weight.1", ["v.patch_embd.weight is [48, 3, 16, 16]"]),
        ("v.post_ln.bias", ["missing v.post_ln.bias"]),
    ],
)
def test_towers_that_are_damaged(tmp_path, pair, change, words):
    model, (language, _) = pair
    (tmp_path / "x.gguf").write_bytes(language)
    old = change

    def rename(writer):
        writer.tensors[0]["odd"] = writer.tensors[0].pop(old)

    change = rename if isinstance(old, str) else old
    gguf_files.write_tower(model, tmp_path / "mmproj.gguf", change=change)
    refused(tmp_path, *words)
