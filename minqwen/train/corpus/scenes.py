"""Pictures of digits, numbers and shapes, with what is known of them.

Sides are multiples of 32 pixels, so nothing is resized on the way in, and a picture is
4 to 12 tokens. `hard` between 0 and 1 says how far all that is drawn may stray.
"""

from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from .canvas import CELL, Look, Thing, cells, contrast, ink_and_paper, lean, paint
from .glyphs import Pen
from .shapes import NAMES, PLACES, SHAPES, SIDE, any_ink, shape_mask, tint

DIGITS = tuple("0123456789")
WHAT = (*DIGITS, *SHAPES, "nothing")  # what a cell of a picture may hold
NOTHING = len(WHAT) - 1
LABELS = {
    "most": len(WHAT),
    "colour": len(NAMES),
    "first": len(WHAT),
    "second": len(WHAT),
    "place": len(PLACES),
}
# (width, height): for one digit, and for numbers of 2, 3 and 4 digits
SIZES = ((64, 64), (64, 64), (64, 96), (96, 64), (96, 96))
WIDE = {2: ((64, 64), (96, 64)), 3: ((96, 64), (128, 32), (128, 64)),
        4: ((128, 32), (128, 64))}  # fmt: skip
ROOMY = ((64, 64), (96, 64), (64, 96), (96, 96))  # for shapes
THIRDS = (0.2, 0.5, 0.8)  # where the columns and rows of `PLACES` are
LEAST = 20  # pixels of the smallest digit's height
ENOUGH = 24  # pixels of ink that make a cell hold something


@dataclass(frozen=True)
class Scene:
    """A picture; masks [n, H, W] of what is on it; that, in the order of reading."""

    picture: Image.Image
    masks: np.ndarray
    things: list

    def labels(self):
        """What each cell of 32 x 32 pixels holds: int64 [cells, 5].

        0 what has most ink there, as an index of `WHAT`, or NOTHING; 1 its colour, as
        an index of `NAMES`, -100 if it has no name; 2 and 3 the first two things,
        from left to right, whose middle is there, or NOTHING; 4 where in the picture
        that is, as an index of `PLACES`, if it is a shape, or -100.
        """
        ink = cells(self.masks)
        shape = ink.shape[1:]
        most, most_ink = ink.argmax(0), ink.max(0)
        labels = np.full((*shape, 5), NOTHING)
        labels[..., [1, 4]] = -100
        for row, column in np.argwhere(most_ink >= ENOUGH):
            thing = self.things[most[row, column]]
            labels[row, column, 0] = WHAT.index(thing.what)
            if thing.colour:
                labels[row, column, 1] = NAMES.index(thing.colour)
        for thing in sorted(self.things, key=lambda thing: thing.centre[0]):
            x, y = (thing.centre // CELL).astype(int)
            free = 2 if labels[y, x, 2] == NOTHING else 3
            labels[y, x, free] = WHAT.index(thing.what)
            if thing.what in SHAPES:
                labels[y, x, 4] = place_of(thing.centre, self.picture.size)
        return labels.reshape(-1, 5)


def digits(text, rng, hard, unseen=False, *, fonts=None, size=None):
    """A scene of one digit anywhere, or of up to four in a row."""
    sizes = SIZES if len(text) == 1 else WIDE[len(text)]
    size = sizes[rng.integers(len(sizes))] if size is None else size
    ink, paper, levels = ink_and_paper(rng, hard)
    height = size[1] * rng.uniform(max(LEAST / size[1], 0.75 - 0.45 * hard), 0.92)
    pen = Pen.draw(rng, hard, unseen, fonts)
    masks = [pen.mask(digit, height, rng) for digit in text]
    tall = max(mask.height for mask in masks)
    slant = lean(rng, hard if len(text) == 1 else 0.5 * hard) * height / tall
    things = [
        Thing(digit, None, ink, mask, slant, np.zeros(2))
        for digit, mask in zip(text, masks, strict=True)
    ]
    things = in_a_row(things, rng.uniform(0.05, 0.05 + 0.3 * hard), size, rng, hard)
    height = 2 * max(thing.half[1] for thing in things)
    look = Look.draw(rng, paper, levels, height, hard)
    return Scene(*paint(things, size, look, rng), things)


def in_a_row(things, gap, size, rng, hard):
    """Side by side, `gap` of their height apart, shrunk to fit, at a random place."""
    size = np.array(size)
    halves = np.array([thing.half for thing in things])
    tall = 2 * halves[:, 1].max()
    wide = 2 * halves[:, 0].sum() + gap * tall * (len(things) - 1)
    shrink = min(1, *((size - 3) / (wide, tall)))
    free = (size - 2 - shrink * np.array([wide, tall])) / 2
    middle = size / 2 + free * rng.uniform(-1, 1, 2) * (0.3 + 0.7 * hard)
    starts = np.cumsum(2 * halves[:, 0] + gap * tall) - gap * tall - halves[:, 0]
    across = middle[0] + shrink * (starts - wide / 2)
    return [
        replace(thing, matrix=thing.matrix * shrink, centre=np.array([x, middle[1]]))
        for thing, x in zip(things, across, strict=True)
    ]


def shape(kind, centre, height, size, rng, hard):
    """A thing of `kind` (colour or None, shape), within a canvas of `size`."""
    colour, what = kind
    matrix = lean(rng, 0.6 * hard) * height / SIDE
    ink = tint(colour, rng) if colour else any_ink(what, rng)
    thing = Thing(what, colour, ink, shape_mask(what), matrix, centre)
    return thing.at(centre, size)


def shapes(things, size, rng, hard):
    """A scene of things that `shape` made, in the order of reading."""
    look = shapes_look(things, rng, hard)
    return Scene(*paint(things, size, look, rng), things)


def shapes_look(things, rng, hard):
    """A look whose paper differs from the colour of every thing."""
    inks = np.array([thing.ink for thing in things])
    distance = brightness = tries = 0
    least = np.array([110.0, 25.0])
    while distance < least[0] or brightness < least[1]:
        paper = np.clip(rng.uniform(0, 255) + rng.uniform(-30, 30, 3), 0, 255)
        distance = np.linalg.norm(inks - paper, axis=1).min()
        brightness = contrast(inks, paper).min()
        tries += 1
        if tries > 2000:  # NOTE: nameless inks may leave no paper so far from all
            least *= 0.99
    height = 2 * min(thing.half[1] for thing in things)
    return Look.draw(rng, paper, min(distance, 150), height, 0.6 * hard)


def centre_of(place, size, rng, hard):
    """Pixels of a `place` (column, row) of `PLACES`, or very near."""
    stray = rng.uniform(-0.05, 0.05, 2) * hard
    return (np.array(THIRDS)[list(place)] + stray) * size


def place_of(centre, size):
    """Which of `PLACES`, as an index, is nearest to pixel `centre` (x, y)."""
    near = np.abs(centre / size - np.array(THIRDS)[:, None]).argmin(0)
    return list(PLACES).index(tuple(near.tolist()))


def draw_places(count, size, rng):
    """`count` different places in the order of reading, none too near another.

    A side of 64 pixels has room for two beside each other.
    """
    axes = []
    for side in size:
        narrow = [(0, 2), (1,)][int(rng.integers(2))]
        axes.append((0, 1, 2) if side > 64 or count == 1 else narrow)
    places = [(column, row) for row in axes[1] for column in axes[0]]
    if len(places) < count:
        return draw_places(count, size, rng)
    chosen = rng.choice(len(places), count, replace=False)
    return [places[i] for i in sorted(chosen)]


def in_cells(kinds, size, rng, hard):
    """Things of `kinds`, each in a cell of its own, in the order of reading."""
    columns, rows = (side // CELL for side in size)
    chosen = sorted(rng.choice(columns * rows, len(kinds), replace=False))
    things = []
    for kind, cell in zip(kinds, chosen, strict=True):
        height = rng.uniform(24 - 9 * hard, 26)
        free = (CELL - height) / 2
        middle = CELL * (np.array([cell % columns, cell // columns]) + 0.5)
        centre = middle + free * hard * rng.uniform(-1, 1, 2)
        things.append(shape(kind, centre, height, size, rng, hard))
    return things
