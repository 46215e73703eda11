"""The plan's sums beside published figures, and beside bytes measured here."""

import shlex

import pytest
import torch
from tiny_models import small_model

import minqwen
from minqwen.cli import commands as cli
from minqwen.errors import InputError
from minqwen.model.config import Config
from minqwen.plan.budget import (
    FORMS,
    GPUS,
    PAGED,
    choices,
    distinct,
    expert_bytes,
    gpus,
    memory_bytes,
    part_named,
    per_gpu,
    step_bytes,
    weight_bytes,
)
from minqwen.plan.page import advise
from minqwen.units import human, rate, size
from minqwen.weights import open_checkpoint
from minqwen.weights.convert import read_target

BIG = Config.named("397B-A17B")
GIB = 2**30


# ---- beside published figures


def test_released_sizes():
    """The payloads of the bf16 and FP8 repositories, in GB."""
    for name, bf16, fp8 in (
        ("397B-A17B", 806.80, 406.1),
        ("122B-A10B", 250.17, 127.2),
        ("35B-A3B", 71.90, 37.5),
        ("27B", 55.56, 30.9),
    ):
        cfg = Config.named(name)
        assert round(sum(weight_bytes(cfg).values()) / 1e9, 2) == bf16
        assert round(sum(weight_bytes(cfg, "fp8").values()) / 1e9, 1) == fp8


def test_what_a_text_leaves_in_memory():
    memory = memory_bytes(BIG, 262144, 1)
    assert memory["keys and values"] == 30720 * 262144 == 7.5 * GIB
    assert memory["recurrent states"] == 180 * 2**20
    assert round(memory["convolution windows"] / 2**20, 2) == 3.16
    assert memory["draft head's keys and values"] == 2048 * 262144
    small = memory_bytes(Config.named("0.8B"), 262144, 1)
    assert small["keys and values"] == 3 * GIB
    assert memory_bytes(BIG, 100, 7)["keys and values"] == 7 * 100 * 30720


def test_experts_that_a_batch_visits():
    """Distinct experts of 512, ten a token, at even routing."""
    found = [round(distinct(BIG, batch)) for batch in (1, 4, 16, 32, 64, 256)]
    assert found == [10, 39, 139, 240, 367, 509]


def test_limits_of_bytes_moved():
    """397B in bf16 at 4.8 TB/s: 32.7 GB of weights a token, and the states."""
    speed = GPUS["H200-141GB"].speed
    states = 2 * (188_743_680 + 3_317_760)
    assert round((step_bytes(BIG, 0, 1) - states) / 1e9, 1) == 32.7
    assert round(speed / step_bytes(BIG, 0, 1)) == 145
    assert round(8 * speed / step_bytes(BIG, 0, 1)) == 1162
    assert round(8 * speed / step_bytes(BIG, 262144, 1)) == 934
    assert expert_bytes(BIG) == 3 * 4096 * 1024 * 2


# ---- beside what is measured


def measured(model):
    """{part: bytes} of a loaded model's parameters."""
    sizes = {}
    for name, p in model.named_parameters():
        sizes[part_named(name)] = sizes.get(part_named(name), 0) + p.nbytes
    return sizes


@pytest.mark.parametrize("changes", [
    dict(mtp_num_hidden_layers=1), dict(moe=False), dict(vision=False),
    dict(moe=False, tie_word_embeddings=True),
])  # fmt: skip
def test_loaded_checkpoints_weigh_what_was_planned(tmp_path, changes):
    model = small_model(**changes).to(torch.bfloat16)
    minqwen.save(model, tmp_path)
    assert weight_bytes(model.cfg) == measured(minqwen.load(tmp_path, dtype=None))
    stored = open_checkpoint(tmp_path).values()
    planned = sum(weight_bytes(model.cfg).values())
    assert planned == sum(e.end - e.start for e in stored)


@pytest.mark.parametrize("moe", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_caches_weigh_what_was_planned(moe, dtype):
    model = small_model(moe=moe, mtp_num_hidden_layers=1).to(dtype)
    plan = memory_bytes(model.cfg, 77, 3, dtype.itemsize)
    found = model.new_cache(3, 77).num_bytes()
    kept = ("keys and values", "draft head's keys and values")
    assert found["kv"] == sum(plan[name] for name in kept)
    assert found["state"] == plan["recurrent states"] + plan["convolution windows"]
    ids = torch.zeros(3, 1, dtype=torch.long)
    assert model(ids).float().nbytes == plan["logits"]


def test_a_cold_token_reads_what_was_planned(tmp_path):
    """Experts on disk, in the files' bf16: as many bytes as the plan says."""
    minqwen.save(small_model().to(torch.bfloat16), tmp_path)
    model = minqwen.load(tmp_path, dtype=None, experts="disk", expert_cache=10**6)
    pages = next(m.pages for m in model.modules() if hasattr(m, "pages"))
    with torch.inference_mode():
        model(torch.tensor([[7]]))
    cfg = model.cfg
    assert pages.stats.bytes_read == 4 * 5 * expert_bytes(cfg)
    moved = step_bytes(cfg, 0, 1) - step_bytes(cfg, 0, 1, "bf16", "int4")
    assert moved == pages.stats.bytes_read - 4 * 5 * expert_bytes(cfg, "int4")


def test_bits_of_a_form():
    """At the released widths, which are multiples of 128: what FORMS says."""
    for form, bits in FORMS.items():
        assert expert_bytes(BIG, form) == 3 * 4096 * 1024 * bits / 8


# ---- what fits


def test_a_laptop():
    """24 GiB and 256K tokens: only with experts on disk and the rest quantised."""
    found = choices(BIG, 262144, 1, 24 * GIB, 5e9, 5e10)
    fitting = {(c.disk, c.form) for c in found if c.fits}
    assert fitting == {pair for pair in PAGED if pair != ("bf16", "bf16")}
    assert all(c.need + c.cache <= 0.9 * 24 * GIB for c in found if c.fits)
    speeds = {"bf16": (0.2, 0.34), "fp8": (0.4, 0.68), "int4": (0.7, 1.3)}
    for choice in found:  # 15.1, 7.55 and 3.89 GB of experts a token at 5 GB/s
        if choice.fits:
            low, high = speeds[choice.disk]
            assert low < choice.speed < high
    assert not any(c.fits for c in choices(BIG, 262144, 1, 8 * GIB, 5e9, 5e10))
    assert all(c.fits for c in choices(BIG, 262144, 1, 1000 * GIB, 5e9, 5e10))


def test_a_faster_disk_or_more_memory_is_never_slower():
    speeds = [
        [c.speed for c in choices(BIG, 4096, 1, memory * GIB, disk, 5e10)]
        for memory, disk in ((24, 1e9), (24, 7e9), (96, 7e9), (400, 7e9), (900, 7e9))
    ]
    for slower, faster in zip(speeds, speeds[1:], strict=False):
        assert all(a <= b for a, b in zip(slower, faster, strict=True))


def test_eight_gpus():
    count, card = gpus("8xH100-80GB")
    assert (count, card) == (8, GPUS["H100-80GB"]) == gpus("8xh100-80gb")
    room = 0.9 * card.memory
    assert per_gpu(BIG, "", count, 262144, 1) > room
    assert room > per_gpu(BIG, "-FP8", count, 262144, 1) > 406.1e9 / 8
    assert per_gpu(BIG, "", 8, 262144, 1) < 0.9 * GPUS["H200-141GB"].memory
    for text in ("H100-80GB", "0xH100-80GB", "8xG99", "8x", "x", "8"):
        with pytest.raises(InputError, match="for example"):
            gpus(text)


# ---- the page


def test_page_for_a_laptop(run):
    args = "397B-A17B --context 262144 --batch 1 --memory 24GiB --disk-speed 5GB/s"
    code, out, err = run("plan", *args.split())
    assert code == 0 and err == ""
    for text in ("806.8 GB", "406.1 GB", "8.053 GB", "does not fit", "25.77 GB"):
        assert text in out
    for memory in ("24GiB", "64GiB", "1000GiB"):
        code, out, err = run("plan", *args.replace("24GiB", memory).split())
        own = [line for line in out.splitlines() if line.startswith("  minqwen ")]
        assert len(own) >= 2
        for line in own:  # our own commands are ones we take
            options = cli.parser().parse_args(shlex.split(line)[1:])
            if "convert" in line:
                read_target(options.quantize)
            elif memory != "1000GiB":
                assert options.experts == "disk" and options.expert_cache > 10**8
                assert options.quantize in (None, "int8", "int4")


def test_page_for_gpus(run):
    code, out, _ = run("plan", "397B-A17B", "--gpus", "8xH100-80GB")
    assert code == 0 and "bf16" in out and "memory of" not in out
    serve = next(line for line in out.splitlines() if line.startswith("  vllm serve"))
    assert "-FP8 --tensor-parallel-size 8 --max-model-len 262144" in serve
    assert "sglang.launch_server --model-path Qwen/Qwen3.5-397B-A17B-FP8 --tp 8" in out
    code, out, _ = run("plan", "397B-A17B", "--gpus", "16xH100-80GB")
    assert "--tensor-parallel-size 8 --pipeline-parallel-size 2" in out
    assert "--tp 16 --nnodes 2" in out
    code, out, _ = run("plan", "397B-A17B", "--gpus", "1xL40S-48GB")
    assert "would, in the smallest release" in out and "vllm" not in out


@pytest.mark.parametrize("name", ["0.8B", "27B", "35B-A3B"])
def test_page_for_others(name):
    text = advise(name, context=4096, memory=64 * GIB)
    assert "all in memory, bf16" in text and f"vllm serve Qwen/Qwen3.5-{name} " in text


def test_page_for_a_folder(tmp_path):
    minqwen.save(small_model().to(torch.bfloat16), tmp_path)
    text = advise(tmp_path, context=100, memory=GIB)
    assert f"minqwen generate {tmp_path} --dtype stored --prompt" in text
    with pytest.raises(InputError, match="4096 positions"):
        advise(tmp_path, context=5000)


def test_bad_use(run):
    for args in (["--memory", "lots"], ["--disk-speed", "5GB"], ["--batch", "0"]):
        code, out, err = run("plan", "0.8B", *args)
        assert (code, out) == (2, "") and err.count("\n") == 1 and args[1] in err
    code, out, err = run("plan", "0.8B", "--gpus", "8xG99")
    assert (code, out) == (1, "") and "8xG99" in err


def test_units():
    assert [size(t) for t in ("24GiB", "1.5GB", "500 mb", "7", "2KiB", "3t")] == [
        24 * GIB, 1_500_000_000, 500_000_000, 7, 2048, 3 * 10**12]  # fmt: skip
    assert rate("5GB/s") == 5 * 10**9
    assert [human(n) for n in (0, 999, 25_165_824, 806_795_875_168)] == [
        "0 B", "999 B", "25.17 MB", "806.8 GB"]  # fmt: skip
