"""Damaged and hostile checkpoints: one sentence with the culprit's name, each time.

transformers loads eleven of these without a word, some with random weights.
"""

import json
import os
import random
import shutil
import struct
import subprocess
import sys
import time

import pytest
import torch
from loading import refused
from safetensors.torch import load_file, save_file
from tiny_models import small_model

import minqwen
from minqwen.errors import InputError, show
from minqwen.weights import open_checkpoint

LAYER = "model.language_model.layers."
Q_PROJ = LAYER + "3.self_attn.q_proj.weight"
NORM = "model.language_model.norm.weight"
GATE_UP = LAYER + "1.mlp.experts.gate_up_proj"


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("good")
    model = small_model(mtp_num_hidden_layers=1).to(torch.bfloat16)
    minqwen.save(model, folder / "one")
    minqwen.save(model, folder / "shards", max_shard_bytes=300_000)
    return folder


@pytest.fixture
def one(saved, tmp_path):
    """A good checkpoint in one file, to be spoilt."""
    return shutil.copytree(saved / "one", tmp_path / "one")


@pytest.fixture
def shards(saved, tmp_path):
    """A good checkpoint in several files with an index, to be spoilt."""
    return shutil.copytree(saved / "shards", tmp_path / "shards")


def edit(folder, change):
    """Let `change` alter the dict of tensors of the single file."""
    file = folder / "model.safetensors"
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file)


def edit_json(file, change):
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


def split(file):
    raw = file.read_bytes()
    size = int.from_bytes(raw[:8], "little")
    return raw[8 : 8 + size], raw[8 + size :]


def put(file, header, data, size=None):
    header = header if isinstance(header, bytes) else json.dumps(header).encode()
    size = len(header) if size is None else size
    file.write_bytes(struct.pack("<Q", size) + header + data)


def edit_header(folder, change):
    """Let `change` alter the header as parsed; the data stay as they are."""
    file = folder / "model.safetensors"
    header, data = split(file)
    header = json.loads(header)
    change(header)
    put(file, header, data)


def shard_of(folder, name):
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    return folder / index["weight_map"][name]


# ---- files ----


def test_missing_shard(shards):
    file = shard_of(shards, GATE_UP)
    file.unlink()
    refused(shards, file.name, "missing")


def test_missing_shard_without_index(shards):
    (shards / "model.safetensors.index.json").unlink()
    shard_of_norm = sorted(shards.glob("*.safetensors"))[-1]
    lost = next(iter(open_checkpoint(shard_of_norm)))
    shard_of_norm.unlink()
    refused(shards, "missing " + lost)


def test_truncated_shard(shards):
    file = shard_of(shards, GATE_UP)
    os.truncate(file, file.stat().st_size - 1)
    refused(shards, file.name, "cut short")


def test_shard_cut_within_its_header(shards):
    file = shard_of(shards, GATE_UP)
    os.truncate(file, 100)
    refused(shards, file.name, "header")


@pytest.mark.parametrize("size", [0, 5])
def test_empty_shard(shards, size):
    file = shard_of(shards, GATE_UP)
    os.truncate(file, size)
    refused(shards, file.name, f"{size} bytes")


def test_bytes_behind_the_last_tensor(one):
    with open(one / "model.safetensors", "ab") as f:
        f.write(b"more")
    refused(one, "model.safetensors", "no tensor owns")


def test_no_weights(one):
    (one / "model.safetensors").unlink()
    refused(one, str(one), "no .safetensors")


def test_no_config(one):
    (one / "config.json").unlink()
    refused(one, "config.json")


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "weights.ckpt"])
def test_pickles_are_refused_by_name(one, name):
    (one / "model.safetensors").unlink()
    torch.save({"x": torch.zeros(1)}, one / name)
    refused(one, name, "pickle")
    refused(one / name, name, "pickle")


def test_another_kind_of_file(one):
    (one / "model.onnx").write_bytes(b"\x08\x07")
    refused(one / "model.onnx", "model.onnx", ".safetensors")


def test_a_directory_or_pipe_as_shard(one):
    (one / "model.safetensors").unlink()
    os.mkfifo(one / "model.safetensors")  # reading it would wait for ever
    refused(one, "model.safetensors", "regular file")
    (one / "model.safetensors").unlink()
    (one / "model.safetensors").mkdir()
    refused(one, "model.safetensors", "regular file")


def test_a_long_path_is_told_by_its_end(tmp_path):
    path = tmp_path / ("long" * 20) / ("longer" * 10) / "model.gguf"
    assert show(path) == "..." + str(path)[-117:]
    text = show("a" * 300 + "z")
    assert text == "a" * 117 + "..." and show("z" * 120) == "z" * 120


@pytest.mark.skipif(os.name != "posix", reason="links")
def test_links_into_the_hub_cache(one, tmp_path):
    """The hub's snapshots consist of them; one may lead to the folder too."""
    repository = tmp_path / "models--org--name"
    snapshot = repository / "snapshots" / "0123abc"
    (repository / "blobs").mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for file in one.iterdir():
        file.rename(repository / "blobs" / file.name)
        (snapshot / file.name).symlink_to(f"../../blobs/{file.name}")
    (tmp_path / "shortcut").symlink_to(snapshot)
    assert minqwen.load(snapshot) and minqwen.load(tmp_path / "shortcut")
    (repository / "blobs" / "model.safetensors").unlink()
    refused(snapshot, "model.safetensors", "No such file")


@pytest.mark.skipif(os.name != "posix", reason="links")
@pytest.mark.parametrize("kind", ["absolute", "relative", "loop"])
def test_links_out_of_the_folder(one, shards, tmp_path, kind):
    for file in (one / "model.safetensors", shard_of(shards, NORM)):
        outside = file.rename(tmp_path / ("outside-" + file.name))
        target = dict(absolute=outside, relative=f"../{outside.name}", loop=file.name)
        file.symlink_to(target[kind])
        refused(file.parent, file.name, "link")
        file.unlink()
        (file.parent / "inside").mkdir()
        outside.rename(file.parent / "real.weights")
        file.symlink_to("real.weights")
        assert minqwen.load(file.parent)


@pytest.mark.parametrize("change", ["values", "another file"])
def test_a_file_that_changes_while_it_is_read(one, monkeypatch, change):
    """After the check of all headers, and of the same length as before."""
    file = one / "model.safetensors"
    to_empty = minqwen.Qwen.to_empty

    def write(self, **options):
        raw = bytearray(file.read_bytes())
        raw[-2:] = b"\0\0"
        new = file.with_suffix(".new")
        (file if change == "values" else new).write_bytes(raw)
        if change != "values":
            new.rename(file)
        return to_empty(self, **options)

    monkeypatch.setattr(minqwen.Qwen, "to_empty", write)
    refused(one, file.name, "changed while it was in use")


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("name", [Q_PROJ, GATE_UP, "mtp.fc.weight"])
def test_values_that_are_no_numbers(one, value, name):
    def change(tensors):
        tensors[name].view(-1)[7] = value

    edit(one, change)
    refused(one, "model.safetensors", name, "NaN or infinite")


def test_large_values_are_not_taken_for_infinite(one):
    """Their sum overflows, they do not."""

    def change(tensors):
        tensors[GATE_UP].fill_(3e38)

    edit(one, change)
    assert minqwen.load(one)


def test_a_file_that_shrinks_while_it_is_read(one, monkeypatch):
    """Cut between the check of all headers and the reading of the last tensor."""
    file = one / "model.safetensors"
    to_empty = minqwen.Qwen.to_empty

    def cut(self, **options):
        os.truncate(file, file.stat().st_size - 1)
        return to_empty(self, **options)

    monkeypatch.setattr(minqwen.Qwen, "to_empty", cut)
    refused(one, file.name, "shorter", max(open_checkpoint(file).items(),
            key=lambda item: item[1].end)[0])  # fmt: skip


# ---- headers ----


def test_header_is_not_json(one):
    file = one / "model.safetensors"
    header, data = split(file)
    put(file, b"[" + header[1:], data)
    refused(one, file.name, "not JSON")
    put(file, b"[]", data)
    refused(one, file.name, "not a JSON object")
    put(file, b"\xff" + header[1:], data)
    refused(one, file.name, "not JSON")
    put(file, b"[" * 100_000, data)
    refused(one, file.name, "not JSON")


@pytest.mark.parametrize("size", [2**60, 200_000_000, 2**64 - 1])
def test_header_too_long(one, size):
    file = one / "model.safetensors"
    header, data = split(file)
    put(file, header, data, size)
    refused(one, file.name, str(size))


def test_duplicate_key_in_a_header(one):
    file = one / "model.safetensors"
    header, data = split(file)
    twice = json.dumps({NORM: json.loads(header)[NORM]})[1:-1]
    put(file, b"{" + twice.encode() + b"," + header[1:], data)
    refused(one, file.name, NORM, "twice")


def test_negative_offset(one):
    def change(header):
        header[NORM]["data_offsets"][0] = -2

    edit_header(one, change)
    refused(one, "model.safetensors", NORM, "-2")


def test_overlapping_offsets(one):
    def change(header):
        start, end = header[Q_PROJ]["data_offsets"]
        header[Q_PROJ]["data_offsets"] = [start - 2, end - 2]

    edit_header(one, change)
    refused(one, "model.safetensors", "overlaps", Q_PROJ)


def test_a_gap_between_tensors(one):
    edit_header(one, lambda header: header.pop(Q_PROJ))
    refused(one, "model.safetensors", "gap")


@pytest.mark.parametrize(
    "key, value, word",
    [
        ("shape", [2**40, 2**40], "bytes"),  # overflows 64 bits to 0
        ("shape", [-64], "-64"),
        ("shape", [True, 64], "shape"),
        ("shape", [64.0], "64.0"),
        ("shape", [1] * 100, "shape"),
        ("shape", "64", "shape"),
        ("dtype", "F33", "F33"),
        ("dtype", None, "None"),
        ("dtype", "F32", "bytes"),
        ("data_offsets", [0], "[start, end]"),
        ("data_offsets", [8, 0], "[start, end]"),
        ("data_offsets", [0, 2**70], "data_offsets"),
        ("extra", 1, "alone"),
    ],
)
def test_a_field_of_the_header(one, key, value, word):
    edit_header(one, lambda header: header[NORM].update({key: value}))
    refused(one, "model.safetensors", NORM, word)


def test_metadata_must_be_strings(one):
    edit_header(one, lambda header: header.update(__metadata__={"format": 1}))
    refused(one, "model.safetensors", "__metadata__")


def test_names_cannot_forge_a_message(one):
    def change(header):
        header["x\n\x1b[2Jminqwen: all is well \ud800"] = header.pop(NORM)

    edit_header(one, change)
    refused(one, "\\n\\x1b", NORM).encode()


# ---- tensors against the config ----


def test_wrong_shape(one):
    edit(one, lambda t: t.update({Q_PROJ: t[Q_PROJ].T.contiguous()}))
    refused(one, "model.safetensors", Q_PROJ, "[64, 256]", "[256, 64]")


@pytest.mark.parametrize(
    "dtype, label",
    [(torch.int8, "I8"), (torch.float64, "F64"), (torch.float8_e4m3fn, "F8_E4M3")],
)
def test_dtypes_that_would_need_a_guess(one, dtype, label):
    edit(one, lambda t: t.update({Q_PROJ: t[Q_PROJ].to(dtype)}))
    refused(one, "model.safetensors", Q_PROJ, label, "BF16")


@pytest.mark.parametrize("label", ["F16", "I16", "U16"])
def test_bf16_bytes_under_another_label(one, label):
    edit_header(one, lambda header: header[Q_PROJ].update(dtype=label))
    refused(one, "model.safetensors", Q_PROJ, label)


def test_missing_tensor(one):
    edit(one, lambda t: t.pop(Q_PROJ))
    refused(one, "missing " + Q_PROJ, "1 tensor does")


def test_unexpected_tensor(one):
    edit(one, lambda t: t.update(surprise=torch.zeros(2)))
    refused(one, "unexpected surprise in model.safetensors")


def test_missing_experts(one):
    """Of a layer stored expert by expert, and of the MTP head."""

    def change(tensors):
        fused = tensors.pop(GATE_UP)
        prefix = GATE_UP.removesuffix("gate_up_proj")
        for e in range(33):
            tensors[f"{prefix}{e}.gate_proj.weight"] = fused[e, :24].clone()
            tensors[f"{prefix}{e}.up_proj.weight"] = fused[e, 24:].clone()
        del tensors[prefix + "7.up_proj.weight"]
        del tensors["mtp.layers.0.mlp.experts.0.down_proj.weight"]

    edit(one, change)
    missing = LAYER + "1.mlp.experts.7.up_proj.weight"
    # down_proj is still fused, which no writer mixes with single gates but is sound.
    refused(one, missing, "mtp.layers.0.mlp.experts.0.down_proj.weight", "2 tensors")


def test_experts_stored_twice(one):
    def change(tensors):
        prefix = GATE_UP.removesuffix("gate_up_proj")
        tensors[prefix + "0.up_proj.weight"] = tensors[GATE_UP][0, 24:].clone()

    edit(one, change)
    refused(one, "unexpected", "experts.0.up_proj.weight")


def test_part_of_the_mtp_head(one):
    edit(one, lambda t: t.pop("mtp.fc.weight"))
    refused(one, "missing mtp.fc.weight")


def test_all_faults_in_one_message(one):
    def change(tensors):
        tensors.pop(NORM)
        tensors["surprise"] = torch.zeros(2)
        tensors[Q_PROJ] = torch.zeros(3)
        tensors["lm_head.weight"] = tensors["lm_head.weight"].to(torch.int16)
        for n in range(12):
            tensors[f"zz{n:02}"] = torch.zeros(1)

    edit(one, change)
    text = refused(one, NORM, Q_PROJ, "lm_head.weight is I16", "surprise", "16 tensors")
    assert "and 6 more" in text and "zz11" not in text


# ---- the index ----


def spoil_index(folder, change):
    edit_json(folder / "model.safetensors.index.json", change)


@pytest.mark.parametrize("kind", ["parent", "absolute", "windows", "folder", "dots"])
def test_index_that_leaves_the_folder(shards, tmp_path, kind):
    outside = shard_of(shards, NORM).rename(tmp_path / "outside.safetensors")
    name = {
        "parent": "../outside.safetensors",
        "absolute": str(outside),
        "windows": "..\\outside.safetensors",
        "folder": "sub/outside.safetensors",
        "dots": "..",
    }[kind]
    spoil_index(shards, lambda index: index["weight_map"].update({NORM: name}))
    refused(shards, "index.json", NORM, "plain file name")


@pytest.mark.parametrize(
    "name, word", [("w.bin", "pickle"), ("w.txt", "w.txt"), (7, "file name")]
)
def test_index_that_names_no_safetensors(shards, name, word):
    (shards / "w.bin").write_bytes(b"")
    spoil_index(shards, lambda index: index["weight_map"].update({NORM: name}))
    refused(shards, word)


def test_same_tensor_in_two_shards(shards):
    first, last = shard_of(shards, GATE_UP), shard_of(shards, NORM)
    tensors = load_file(first)
    tensors[NORM] = torch.zeros(64, dtype=torch.bfloat16)
    save_file(tensors, first)
    refused(shards, NORM, first.name, last.name)
    (shards / "model.safetensors.index.json").unlink()
    refused(shards, NORM, first.name, last.name)


def test_index_names_a_file_that_is_lost(shards):
    """Nothing else has its tensors, whatever else the index says wrongly."""
    spoil_index(shards, lambda index: index["weight_map"].pop(GATE_UP))
    lost = shard_of(shards, NORM)
    lost.unlink()
    refused(shards, lost.name, "missing", "download it again")


def test_index_truncated(shards):
    file = shards / "model.safetensors.index.json"
    file.write_text(file.read_text()[:500])
    refused(shards, file.name, "not JSON")


@pytest.mark.parametrize("content", ["{}", '{"weight_map": {}}', '{"weight_map": []}'])
def test_index_without_a_weight_map(shards, content):
    (shards / "model.safetensors.index.json").write_text(content)
    refused(shards, "model.safetensors.index.json", "weight_map")


@pytest.mark.parametrize("size", ["7", -1, [], True, float("nan")])
def test_total_size_that_is_no_size(shards, size):
    spoil_index(shards, lambda index: index["metadata"].update(total_size=size))
    refused(shards, "index.json", "total_size")


def test_metadata_that_is_no_object(shards):
    spoil_index(shards, lambda index: index.update(metadata=7))
    refused(shards, "index.json", "metadata")


def test_total_size_that_others_count_differently(shards):
    """Told, not fatal: released indexes exist whose total is not their tensors'."""
    spoil_index(shards, lambda index: index["metadata"].update(total_size=5))
    with pytest.warns(UserWarning, match="total_size is 5, the shards hold"):
        minqwen.load(shards)
    spoil_index(shards, lambda index: index.pop("metadata"))
    minqwen.load(shards)


def test_a_shard_of_another_checkpoint(shards, tmp_path):
    """Same names, other sizes: as after mixing two downloads."""
    other = small_model(mtp_num_hidden_layers=1, vocab_size=352).to(torch.bfloat16)
    minqwen.save(other, tmp_path / "other", max_shard_bytes=300_000)
    name = "model.language_model.embed_tokens.weight"
    shutil.copy(shard_of(tmp_path / "other", name), shard_of(shards, name))
    refused(shards, shard_of(shards, name).name)


def test_index_with_a_key_twice(shards):
    file = shards / "model.safetensors.index.json"
    file.write_text(file.read_text().replace(
        '"weight_map": {', f'"weight_map": {{"{NORM}": "x.safetensors",'))  # fmt: skip
    refused(shards, file.name, NORM, "twice")


def test_two_checkpoints_in_one_folder(shards, one):
    shutil.copy(one / "model.safetensors", shards)
    refused(shards, "model.safetensors", "keep one")
    (shards / "model.safetensors").unlink()
    index = shards / "model.safetensors.index.json"
    shutil.copy(index, shards / "other.safetensors.index.json")
    assert minqwen.load(shards)  # the plain name is meant
    index.rename(shards / "third.safetensors.index.json")
    refused(shards, "other.safetensors.index.json", "third.safetensors.index.json")


# ---- the config ----


@pytest.mark.parametrize(
    "key, value, word",
    [
        ("num_experts_per_tok", 34, "num_experts_per_tok"),
        ("num_hidden_layers", 8, "num_hidden_layers"),
        ("num_hidden_layers", 3, LAYER + "3."),
        ("num_experts", 32, GATE_UP),
        ("num_experts", 34, "num_experts"),
        ("hidden_size", 128, "[320, 128]"),
        ("vocab_size", 10**12, str(10**12)),
    ],
)
def test_config_of_another_checkpoint(one, key, value, word):
    def change(config):
        text = config["text_config"]
        text[key] = value
        text.pop("layer_types", None)
        text["full_attention_interval"] = 4
        if key == "hidden_size":
            config["vision_config"]["out_hidden_size"] = value

    edit_json(one / "config.json", change)
    refused(one, word)


@pytest.mark.parametrize(
    "part, key, value, word",
    [
        ("text_config", "head_dim", 10**400, "out of range"),
        ("text_config", "linear_num_value_heads", 2**52, "at most 1048576"),
        ("text_config", "rms_norm_eps", float("nan"), "out of range"),
        ("text_config", "initializer_range", float("inf"), "out of range"),
        ("rope_parameters", "partial_rotary_factor", 1e308, "out of range"),
        ("rope_parameters", "rope_theta", float("nan"), "out of range"),
        ("vision_config", "depth", 10**6, "at most 1000"),
        ("vision_config", "spatial_merge_size", 10**6, "at most 1024"),
        ("vision_config", "num_position_embeddings", 10**400, "out of range"),
    ],
)
def test_numbers_no_model_has(one, part, key, value, word):
    def change(config):
        text = config["text_config"]
        (text if part == "rope_parameters" else config)[part][key] = value

    edit_json(one / "config.json", change)
    refused(one, "config.json", word)


def test_unknown_model_type(one):
    edit_json(one / "config.json", lambda c: c.update(model_type="llama"))
    refused(one, "model_type", "llama")


def test_code_beside_a_checkpoint_is_never_run(one):
    """Others ask whether to trust it; here nobody can."""
    (one / "modeling.py").write_text("open('ran', 'w')\nclass Model: pass\n")
    edit_json(one / "config.json", lambda c: c.update(
        auto_map={"AutoModel": "modeling.Model"}))  # fmt: skip
    model = minqwen.load(one)
    assert type(model) is minqwen.Qwen and "auto_map" in model.cfg.extra
    assert not os.path.exists("ran") and not (one / "ran").exists()


def test_linear_layers_alone(one):
    def change(config):
        config["text_config"]["layer_types"] = ["linear_attention"] * 4

    edit_json(one / "config.json", change)
    refused(one, f"missing {LAYER}3.linear_attn", f"unexpected {LAYER}3.self_attn")


# ---- saving ----


def test_saving_without_weights(tmp_path):
    with torch.device("meta"):
        model = minqwen.Qwen(small_model().cfg)
    with pytest.raises(InputError, match="meta device"):
        minqwen.save(model, tmp_path)
    assert not list(tmp_path.iterdir())


def test_saving_a_dtype_nobody_reads(tmp_path):
    with pytest.raises(InputError, match="float64"):
        minqwen.save(small_model(moe=False).double(), tmp_path)


def test_saving_beside_the_weights_of_others(tmp_path):
    (tmp_path / "model.safetensors-00001-of-00094.safetensors").touch()
    with pytest.raises(InputError, match="00001-of-00094"):
        minqwen.save(small_model(moe=False), tmp_path)


def test_saving_on_a_full_disk(one):
    """The old checkpoint survives, and nothing is left of the new one."""
    resource = pytest.importorskip("resource")
    old = minqwen.load(one)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(InputError, match="cannot be written"):
            minqwen.save(small_model(seed=5), one)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert len(list(one.iterdir())) == 2
    for p, q in zip(old.parameters(), minqwen.load(one).parameters(), strict=True):
        assert torch.equal(p, q)


SAVE_FOREVER = """
import sys
from tiny_models import small_model
import minqwen

models = small_model(seed=1, moe=False), small_model(seed=2, moe=False)
for i in range(10**9):
    minqwen.save(models[i % 2], sys.argv[1], max_shard_bytes=int(sys.argv[2]))
    print(i, flush=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize("limit", [10**9, 200_000], ids=["one file", "shards"])
def test_kill_while_saving(tmp_path, limit):
    """Whatever the moment, what loads is one whole model, never a mixture."""
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", SAVE_FOREVER, tmp_path, str(limit)]
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        time.sleep(random.Random(limit).random() / 5)
        process.kill()
    try:
        back = minqwen.load(tmp_path)
    except InputError:
        assert limit < 10**9  # one file over another is a single atomic step
        return
    wanted = [small_model(seed=seed, moe=False) for seed in (1, 2)]
    alike = [
        all(map(torch.equal, back.parameters(), model.parameters())) for model in wanted
    ]
    assert any(alike)


def test_saving_where_a_file_is(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="file cannot be written"):
        minqwen.save(small_model(moe=False), tmp_path / "file")
