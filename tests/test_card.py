"""The card: what it calls right is what the model writes, and its figures are sound."""

import re
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch

import minqwen
from minqwen.errors import InputError
from minqwen.train.abilities import (
    answered,
    encoded,
    information,
    pictures,
    specialists,
)
from minqwen.train.card import made_by, write_card
from minqwen.train.cases import CASES, strangers
from minqwen.train.corpus import Corpus
from minqwen.train.corpus.about import ELSEWHERE
from minqwen.train.corpus.chats import exchange
from minqwen.train.corpus.tasks import TASKS, sample
from minqwen.train.loop import run
from minqwen.train.page import interval
from minqwen.train.recipe import Recipe

TINY = Path(__file__).resolve().parent.parent / "assets" / "tiny"


@pytest.fixture(scope="module")
def trained():
    return minqwen.load(TINY), Corpus.build(TINY)


def written(model, corpus, chat):
    """The greedy answer, token by token, cut where its turn ends."""
    ids, start = encoded(corpus, chat)
    inputs = {"input_ids": torch.tensor(ids[None, :start]), **pictures([chat])}
    end = corpus.tokenizer.token_to_id("<|im_end|>")
    steps = minqwen.generate(model, inputs, max_new_tokens=60, stop_ids=(end,))
    return [step.token for step in steps]


def test_right_is_what_the_model_writes(trained):
    """Read in one go, in a batch of several lengths, as written token by token."""
    model, corpus = trained
    asked = ("Who are you?", "What is your name?", "Are you Qwen?", "Hello!", "Hi")
    chats = [exchange(question, "") for question in asked]
    said = [corpus.tokenizer.decode(written(model, corpus, c)) for c in chats]
    assert len(set(said)) > 2
    chats += [exchange(q, a.strip()) for q, a in zip(asked, said, strict=True)]
    chats += [exchange(q, a.strip() + "!") for q, a in zip(asked, said, strict=True)]
    chats += [exchange(q, a[1:].strip()) for q, a in zip(asked, said, strict=True)]
    verdict = answered(model, corpus, chats)
    for chat, right in zip(chats, verdict, strict=True):
        ids, start = encoded(corpus, chat)
        end = corpus.tokenizer.token_to_id("<|im_end|>")
        wrote = written(model, corpus, chat)
        wrote = wrote if wrote[-1:] == [end] else [*wrote, end]
        assert right == (wrote == ids[start:].tolist())
    assert verdict[5:10] == [True] * 5 and not any(verdict[10:])


def test_wilson_interval():
    """The published example, 81 of 263 (Newcombe 1998, table I)."""
    assert interval(81, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)
    assert interval(0, 20)[0] == 0.0 and interval(20, 20)[1] == pytest.approx(1.0)


def test_information():
    assert information(torch.ones(4, 8)) == pytest.approx(0.0, abs=1e-6)
    assert information(torch.eye(4)) == pytest.approx(2.0)
    uneven = torch.tensor([[9.0, 0.0], [0.0, 1.0]])  # tasks count alike
    assert information(uneven) == pytest.approx(1.0)


def test_a_random_router_tells_as_much_as_another_one():
    """Else the random one that a learned router is held against would be too weak."""
    torch.manual_seed(0)
    model = minqwen.load(TINY)
    for layer in model.model.language_model.layers:
        torch.nn.init.normal_(layer.mlp.gate.weight)
    pairs = torch.tensor(specialists(model, Corpus.build(TINY), count=6))
    assert pairs.shape == (8, 2)
    own, other = pairs.mean(0)
    assert other > 0.05 and 0.6 < own / other < 1.6


@pytest.mark.parametrize("case", CASES, ids=lambda c: f"{c.task}: {c.what}")
def test_cases_are_the_same_every_time_and_vary(case):
    chats, again = case.chats(12), case.chats(12)
    assert [c.parts for c in chats] == [c.parts for c in again]
    assert len({c.prompt for c in chats} | {str(c.images) for c in chats}) > 8
    assert all(c.answer.endswith("<|im_end|>\n") for c in chats)


def test_a_note_is_the_newest_one():
    case = next(c for c in CASES if "8 facts, 2" in c.what)
    for chat in case.chats(40):
        value = chat.answer.split("<|im_end|>")[0].rstrip(".").split()[-1]
        assert value in chat.prompt


def test_strangers_had_not_seen_the_corpus():
    """200 questions, none alike, no five words in a row of what is trained on."""
    asked = [re.sub(r"<[^>]*>", "", chat.prompt) for chat in strangers()]
    assert len(set(asked)) == len(asked) == 200
    rngs = (np.random.default_rng(i) for i in range(4000))
    trained = [make_about(rng) for rng in rngs] + list(sample(500, pictured=5))
    seen = set().union(*map(fives, trained))
    assert not [text for text in asked if fives(text) & seen]
    assert all(chat.answer.startswith(ELSEWHERE) for chat in strangers())


def make_about(rng):
    return "".join(text for text, _ in TASKS["about"](rng, 1.0).parts)


def fives(text):
    words = re.findall(r"[a-z0-9']+", text.lower())[1:]  # without the role
    return {tuple(words[i : i + 5]) for i in range(len(words) - 4)}


def further(folder, recipe):
    """Another run that begins with the model in `folder`: its card tells of both."""
    after, resume = folder / "after", folder / "resume.pt"
    (folder / "after").mkdir()
    recipe = replace(recipe, steps=1, lr=0.0, matrix_lr=0.0, word_lr=0.0, seed=1)
    run(after, recipe, resume, count=1, begin=folder)
    for name in ("tokenizer.json", "model.safetensors"):  # no rates: nothing learned
        assert (after / name).read_bytes() == (folder / name).read_bytes(), name
    first, second = made_by(after)
    assert first == made_by(folder)[0] and second["recipe"]["steps"] == 1
    text = (after / "README.md").read_text()
    assert (
        text.index("steps = 2") < text.index("Then further") < text.index("steps = 1")
    )
    with pytest.raises(InputError, match="card.json is missing"):
        run(after, recipe, resume, begin=folder.parent)
    torch.save({"recipe": asdict(recipe), "facts": {"before": [first]}}, resume)
    with pytest.raises(InputError, match="another model than a new one"):
        run(after, recipe, resume)


@pytest.mark.slow
def test_a_run_writes_model_card_and_figures(tmp_path):
    """A few steps from nothing: the folder loads, and the card can be made again."""
    recipe = Recipe.read(steps=2, seq_lens=[128], rows=[2], points=1, tower=1.0)
    figures = run(tmp_path, recipe, count=2)
    assert not (tmp_path / "resume.pt").exists()
    assert len(figures["shares"]) == len(CASES) + 2
    card = (tmp_path / "README.md").read_text()
    assert "steps = 2" in card and "| notes: 32 facts |" in card
    assert all(len(pair) == 2 for pair in figures["experts"])
    model, processor = minqwen.load(tmp_path), minqwen.Processor.load(tmp_path)
    inputs = processor.chat([{"role": "user", "content": "Hi"}])
    assert len(list(minqwen.generate(model, inputs, max_new_tokens=3))) <= 3
    further(tmp_path, recipe)
    again = write_card(tmp_path, count=2)
    del again["shares"], figures["shares"]  # which hold seconds
    assert again == figures
    (tmp_path / "card.json").unlink()
    with pytest.raises(InputError, match="card.json is missing"):
        write_card(tmp_path)
