"""The bench: what a token moves, and a real run of real contestants."""

import json
from pathlib import Path

import pytest
import torch

import minqwen
from minqwen import bench
from minqwen.bench import growth, worker
from minqwen.model.config import Config
from minqwen.model.qwen import Qwen
from minqwen.plan.budget import step_bytes

pytestmark = pytest.mark.slow

TINY = "assets/tiny"


@pytest.fixture(autouse=True)
def threads():
    """The bench sets torch's threads; other tests should not notice."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("name", ["397B-A17B", "35B-A3B", "27B", "0.8B"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_bytes_moved_are_the_active_parameters(name, dtype):
    """Counted from the module tree, in the dtype that a contestant computes in."""
    cfg = Config.named(name)
    with torch.device("meta"):
        model = Qwen(cfg).to(dtype)
    moved = 0
    for n, p in model.named_parameters():
        if n.startswith("model.language_model.") or n.startswith("lm_head"):
            share = cfg.text.num_experts_per_tok / cfg.text.num_experts if (
                ".experts." in n
            ) else 1  # fmt: skip
            rows = "embed_tokens" in n and not cfg.tie_word_embeddings
            moved += 0 if rows else p.nbytes * share
    memory = model.new_cache(1, 1).num_bytes()["state"]
    told = step_bytes(cfg, 0, 1, bench.FORM_OF[str(dtype).removeprefix("torch.")])
    assert told == pytest.approx(moved + 2 * memory, rel=1e-9)


def test_a_run(tmp_path):
    pytest.importorskip("matplotlib")
    result = bench.bench("tiny", ["float32"], [24], 3, 2, 1, tmp_path)
    [run] = result["runs"]
    assert set(run["contestants"]) == set(bench.PEERS)
    for times in run["contestants"].values():
        assert len(times["prefill"]) == len(times["decode"]) == 2
        assert min(times["prefill"] + times["decode"]) > 0 < times["peak"]
    assert len(run["bytes a second"]) == 2 and min(run["bytes a second"]) > 0
    assert json.loads((tmp_path / "bench.json").read_text()) == result
    assert (tmp_path / "bench.png").stat().st_size > 5000
    told = bench.tell(run)
    assert "1.00x (1.00 to 1.00)" in told and "transformers eager" in told


@torch.inference_mode()
def test_a_context_that_is_filled_in():
    """Both libraries then decode at that context, from caches of that length."""
    for kind in (worker.Ours, worker.Theirs):
        way = "torch" if kind is worker.Ours else "eager"
        player = kind(Path(TINY), torch.float32, "cpu", way)
        took = worker.timed_run(player, "cpu", 300, 2, most=100)
        assert took["prefill"] is None and took["decode"] > 0
        if kind is worker.Ours:
            assert player.cache.length == 302 and player.cache.layers[3].length == 302
            assert player.cache.layers[3].k[:, :, 250].abs().max() > 0
        else:
            assert player.cache.get_seq_length() == 302
    run = {
        "context": 300,
        "read": False,
        "dtype": "float32",
        "moved": 1,
        "bytes a second": [1.0],
        "contestants": {"minqwen": {"prefill": [None], "decode": [1.0], "peak": 0}},
    }
    run["contestants"]["minqwen torch"] = run["contestants"]["minqwen"]
    assert "filled in at random, not read" in bench.tell(run)


@pytest.mark.skipif(torch.cuda.is_available(), reason="that would make it")
def test_a_released_size_needs_a_gpu(tmp_path):
    with pytest.raises(minqwen.InputError, match="CUDA GPU.*use --size small"):
        bench.bench("397B-A17B", ["bfloat16"], [24], 3, 2, 1)


@pytest.mark.parametrize("name", ["35B-A3B", "397B-A17B"])
def test_a_slice_is_one_that_both_libraries_build(name, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    folder = bench.checkpoint(name, tmp_path)
    cfg = Config.from_json(folder)
    assert cfg.text.num_hidden_layers == 4
    assert cfg.text.hidden_size == Config.named(name).text.hidden_size
    transformers = pytest.importorskip("transformers")
    with torch.device("meta"):
        theirs = transformers.AutoModelForCausalLM.from_config(
            transformers.AutoConfig.from_pretrained(folder)
        )
        ours = Qwen(cfg)
    assert sum(p.numel() for p in theirs.parameters()) == sum(
        p.numel() for p in ours.parameters()
    )


def test_llama_is_asked_for_what_it_can_answer(tmp_path, monkeypatch):
    with pytest.raises(minqwen.InputError, match="one file for each of float32"):
        bench.llama_files(["a", "b"], ["float32"])
    with pytest.raises(minqwen.InputError, match="no such file"):
        bench.llama_files(["a.gguf"], ["float32"])
    (tmp_path / "a.gguf").touch()
    monkeypatch.delenv("LLAMA_BENCH", raising=False)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(minqwen.InputError, match="needs llama-bench on the PATH"):
        bench.llama_files([tmp_path / "a.gguf"], ["float32"])


def test_growth(tmp_path, monkeypatch):
    """A small one of everything: tables, files, and a batch that does not fit."""
    pytest.importorskip("matplotlib")
    little = dict(vocab_size=320, hidden_size=64, num_experts=10)
    monkeypatch.setattr(growth, "REDUCED", growth.REDUCED | little)
    monkeypatch.setattr(growth, "SMALL", growth.SMALL | little)
    monkeypatch.setattr(growth, "CONTEXTS", (128, 4096))
    monkeypatch.setattr(growth, "READS", (64, 128))
    memory = 64_000_000
    result = growth.growth(memory, 4, 1, 1, tmp_path)
    short, long = result["batch"]
    assert short["rows"][growth.HYBRID] > long["rows"][growth.HYBRID] > 0
    assert long["rows"][growth.ATTENTION] == 0
    assert "does not fit" in growth.tell_context(long)
    assert "x" in growth.tell_context(short)
    assert json.loads((tmp_path / "growth.json").read_text())["memory"] == memory
    assert (tmp_path / "growth.png").stat().st_size > 5000


def test_ratios_are_taken_round_by_round():
    run = {"contestants": {"a": {"decode": [1.0, 2.0]}, "b": {"decode": [3.0, 4.0]}}}
    assert bench.ratios(run, "decode", "a", "b") == [2.0, 3.0]
    assert bench.fastest(run, "decode", "b") == "b"
    assert bench.fastest(run, "decode", "c") is None


def test_a_contestant_that_fails_is_named(tmp_path):
    said = "bench: minqwen stopped: x.safetensors is not a regular file"
    (tmp_path / "x.safetensors").mkdir()
    with pytest.raises(minqwen.InputError, match=said):
        with bench.contestants({"minqwen": tmp_path}, "float32", 1):
            pass
