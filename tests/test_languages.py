"""Notebook 09's three languages, and what is retrained on them with a part changed."""

import json
import math

import pytest
import torch

from minqwen.model.delta import delta_rule
from minqwen.model.forms import using
from minqwen.train.course import learn, threads_of
from minqwen.train.languages import (
    LENGTH,
    SYMBOLS,
    answers,
    batch,
    lesson,
    recipe_of,
    seen,
    small,
    untrained,
)
from tools import languages
from tools.languages import VARIANTS, Learner, LossFree, hebbian, row_balance


def rows_of(language, count=20):
    """Rows of one of the three without their mark, as lists."""
    rows = batch(count, torch.Generator().manual_seed(0))
    assert rows.shape == (3 * count, 1 + LENGTH)
    mine = rows[language * count : (language + 1) * count]
    assert (mine[:, 0] == SYMBOLS + language).all()
    return mine[:, 1:].tolist()


def test_an_answer_follows_from_what_stands_before_it():
    known = answers()
    for row in rows_of(0):
        memory = {}
        for at in range(0, LENGTH, 4):
            memory[row[at]] = row[at + 1]
            assert row[at + 3] == memory.get(row[at + 2], 0) and known[0, at + 3]
    for row in rows_of(1):
        assert row[: LENGTH // 2] == row[LENGTH // 2 :]
    for row in rows_of(2):
        for at in range(0, LENGTH, 3):
            assert row[at + 2] == (row[at] + row[at + 1]) % SYMBOLS
    assert known.sum(1).tolist() == [LENGTH // 4, LENGTH // 2, LENGTH // 3]


def test_the_loss_before_the_first_step_is_the_vocabularys():
    found = seen(untrained(small(), seed=0))
    assert found["bits"].mean() == pytest.approx(math.log2(SYMBOLS + 3), abs=0.6)
    assert torch.allclose(found["shares"].sum(-1), torch.ones(3, 4))


def test_a_step_can_be_done_again():
    course = lesson(untrained(small(), seed=0), recipe_of(10, seed=1))
    first, again, other = course.parts(3), course.parts(3), course.parts(4)
    assert torch.equal(first[0], again[0]) and not torch.equal(first[0], other[0])


def test_hebbian_is_the_rule_without_its_correction():
    B, T, Hk, H, K = 2, 7, 2, 4, 5
    q, k = torch.randn(2, B, T, Hk, K)
    v, g, beta = torch.randn(B, T, H, 3), -torch.rand(B, T, H), torch.rand(B, T, H)
    with using("hebbian"):
        found, _ = delta_rule(q, k, v, g=g, beta=beta)
    assert torch.equal(found, hebbian(q, k, v, g=g, beta=beta)[0])
    state, q, k = torch.zeros(B, H, K, 3), *(x.repeat_interleave(2, 2) for x in (q, k))
    for t in range(T):
        state = g[:, t].exp()[..., None, None] * state
        written = beta[:, t, :, None] * v[:, t]
        state = state + k[:, t, ..., None] * written[..., None, :]
        read = (state * q[:, t, ..., None]).sum(-2)
        assert torch.allclose(found[:, t], read, atol=1e-5)


def test_a_bias_steers_the_choice_and_not_the_weight():
    steering, logits = LossFree(1, 3), torch.tensor([[2.0, 1.0, 0.0]] * 4)
    plain = steering.choose(0, None, torch.zeros(4, 2).long(), logits)
    assert plain["ids"].unique().tolist() == [0, 1]
    steering.step()
    assert (steering.bias[0].sign() == torch.tensor([-1, -1, 1])).all()
    steering.bias[0] = torch.tensor([0.0, 0.0, 1.0])
    moved = steering.choose(0, None, torch.zeros(4, 2).long(), logits)
    assert moved["ids"][0].tolist() == [2, 0]
    want = torch.tensor([0.0, 2.0]).softmax(0)
    assert torch.allclose(moved["weights"][0], want)


def test_balance_of_rows_forbids_what_the_batchs_allows():
    logits = torch.full((2 * LENGTH, 2), 0.0)
    logits[:LENGTH, 0], logits[LENGTH:, 1] = 9, 9
    assert row_balance(logits, logits.topk(1)[1]) > 1.9


@pytest.mark.parametrize("name", VARIANTS)
def test_each_variant_learns(name):
    learner = Learner(name, seed=0, steps=10)
    before = [p.clone() for p in learner.model.parameters()]
    with threads_of(1) as pool:
        learner.step(0, pool)
    after = list(learner.model.parameters())
    assert all(torch.isfinite(p).all() for p in after)
    moved = [not torch.equal(a, b) for a, b in zip(before, after, strict=True)]
    assert sum(moved) > 0.9 * len(moved)
    whole = Learner("whole", 0, 10).model.num_parameters()["active"]
    active = learner.model.num_parameters()["active"]
    assert active == pytest.approx(whole, rel=0.1)


def test_the_whole_is_what_the_notebook_trains():
    learner, recipe = Learner("whole", seed=0, steps=10), recipe_of(10, 0)
    model = untrained(small(), 0)
    with threads_of(1) as pool:
        learner.step(0, pool)
        learn(lesson(model, recipe), 0, recipe, pool)
    for mine, theirs in zip(
        model.parameters(), learner.model.parameters(), strict=True
    ):
        assert torch.equal(mine, theirs)


def test_what_is_there_is_not_made_again(tmp_path, monkeypatch):
    file, made = tmp_path / "x.json", []

    def trained(name, seed, steps):
        made.append((name, seed, steps))
        return {"seed": seed, "right": [], "seconds": 0}

    paces = dict.fromkeys(languages.PARTS, 1.0) | {"all delta": 2.0}
    monkeypatch.setattr(languages, "trained", trained)
    monkeypatch.setattr(languages, "paces", lambda: paces)
    languages.run((0,), file, steps=10)
    assert made[:2] == [("whole", 0, 10), ("all delta", 0, 5)]
    assert len(made) == len(VARIANTS)
    languages.run((0, 1), file, steps=10)
    assert {seed for _, seed, _ in made[len(VARIANTS) :]} == {1}
    assert len(made) == 2 * len(VARIANTS)


def test_what_is_stored_is_of_the_recipe_as_it_is():
    stored = json.loads(languages.FILE.read_text())
    assert stored.items() >= languages.facts().items()
    assert stored["runs"] and stored["runs"].keys() <= VARIANTS.keys()
