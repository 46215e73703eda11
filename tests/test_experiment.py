"""Taking parts of the model out, and the card's table of what came of it."""

import json

import pytest
import torch

from minqwen.model.config import FULL
from minqwen.model.forms import using
from minqwen.model.qwen import Qwen
from minqwen.model.shapes import LINEAR
from minqwen.model.taps import listen
from minqwen.train.corpus import Corpus, write_processor
from minqwen.train.parts import SHORT, parts_text
from minqwen.train.recipe import tiny_config
from minqwen.train.start import start
from minqwen.weights import save
from tools import experiment


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    model = Qwen(tiny_config()).eval()
    start(model)
    for layer in model.model.language_model.layers:
        layer.mlp.experts.down_proj.data *= 30  # so that they are missed
    return model


@torch.no_grad()
def logits(model, **cut):
    ids = torch.arange(40)[None] % 9
    with listen(model, **cut):
        return model(ids)


def test_a_mixer_taken_out_says_its_mean_of_every_token(model):
    means, heard = torch.randn(8, 128), {}

    def hear(layer, x):
        heard[layer] = x

    with listen(model, **experiment.mean_mixers([2, 3], means)):
        logits(model, attn_out=hear)
    assert torch.equal(heard[2], means[2].expand(1, 40, -1))
    assert torch.equal(heard[3], means[3].expand(1, 40, -1))
    assert heard[1].std(1).max() > 0


@pytest.mark.parametrize("layers", [[4], range(8)])
def test_experts_taken_out_say_nothing(model, layers):
    found = logits(model, **experiment.no_experts(layers))
    blocks = model.model.language_model.layers
    weights = [blocks[i].mlp.experts.down_proj for i in layers]
    kept = [weight.clone() for weight in weights]
    for weight in weights:
        weight.data.zero_()
    wanted = logits(model)
    for weight, old in zip(weights, kept, strict=True):
        weight.data.copy_(old)
    assert torch.allclose(found, wanted, atol=1e-5)
    assert not torch.allclose(found, logits(model), atol=1e-3)


def test_shared_experts_taken_out_say_nothing(model):
    found = logits(model, shared_gate=experiment.no_shared)
    layers = model.model.language_model.layers
    kept = [layer.mlp.shared_expert.down_proj.weight.clone() for layer in layers]
    for layer in layers:
        layer.mlp.shared_expert.down_proj.weight.data.zero_()
    wanted = logits(model)
    for layer, old in zip(layers, kept, strict=True):
        layer.mlp.shared_expert.down_proj.weight.data.copy_(old)
    assert torch.allclose(found, wanted, atol=1e-5)


def test_a_forbidden_expert_is_never_chosen(model):
    chosen = torch.tensor([[layer, layer + 8] for layer in range(8)])
    seen = {}

    def hear(layer, weights, ids, **_):
        seen[layer] = ids
        assert torch.allclose(weights.sum(-1), torch.ones(len(weights)))

    with listen(model, **experiment.forbidden(chosen)):
        logits(model, router=hear)
    for layer in range(8):
        assert not torch.isin(seen[layer], chosen[layer]).any()


@pytest.mark.parametrize("name", experiment.CHANGES)
def test_a_model_without_a_part_starts_and_learns(name):
    torch.manual_seed(0)
    config = experiment.CHANGES[name](tiny_config())
    model = Qwen(config).train()
    start(model)
    kinds = set(config.text.layer_types)
    assert kinds == {
        "all-delta": {LINEAR}, "all-attention": {FULL},
    }.get(name, {LINEAR, FULL})  # fmt: skip
    whole = Qwen(tiny_config()).num_parameters()["active"]
    assert model.num_parameters()["active"] == pytest.approx(whole, rel=0.05)
    with using("train"):
        model(torch.arange(32)[None]).logsumexp(-1).mean().backward()
    assert all(
        torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None
    )


def test_the_table_has_damage_and_worth_one_below_the_other(tmp_path):
    assert parts_text(tmp_path) == ""
    (tmp_path / "experiments").mkdir()

    def write(name, content):
        (tmp_path / "experiments" / f"{name}.json").write_text(json.dumps(content))

    plain = dict.fromkeys(SHORT, 0.5)
    cuts = ["nothing", "both attention layers", "all delta layers", "all experts",
            "delta layers 0 and 1", "delta layers 0 and 2", "the experts of layer 0",
            "the shared experts"]  # fmt: skip
    rows = dict.fromkeys(cuts, plain)
    rows["delta layers 0 and 2"] = dict.fromkeys(SHORT, 0.25)
    task = {"all": 1.0, "without its own": 0.5, "without another task's": 0.9}
    write("damage", {"rows": rows, "experts": {"notes": task}, "chats": 10})
    runs = [{"figures": dict.fromkeys(SHORT, v)} for v in (0.1, 0.2, 0.3)]
    write("all-delta", {"runs": runs, "steps": 5})
    assert "steps" not in parts_text(tmp_path)  # of none that was made
    write("whole", {"runs": runs, "steps": 5})
    text = parts_text(tmp_path)
    assert "in 5 steps, from 3 seeds" in text
    lines = text.splitlines()
    at = next(i for i, line in enumerate(lines) if "| both attention" in line)
    assert "| taken out | 50 % |" in lines[at]
    assert "| 3 short runs | 20 % (10 to 30) |" in lines[at + 1]
    assert any("two delta layers" in x and "38 % (25 to 50)" in x for x in lines)
    assert "| notes | 100 % | 50 % | 90 % |" in lines


@pytest.mark.slow
def test_the_commands_write_what_the_card_reads(tmp_path, monkeypatch):
    """A retraining of a few steps and the damage, on a chat a figure."""
    write_processor(tmp_path)
    corpus = Corpus.build(tmp_path)
    config = tiny_config(corpus.tokenizer.get_vocab_size(), corpus.end)
    save(Qwen(config).to(torch.bfloat16), tmp_path)
    experiment.run("whole", (3,), steps=2, count=1, threads=2, model=tmp_path)
    written = json.loads((tmp_path / "experiments" / "whole.json").read_text())
    (made,) = written["runs"]
    assert made["seed"] == 3 and set(made["figures"]) == set(SHORT)
    with monkeypatch.context() as patched:  # what is there is not made again
        patched.setattr(experiment, "retrained", lambda name, seed, *_: {"seed": seed})
        experiment.run("whole", (3, 4), steps=2, count=1, threads=1, model=tmp_path)
        written = json.loads((tmp_path / "experiments" / "whole.json").read_text())
        assert written["runs"] == [made, {"seed": 4}]
        experiment.run("whole", (3,), steps=3, count=1, threads=1, model=tmp_path)
        written = json.loads((tmp_path / "experiments" / "whole.json").read_text())
        assert written["runs"] == [{"seed": 3}]  # of another recipe
    (tmp_path / "experiments" / "whole.json").write_text(
        json.dumps({"steps": 2, "runs": [made]})
    )
    experiment.run("damage", (), steps=0, count=1, threads=2, model=tmp_path)
    text = parts_text(tmp_path)
    assert "1 short runs" in text and text.count("\n| ") > 10
