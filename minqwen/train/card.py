"""The model card: all figures from the files in a folder, as anyone would load them.

README.md, and the same figures in card.json, where the runs that made the weights have
left their recipes and their learning curves.
"""

import json
import platform
import time
from dataclasses import asdict
from pathlib import Path

import torch

from ..bench.machine import processor
from ..errors import InputError
from ..files import as_json, write_whole
from ..weights import load
from .abilities import (
    WINDOW,
    answered,
    answers,
    bits_per_byte,
    copy_bits,
    draft_accuracy,
    encoded,
    specialists,
)
from .cases import CASES, strangers
from .corpus import Corpus
from .corpus.about import ELSEWHERE
from .page import text_of

COUNT = 500
STRANGERS_FLOOR, ASTRAY_MOST = 0.95, 0.01


def write_card(folder, recipe=None, facts=None, count=COUNT):
    """Measure the checkpoint in `folder`, write its card, return the figures.

    recipe and facts are those of `train`, by default as card.json has them.
    """
    file = Path(folder) / "card.json"
    if recipe is None:
        card = read_card(folder)
    else:
        where = {
            "processor": processor(),
            "python": platform.python_version(),
            "torch": torch.__version__,
        }
        card = {"recipe": asdict(recipe), **facts, **where}
        write_whole(file, as_json(card))
    card["figures"] = measure(folder, count)
    write_whole(file, as_json(card))
    write_page(folder)
    return card["figures"]


def write_page(folder):
    """README.md of what was measured and tried: card.json and experiments/."""
    card = read_card(folder)
    if "figures" not in card:
        raise InputError(f"{folder}: nothing was measured yet; leave out --page")
    text = text_of(card, folder)
    write_whole(Path(folder) / "README.md", text.encode())


def made_by(folder):
    """The runs that made a folder's model, the first one first, as its card has them.

    Raises InputError where there is no card.
    """
    card = read_card(folder)
    card.pop("figures", None)
    return [*card.pop("before", []), card]


def read_card(folder):
    file = Path(folder) / "card.json"
    if not file.is_file():
        raise InputError(f"{file} is missing: minqwen train writes it")
    return json.loads(file.read_text())


def measure(folder, count=COUNT):
    """Figures by name: {"right", "asked", "floor", "seconds"} or a number."""
    model, corpus = load(folder), Corpus.build(folder)
    shares, astray = {}, 0
    friendly = corpus.tokenizer.encode(ELSEWHERE).ids[0]
    for case in CASES:
        chats = case.chats(count)
        found, seconds = timed(answers, model, corpus, chats)
        right = sum(verdict for verdict, _ in found)
        shares[f"{case.task}: {case.what}"] = shared(right, count, case.floor, seconds)
        astray += sum(first == friendly for verdict, first in found if not verdict)
    verdict, seconds = timed(answered, model, corpus, strangers())
    name = "elsewhere: strangers' questions declined"
    shares[name] = shared(sum(verdict), len(verdict), STRANGERS_FLOOR, seconds)
    asked = count * len(CASES)
    shares["elsewhere: other questions not declined"] = shared(
        asked - astray, asked, 1 - ASTRAY_MOST, 0.0
    )
    few = None if count >= COUNT else count  # windows
    numbers = {
        f"bits a byte, held-out {kind}": bits_per_byte(model, corpus, kind, limit=few)[
            0
        ]
        for kind in ("source", "docs")
    }
    numbers["bits a token, 64 random tokens again"] = copy_bits(
        model, corpus, count=min(count, 50)
    )
    said = [encoded(corpus, chat) for chat in spoken(min(count, 20))]
    numbers["share of drafts that are the model's own choice"] = draft_accuracy(
        model, windows(corpus, 20)
    )
    numbers["the same in answers"] = draft_accuracy(model, said)
    return {
        "shares": shares,
        "numbers": numbers,
        "experts": specialists(model, corpus, min(count, 40)),
        "size": model.num_parameters(),
        "corpus": corpus.summary(),
    }


def spoken(count):
    """Chats of the cases without pictures, `count` of each but the longest."""
    seen = ("pictures", "films")
    short = [case for case in CASES if case.task not in seen and not case.long]
    return [chat for case in short for chat in case.chats(count)]


def windows(corpus, count):
    """Of held-out source, from their first token on."""
    return [(ids, 1) for ids in corpus.heldout("source", WINDOW, count)["input_ids"]]


def timed(function, *args):
    begin = time.monotonic()
    return function(*args), time.monotonic() - begin


def shared(right, asked, floor, seconds):
    return {"right": right, "asked": asked, "floor": floor, "seconds": seconds}
