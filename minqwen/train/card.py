"""The model card: all figures from the files in a folder, as anyone would load them.

    python -m minqwen.train.card assets/tiny

writes README.md and the same figures into card.json, where the run that made the
weights has left its recipe and its learning curve.
"""

import json
import math
import platform
import sys
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
    drafts_in_answers,
    specialists,
)
from .cases import CASES, strangers
from .corpus import Corpus
from .corpus.about import ELSEWHERE
from .corpus.scenes import LABELS
from .parts import parts_text

COUNT = 500
STRANGERS_FLOOR, ASTRAY_MOST = 0.95, 0.01


def write_card(folder, recipe=None, facts=None, count=COUNT):
    """Measure the checkpoint in `folder`, write its card, return the figures.

    recipe and facts are those of `train`, by default as card.json has them.
    """
    file = Path(folder) / "card.json"
    if recipe is None:
        if not file.is_file():
            raise InputError(f"{file} is missing: minqwen train writes it")
        card = json.loads(file.read_text())
    else:
        where = {
            "processor": processor(),
            "python": platform.python_version(),
            "torch": torch.__version__,
        }
        card = {"recipe": asdict(recipe), **facts, **where}
        write_whole(file, as_json(card))
    card["figures"] = measure(folder, card["recipe"]["seed"], count)
    write_whole(file, as_json(card))
    text = text_of(card, parts_text(folder, table))
    write_whole(Path(folder) / "README.md", text.encode())
    return card["figures"]


def measure(folder, seed=0, count=COUNT):
    """Figures by name: {"right", "asked", "floor", "seconds"} or a number."""
    model, corpus = load(folder), Corpus.build(folder, seed=seed)
    shares, astray = {}, 0
    friendly = corpus.tokenizer.encode(ELSEWHERE).ids[0]
    for case in CASES:
        chats = case.chats(count, seed)
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
    numbers["share of drafts that are the model's own choice"] = draft_accuracy(
        model, corpus
    )
    numbers["the same in answers"] = drafts_in_answers(
        model, corpus, spoken(min(count, 20), seed)
    )
    return {
        "shares": shares,
        "numbers": numbers,
        "experts": specialists(model, corpus, min(count, 40)),
        "size": model.num_parameters(),
        "corpus": corpus.summary(),
    }


def spoken(count, seed):
    """Chats of the cases without pictures, `count` of each but the longest."""
    cases = [case for case in CASES if case.task not in ("pictures", "films")]
    short = [case for case in cases if "2,048" not in case.what]
    return [chat for case in short for chat in case.chats(count, seed)]


def timed(function, *args):
    begin = time.monotonic()
    return function(*args), time.monotonic() - begin


def shared(right, asked, floor, seconds):
    return {"right": right, "asked": asked, "floor": floor, "seconds": seconds}


def interval(right, asked, z=1.96):
    """Wilson's 95 % interval of a share."""
    share, spread = right / asked, z * z / asked
    middle = (share + spread / 2) / (1 + spread)
    half = z * math.sqrt(share * (1 - share) / asked + spread / asked / 4)
    return max(0.0, middle - half / (1 + spread)), min(
        1.0, middle + half / (1 + spread)
    )


def table(head, rows):
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def share_rows(shares):
    for name, s in shares.items():
        low, high = interval(s["right"], s["asked"])
        yield (
            name,
            f"{s['right'] / s['asked']:.1%}",
            f"{low:.1%} to {high:.1%}",
            f"{s['floor']:.0%}" if s["floor"] else "none",
            f"{s['asked']:,}",
            f"{s['seconds']:.1f}",
        )


def curve_table(curve, course, names):
    """How one course went: of its points, the figures called `names`."""
    points = [point for point in curve if point["course"] == course]
    return table(
        ["minutes", "step", *names],
        (
            (
                f"{point['seconds'] / 60:.1f}",
                f"{point['step']:,}",
                *(f"{point[name]:.2f}" for name in names),
            )
            for point in points
        ),
    )


def text_of(card, parts=""):
    """The card as Markdown; `parts` that of parts.py."""
    f, recipe = card["figures"], card["recipe"]
    size = {part: f"{count / 1e6:.2f} M" for part, count in f["size"].items()}
    measured = {name for point in card["curve"] for name in point}
    both = [(name, f"{name} bits") for name in recipe["mixture"]]
    names = [name for pair in both for name in pair if name in measured]
    shares = table(
        ["on what it never saw", "right", "95 % interval", "floor", "asked", "seconds"],
        share_rows(f["shares"]),
    )
    numbers = table(["", ""], [(k, f"{v:.3f}") for k, v in f["numbers"].items()])
    experts = table(
        ["layer", "its router", "a random router"],
        [(i, f"{a:.3f}", f"{b:.3f}") for i, (a, b) in enumerate(f["experts"])],
    )
    curve = curve_table(card["curve"], "all", names)
    seeing = curve_table(card["curve"], "tower", LABELS)
    plain = {k: v for k, v in recipe.items() if k != "mixture"}
    settings = "\n".join(
        [f"    {k} = {v}" for k, v in plain.items()]
        + ["", "    [mixture]"]
        + [f"    {k} = {v}" for k, v in recipe["mixture"].items()]
    )
    return f"""# The embedded model

A Qwen3.5-MoE in every respect but size, trained by this project from random weights:
{size["text"]} parameters of text model ({size["active"]} active a token),
{size["vision"]} of vision tower, {size["mtp"]} of MTP head, stored as the released
checkpoints are. It keeps notes, copies, adds, reads small pictures and films, calls
tools and writes the shape of Python; asked for anything else, it says so.

{shares}

An answer is right if it is the expected one word for word, written greedily. Seconds
are those of measuring, on the CPU's default threads. A wrong answer that begins as the
friendly sentence counts as one.

{numbers}

In bf16 as stored, computed in fp32; bits a byte in windows of {WINDOW} tokens.

What a token's expert tells of its task, in bits (mutual information):

{experts}

{parts}## How it was made

    minqwen train --out FOLDER

{card["seconds"] / 60:.0f} minutes on {card["threads"]} threads of a CPU named
{card["processor"]}, with Python {card["python"]} and torch {card["torch"]}, by this
recipe (minqwen/train/recipe.toml says why):

{settings}

How it learned: shares of held-out answers that are right at the full difficulty of
each task, and bits a byte of held-out text.

{curve}

Before that the tower alone learned to say what a picture's cells hold: most of it, its
colour, the first two things whose middle is there, and in which part of the picture
that is. Its losses:

{seeing}

What made it remember, in short trials:

- Where weights begin (minqwen/train/start.py): with an induction head made by hand.
  Before any training, 64 random tokens are said again at 3.6 bits each, where a guess
  costs 11. After 0.41 M tokens it was 1.3 bits (there with two lags, not three), and
  6.7 from a start with blurred heads alone. From transformers' start, 0.3 M tokens of
  repetitions taught nothing.
- Long embeddings, so that a short run does not bend them: of standard deviation 0.3, 1
  and 3, repeating cost 4.2, 1.8 and 1.3 bits after 0.41 M tokens.
- Names that are the same tokens wherever they stand: with a space before capitals left
  out of the merges, notes of up to four facts were answered in 34 % after 0.41 M
  tokens, and in 15 % without.
- Rows with room for whole chats. In rows of 128 tokens, halfway to full difficulty,
  notes were 14 % of what was learned and tools 1 %, since longer chats were left out or
  cut; in rows of 256 tokens, 24 % and 14 %. What does not fit at a row's end is drawn
  again: a tenth of such a row teaches nothing, where three tenths did.
- "I was not told." where nothing was noted. "The notes do not say." began as answers
  about things do ("The lamp ..."), and was said whenever the model was in doubt. With
  this, longer rows, and more notes and fewer sums in the mixture, notes of one, four
  and eight facts were answered in 60, 35 and 33 % after 0.51 M tokens, and in 44, 24
  and 18 % without.
- A tower that is first taught to say what it sees in the language model's embeddings:
  after 15 minutes a digit was read in 63 %, and in 9 % where a head had named it (the
  two runs differed in smaller things, too).
- Small steps and Muon, both with blurred heads and notes of made-up tokens. With steps
  of 1,024 tokens one fact of up to eight came to 94 % after 0.19 M tokens, and of 4,096
  to 31 % after 0.44 M. After 0.24 M tokens Muon had four facts in 93 %, AdamW in 35 %.

All data are made on the spot; nothing is downloaded. Python's standard library
({f["corpus"]["train_source_bytes"] / 1e6:.1f} MB) and its documentation are part of it,
about one file in 25 held out by the hash of its path, so another Python makes another
model. Corpus sha256: `{f["corpus"]["corpus_sha256"][:16]}`.
"""


if __name__ == "__main__":
    try:
        write_card(*sys.argv[1:2])
    except InputError as error:
        sys.exit(f"error: {error}")
