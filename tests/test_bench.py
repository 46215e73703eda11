"""The bench: what a token moves, and a real run of real contestants."""

import json

import pytest
import torch

import minqwen
from minqwen import bench
from minqwen.config import Config
from minqwen.model import Qwen


@pytest.mark.parametrize("name", ["397B-A17B", "35B-A3B", "27B", "0.8B"])
def test_bytes_moved_are_the_active_parameters(name):
    """Counted from the module tree; what is no matrix product moves next to nothing."""
    cfg = Config.named(name)
    with torch.device("meta"):
        model = Qwen(cfg)
    active = model.num_parameters()["active"]
    if not cfg.tie_word_embeddings:
        active -= cfg.text.vocab_size * cfg.text.hidden_size
    small = sum(
        p.numel()
        for n, p in model.model.language_model.named_parameters()
        if p.dim() == 1 or "conv1d" in n or "shared_expert_gate" in n
    )
    states = model.new_cache(1, 1)
    states = sum(m.state.nbytes for m in states.layers if hasattr(m, "state"))
    assert bench.bytes_moved(cfg.text, 2, 0) == 2 * (active - small) + 2 * states


def test_bytes_moved_by_the_largest_at_long_context():
    """The sums of the literature: 32.7 GB of bf16 weights, 30,720 B of keys a token."""
    t = Config.named("397B-A17B").text
    assert round(bench.bytes_moved(t, 2, 0) / 1e9, 0) == 33
    grown = bench.bytes_moved(t, 2, 262144) - bench.bytes_moved(t, 2, 0)
    assert grown == 262144 * 30720


def test_a_run(tmp_path):
    pytest.importorskip("matplotlib")
    result = bench.bench("tiny", ["float32"], [24], 3, 2, 1, tmp_path)
    [run] = result["runs"]
    assert set(run["contestants"]) == set(bench.PEERS)
    for times in run["contestants"].values():
        assert len(times["prefill"]) == len(times["decode"]) == 2
        assert min(times["prefill"] + times["decode"]) > 0 < times["peak"]
    assert json.loads((tmp_path / "bench.json").read_text()) == result
    assert (tmp_path / "bench.png").stat().st_size > 5000
    told = bench.tell(run, result["machine"])
    assert "1.00x (1.00 to 1.00)" in told and "transformers eager" in told


def test_ratios_are_taken_round_by_round():
    run = {"contestants": {"a": {"decode": [1.0, 2.0]}, "b": {"decode": [3.0, 4.0]}}}
    assert bench.ratios(run, "decode", "a", "b") == [2.0, 3.0]
    assert bench.fastest(run, "decode", "b") == "b"
    assert bench.fastest(run, "decode", "c") is None


def test_a_contestant_that_fails_is_named(tmp_path):
    said = "bench: minqwen stopped: .*no .safetensors file"
    with pytest.raises(minqwen.InputError, match=said):
        bench.contest(tmp_path, "float32", 8, 1, 1, 1)
