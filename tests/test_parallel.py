"""Several processes give what one gives: the same logits, and one sentence when not."""

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from functools import cache
from pathlib import Path

import pytest
import torch
from PIL import Image
from rank_work import PATIENCE, answers, command, compare, results, start
from tap_names import expected
from tiny_models import small_config, small_model

import minqwen
from minqwen.errors import InputError
from minqwen.model.config import Config
from minqwen.parallel.part import part_of
from minqwen.parallel.partition import Share
from minqwen.parallel.slices import cut_pieces
from minqwen.weights import Entry
from minqwen.weights.checkpoint.layout import skeleton

pytestmark = pytest.mark.slow

TINY = Path(__file__).parent.parent / "assets" / "tiny"
# A layer of each kind. Attention: 4 heads on 2 key heads; delta: 4 value heads on 2 key
# heads. Four ranks share key heads. 317 words are no multiple of either.
LAYERS = dict(num_hidden_layers=2, full_attention_interval=2)
MODELS = {
    "moe": LAYERS | dict(num_experts=32, mtp_num_hidden_layers=1),
    "dense": LAYERS | dict(moe=False, vision=False, vocab_size=317,
                           tie_word_embeddings=True),
}  # fmt: skip


# ---- the same numbers ----


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    made = {}
    for name, changes in MODELS.items():
        made[name] = tmp_path_factory.mktemp(name)
        minqwen.save(small_model(**changes), made[name])
    return made


def inputs(name):
    """A batch, the same with padding on the left of a row, and a row with a picture."""
    g = torch.Generator().manual_seed(1)
    ids = torch.randint(0, 300, (2, 17), generator=g)
    mask = torch.ones_like(ids)
    mask[0, :6] = 0
    given = {"plain": dict(input_ids=ids),
             "padded": dict(input_ids=ids, attention_mask=mask)}  # fmt: skip
    if name == "moe":
        ids = ids[:1].clone()
        ids[0, 3:9] = torch.tensor([303, 301, 301, 301, 301, 304])
        given["picture"] = dict(
            input_ids=ids, image_grid_thw=torch.tensor([[1, 4, 4]]),
            pixel_values=torch.randn(16, 1536, generator=g))  # fmt: skip
    return given


@pytest.mark.parametrize("count", [2, 4])
def test_logits_and_text_are_those_of_one_process(folders, count):
    given = {name: inputs(name) for name in MODELS}
    told = results(start(count, compare, folders, given))
    for name, folder in folders.items():
        model, own = minqwen.load(folder), [rank[name] for rank in told]
        for key, want in answers(model, given[name]).items():
            got = own[0]["found"][key]
            assert all(torch.equal(rank["found"][key], got) for rank in own), key
            if key == "text":
                assert torch.equal(got, want)
                continue
            real = slice(6, None) if key.startswith("padded") else slice(None)
            error = (got - want)[:, real].abs().max() / want[:, real].abs().max()
            print(f"{name}, {count} ranks, {key}: {error:.1e}")
            assert error < 1e-5, key
        assert all(rank["heard"] == expected(model) for rank in own)
        check_sizes(folder, model, own)


def check_sizes(folder, model, told):
    """Each rank has the memory of its share, and has read that much and no more."""
    whole = {name: (p.shape, p.dtype) for name, p in model.named_parameters()}
    around = (folder / "config.json").stat().st_size + 20_000
    for file in folder.glob("*.safetensors"):
        with open(file, "rb") as f:
            around += int.from_bytes(f.read(8), "little")
    cache = model.new_cache(1, 8).num_bytes()
    for i, rank in enumerate(told):
        share = Share(model.cfg, i, len(told))
        held = {name: share.shape(name, shape) for name, (shape, _) in whole.items()}
        assert rank["held"] == held
        size = share.num_bytes(whole)
        if rank["read"] is not None:
            assert size <= rank["read"] <= size + around
        # Of two key heads, four ranks hold one each.
        assert rank["cache"]["kv"] == cache["kv"] // 2
        assert rank["cache"]["state"] < 1.3 * cache["state"] / len(told)


# ---- the largest models' layouts ----


@cache
def layout(size):
    """{name: (shape, dtype)} of a released size's parameters."""
    model = skeleton(Config.named(size), torch.bfloat16)
    return {name: (p.shape, p.dtype) for name, p in model.named_parameters()}


def num_bytes(shape, dtype):
    return math.prod(shape) * dtype.itemsize


def test_397b_on_two_nodes_of_eight():
    """Bytes by hand: everything once, and again what more than one rank holds."""
    cfg, whole, everywhere, shared = Config.named("397B-A17B"), 0, 0, 0
    for name, sizes in layout("397B-A17B").items():
        whole += num_bytes(*sizes)
        if ".k_proj" in name or ".v_proj" in name:
            shared += num_bytes(*sizes)  # 2 heads: each lies on 8 ranks
        elif any(word in name for word in (
            "norm", ".visual.", "mtp.fc", "mlp.gate.weight", "shared_expert_gate"
        )):  # fmt: skip
            everywhere += num_bytes(*sizes)
    assert whole == 806_795_875_168
    each = [Share(cfg, i, 16).num_bytes(layout("397B-A17B")) for i in range(16)]
    assert sum(each) == whole + 15 * everywhere + 7 * shared
    print(f"{max(each):,} bytes a rank, {sum(each):,} in all")
    assert len(set(each)) == 1 and round(each[0] / 1e9, 1) == 51.6


@pytest.mark.parametrize("size, ranks", [("397B-A17B", 16), ("27B", 8)])
def test_ranks_tile_every_tensor(size, ranks):
    """No row or column is left out, and none is read twice but what is shared."""
    cfg = Config.named(size)
    shares = [Share(cfg, rank, ranks) for rank in range(ranks)]
    for name, (shape, dtype) in layout(size).items():
        label = {2: "BF16", 4: "F32"}[dtype.itemsize]
        entry = Entry(Path("x"), label, shape, 8, 8 + num_bytes(shape, dtype))
        row, cut = num_bytes(shape[1:], dtype), shares[0].cut(name)
        count = [0] * shape[cut[0] if cut else 0]
        for share in shares:
            own = torch.empty(share.shape(name, shape), device="meta")
            for piece in cut_pieces(name, entry, own, None, share.cut(name)):
                at, long = divmod(piece.start - 8, row)[0], len(piece.target)
                if piece.stride:
                    at, long = (piece.start - 8) // dtype.itemsize, own.shape[1]
                for i in range(at, at + long):
                    count[i] += 1
        times = 1 if cut else ranks
        if ".k_proj" in name or ".v_proj" in name:
            times = max(1, ranks // cfg.text.num_key_value_heads)
        assert set(count) == {times}, name


def test_what_cannot_be_divided_is_one_sentence():
    cfg = small_config()
    assert Share(cfg, 0, 1).config() == cfg
    with pytest.raises(InputError) as told:
        Share(cfg, 0, 2)
    assert str(told.value) == (
        "2 processes cannot share this model: num_experts is 33, which 2 does not "
        "divide; start one of 1 (--nproc-per-node)."
    )


def test_a_part_is_neither_saved_nor_recorded(tmp_path):
    cfg = small_config(moe=False)
    part = part_of(skeleton(cfg, torch.float32), Share(cfg, 1, 2))
    with pytest.raises(InputError, match="is not saved"):
        minqwen.save(part, tmp_path)
    with pytest.raises(InputError, match="no whole trace"), minqwen.record(part):
        pass


# ---- the command line, and what ends it ----


@pytest.fixture(scope="module")
def endless(tmp_path_factory):
    """The small model, but every word is as likely as any: it goes on for long."""
    folder = copy_of(TINY, tmp_path_factory.mktemp("endless"))
    model = minqwen.load(TINY, dtype=None)
    model.lm_head.weight.data.zero_()
    minqwen.save(model, folder)
    return folder


def copy_of(folder, to):
    return shutil.copytree(folder, to, dirs_exist_ok=True)


def words(folder, *more):
    return ["generate", str(folder), "--prompt", "Why?", "--device", "cpu", *more]


ENDLESS = "--temperature", "1", "--max-new-tokens", "3000"


def complaints(*texts):
    """Lines that a user reads as ours."""
    lines = "\n".join(texts).splitlines()
    return [line for line in lines if line.startswith("minqwen: ")]


def torchrun(count, *line):
    """The launcher as a user starts it; its processes are its children."""
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    launch += ["--nproc-per-node", str(count), "-m", "minqwen", *line]
    return subprocess.Popen(
        launch, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def test_torchrun_answers_as_one_process_does(run, tmp_path):
    """With a picture, sampled; rank 0 alone is heard."""
    picture = tmp_path / "picture.png"
    Image.new("RGB", (64, 48), "white").save(picture)
    line = words(TINY, "--image", str(picture), "--temperature", "1", "--json",
                 "--max-new-tokens", "16")  # fmt: skip
    code, out, _ = run(*line)
    assert code == 0
    launched = torchrun(2, *line)
    several, err = launched.communicate(timeout=PATIENCE)
    assert launched.returncode == 0, err
    assert json.loads(several)["token_ids"] == json.loads(out)["token_ids"]
    assert err.count("tokens read in") == 1


@pytest.mark.skipif(sys.platform != "linux", reason="finds the processes in /proc")
def test_a_killed_rank_ends_the_job_with_one_sentence(endless):
    launched = torchrun(2, *words(endless, *ENDLESS))
    assert launched.stdout.read(8)  # it is writing
    os.kill(child(launched.pid, "RANK=1"), signal.SIGKILL)
    _, err = launched.communicate(timeout=PATIENCE)
    assert launched.returncode not in (0, None)
    (sentence,) = complaints(err)
    assert "one of the 2 processes has ended" in sentence
    assert "Traceback" not in err.partition("torch/distributed")[0]


def child(parent, variable):
    """The process that `parent` started with this in its environment."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            own = (folder / "stat").read_text().rpartition(")")[2].split()[1]
            told = (folder / "environ").read_text().split("\0")
        except OSError:
            continue
        if int(own) == parent and variable in told:
            return int(folder.name)


def test_a_silent_rank_ends_the_others(endless):
    line = json.dumps(words(endless, *ENDLESS))
    started = start(2, command, line, 10)
    written = Path(f"{started[0].base}.out")
    for _ in range(10 * PATIENCE):
        if written.exists() and written.stat().st_size:
            break
        time.sleep(0.1)
    os.kill(started[1].process.pid, signal.SIGSTOP)
    code, _, err, _ = started[0].end()
    os.kill(started[1].process.pid, signal.SIGCONT)
    other, out, silent, _ = started[1].end()
    assert code == other == 1 and out == ""
    (sentence,) = complaints(err, silent)
    assert "fallen silent" in sentence


def test_a_failure_of_one_rank_is_told_once(endless, tmp_path):
    """Its copy of the weights is damaged, as on a second machine."""
    damaged = copy_of(endless, tmp_path / "damaged")
    model = minqwen.load(endless, dtype=None)
    model.model.language_model.layers[5].mlp.experts.down_proj.data[12] = float("nan")
    minqwen.save(model, damaged)
    folders = endless, damaged  # of 16 experts, 12 is one of the second rank's
    lines = [json.dumps(words(folder, *ENDLESS)) for folder in folders]
    ended = [rank.end() for rank in start(2, command, each=lambda i: [lines[i]])]
    assert [code for code, *_ in ended] == [1, 1]
    (sentence,) = complaints(*(err for _, _, err, _ in ended))
    assert "layers.5.mlp.experts.down_proj holds NaN" in sentence
    assert not any("Traceback" in err for _, _, err, _ in ended)


@pytest.mark.parametrize("line, code, sentence", [
    (words(TINY), 1, "3 processes cannot share this model: num_attention_heads is 4, "
     "which 3 does not divide; start one of 1, 2, 4 (--nproc-per-node)."),
    (["info", str(TINY)], 1, "of all commands only generate is shared by several "
     "processes; start this one without torchrun."),
    (words(TINY, "--quantize", "int8"), 1, "--quantize is for one process; several "
     "share weights as they are stored."),
    (words(TINY, "--experts", "disk"), 1, "--experts disk is for one process; several "
     "share the experts, each with its own in memory."),
    (words(TINY, "--device", "abacus"), 1, "device abacus cannot be used"),
    (["generate", str(TINY)], 2, "the following arguments are required: --prompt"),
])  # fmt: skip
def test_bad_use_is_told_once(line, code, sentence):
    ended = [rank.end() for rank in start(3, command, json.dumps(line))]
    assert [told[0] for told in ended] == [code] * 3
    (told,) = complaints(*(err for _, _, err, _ in ended))
    assert told.startswith("minqwen: " + sentence)
