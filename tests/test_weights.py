"""Loading and saving: both layouts, both directions, and what they cost in memory."""

import json
import math
import sys
import warnings

import pytest
import torch
from loading import measured
from safetensors.torch import load_file, save_file
from tiny_models import small_config, small_model

import minqwen
from minqwen.errors import InputError
from minqwen.files import Reader
from minqwen.model.config import Config
from minqwen.model.qwen import Qwen
from minqwen.weights import expected_tensors, open_checkpoint
from minqwen.weights.checkpoint.layout import DTYPES, FUSED, per_expert
from minqwen.weights.checkpoint.reading import read_tensor

ISLANDS = ("A_log", "linear_attn.norm.weight")
KINDS = {
    "moe": dict(),
    "dense": dict(moe=False),
    "tied": dict(moe=False, tie_word_embeddings=True),
    "text moe": dict(vision=False),
    "text dense": dict(moe=False, vision=False),
}


def same(model, other, dtype=None):
    """Both hold the same names and, bit for bit, the same values (cast to dtype)."""
    a, b = dict(model.named_parameters()), dict(other.named_parameters())
    assert a.keys() == b.keys()
    for name, p in a.items():
        want = p if dtype is None or name.endswith(ISLANDS) else p.to(dtype)
        assert torch.equal(want, b[name].to(want.dtype)), name


def rewrite(folder, change):
    """Change the tensors of a saved single-file checkpoint, as another tool would."""
    file = folder / "model.safetensors"
    tensors = change(load_file(file))
    save_file({k: v.contiguous() for k, v in tensors.items()}, file)


def split_experts(tensors, only=""):
    out = {}
    for name, t in tensors.items():
        if name.startswith(only) and name.endswith(FUSED):
            for single, (e, low, high) in per_expert(name, t.shape):
                out[single] = t[e, low:high].clone()
        else:
            out[name] = t
    return out


# ---- round trips ----


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mtp", [0, 1])
def test_round_trip_is_bit_exact(tmp_path, kind, mtp):
    model = small_model(mtp_num_hidden_layers=mtp, **KINDS[kind])
    minqwen.save(model, tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        back = minqwen.load(tmp_path)
    assert back.cfg == model.cfg and not back.training
    same(model, back)
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "config.json",
        "model.safetensors",
    ]


def test_shards_and_index_hold_the_same(tmp_path):
    model = small_model(mtp_num_hidden_layers=1)
    minqwen.save(model, tmp_path, max_shard_bytes=300_000)
    shards = sorted(tmp_path.glob("*.safetensors"))
    assert len(shards) > 3
    assert shards[0].name == f"model-00001-of-{len(shards):05d}.safetensors"
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(
        e.end - e.start for e in open_checkpoint(tmp_path).values()
    )
    same(model, minqwen.load(tmp_path))


def test_any_shard_naming(tmp_path):
    """The released files are called model.safetensors-00001-of-00094.safetensors."""
    model = small_model()
    minqwen.save(model, tmp_path, max_shard_bytes=300_000)
    index = tmp_path / "model.safetensors.index.json"
    text = index.read_text().replace('"model-0', '"model.safetensors-0')
    index.write_text(text)
    for file in tmp_path.glob("model-0*.safetensors"):
        file.rename(file.with_name(file.name.replace("model-0", "model.safetensors-0")))
    same(model, minqwen.load(tmp_path))
    index.unlink()
    same(model, minqwen.load(tmp_path))


def test_one_file_by_its_name(tmp_path):
    model = small_model(moe=False)
    minqwen.save(model, tmp_path)
    same(model, minqwen.load(tmp_path / "model.safetensors"))


def test_stored_layout_is_the_released_one(tmp_path):
    model = small_model(mtp_num_hidden_layers=1).to(torch.bfloat16)
    minqwen.save(model, tmp_path)
    table = open_checkpoint(tmp_path)
    for name, entry in table.items():
        assert entry.dtype == ("F32" if name.endswith(ISLANDS) else "BF16"), name
        assert entry.start % torch.float32.itemsize == 0 or entry.dtype == "BF16"
    expected = expected_tensors(model.cfg)
    assert expected == {n: (e.shape, DTYPES[e.dtype]) for n, e in table.items()}
    assert "model.language_model.layers.0.mlp.experts.gate_up_proj" in table
    assert "mtp.layers.0.mlp.experts.32.up_proj.weight" in table
    assert len(table) == len(list(model.parameters())) - 2 + 3 * 33
    assert json.loads((tmp_path / "config.json").read_text())["dtype"] == "bfloat16"


def test_saving_replaces_what_was_saved_before(tmp_path):
    first, second = small_model(seed=1), small_model(seed=2)
    minqwen.save(first, tmp_path, max_shard_bytes=300_000)
    minqwen.save(second, tmp_path)
    same(second, minqwen.load(tmp_path))
    minqwen.save(first, tmp_path, max_shard_bytes=500_000)
    same(first, minqwen.load(tmp_path))
    small = small_model(seed=3, moe=False)
    minqwen.save(small, tmp_path)
    same(small, minqwen.load(tmp_path))
    assert len(list(tmp_path.iterdir())) == 2


# ---- dtypes ----


def test_dtypes(tmp_path):
    model = small_model().to(torch.bfloat16)
    minqwen.save(model, tmp_path)
    wide = minqwen.load(tmp_path)
    assert {p.dtype for p in wide.parameters()} == {torch.float32}
    same(model, wide)
    for dtype in (None, torch.bfloat16):
        kept = minqwen.load(tmp_path, dtype=dtype)
        for name, p in kept.named_parameters():
            island = name.endswith(ISLANDS)
            assert p.dtype == (torch.float32 if island else torch.bfloat16), name
        same(model, kept)
    same(model, minqwen.load(tmp_path, dtype=torch.float16), torch.float16)


def test_conversion_in_pieces(tmp_path):
    """A tensor larger than the buffer is converted piece by piece."""
    model = small_model()
    minqwen.save(model, tmp_path)
    name = "model.language_model.embed_tokens.weight"
    entry = open_checkpoint(tmp_path)[name]
    target = torch.full([320 * 64], torch.nan, dtype=torch.bfloat16)
    counts = []
    with Reader(entry.file) as file:
        buffer = torch.empty(1000, dtype=torch.uint8)
        read_tensor(file, entry, name, target, buffer, counts.append)
    assert torch.equal(target.view(320, 64), model.state_dict()[name].bfloat16())
    assert len(counts) == 82 and sum(counts) == 320 * 64 * 4


def test_f16_files_load_whole(tmp_path):
    model = small_model().to(torch.float16)
    minqwen.save(model, tmp_path)
    same(model, minqwen.load(tmp_path))


def test_an_accelerator_gets_the_same(tmp_path):
    if not torch.cuda.is_available():
        pytest.skip("no GPU here")
    model = small_model(mtp_num_hidden_layers=1).to(torch.bfloat16)
    minqwen.save(model, tmp_path)
    there = minqwen.load(tmp_path, device=None, dtype=None)
    assert {p.device.type for p in there.parameters()} == {"cuda"}
    same(model, there.cpu())
    minqwen.save(there.cuda(), tmp_path)
    same(model, minqwen.load(tmp_path, dtype=None))


# ---- layouts ----


@pytest.mark.parametrize("only", ["", "model.", "mtp."])
def test_experts_fused_or_single_anywhere(tmp_path, only):
    model = small_model(mtp_num_hidden_layers=1)
    minqwen.save(model, tmp_path)
    fused = {k: v.detach().clone() for k, v in model.state_dict().items()}
    rewrite(tmp_path, lambda _: split_experts(fused, only))
    same(model, minqwen.load(tmp_path))
    same(model, minqwen.load(tmp_path, dtype=torch.bfloat16), torch.bfloat16)


def test_fused_mtp_experts(tmp_path):
    model = small_model(mtp_num_hidden_layers=1)
    minqwen.save(model, tmp_path)
    rewrite(tmp_path, lambda _: dict(model.state_dict()))
    same(model, minqwen.load(tmp_path))


def test_text_only_names(tmp_path):
    """Both spellings of a text-only file: `model.layers`, `model.language_model`."""
    model = small_model(vision=False, mtp_num_hidden_layers=1)
    minqwen.save(model, tmp_path)
    assert "model.layers.0.linear_attn.A_log" in open_checkpoint(tmp_path)
    rewrite(tmp_path, lambda _: dict(model.state_dict()))
    assert "model.language_model.norm.weight" in open_checkpoint(tmp_path)
    same(model, minqwen.load(tmp_path))


def test_text_config_on_a_multimodal_file(tmp_path):
    model = small_model()
    minqwen.save(model, tmp_path)
    config = model.cfg.to_dict()["text_config"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.warns(UserWarning, match="without the files' vision tower"):
        text = minqwen.load(tmp_path)
    assert text.cfg.vision is None
    ids = torch.arange(7)[None]
    assert torch.equal(text(ids), model(ids))


def test_a_file_without_its_mtp_head(tmp_path):
    model = small_model(mtp_num_hidden_layers=1)
    minqwen.save(model, tmp_path)
    rewrite(
        tmp_path,
        lambda t: {k: v for k, v in t.items() if not k.startswith("mtp.")},
    )
    with pytest.warns(UserWarning, match="without the MTP head"):
        back = minqwen.load(tmp_path)
    assert not hasattr(back, "mtp") and back.cfg.text.mtp_num_hidden_layers == 0
    ids = torch.arange(7)[None]
    assert torch.equal(back(ids), model(ids))


# ---- transformers ----


def transformers_class(cfg):
    import transformers

    return getattr(transformers, cfg.to_dict()["architectures"][0])


@torch.no_grad()
def parity(model, twin):
    ids = torch.arange(3, 40)[None] % 290
    a, b = model(ids), twin(ids).logits
    assert (a - b).abs().max() < 2e-5 * b.abs().max()


@pytest.mark.parametrize("kind", KINDS)
def test_transformers_loads_what_we_save(tmp_path, kind):
    model = small_model(mtp_num_hidden_layers=1, **KINDS[kind])
    minqwen.save(model, tmp_path, max_shard_bytes=500_000)
    twin, info = transformers_class(model.cfg).from_pretrained(
        tmp_path, output_loading_info=True
    )
    for fault in ("missing_keys", "mismatched_keys", "error_msgs"):
        assert not info.get(fault), info
    assert all(key.startswith("mtp.") for key in info["unexpected_keys"]), info
    assert {p.dtype for p in twin.parameters()} == {torch.float32}
    parity(model, twin.eval())


@pytest.mark.parametrize("kind", KINDS)
def test_we_load_what_transformers_saves(tmp_path, kind):
    """A model made by transformers (single experts), and one it loaded (fused)."""
    from tiny_models import transformers_twin

    model = small_model(**KINDS[kind])
    twin = transformers_twin(model)
    twin.save_pretrained(tmp_path / "made")
    parity(minqwen.load(tmp_path / "made"), twin)

    minqwen.save(model, tmp_path / "ours")
    loaded = transformers_class(model.cfg).from_pretrained(tmp_path / "ours")
    loaded.save_pretrained(tmp_path / "loaded")
    parity(minqwen.load(tmp_path / "loaded"), twin)
    same(model, minqwen.load(tmp_path / "loaded"))
    if model.cfg.is_moe:
        made = " ".join(open_checkpoint(tmp_path / "made"))
        kept = " ".join(open_checkpoint(tmp_path / "loaded"))
        assert ".experts.0.up_proj" in made and ".experts.gate_up_proj" in kept


# ---- cost ----

MEASURE = """
minqwen.load(sys.argv[2])  # so that code loaded on first use is in the base line
before = peak()
model = minqwen.load(sys.argv[1], dtype=getattr(torch, sys.argv[3]))
loaded = peak()
minqwen.save(model, sys.argv[4], max_shard_bytes=200_000_000)
print(before, loaded, peak(), sum(p.nbytes for p in model.parameters()))
"""


@pytest.fixture(scope="module")
def half_a_gigabyte(tmp_path_factory):
    """Random bf16 experts and embeddings, 480 MB, single or fused."""
    folder = tmp_path_factory.mktemp("large")
    changes = dict(hidden_size=1024, moe_intermediate_size=512, vocab_size=16384)
    cfg = small_config(**changes)
    with torch.device("meta"):
        model = Qwen(cfg)
    model = model.to(torch.bfloat16).to_empty(device="cpu")
    for p in model.parameters():
        p.data.copy_(torch.rand(p.shape[-1:]).expand(p.shape))
    minqwen.save(model, folder / "fused")
    tensors = load_file(folder / "fused" / "model.safetensors")
    (folder / "single").mkdir()
    save_file(split_experts(tensors), folder / "single" / "model.safetensors")
    config = (folder / "fused" / "config.json").read_text()
    (folder / "single" / "config.json").write_text(config)
    minqwen.save(small_model(), folder / "small")
    return folder


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(
    "layout, dtype", [("fused", "float32"), ("single", "bfloat16")]
)
def test_peak_memory_is_the_model_and_no_copy(half_a_gigabyte, tmp_path, layout, dtype):
    large = half_a_gigabyte / layout
    small = half_a_gigabyte / "small"
    before, loaded, saved, size = measured(MEASURE, large, small, dtype, tmp_path)
    assert size > 400e6
    print(f"{layout} {dtype}: {size / 1e6:.0f} MB of weights, loaded with a peak of")
    print(
        f"{(loaded - before) / size:.3f}x, saved with {(saved - loaded) / 1e6:.0f} MB"
    )
    assert loaded - before < size + 50e6  # the buffer, and some slack
    assert saved - loaded < 20e6


def test_real_sizes_take_no_memory():
    """The published counts: tensors, and the bytes a bf16 release weighs."""
    for name, count, gigabytes in [("397B-A17B", 2924, 806.80), ("2B", 632, 4.548)]:
        tensors = expected_tensors(Config.named(name))
        assert len(tensors) == count
        payload = sum(
            math.prod(shape) * dtype.itemsize for shape, dtype in tensors.values()
        )
        assert round(payload / 1e9, 2 if count > 1000 else 3) == gigabytes


# ---- options ----


def test_arguments_of_another_type(tmp_path):
    for name in (5, None, b"folder", ["folder"]):
        with pytest.raises(InputError, match="give a path or a hub id"):
            minqwen.load(name)
    with pytest.raises(InputError, match="cannot be read: File name too long"):
        minqwen.load("a" * 5000)
    with pytest.raises(InputError, match="does not exist"):
        minqwen.load("a\0b")
    model = small_model(moe=False, vision=False)
    for size in (0, "1", 1.5):
        with pytest.raises(InputError, match="max_shard_bytes is"):
            minqwen.save(model, tmp_path / "no", size)
        assert not (tmp_path / "no").exists()
    for device in ("meta", "hpu", "cuda:99", "mars", 1.5):
        with pytest.raises(InputError, match="device") as error:
            minqwen.load(tmp_path, device=device)
        assert "\n" not in str(error.value) and len(str(error.value)) < 300


def test_options_that_do_not_exist_yet(tmp_path):
    minqwen.save(small_model(moe=False), tmp_path)
    for option in (
        dict(experts="disc"),
        dict(quantize="int3"),
        dict(kernels="cuda"),
        dict(dtype=torch.int8),
        dict(device="abacus"),
        dict(revision="main"),
    ):
        with pytest.raises(InputError, match=str(*option.values())):
            minqwen.load(tmp_path, **option)
