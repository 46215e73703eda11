"""The trainer learns, goes on after a kill as if nothing had happened, and is exact."""

import os
import re
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tiny_models import small_config

from minqwen.errors import InputError
from minqwen.model.deltanet import GatedDeltaNet
from minqwen.model.qwen import Qwen
from minqwen.train.corpus import Corpus, write_processor
from minqwen.train.corpus.scenes import WHAT
from minqwen.train.course import learn, optimizers, threads_of
from minqwen.train.loop import course, row_loss, train
from minqwen.train.muon import Muon, orthogonal
from minqwen.train.recipe import Recipe, plan, rate, tiny_config
from minqwen.train.start import start
from minqwen.train.tower import lessons, tower_course, words_of

TINY = Path(__file__).resolve().parent.parent / "assets" / "tiny"
SHORT = Recipe.read(steps=6, seq_lens=[64, 128], rows=[4, 2], tower=0.7, points=0)
SCRIPT = """
import os, signal, sys
from pathlib import Path
import minqwen.train.loop as t
from minqwen.train.recipe import Recipe
from minqwen.weights import save
keep, folder, die_at = t.keep, Path(sys.argv[1]), eval(sys.argv[2])
def keep_and_die(path, model, course, recipe, place, facts):
    keep(path, model, course, recipe, place, facts)
    if place == die_at:
        os.kill(os.getpid(), signal.SIGKILL)
t.keep = keep_and_die
recipe = Recipe.read(steps=6, seq_lens=[64, 128], rows=[4, 2], tower=0.7, points=0)
elsewhere = folder.with_suffix(".resume")
model, _ = t.train(folder, recipe, elsewhere, int(sys.argv[3]), save_every=2)
save(model.bfloat16(), folder)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("corpus")
    write_processor(path)
    return path


@pytest.fixture(scope="module")
def corpus(folder):
    return Corpus.build(folder)


def new_model(corpus):
    torch.manual_seed(0)
    model = Qwen(tiny_config(corpus.tokenizer.get_vocab_size(), corpus.end))
    start(model)
    return model


def test_a_new_model_copies():
    """Untrained: of random tokens said twice, the second time is told by the first."""
    torch.manual_seed(0)
    model = Qwen(tiny_config())
    ids = torch.randint(2000, (8, 64)).repeat(1, 2)

    def bits():
        with torch.inference_mode():
            logits = model(ids)[:, 64:-1]
        right = ids[:, 65:].flatten()
        return F.cross_entropy(logits.flatten(0, 1), right).item() / np.log(2)

    assert bits() > 10.5  # a guess among 2,048 costs 11
    start(model)
    assert bits() < 4


def test_delta_heads_begin_with_long_and_short_memories():
    torch.manual_seed(0)
    model = Qwen(tiny_config())
    start(model)
    layers = [m for m in model.modules() if isinstance(m, GatedDeltaNet)]
    steps = torch.cat([F.softplus(m.dt_bias) for m in layers])
    assert 1e-3 <= steps.min() < 2e-3 and 0.05 < steps.max() <= 0.1
    rates = torch.cat([m.A_log.exp() * F.softplus(m.dt_bias) for m in layers])
    half_lives = np.log(2) / rates.detach()
    assert half_lives.median() > 5 and (half_lives > 100).any()
    assert (half_lives < 2).any()


def begin(folder, die_at=None, threads=1):
    """Train in a process of its own, which may kill itself after a checkpoint."""
    args = [sys.executable, "-c", SCRIPT, str(folder), repr(die_at), str(threads)]
    return subprocess.Popen(args, env=os.environ | {"OMP_NUM_THREADS": "1"})


@pytest.mark.slow
def test_killed_and_resumed_is_the_uninterrupted_run(folder, tmp_path):
    """SIGKILL in either course; one thread or two: the file is the same, byte by byte.

    The resume file lies outside the folder.
    """
    for name in ("straight", "killed", "two"):
        (tmp_path / name).mkdir()
        tokenizer = (folder / "tokenizer.json").read_bytes()
        (tmp_path / name / "tokenizer.json").write_bytes(tokenizer)
    assert begin(tmp_path / "straight").wait() == 0
    for place in ((0, 2), (1, 0), (1, 4)):
        assert begin(tmp_path / "killed", place).wait() == -signal.SIGKILL
    assert begin(tmp_path / "killed", threads=2).wait() == 0
    whole, again = (
        (tmp_path / name / "model.safetensors").read_bytes()
        for name in ("straight", "killed")
    )
    assert whole == again


def test_resume_of_another_recipe_is_refused(folder, tmp_path):
    torch.save({"recipe": {"steps": 1}, "step": 1}, tmp_path / "resume.pt")
    with pytest.raises(InputError, match="another recipe"):
        train(folder, SHORT, tmp_path / "resume.pt")


def test_a_tokenizer_without_the_marks_is_refused(folder, tmp_path):
    """As of a model of before: its folder has no <tool_call>."""
    old = (folder / "tokenizer.json").read_text()
    assert "<tool_call>" in old
    (tmp_path / "tokenizer.json").write_text(old.replace("<tool_call>", "<tool_cell>"))
    with pytest.raises(InputError, match="does not have <tool_call>.*empty folder"):
        train(tmp_path, SHORT, tmp_path / "resume.pt")


@pytest.mark.parametrize(
    "line, new, says",
    [
        ("steps", "steps = 2.5", "steps is 2.5; expected a whole number"),
        ("steps", "steps = 0", "steps is 0; expected more than 0"),
        ("steps", "", "steps is missing"),
        ("steps", "steps = 9\nsize = 1", "size is no part of a recipe"),
        ("rows", "rows = [8, 8, 3]", "expected whole numbers of 2 or more, each even"),
        ("rows", "rows = [8, 8]", "2 numbers; expected as many as seq_lens, 3"),
        ("lr", "lr = 'high'", "lr is 'high'; expected a number"),
        ("lr", "lr = true", "lr is True; expected a number"),
        ("seq_lens", "seq_lens = [10, 256]", "expected whole numbers of 64 or more"),
        ("notes", "nodes = 1", "mixture is .* expected shares of notes, repeats"),
        ("notes", "notes = -1", "mixture is .* expected shares"),
        ("[mixture]", "[mixture", "is no TOML file"),
    ],
)
def test_a_recipe_that_is_wrong_is_explained(tmp_path, line, new, says):
    """`new` stands in the place of a line of the recipe."""
    text = (Path("minqwen/train/recipe.toml")).read_text()
    text, found = re.subn(rf"(?m)^{re.escape(line)} .*$", lambda _: new, text)
    assert found == 1
    file = tmp_path / "mine.toml"
    file.write_text(text)
    with pytest.raises(InputError, match=f"mine.toml.*{says}"):
        Recipe.read(file)
    with pytest.raises(InputError, match="none.toml cannot be read: No such file"):
        Recipe.read(tmp_path / "none.toml")


def test_every_weight_learns_and_a_page_is_learned_by_heart():
    """One batch again and again: the loss falls far, and no parameter is left out."""
    torch.manual_seed(0)
    model = Qwen(small_config(mtp_num_hidden_layers=1))
    ids = torch.randint(0, 300, (2, 40))
    ids[:, 5:11] = torch.tensor([303, 301, 301, 301, 301, 304])
    targets = ids.roll(-1, dims=1)
    targets[:, -1] = -100
    batch = {"input_ids": ids, "targets": targets, "pixel_values": torch.rand(32, 1536),
             "image_grid_thw": torch.tensor([[1, 4, 4]] * 2)}  # fmt: skip
    now = course(
        model, None, replace(SHORT, steps=10**6, lr=1e-2, word_lr=1e-2, matrix_lr=1e-2)
    )
    now.parts = lambda step: [batch]
    first, before = None, {n: p.detach().clone() for n, p in model.named_parameters()}
    with threads_of(1) as pool:
        for _ in range(40):
            found = learn(now, 10**6 // 2, replace(SHORT, steps=10**6), pool)
            first = first or found["next"]
    assert found["next"] < first / 4
    assert found["mtp"] < first / 2
    still = [n for n, p in model.named_parameters() if torch.equal(p, before[n])]
    assert not still


def test_row_loss_counts_rows_alike():
    model = Qwen(small_config(vision=False, vocab_size=8))
    logits = torch.zeros(2, 4, 8)
    logits[0, 0, 1] = 50.0  # certain and right: loss 0
    model.logits = lambda hidden: hidden
    targets = torch.full((2, 4), -100)
    targets[0, 0] = 1
    targets[1] = 3  # four targets of ln 8 each
    assert row_loss(model, logits, targets).item() == pytest.approx(2.0794415 / 2)


def test_two_halves_learn_what_the_whole_would(corpus):
    """Gradients of the halves, by one thread or two, are the mean of both alone."""
    recipe = replace(SHORT, mixture={"notes": 1.0, "pictures": 1.0})
    seen = []
    for threads in (1, 2):
        model = new_model(corpus)
        now = course(model, corpus, recipe)
        now.optimizers = []
        with threads_of(threads) as pool:
            learn(now, 1, replace(recipe, clip=1e9), pool)
        seen.append({n: p.grad for n, p in model.named_parameters()})
    assert all(torch.equal(seen[0][n], seen[1][n]) for n in seen[0] if "mtp" not in n)
    model.zero_grad()
    with threads_of(1):  # with more, sums are rounded otherwise, and experts flip
        for part in corpus.batch(1, **plan(1, recipe)):
            (now.loss(part, 1)[0] / 2).backward()
    for name, p in model.named_parameters():
        if p.grad is not None:
            scale = p.grad.abs().max() + 1e-8
            assert (seen[0][name] - p.grad).abs().max() < 1e-3 * scale, name


def test_the_tower_sees_before_it_speaks(corpus):
    """Alone first: its outputs become like embeddings, and nothing else moves."""
    model = new_model(corpus)
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    tower = tower_course(model, corpus, SHORT)
    with threads_of(1) as pool:
        found = learn(tower, 1, SHORT, pool)
    assert set(found) == {"most", "colour", "first", "second", "place"}
    tower.end()
    moved = [n for n, p in model.named_parameters() if not torch.equal(p, before[n])]
    assert moved and all(n.startswith("model.visual.") for n in moved)
    _, pixels, grids = lessons(0, 7, 1.0)[0]
    with torch.no_grad():
        out = model.model.visual(pixels, grids)
    words = model.model.language_model.embed_tokens.weight
    assert torch.equal(out[:, 0], words[0, :1].expand(len(out)))  # what all have
    long, wanted = (x[:, 1:].norm(dim=1).mean().item() for x in (out, words))
    assert long == pytest.approx(wanted, rel=0.5)  # other pictures


def test_what_is_seen_is_said_in_embeddings(corpus):
    """A cell that became the embedding of a word is named so, whatever all have."""
    model = new_model(corpus)
    words = words_of(model, corpus.tokenizer)
    assert torch.allclose(words.norm(dim=1), torch.ones(len(words)))
    table = model.model.language_model.embed_tokens.weight
    places = {"0": 0, "7": 7, " star": WHAT.index("star"), " red": len(WHAT)}
    for name, place in places.items():
        own = table[corpus.tokenizer.encode(name).ids[0]]
        assert (words @ own).argmax() == place


def test_a_name_is_the_same_tokens_everywhere(corpus):
    """After a space, if it has a capital, and after any mark."""
    for name in ("Toboushat", "Amara", "Zuko", "badros"):
        alone = corpus.tokenizer.encode(name).tokens
        places = ['"{}', "={}", "({}", ".{}", *["and {}"] * name.istitle()]
        for place in places:
            within = corpus.tokenizer.encode(place.format(name)).tokens
            mark = "\u0120" if " " in place else place[0]
            assert within[-len(alone) - 1 :] == [mark, *alone]


def test_rate_warms_up_and_comes_down():
    recipe = replace(SHORT, warmup=0.1, decay=0.5)
    rates = [rate(step, 1000, recipe) for step in range(1000)]
    assert rates[0] == pytest.approx(0.01) and rates[99] == 1.0 == max(rates)
    assert rates[499] == 1.0 and rates[999] == pytest.approx(0.002)
    assert rates[500:] == sorted(rates[500:], reverse=True)


def test_rows_grow_longer_and_tasks_harder():
    recipe = Recipe.read(steps=90)
    plans = [plan(step, recipe) for step in range(90)]
    assert [p["seq_len"] for p in plans[::30]] == list(recipe.seq_lens)
    assert [p["rows"] for p in plans[::30]] == list(recipe.rows)
    assert sorted(recipe.seq_lens) == list(recipe.seq_lens)
    assert plans[0]["level"] == 0 and plans[45]["level"] == 1.0 == plans[-1]["level"]


def test_muon_makes_orthogonal_what_torch_makes():
    """Singular values of about one; and torch's own Muon, but for its bf16."""
    torch.manual_seed(0)
    for shape in ((3, 24, 40), (2, 40, 24)):
        values = torch.linalg.svdvals(orthogonal(torch.randn(shape)))
        assert 0.6 < values.min() and values.max() < 1.3
    ours = [torch.nn.Parameter(torch.randn(32, 48)) for _ in range(2)]
    theirs = [torch.nn.Parameter(p.detach().clone()) for p in ours]
    settings = dict(lr=0.01, weight_decay=0.1)
    pair = (
        Muon(ours, **settings),
        torch.optim.Muon(theirs, **settings, adjust_lr_fn="match_rms_adamw"),
    )
    start_at = [p.detach().clone() for p in ours]
    for _ in range(4):
        for a, b in zip(ours, theirs, strict=True):
            a.grad = torch.randn(a.shape)
            b.grad = a.grad.clone()
        for optimizer in pair:
            optimizer.step()
    for a, b, was in zip(ours, theirs, start_at, strict=True):
        assert (a - b).abs().max() < 0.05 * (a - was).abs().max()


def test_matrices_have_muon_and_words_do_not_decay(corpus):
    muon, adam = optimizers(new_model(corpus), SHORT)
    assert all(p.dim() == 2 for group in muon.param_groups for p in group["params"])
    still = [g for g in adam.param_groups if not g["weight_decay"]]
    shapes = {tuple(p.shape) for g in still for p in g["params"]}
    assert (2048, 128) in shapes and (8,) in shapes
