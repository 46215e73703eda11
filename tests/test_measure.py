"""What is measured of a machine, and what is foretold by it."""

import json
import re
from pathlib import Path

import pytest
import torch
from test_cli import checkpoint  # noqa: F401  (a fixture)
from tiny_models import small_model

import minqwen
from minqwen.bench import measure
from minqwen.errors import InputError
from minqwen.model.config import Config
from minqwen.plan import budget, predict
from minqwen.plan.page import advise
from minqwen.units import human
from minqwen.weights.convert import convert
from minqwen.weights.disk.pages import AT_ONCE

SPEEDS = {"fp32": 8e9, "bf16": 1e10, "fp8": 2e9, "int8": 1e9, "int4": 5e8,
          "Q8_0": 1e9, "Q4_K": 6e8, "Q5_K": 6e8, "Q6_K": 6e8}  # fmt: skip
FOUND = {"disk": 2e9, "loops": SPEEDS, "what": "reading a file"}


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_a_checkpoint_is_read_where_there_is_one(tmp_path):
    for name, size in ("a.safetensors", 60), ("b.safetensors", 70), ("c.bin", 80):
        with open(tmp_path / name, "wb") as file:
            file.truncate(size * AT_ONCE)
    with measure.readable(tmp_path) as (path, what):
        assert path.name == "b.safetensors" and what == "reading b.safetensors"
    with measure.readable(tmp_path / "b.safetensors") as (path, _):
        assert path.name == "b.safetensors"


def test_a_file_is_made_and_gone_where_there_is_none(tmp_path, monkeypatch):
    (tmp_path / "config.json").write_text("{}")
    monkeypatch.setattr(measure, "TRIED", 3 * AT_ONCE)
    for place in tmp_path, tmp_path / "config.json":
        place = place.parent if place.is_file() else place
        with measure.readable(place) as (path, what):
            assert path.parent == tmp_path and path.stat().st_size == 3 * AT_ONCE
            assert what == "reading a file of 12.58 MB made there"
            assert 1e6 < measure.disk_speed(path) < 1e12
        assert [p.name for p in tmp_path.iterdir()] == ["config.json"]
    monkeypatch.chdir(tmp_path)
    with measure.readable("397B-A17B") as (path, _):
        assert path.resolve().parent == tmp_path


def test_every_piece_is_read_once_and_no_byte_changed(tmp_path):
    content = bytes(range(256)) * (2 * AT_ONCE // 256) + b"end"
    (tmp_path / "a").write_bytes(content)
    assert measure.disk_speed(tmp_path / "a") > 0
    assert (tmp_path / "a").read_bytes() == content
    (tmp_path / "short").write_bytes(b"end")
    assert measure.disk_speed(tmp_path / "short") == 0


@pytest.mark.parametrize("form", measure.HELD)
def test_the_model_that_is_timed_weighs_what_is_said_of_it(form):
    cfg = Config.from_dict(measure.MEASURED | {
        "num_hidden_layers": 2, "hidden_size": 256, "intermediate_size": 256,
        "layer_types": ["linear_attention", "full_attention"]})  # fmt: skip
    model = measure.made(cfg, form)
    moved = predict.moved_by(model, 64)
    assert sum(moved.values()) == pytest.approx(budget.step_bytes(cfg, 64, 1, form))
    with torch.inference_mode():
        assert model(torch.ones(1, 3, dtype=torch.int64)).isfinite().all()


@pytest.mark.slow
def test_a_machine_is_measured_and_the_figures_are_kept(tmp_path, monkeypatch, run):
    monkeypatch.setattr(measure, "TRIED", 16 * AT_ONCE)
    monkeypatch.chdir(tmp_path)
    code, out, err = run("plan", "0.8B", "--context", 4096, "--measure")
    found = measure.kept()
    assert code == 0 and "[measuring" in err and set(found["loops"]) == set(SPEEDS)
    assert f"bf16 {human(found['loops']['bf16'])}/s" in out
    assert f"memory of {human(found['memory'])}" in out
    assert f"made there: the disk {human(found['disk'])}/s" in out
    assert all(1e6 < speed < 1e13 for speed in found["loops"].values())


def test_figures_of_another_machine_or_none_are_not_taken():
    assert measure.kept() is None
    measure.keeper().parent.mkdir(parents=True)
    own = FOUND | {"processor": measure.processor()}
    for content in "", "[]", "{}", json.dumps(own | {"processor": "other"}), '{"a"':
        measure.keeper().write_text(content)
        assert measure.kept() is None
    measure.keeper().write_text(json.dumps(own))
    assert measure.kept() == own


@pytest.mark.parametrize("moe", [False, True])
@pytest.mark.parametrize("dtype, form", [("float32", "fp32"), ("bfloat16", "bf16")])
def test_what_a_model_moves_is_what_was_planned(moe, dtype, form):
    model = small_model(moe=moe).to(getattr(torch, dtype))
    moved = predict.moved_by(model, 100)
    assert sum(moved.values()) == pytest.approx(
        budget.step_bytes(model.cfg, 100, 1, form), rel=1e-3
    )
    assert moved[form] / sum(moved.values()) > 0.9  # the rest is kept in float32


def test_experts_on_disk_count_by_what_is_chosen(tmp_path):
    model = small_model()
    minqwen.save(model, tmp_path / "plain")
    paged = minqwen.load(tmp_path / "plain", experts="disk", expert_cache=200_000)
    assert predict.moved_by(paged, 100) == predict.moved_by(model, 100)
    convert(tmp_path / "plain", tmp_path / "int8", "int8")
    packed, paged = (
        minqwen.load(tmp_path / "int8", experts=where) for where in ("memory", "disk")
    )
    moved = predict.moved_by(packed, 100)
    assert moved["int8"] > 0 and predict.moved_by(paged, 100) == pytest.approx(moved)


def test_a_prediction_by_hand():
    model = small_model()
    moved = predict.moved_by(model, 10 + 9 // 2)
    answer = {"prompt_tokens": 10, "tokens": 9, "seconds": 3.0, "prompt_seconds": 1.0}
    told = predict.beside(model, answer, FOUND)
    seconds = sum(size / SPEEDS[form] for form, size in moved.items())
    assert told["predicted_tokens_a_second"] == pytest.approx(1 / seconds, rel=1e-4)
    assert told["tokens_a_second"] == 4.0 and told["read_a_token"] == 0
    answer["experts"] = {"answer": {"bytes_read_a_token": 10**9}}
    told = predict.beside(model, answer, FOUND)
    assert told["predicted_tokens_a_second"] == pytest.approx(2, rel=1e-2)
    assert "1 GB from disk a token; it was 4, 200% of that" in predict.line(told)


def test_the_page_goes_by_what_was_measured():
    text = advise("35B-A3B", context=4096, memory=64 * 2**30, measured=FOUND)
    assert "bf16 10 GB/s, fp8 2 GB/s, int8 1 GB/s, int4 500 MB/s" in text
    assert "reading a file: the disk 2 GB/s" in text
    cfg = Config.named("35B-A3B")
    row = re.search(r"all in memory, int4 +([\d.]+) GB +([\d.]+) s +([\d.]+)\n", text)
    always, routed, kept = budget.moved(cfg, 4096, 1, "int4")
    seconds = (always + routed) / 5e8 + kept / 1e10
    assert float(row[3]) == pytest.approx(1 / seconds, rel=1e-2)
    assert float(row[2]) == pytest.approx(float(row[1]) / 2, rel=0.05)
    # Here the exact form is the fastest, and nothing coarser is proposed.
    assert "--quantize" not in text


def test_the_page_to_a_real_answer_has_the_plans_figures():
    text = (Path(__file__).parents[1] / "docs" / "real.md").read_text()
    small, middle, large = (Config.named(n) for n in ("0.8B", "35B-A3B", "397B-A17B"))

    def all_of(cfg, form):
        return sum(budget.weight_bytes(cfg, form).values())

    def held(cfg, context, *forms):
        found = budget.choices(cfg, context, 1, 2**50, 1e9, 1e10)
        (choice,) = [c for c in found if (c.disk, c.form) == forms]
        return choice.need

    for size in (
        f"{all_of(small, 'bf16') / 1e9:.3g} GB to download",
        f"{held(small, 4096, None, 'bf16') / 1e9:.2g} GB of memory",
        f"{budget.step_bytes(small, 4096, 1) / 1e9:.2g} GB read for each token",
        f"`35B-int4` is {all_of(middle, 'int4') / 1e9:.3g} GB",
        f"wants {held(middle, 4096, None, 'int4') / 1e9:.3g} GB of memory",
        f"{budget.weight_bytes(middle, 'int4')['routed experts'] / 1e9:.3g} GB; "
        f"{held(middle, 4096, 'int4', 'int4') / 1e9:.2g} GB and a cache",
        f"FP8 files are {all_of(large, 'fp8') / 1e9:.3g} GB",
        f"{held(large, 8192, 'fp8', 'fp8') / 1e9:.3g} GB stay in memory",
        f"{all_of(large, 'bf16') / 1e9:.3g} GB and "
        f"{held(large, 8192, 'bf16', 'bf16') / 1e9:.3g} GB",
        f"{all_of(large, 'int4') / 1e9:.3g} GB and "
        f"{held(large, 8192, 'int4', 'int4') / 1e9:.3g} GB",
        f"{budget.routed_bytes(large, 'fp8', 1) / 1e9:.2g} GB a token in FP8",
    ):
        assert size in text, size


def test_stats_say_what_was_foretold_beside_what_was(run, checkpoint):  # noqa: F811
    args = ["generate", checkpoint, "--prompt", "Hello", "--max-new-tokens", 9]
    code, _, err = run(*args, "--stats")
    assert code == 1 and "plan NAME --measure" in err
    measure.keeper().parent.mkdir(parents=True)
    own = FOUND | {"processor": measure.processor()}
    measure.keeper().write_text(json.dumps(own))
    code, out, err = run(*args, "--stats", "--json")
    told = json.loads(out)["predicted"]
    assert code == 0 and told["predicted_tokens_a_second"] > told["tokens_a_second"] > 0
    assert "[predicted by what was measured here: " in err and "% of that]" in err
    code, out, err = run(*args, "--stats", "--json", "--experts", "disk",
                         "--expert-cache", "200kB")  # fmt: skip
    answer = json.loads(out)
    read = answer["experts"]["answer"]["bytes_read_a_token"]
    assert answer["predicted"]["read_a_token"] == read > 0


def test_a_folder_that_cannot_be_read_is_told_in_a_sentence(tmp_path):
    with pytest.raises(InputError, match="cannot be written to, to measure its disk"):
        with measure.readable("/proc/self"):
            pass
