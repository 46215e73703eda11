"""Chats about films of two to four frame pairs: what moves, what changes, digits.

A film is seen twice a second, and the two frames of a pair are alike. What testing
alone shows: fonts, and pairs of a shape and a colour.
"""

from dataclasses import replace

import numpy as np
import torch

from ...prompt.videos import frame_seconds
from .canvas import paint
from .pictures import Fact, article, draw, patches, placeholder, talk, unlike
from .scenes import DIGITS, centre_of, digits, draw_places, shape, shapes_look
from .shapes import NAMES, SHAPES, draw_kind, held_out, shape_mask, tint
from .words import pick

FPS = 2
SIZES = ((64, 64), (96, 64), (64, 96))
WAYS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
DIGITS_ASKED = ("Which digits does the film show?", "Read the digits of the film.")
HAPPENS = ("What happens?", "What happens in the film?")
MOVES = ("What moves?", "What moves in the film?", *HAPPENS)
CHANGES = ("What changes?", "What changes in the film?", *HAPPENS)


def make(rng, level=1.0, unseen=False, kind=None, turns=2):
    """A chat about a film; arguments as in `pictures.make`."""
    kind = kind or draw(KINDS, rng)
    hard = rng.uniform(0, level)
    count = 2 + int(rng.integers(1 + round(2 * hard)))
    pictures, facts = kind(rng, hard, unseen, count)
    video = film([patches(picture) for picture in pictures])
    return talk(marked(video[1]), facts, rng, turns, videos=[video])


# What may be shown and asked; each returns `count` pictures, one a pair, and `Fact`s.


def digits_shown(rng, hard, unseen, count):
    """A digit after the other; none follows itself."""
    shown = [DIGITS[rng.integers(10)]]
    for _ in range(count - 1):
        shown.append(pick([d for d in DIGITS if d != shown[-1]], rng))
    size = pick(SIZES, rng)
    frames = [digits(d, rng, 0.7 * hard, unseen, size=size).picture for d in shown]
    facts = [
        Fact(DIGITS_ASKED, f"First {', then '.join(shown)}."),
        Fact(("What is the first digit?",), f"The first digit is {shown[0]}."),
        Fact(("What is the last digit?",), f"The last digit is {shown[-1]}."),
    ]
    return frames, facts


def moving(rng, hard, unseen, count):
    """A shape crosses the picture, or its half of it beside one that stays."""
    size = pick(SIZES, rng)
    way = pick(list(WAYS), rng)
    along = np.array(WAYS[way])
    kinds = unlike(1 + (rng.random() < 0.6 * hard), rng, unseen)
    # with another, each has a half of the picture for itself
    aside = 0.25 * pick((-1, 1), rng) * (len(kinds) - 1) * np.abs(along[::-1])
    height = rng.uniform(16, 24)
    mover = shape(kinds[0], size, height, size, rng, hard)
    steps = np.linspace(-0.32, 0.32, count)
    things = [[mover.at((0.5 + aside + step * along) * size, size)] for step in steps]
    name = f"The {' '.join(kinds[0])}"
    asked = f"Which way does the {kinds[0][1]} move?"
    facts = [Fact(ways, f"{name} moves {way}.") for ways in (MOVES, (asked,))]
    if len(kinds) == 2:
        place = 0.5 - aside + rng.uniform(-0.25, 0.25) * along
        still = shape(kinds[1], place * size, height, size, rng, hard)
        things = [[*frame, still] for frame in things]
        asked = f"Does the {kinds[1][1]} move?"
        facts.append(Fact((asked,), f"No, the {' '.join(kinds[1])} stays."))
    return frames(things, size, rng, hard), facts


def turning(rng, hard, unseen, count):
    """A shape of one colour, and then of another."""
    colour, what = draw_kind(rng, unseen)
    others = [c for c in NAMES if c != colour and not held_out(c, what)]
    first, last = rng.permutation([colour, pick(others, rng)]).tolist()
    facts = [
        Fact(CHANGES, f"The {what} turns from {first} to {last}."),
        Fact(("What colour is it at the end?",), f"At the end it is {last}."),
    ]
    return changing((first, what), (last, what), rng, hard, count), facts


def becoming(rng, hard, unseen, count):
    """A shape, and then another of the same colour."""
    colour, what = draw_kind(rng, unseen)
    others = [s for s in SHAPES if s != what and not held_out(colour, s)]
    first, last = rng.permutation([what, pick(others, rng)]).tolist()
    facts = [
        Fact(CHANGES, f"The {first} becomes a {last}."),
        Fact(("Which shape is it at the end?",), f"At the end it is a {last}."),
    ]
    return changing((colour, first), (colour, last), rng, hard, count), facts


def changing(first, last, rng, hard, count):
    """Pictures of one kind (colour, shape), and from some frame on of another."""
    size = pick(SIZES, rng)
    (place,) = draw_places(1, size, rng)
    centre, height = centre_of(place, size, rng, hard), rng.uniform(20, 36)
    before = shape(first, centre, height, size, rng, hard)
    after = replace(before, what=last[1], mask=shape_mask(last[1]))
    if last[0] != first[0]:
        after = replace(after, colour=last[0], ink=tint(last[0], rng))
    return frames(switched([before], [after], count, rng), size, rng, hard)


def appearing(rng, hard, unseen, count):
    """A shape appears or disappears while another stays."""
    size = pick(SIZES, rng)
    height = rng.uniform(18, 24)
    kinds, places = unlike(2, rng, unseen), draw_places(2, size, rng)
    order = rng.permutation(2)
    one, other = (
        shape(kinds[i], centre_of(places[i], size, rng, hard), height, size, rng, hard)
        for i in order
    )
    comes = rng.random() < 0.5
    few, both = [other], [one, other]
    things = switched(*((few, both) if comes else (both, few)), count, rng)
    what = article(kinds[order[0]])
    happens = f"A{what[1:]} {'appears' if comes else 'disappears'}."
    stays = f"The {' '.join(kinds[order[1]])} stays."
    facts = [Fact(HAPPENS, happens), Fact(("What stays?",), stays)]
    return frames(things, size, rng, hard), facts


def switched(before, after, count, rng):
    """Things of every frame: `before`, and from some frame on `after`."""
    at = int(rng.integers(1, count))
    return [before] * at + [after] * (count - at)


def frames(things, size, rng, hard):
    """A picture for each list of things, all with one look."""
    look = shapes_look([thing for frame in things for thing in frame], rng, hard)
    return [paint(frame, size, look, rng)[0] for frame in things]


KINDS = {digits_shown: 0.3, moving: 0.3, turning: 0.12, becoming: 0.13, appearing: 0.15}


def film(pairs):
    """Patches and grid of a film, from those of its frame pairs."""
    return torch.cat([values for values, _ in pairs]), (len(pairs), *pairs[0][1][1:])


def marked(grid):
    """A film's placeholders: before each frame pair, the mean time of its frames."""
    inner = placeholder((1, *grid[1:]), "video")
    times = frame_seconds(list(range(2 * grid[0])), FPS)
    pairs = "".join(f"<{second:.1f} seconds>{inner}" for second in times)
    # transformers 5 keeps a pair of marks around all
    return f"<|vision_start|>{pairs}<|vision_end|>"
