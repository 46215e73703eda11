"""The taught loader: to the bit what the strict one loads, and never half a model."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import small_model

import minqwen
from minqwen.errors import InputError
from minqwen.weights.checkpoint.layout import BODY, FUSED, per_expert, slice_of
from minqwen.weights.plain import homes, load_plain, read_file

TINY = Path(__file__).resolve().parent.parent / "assets" / "tiny"


def same(model, other):
    """Both hold the same names in the same order and, bit for bit, the same values."""
    for (name, p), (twin, q) in zip(
        model.named_parameters(), other.named_parameters(), strict=True
    ):
        assert name == twin and p.dtype == q.dtype and torch.equal(p, q), name
    assert not model.training and model.kernels == other.kernels


def test_the_small_model_is_loaded_to_the_bit():
    plain = load_plain(TINY)
    same(plain, minqwen.load(TINY))
    ids = torch.arange(5, 40)[None]
    with torch.no_grad():
        assert torch.equal(plain(ids), minqwen.load(TINY)(ids))
    same(plain.bfloat16(), minqwen.load(TINY, dtype=torch.bfloat16))


def test_a_file_is_read_as_safetensors_reads_it():
    [file] = TINY.glob("*.safetensors")
    mine, theirs = dict(read_file(file)), load_file(file)
    assert mine.keys() == theirs.keys()
    for name, tensor in mine.items():
        assert tensor.dtype == theirs[name].dtype
        assert torch.equal(tensor, theirs[name])


@pytest.mark.parametrize("moe", [True, False], ids=["moe", "dense"])
@pytest.mark.parametrize("vision", [True, False], ids=["vision", "text"])
@pytest.mark.parametrize("mtp", [0, 1])
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_shards_of_every_kind(tmp_path, moe, vision, mtp, tied):
    kind = {"mtp_num_hidden_layers": mtp, "tie_word_embeddings": tied}
    model = small_model(moe=moe, vision=vision, **kind)
    minqwen.save(model, tmp_path, max_shard_bytes=200_000)
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    plain = load_plain(tmp_path)
    same(plain, minqwen.load(tmp_path))
    same(plain, model)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_what_is_stored_in_two_bytes(tmp_path, dtype):
    model = small_model(mtp_num_hidden_layers=1).to(dtype)
    minqwen.save(model, tmp_path)
    same(load_plain(tmp_path), minqwen.load(tmp_path))
    same(load_plain(tmp_path).to(dtype), model)


def test_experts_may_be_stored_the_other_way(tmp_path):
    """Layers' experts one by one, the draft head's fused: other writers do both."""
    model = small_model(mtp_num_hidden_layers=1)
    minqwen.save(model, tmp_path)
    file = tmp_path / "model.safetensors"
    tensors = {n: t for n, t in load_file(file).items() if ".experts." not in n}
    for name, p in model.named_parameters():
        if name.endswith(FUSED):
            parts = (
                per_expert(name, p.shape) if name.startswith(BODY) else [(name, None)]
            )
            for stored, part in parts:
                tensors[stored] = slice_of(p.detach(), part).contiguous()
    save_file(tensors, file)
    same(load_plain(tmp_path), model)
    same(load_plain(tmp_path), minqwen.load(tmp_path))


def test_homes_are_the_memory_of_the_model_itself():
    model = small_model(mtp_num_hidden_layers=1)
    home, name = homes(model), "mtp.layers.0.mlp.experts"
    for matrix, stored in (("gate_up", "up"), ("down", "down")):
        fused = model.get_parameter(f"{name}.{matrix}_proj").detach()
        one = home[f"{name}.7.{stored}_proj.weight"].detach()
        want = fused[7][24:] if stored == "up" else fused[7]
        assert one.data_ptr() == want.data_ptr() and torch.equal(one, want)


def changed(tmp_path, change):
    """A small checkpoint's folder, its tensors changed by a function."""
    minqwen.save(small_model(moe=False), tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    change(tensors)
    save_file(tensors, tmp_path / "model.safetensors")
    return tmp_path


def test_nothing_is_left_as_it_was_in_memory(tmp_path):
    folder = changed(tmp_path, lambda t: t.pop("lm_head.weight"))
    with pytest.raises(InputError, match="^20,480 numbers are missing"):  # 320 x 64
        load_plain(folder)


def test_a_stranger_or_another_shape_is_named(tmp_path):
    strange = changed(tmp_path / "a", lambda t: t.update(bias=torch.zeros(3)))
    with pytest.raises(InputError, match="no place for .bias.; minqwen.load says"):
        load_plain(strange)
    # One row would be copied to all 320 without a word.
    narrow = changed(
        tmp_path / "b", lambda t: t.update({"lm_head.weight": torch.zeros(1, 64)})
    )
    with pytest.raises(InputError, match="no place for 'lm_head.weight'"):
        load_plain(narrow)
