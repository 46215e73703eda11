"""Notebook 10's drawn symbols, and what a hybrid learns of them early or late."""

import itertools
import json

import pytest
import torch
import torch.nn.functional as F

from minqwen.model.rope import positions
from minqwen.train.course import learn, threads_of
from minqwen.train.drawn import (
    BATCH,
    GLYPHS,
    PAD,
    SIDE,
    draw,
    drawn_at,
    drawn_batch,
    fused,
    seeing,
    seen,
    withheld,
)
from minqwen.train.languages import LENGTH, SYMBOLS, answers, recipe_of, untrained
from tools import drawn as experiment
from tools.drawn import SHOWN, WAYS, lesson_of


def rows(count=8, **more):
    return drawn_batch(count, torch.Generator().manual_seed(0), **more)


def test_a_symbol_can_be_told_from_its_picture():
    gen = torch.Generator().manual_seed(0)
    symbols = torch.arange(SYMBOLS).repeat(20)
    sheets = draw(symbols, gen).flatten(1)
    found = []
    for down, right in itertools.product(range(4), range(1, 5)):  # each where it may be
        places = torch.zeros(SYMBOLS, SIDE, SIDE)
        places[:, down : down + 5, right : right + 3] = GLYPHS.float()
        places = places.flatten(1) - places.flatten(1).mean(1, keepdim=True)
        found.append(sheets @ F.normalize(places).T)
    alike = torch.stack(found).amax(0)  # [pictures, SYMBOLS]
    assert (alike.argmax(1) == symbols).float().mean() > 0.97


def test_what_is_drawn_is_what_answers_follow_from():
    tokens, said, patches = rows()
    assert not (drawn_at() & answers()[1:]).any()
    assert (tokens[said != tokens] == PAD).all() and (said < PAD).all()
    assert (said[:, 0] - SYMBOLS).tolist() == [1] * 8 + [2] * 8
    assert len(patches) == 4 * (tokens == PAD).sum()
    assert (tokens == PAD)[:, 1:].view(2, -1, LENGTH).eq(drawn_at()[:, None]).all()


def test_training_withholds_a_quarter_of_the_pairs_and_no_sum_is_wrong():
    for every in (False, True):
        _, said, _ = rows(200, every=every)
        first, second, total = (said[-200:, at::3] for at in (1, 2, 3))
        assert torch.equal(total, (first + second) % SYMBOLS)
        share = withheld(first, second).float().mean()
        assert share == pytest.approx(0.25 * every, abs=0.03)
        counts = second.flatten().bincount(minlength=SYMBOLS) / second.numel()
        assert counts == pytest.approx(torch.full((SYMBOLS,), 1 / 8), abs=0.03)


def test_a_picture_stands_where_the_word_would():
    tokens, _, patches = rows(2)
    model = untrained(seeing(), 0)
    grid = torch.tensor([[1, 2, 2]]).expand(len(patches) // 4, 3)
    begin = torch.zeros(len(tokens), dtype=torch.long)
    where, _ = positions(tokens, tokens >= 0, begin, model.cfg, grid, None)
    assert torch.equal(where, torch.arange(1 + LENGTH).expand_as(where))
    with torch.no_grad():
        one_by_one = model.hidden(tokens, pixel_values=patches, image_grid_thw=grid)
        assert torch.allclose(fused(model, tokens, patches), one_by_one, atol=1e-4)


@pytest.mark.parametrize("kind", SHOWN)
def test_a_step_moves_what_learns_and_nothing_else(kind):
    model, recipe = untrained(seeing(), 0), recipe_of(10, 0)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    course = lesson_of(kind, model, recipe)
    with threads_of(1) as pool:
        learn(course, 0, recipe, pool)
    moved = {n for n, p in model.named_parameters() if not torch.equal(p, before[n])}
    tower = {name for name in before if name.startswith("model.visual.")}
    if kind == "tower":
        assert moved <= tower
    assert bool(moved & tower) == (kind != "text")
    assert bool(moved - tower) == (kind != "tower")
    assert len(course.parts(0)[0][0]) == len(course.parts(1)[1][1]) == BATCH // 2


def test_untrained_it_knows_nothing():
    found = seen(untrained(seeing(), 0), rows=16)
    assert all(found[kind].mean() < 0.3 for kind in ("text", "drawn", "others"))
    assert torch.allclose(found["shares"].sum(-1), torch.ones(2, 4))


def test_what_is_there_is_not_made_again(tmp_path, monkeypatch):
    file, made = tmp_path / "x.json", []

    def stretch(model, kind, seed, steps, begin):
        made.append((kind, seed, steps, begin))
        point = {"text": [], "drawn": [], "withheld": 0, "shares": []}
        return {"steps": steps, "seconds": 1.0, "points": [point]}

    paces = {"text": 1.0, "mixed": 2.0, "tower": 4.0}
    monkeypatch.setattr(experiment, "stretch", stretch)
    monkeypatch.setattr(experiment, "paces", lambda: paces)
    experiment.run((0,), file, steps=20)
    first = [("mixed", 0, 10, 0), ("text", 0, 20, 0)]  # what ways share is made once
    assert [one for one in made if not one[3]] == first and len(made) == 2 + len(WAYS)
    assert ("tower", 0, 5, 5_000) in made
    experiment.run((0, 1), file, steps=20)
    assert {seed for _, seed, *_ in made[2 + len(WAYS) :]} == {1}


def test_what_is_stored_is_of_the_recipe_as_it_is():
    stored = json.loads(experiment.FILE.read_text())
    assert stored.items() >= experiment.facts().items()
    assert stored["runs"].keys() == WAYS.keys()
    for runs in stored["runs"].values():
        assert [run["seed"] for run in runs] == list(experiment.SEEDS)


def test_what_the_notebook_says_follows_from_what_is_stored():
    runs = json.loads(experiment.FILE.read_text())["runs"]
    early, adapter, later, control = (
        torch.tensor([[r["drawn"][0], r["shown"], r["withheld"]] for r in runs[way]])
        for way in WAYS
    )

    def beyond(one, other):  # all seeds beyond all of the other
        return (one.amin(0) > other.amax(0)).tolist()

    assert not any(beyond(early, later) + beyond(later, early))
    assert beyond(early, adapter) == beyond(later, adapter) == [True, True, False]
    assert beyond(adapter, later)[2] and not beyond(adapter, early)[2]
    assert control.mean() == pytest.approx(1 / 8, abs=0.02)
    for way in WAYS:
        blind = torch.tensor([run["others"] for run in runs[way]])
        assert blind.mean() == pytest.approx(1 / 8, abs=0.03)
        text = torch.tensor([[p["text"] for p in r["curve"]] for r in runs[way]])
        assert text[:, -1].min() > 0.98
        assert (way == "early") == bool(text[:, 2].mean() < 0.95)  # it takes longer
    assert all(run["curve"][0]["withheld"] < 0.05 for run in runs["early"])
