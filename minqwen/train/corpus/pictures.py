"""Chats about pictures: a digit, a number, shapes, how many there are, two compared.

Several questions about one picture stand in one chat, each with an answer that
repeats what was asked for. What testing alone shows: fonts, and pairs of a shape and
a colour.
"""

from typing import NamedTuple

import numpy as np
import torch

from ...prompt.images import picture_to_patches
from .canvas import CELL
from .chats import write
from .resolution import PATCHES
from .scenes import (
    DIGITS,
    ROOMY,
    centre_of,
    digits,
    draw_places,
    in_cells,
    shape,
    shapes,
)
from .shapes import NAMES, PLACES, SHAPES, draw_kind
from .words import pick

THINKING = 0.25  # of the chats where it can help: the last answer is thought over
ONE_DIGIT = (
    "Which digit is this?",
    "What digit do you see?",
    "What is in the picture?",
    "Read the digit.",
)
NUMBER = (
    "Which number is this?",
    "What number do you see?",
    "Read the number.",
    "What does the picture say?",
)
SCENE = ("What is in the picture?", "What do you see?", "Describe the picture.")
ORDINAL = ("first", "second", "third", "fourth")


class Fact(NamedTuple):
    """What may be asked, in several ways, and what is said then."""

    ways: tuple
    answer: str
    reasoning: str | None = None


def make(rng, level=1.0, unseen=False, kind=None, turns=3):
    """A chat about pictures; `unseen` takes fonts or coloured shapes never seen.

    For measuring, `kind` is one of `KINDS`, and `turns`, the most questions that are
    asked, 1: later ones may be answered from earlier answers.
    """
    kind = kind or draw(KINDS, rng)
    scenes, facts = kind(rng, rng.uniform(0, level), unseen)
    images = [patches(scene.picture) for scene in scenes]
    shown = "".join(placeholder(grid, "image") for _, grid in images)
    return talk(shown, facts, rng, turns, images=images)


def draw(kinds, rng):
    """One of a dict's keys, as often as its values say."""
    return list(kinds)[rng.choice(len(kinds), p=list(kinds.values()))]


# What may be drawn and asked; each returns scenes and `Fact`s.


def one_digit(rng, hard=1.0, unseen=False, fonts=None):
    """One digit; `fonts`, of those in `glyphs`, where one family is measured."""
    digit = DIGITS[rng.integers(10)]
    scene = digits(digit, rng, hard, unseen, fonts=fonts)
    fact = Fact(ONE_DIGIT, f"This is the digit {digit}.", f"The picture shows {digit}.")
    return [scene], [fact]


def number(rng, hard=1.0, unseen=False, length=None):
    """Two to four digits in a row, or `length` of them."""
    length = length or int(rng.integers(2, 3 + round(2 * hard)))
    text = str(rng.integers(10 ** (length - 1), 10**length))
    if not unseen and rng.random() < 0.3:  # equal neighbours are the hardest to count
        i = int(rng.integers(1, length))
        text = text[:i] + text[i - 1] + text[i + 1 :]
    spelt = ", ".join(text)
    thought = f"From left to right: {spelt}."
    nth = int(rng.integers(length))
    which = f"What is the {ORDINAL[nth]} digit?"
    facts = [
        Fact(NUMBER, f"The number is {text}.", thought),
        Fact(("How many digits are there?",), f"There are {length} digits.", thought),
        Fact((which,), f"The {ORDINAL[nth]} digit is {text[nth]}.", thought),
    ]
    return [digits(text, rng, hard, unseen)], facts


def shapes_seen(rng, hard=1.0, unseen=False):
    """One to three shapes, no two of a kind or colour, and where they are."""
    scene, kinds, places = strewn(rng, hard, unseen)
    return [scene], shape_facts(kinds, places, rng) + colour_facts(kinds, places, rng)


def nameless(rng, hard=1.0, unseen=False):
    """Shapes in colours without a name, so that none is told by its colour."""
    scene, kinds, places = strewn(rng, hard, unseen, named=False)
    return [scene], shape_facts(kinds, places, rng)


def strewn(rng, hard, unseen, named=True):
    """A scene of up to three shapes, in any inks if not `named`; kinds and places."""
    size = pick(ROOMY, rng)
    count = 1 + int(rng.integers(1 + round(hard * (1 if size == (64, 64) else 2))))
    kinds = unlike(count, rng, unseen)
    if not named:
        kinds = [(None, what) for _, what in kinds]
    places = draw_places(count, size, rng)
    height = rng.uniform(24, min(size) / 2) if count == 1 else rng.uniform(18, 26)
    things = [
        shape(kind, centre_of(place, size, rng, hard), height, size, rng, hard)
        for kind, place in zip(kinds, places, strict=True)
    ]
    return shapes(things, size, rng, hard), kinds, [PLACES[place] for place in places]


def unlike(count, rng, unseen):
    """Kinds (colour, shape) with neither a colour nor a shape twice."""
    kinds, colours, left = [], NAMES, SHAPES
    for _ in range(count):
        kinds.append(draw_kind(rng, unseen, colours, left))
        colours = [c for c in colours if c != kinds[-1][0]]
        left = [s for s in left if s != kinds[-1][1]]
    return kinds


def shape_facts(kinds, places, rng):
    """What may be asked about these shapes that does not name a colour."""
    i = rng.integers(len(kinds))
    (_, what), where = kinds[i], places[i]
    asked = what if rng.random() < 0.4 else pick(SHAPES, rng)
    there = any(asked == seen for _, seen in kinds)
    seen = sentence([f"a {shape}" for _, shape in kinds]).rstrip(".").lower()
    # NOTE: said after what was seen; "Yes" or "No" at once stayed a guess.
    answer = f"I see {seen}, so {'yes' if there else 'no'}."
    return [
        Fact((f"Where is the {what}?",), f"The {what} is {where}."),
        Fact((f"Which shape is {where}?",), f"The shape {where} is a {what}."),
        Fact((f"Is there a {asked}?",), answer),
    ]


def colour_facts(kinds, places, rng):
    """What may be asked besides, each once."""
    pairs = zip(kinds, places, strict=True)
    named = [f"{article(kind)} {where}" for kind, where in pairs]
    i = rng.integers(len(kinds))
    (colour, what), where = kinds[i], places[i]
    turned = where[0].upper() + where[1:]
    return [
        Fact(SCENE, sentence(named)),
        Fact((f"What colour is the {what}?",), f"The {what} is {colour}."),
        Fact((f"Which shape is {colour}?",), f"The {colour} shape is a {what}."),
        Fact((f"What is {where}?",), f"{turned} is {article(kinds[i])}."),
    ]


def article(kind):
    words = " ".join(kind)
    return f"an {words}" if words[0] in "aeiou" else f"a {words}"


def sentence(items):
    """`A red ring, a blue star and a black cross.`"""
    text = " and ".join(filter(None, [", ".join(items[:-1]), items[-1]]))
    return f"{text[0].upper()}{text[1:]}."


def counting(rng, hard=1.0, unseen=False):
    """One to nine shapes of one or two kinds; thinking counts them row by row."""
    size = pick(ROOMY, rng)
    most = min(size[0] * size[1] // CELL**2, 3 + round(6 * hard))
    total = int(rng.integers(1, most + 1))
    kinds = unlike(1 + (total > 1 and rng.random() < 0.5), rng, unseen)
    first = int(rng.integers(1, total)) if len(kinds) > 1 else total
    counts = [first, total - first][: len(kinds)]
    placed = rng.permutation(np.repeat(np.arange(len(kinds)), counts))
    things = in_cells([kinds[i] for i in placed], size, rng, hard)
    facts, named = [how_many("shape", things, size)], []
    for count, (colour, what) in zip(counts, kinds, strict=True):
        named.append(f"{count} {colour} {some(count, what)}")
        facts.append(how_many(what, [t for t in things if t.what == what], size))
        answer = f"The {some(count, what)} {are(count)} {colour}."
        asked = f"What colour {are(count)} the {some(count, what)}?"
        facts.append(Fact((asked,), answer))
    if total > 3:  # fewer are told by their places
        facts.append(Fact(SCENE, sentence(named)))
    return [shapes(things, size, rng, hard)], facts


def how_many(name, things, size):
    rows = [int(thing.centre[1]) // CELL for thing in things]
    counts = ", ".join(str(rows.count(row)) for row in range(size[1] // CELL))
    count = len(things)
    answer = f"There {are(count)} {count} {some(count, name)}."
    thought = f"Row by row: {counts}. Together {count}."
    return Fact((f"How many {some(2, name)} are there?",), answer, thought)


def some(count, name):
    """`cross`, `crosses`."""
    if count == 1:
        return name
    return name + ("es" if name.endswith("s") else "s")


def are(count):
    return "is" if count == 1 else "are"


def compared(rng, hard=1.0, unseen=False):
    """Two pictures of digits: which is larger, what both come to."""
    pair = [int(digit) for digit in rng.choice(10, 2, replace=False)]
    scenes = [digits(str(digit), rng, hard, unseen) for digit in pair]
    shown = "The first shows {}, the second {}.".format(*pair)
    total = "{} plus {} is {}.".format(*pair, sum(pair))
    facts = [
        Fact(("Which is larger?",), which(pair, max(pair)), shown),
        Fact(("Which is smaller?",), which(pair, min(pair)), shown),
        Fact(("What do the pictures show?", "Read both digits."), shown),
        Fact(("What is the sum?", "Add the two digits."), total, shown),
    ]
    return scenes, facts


def which(pair, digit):
    return f"The {ORDINAL[pair.index(digit)]} one, {digit}."


KINDS = {
    one_digit: 0.15, number: 0.32, shapes_seen: 0.25, nameless: 0.1, counting: 0.1,
    compared: 0.08,
}  # fmt: skip
LESSONS = {
    one_digit: 0.4, number: 0.2, shapes_seen: 0.1, nameless: 0.2, counting: 0.1
}  # fmt: skip


def talk(shown, facts, rng, turns, **media):
    """A chat about what is `shown`: at most `turns` of the facts, in any order."""
    count = min(len(facts), int(rng.integers(1, turns + 1)))
    facts = [facts[i] for i in rng.choice(len(facts), count, replace=False)]
    messages = []
    for fact in facts:
        messages.append({"role": "user", "content": shown + pick(fact.ways, rng)})
        messages.append({"role": "assistant", "content": fact.answer})
        shown = ""
    if fact.reasoning and rng.random() < THINKING:
        messages[-1]["reasoning_content"] = fact.reasoning
    return write(messages, **media)


def lesson(rng, level=1.0):
    """A picture for the tower alone and what its cells hold: (patches, grid), labels.

    Labels int64 [tokens, 5] are those of `scenes.Scene.labels`: in every cell of
    32 x 32 pixels, that is, for every token, what has most ink there, its colour, the
    first two things whose middle is there, and in which part of the picture that is.
    """
    (scene,), _ = draw(LESSONS, rng)(rng, rng.uniform(0, level))
    return patches(scene.picture), torch.as_tensor(scene.labels())


def patches(picture):
    """What the tower takes: patches float32 [h * w, 1536] and the grid (1, h, w)."""
    values, grid = picture_to_patches(picture, **PATCHES)
    return torch.as_tensor(values), tuple(int(side) for side in grid)


def placeholder(grid, kind):
    """One pad for every 2 x 2 patches, between the vision marks."""
    pads = grid[0] * grid[1] * grid[2] // 4
    return f"<|vision_start|>{f'<|{kind}_pad|>' * pads}<|vision_end|>"
