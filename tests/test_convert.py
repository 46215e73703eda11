"""`minqwen convert`: the same numbers in another form, whatever happens on the way."""

import json
import multiprocessing
import os
import random
import shutil
import subprocess
import threading
import time
from pathlib import Path

import pytest
import torch
from test_bad_weights import edit_json, put, refused, shard_of, split
from test_paged import logits, pages_of
from test_weights import ISLANDS, parity, same
from tiny_models import small_model
from tqdm import tqdm

import minqwen
from minqwen.errors import InputError
from minqwen.files import FILES
from minqwen.plan.budget import weight_bytes
from minqwen.prompt.processor import Processor
from minqwen.weights import open_checkpoint
from minqwen.weights.checkpoint.hub import UNFINISHED
from minqwen.weights.convert import convert

pytestmark = pytest.mark.slow

ASSETS = Path(__file__).resolve().parent.parent / "assets"
SMALL = 200_000  # bytes a shard: several of them
LOADED = {"int8": "int8", "int4": "int4", "int4:int8": "int4:int8",
          "int4:bf16": "int4:stored", "int8:bf16": "int8:stored"}  # fmt: skip


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A bf16 checkpoint with draft head and tower, and all its small files."""
    folder = tmp_path_factory.mktemp("source") / "bf16"
    minqwen.save(small_model(mtp_num_hidden_layers=1).to(torch.bfloat16), folder)
    Processor.load(ASSETS / "tiny").save(folder)
    return folder


def contents(folder):
    return {file.name: file.read_bytes() for file in folder.iterdir()}


# ---- what is written


@pytest.mark.parametrize("form", LOADED)
def test_same_as_quantised_while_loading(source, tmp_path, form):
    before = contents(source)
    size = convert(source, tmp_path / "out", form, SMALL)
    model = minqwen.load(tmp_path / "out")
    other = minqwen.load(source, quantize=LOADED[form])
    assert torch.equal(logits(model), logits(other))
    table = open_checkpoint(tmp_path / "out")
    assert size == sum(entry.end - entry.start for entry in table.values())
    assert contents(source) == before
    names = {file.name for file in (tmp_path / "out").iterdir()}
    assert names >= {name for name in before if name in FILES}
    assert not any(name.endswith(".tmp") or name == UNFINISHED for name in names)


def test_bf16_is_what_was_there(source, tmp_path):
    convert(source, tmp_path / "out", "bf16", 10**9)
    same(minqwen.load(source, dtype=None), minqwen.load(tmp_path / "out", dtype=None))
    assert contents(tmp_path / "out")["model.safetensors"] == (
        source / "model.safetensors").read_bytes()  # fmt: skip


@pytest.mark.parametrize("form", ["fp8", "int4:int8", "int8"])
def test_a_form_of_itself_is_itself(source, tmp_path, form):
    """Widened and packed again, every byte comes back."""
    convert(source, tmp_path / "one", form, SMALL)
    convert(tmp_path / "one", tmp_path / "two", form, SMALL)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_plain_again(source, tmp_path):
    """Widened into bf16: numbers as near as bf16 comes, in the released layout."""
    convert(source, tmp_path / "int4", "int4")
    convert(tmp_path / "int4", tmp_path / "back", "bf16")
    packed = minqwen.load(tmp_path / "int4", dtype=torch.bfloat16)
    back = minqwen.load(tmp_path / "back", dtype=torch.bfloat16)
    assert torch.equal(logits(packed), logits(back))
    table = open_checkpoint(tmp_path / "back")
    assert "quantization_config" not in (tmp_path / "back" / "config.json").read_text()
    assert set(table) == set(open_checkpoint(source))


@pytest.mark.parametrize("changes", [
    dict(moe=False, tie_word_embeddings=True), dict(vision=False),
    dict(hidden_size=320, moe_intermediate_size=136, num_experts=6, vision=False),
], ids=["dense", "text", "ragged"])  # fmt: skip
@pytest.mark.parametrize("form", ["int4", "int8", "fp8"])
def test_other_models(tmp_path, changes, form):
    model = small_model(mtp_num_hidden_layers=1, **changes).to(torch.bfloat16)
    minqwen.save(model, tmp_path / "bf16")
    size = convert(tmp_path / "bf16", tmp_path / form, form, SMALL)
    assert sum(weight_bytes(model.cfg, form).values()) == size
    packed = minqwen.load(tmp_path / form, dtype=torch.bfloat16)
    convert(tmp_path / form, tmp_path / "back", "bf16")
    back = minqwen.load(tmp_path / "back", dtype=torch.bfloat16)
    assert torch.equal(logits(packed), logits(back))


@pytest.mark.parametrize("form", ["fp8", "int8", "int4", "int4:int8", "int4:bf16"])
def test_experts_on_disk_in_any_form(source, tmp_path, form):
    """One expert is two reads of one piece each; fp8's have their scales apart."""
    convert(source, tmp_path / "out", form, SMALL)
    model = minqwen.load(tmp_path / "out", experts="disk", expert_cache=30_000)
    assert torch.equal(logits(model), logits(minqwen.load(tmp_path / "out")))
    pages = pages_of(model)
    parts = next(iter(pages.parts.values()))
    assert len(parts) == (6 if form == "fp8" else 2)
    one = pages.stats.bytes_read / pages.stats.misses
    table = open_checkpoint(tmp_path / "out")
    of_layer = sum(e.end - e.start for n, e in table.items() if ".0.mlp.experts." in n
                   and not n.startswith("mtp."))  # fmt: skip
    assert one == of_layer / 33
    if form != "fp8":
        mixed = minqwen.load(tmp_path / "out", experts="disk", quantize="int8",
                             expert_cache=30_000)  # fmt: skip
        kept = minqwen.load(tmp_path / "out", quantize="int8")
        assert form != "int8" or torch.equal(logits(mixed), logits(kept))


def test_official_fp8_layout(source, tmp_path):
    """Names, dtypes and the config's words, as the release has them."""
    convert(source, tmp_path / "out", "fp8")
    table = open_checkpoint(tmp_path / "out")
    layer = "model.language_model.layers."
    for name in (
        "3.self_attn.q_proj", "0.linear_attn.in_proj_qkv",
        "0.mlp.shared_expert.up_proj", "1.mlp.experts.7.down_proj",
    ):  # fmt: skip
        weight = table[layer + name + ".weight"]
        scale = table[layer + name + ".weight_scale_inv"]
        assert weight.dtype == "F8_E4M3" and scale.dtype == "BF16"
        assert scale.shape == tuple(-(-n // 128) for n in weight.shape)
    for name in ("0.linear_attn.in_proj_a", "0.mlp.gate", "0.mlp.shared_expert_gate"):
        assert table[layer + name + ".weight"].dtype == "BF16"
    assert table["mtp.layers.0.mlp.experts.2.up_proj.weight"].dtype == "F8_E4M3"
    assert table["mtp.fc.weight"].dtype == "BF16"
    said = json.loads((tmp_path / "out" / "config.json").read_text())
    said = said["quantization_config"]
    plain = said.pop("modules_to_not_convert")
    assert said == {
        "quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic",
        "weight_block_size": [128, 128],
    }  # fmt: skip
    assert {"lm_head", layer + "0.mlp.gate", layer + "0.linear_attn.in_proj_a",
            "model.visual.merger.linear_fc1", "mtp.fc"} <= set(plain)  # fmt: skip
    assert not any("self_attn" in name for name in plain)


def test_transformers_reads_our_fp8(tmp_path):
    """Into bf16, as it does without a GPU: the numbers that we widen to."""
    from transformers import Qwen3_5MoeForConditionalGeneration

    # It takes blocks for equal parts, so widths are multiples of 128 as released.
    widths = dict(hidden_size=256, moe_intermediate_size=128, num_experts=6,
                  shared_expert_intermediate_size=128, linear_key_head_dim=64,
                  linear_value_head_dim=64, num_key_value_heads=4)  # fmt: skip
    model = small_model(mtp_num_hidden_layers=1, **widths).to(torch.bfloat16)
    minqwen.save(model, tmp_path / "bf16")
    convert(tmp_path / "bf16", tmp_path / "fp8", "fp8", SMALL)
    twin, info = Qwen3_5MoeForConditionalGeneration.from_pretrained(
        tmp_path / "fp8", dtype=torch.bfloat16, output_loading_info=True
    )
    assert not any(info.values()), info
    convert(tmp_path / "fp8", tmp_path / "back", "bf16")
    ours = minqwen.load(tmp_path / "back")
    theirs = twin.eval().float().state_dict()
    for name, p in ours.named_parameters():
        if name.endswith(ISLANDS) and name in theirs:  # rounded, as all else, to bf16
            theirs[name].copy_(p)
        if not name.startswith("mtp."):
            assert torch.equal(p, theirs.pop(name)), name
    assert not theirs
    parity(ours, twin)


# ---- kills, full disks, other hands

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["minqwen.weights.convert"])


def work(source, folder, form, ready):
    torch.set_num_threads(1)
    tqdm.set_lock(threading.RLock())  # its own would outlive the kill
    ready.send(True)
    convert(source, folder, form, SMALL)


def start(*args):
    here, there = SERVER.Pipe()
    process = SERVER.Process(target=work, args=(*args, there))
    process.start()
    here.recv()
    return process


def test_ten_kills(source, tmp_path):
    """Wherever it is cut off: nothing loads, and going on gives the same bytes."""
    process = start(source, tmp_path / "whole", "int4:int8")
    begun = time.monotonic()
    process.join()
    took = time.monotonic() - begun
    assert process.exitcode == 0
    want, draw, unfinished = contents(tmp_path / "whole"), random.Random(3), 0
    for i in range(10):
        folder = tmp_path / str(i)
        process = start(source, folder, "int4:int8")
        time.sleep(draw.random() * took)
        process.kill()  # if it has not ended already
        process.join()
        if (folder / UNFINISHED).exists():
            unfinished += 1
            assert contents(folder).keys() - want.keys() <= {
                UNFINISHED, *(name + ".tmp" for name in want)}  # fmt: skip
            refused(folder, str(folder), "minqwen convert")
            convert(source, folder, "int4:int8", SMALL)
        elif not (folder / "config.json").exists():
            convert(source, folder, "int4:int8", SMALL)
        assert contents(folder) == want
    print(f"{unfinished} of 10 kills met it at work, {took:.2f} s uninterrupted")


def half_done(source, folder):
    """A conversion that stopped after its first shards."""
    convert(source, folder, "int4", SMALL)
    whole = contents(folder)
    (folder / "config.json").unlink()
    last = sorted(folder.glob("*.safetensors"))[-1]
    last.rename(last.with_name(last.name + ".tmp"))
    os.truncate(last.with_name(last.name + ".tmp"), 1000)
    (folder / "model.safetensors.index.json").unlink()
    from minqwen.weights.convert import fingerprint
    from minqwen.weights.load import examine

    table, model, *_ = examine(source, torch.bfloat16)
    mark = fingerprint(table, model.cfg, "int4", "int4", SMALL)
    (folder / UNFINISHED).write_text(mark + "\n")
    return whole


def test_finished_shards_are_kept(source, tmp_path):
    whole = half_done(source, tmp_path / "out")
    times = {f.name: f.stat().st_mtime_ns for f in (tmp_path / "out").iterdir()}
    convert(source, tmp_path / "out", "int4", SMALL)
    assert contents(tmp_path / "out") == whole
    kept = [name for name, stamp in times.items()
            if name.endswith(".safetensors")
            and (tmp_path / "out" / name).stat().st_mtime_ns == stamp]  # fmt: skip
    assert len(kept) == len(list((tmp_path / "out").glob("*.safetensors"))) - 1


@pytest.mark.parametrize("how", ["shorter", "other header"])
def test_a_damaged_shard_is_written_again(source, tmp_path, how):
    whole = half_done(source, tmp_path / "out")
    first = sorted((tmp_path / "out").glob("*.safetensors"))[0]
    if how == "shorter":
        os.truncate(first, first.stat().st_size - 1)
    else:
        header, data = split(first)
        put(first, header.replace(b"U8", b"I8"), data)
    convert(source, tmp_path / "out", "int4", SMALL)
    assert contents(tmp_path / "out") == whole


@pytest.mark.parametrize("other", ["form", "shards", "source"])
def test_two_conversions_do_not_mix(source, tmp_path, other):
    half_done(source, tmp_path / "out")
    before, options = contents(tmp_path / "out"), ["int4", SMALL]
    if other == "form":
        options[0] = "int8"
    elif other == "shards":
        options[1] = SMALL + 1
    else:
        source = shutil.copytree(source, tmp_path / "other")
        os.utime(source / "model.safetensors")
    with pytest.raises(InputError, match="another source or with other options"):
        convert(source, tmp_path / "out", *options)
    assert contents(tmp_path / "out") == before


def test_only_one_at_a_time(source, tmp_path):
    fcntl = pytest.importorskip("fcntl")
    whole = half_done(source, tmp_path / "out")
    with open(tmp_path / "out" / UNFINISHED) as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(InputError, match="by another minqwen convert"):
            convert(source, tmp_path / "out", "int4", SMALL)
    convert(source, tmp_path / "out", "int4", SMALL)
    assert contents(tmp_path / "out") == whole


def test_every_way_in_is_closed_until_the_end(source, tmp_path, run):
    half_done(source, tmp_path / "out")
    for command in (["info"], ["generate", "--prompt", "Hello"], ["plan"]):
        code, out, err = run(command[0], tmp_path / "out", *command[1:])
        assert (code, out) == (1, "") and "minqwen convert" in err


def test_a_full_disk(source, tmp_path):
    """Files may grow to a limit only: what was done is kept, and is gone on from."""
    resource = pytest.importorskip("resource")
    convert(source, tmp_path / "whole", "int8", SMALL)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    largest = max(f.stat().st_size for f in (tmp_path / "whole").glob("*.safetensors"))
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest - 1, limits[1]))
    try:
        with pytest.raises(InputError, match="cannot be written: File too large; what"):
            convert(source, tmp_path / "out", "int8", SMALL)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    refused(tmp_path / "out", "minqwen convert")
    convert(source, tmp_path / "out", "int8", SMALL)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 2 MB of its own."""
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=2m", "none", place]
    if os.name != "posix" or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("file systems cannot be mounted here")
    yield place
    subprocess.run(["umount", place], check=True)


def test_a_small_disk(source, small_disk):
    """Told before the first byte; and when others fill the disk meanwhile, then."""
    with pytest.raises(InputError, match="to be written to a disk with"):
        convert(source, small_disk / "big", "bf16", SMALL)
    (small_disk / "other").write_bytes(b"x" * 1_500_000)
    free = shutil.disk_usage

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("minqwen.weights.convert.disk_usage", lambda place: free("/"))
        with pytest.raises(InputError, match="No space left on device; what is there"):
            convert(source, small_disk / "out", "int4", SMALL)
    refused(small_disk / "out", "minqwen convert")
    shards = contents(small_disk / "out")
    (small_disk / "other").unlink()
    convert(source, small_disk / "out", "int4", SMALL)
    done = contents(small_disk / "out")
    kept = [name for name in shards if name.endswith(".safetensors")]
    assert kept and all(done[name] == shards[name] for name in kept)
    assert minqwen.load(small_disk / "out")


def test_where_it_may_not_go(source, tmp_path):
    for folder in (source, source / "inside", source / "." / "a" / "b"):
        with pytest.raises(InputError, match="source's own folder or lies in it"):
            convert(source, folder, "int4")
    assert set(source.iterdir()) == {source / name for name in contents(source)}
    (tmp_path / "link").symlink_to(source)
    with pytest.raises(InputError, match="source's own folder"):
        convert(source, tmp_path / "link", "int4")
    convert(source, tmp_path / "done", "int4")
    with pytest.raises(InputError, match="config.json already"):
        convert(source, tmp_path / "done", "int8")
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="file cannot be written"):
        convert(source, tmp_path / "file", "int8")


def test_a_source_that_is_not_right(source, tmp_path):
    """Nothing is begun, and no NaN is carried over."""
    copy = shutil.copytree(source, tmp_path / "copy")
    edit_json(copy / "config.json", lambda c: c["text_config"].update(num_experts=32))
    with pytest.raises(InputError, match="do not fit config.json"):
        convert(copy, tmp_path / "out", "int4")
    assert not (tmp_path / "out").exists()
    shutil.copy(source / "config.json", copy)
    raw = bytearray((copy / "model.safetensors").read_bytes())
    raw[-2:] = b"\x80\x7f"  # the last tensor's last number, infinite
    (copy / "model.safetensors").write_bytes(raw)
    with pytest.raises(InputError, match="holds NaN or infinite"):
        convert(copy, tmp_path / "out", "int4")
    with pytest.raises(InputError, match="another source"):
        convert(source, tmp_path / "out", "int4")


@pytest.mark.parametrize("form", ["int3", "fp8:int8", "bf16:int8", "", "int4:int8:x"])
def test_forms_that_do_not_exist(source, tmp_path, form):
    with pytest.raises(InputError, match="quantize="):
        convert(source, tmp_path / "out", form)


def test_command(source, tmp_path, run):
    args = "--quantize", "int4:int8", "--shard-size", "200kB"
    code, out, err = run("convert", source, tmp_path / "out", *args)
    assert (code, out) == (0, "") and "1.078 MB of weights" in err
    assert shard_of(tmp_path / "out", "lm_head.weight").exists()
    code, out, err = run("info", tmp_path / "out")
    assert code == 0 and "experts int4, the rest int8" in out
    code, out, err = run("convert", source, tmp_path / "out", *args)
    assert (code, out) == (1, "") and err.count("\n") == 1 and "already" in err


@pytest.mark.parametrize("name", ["vocab.json", "tokenizer.json", "merges.txt"])
def test_what_is_copied_is_the_checkpoints_own_and_read_first(source, tmp_path, name):
    """A folder that people upload gets nothing that a link leads to; no pipe waits."""
    folder, out = Path(shutil.copytree(source, tmp_path / "in")), tmp_path / "out"
    (tmp_path / "secret").write_text("secret")
    for make, word in (
        (lambda file: file.symlink_to(tmp_path / "secret"), "outside the checkpoint"),
        (os.mkfifo, "not a regular file"),
        (Path.mkdir, "not a regular file"),
    ):
        (folder / name).unlink(missing_ok=True)
        make(folder / name)
        with pytest.raises(InputError) as error:
            convert(folder, out, "int8")
        assert name in str(error.value) and word in str(error.value)
        assert not out.exists()
