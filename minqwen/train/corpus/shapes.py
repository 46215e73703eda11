"""Masks of shapes, and the names of their colours and places."""

from functools import cache

import numpy as np
from PIL import Image, ImageDraw

SHAPES = ("circle", "square", "triangle", "star", "cross", "diamond", "ring", "heart")
COLOURS = {
    "red": (215, 30, 35),
    "orange": (245, 140, 20),
    "yellow": (240, 220, 40),
    "green": (30, 150, 60),
    "blue": (35, 70, 210),
    "purple": (140, 40, 170),
    "black": (20, 20, 20),
    "white": (245, 245, 245),
}
NAMES = tuple(COLOURS)
# (column, row) of a picture cut into 3 x 3
PLACES = {
    (0, 0): "at the top left", (1, 0): "at the top", (2, 0): "at the top right",
    (0, 1): "on the left", (1, 1): "in the middle", (2, 1): "on the right",
    (0, 2): "at the bottom left", (1, 2): "at the bottom",
    (2, 2): "at the bottom right",
}  # fmt: skip
SIDE = 96  # pixels of a mask


def held_out(colour, shape):
    """Of every shape one colour is kept for testing, and of every colour one shape."""
    return NAMES.index(colour) == (3 * SHAPES.index(shape) + 1) % len(NAMES)


def draw_kind(rng, unseen=False, colours=NAMES, shapes=SHAPES):
    """A (colour, shape) that training sees, or one that it never sees."""
    kinds = [(c, s) for c in colours for s in shapes if held_out(c, s) == unseen]
    return kinds[rng.integers(len(kinds))]


def tint(colour, rng):
    """RGB of a named colour, a little different each time."""
    return np.clip(np.array(COLOURS[colour]) + rng.uniform(-20, 20, 3), 0, 255)


def any_ink(shape, rng):
    """RGB of any colour but what training never sees this shape in."""
    (kept,) = (COLOURS[name] for name in NAMES if held_out(name, shape))
    ink = np.array(kept)
    while np.abs(ink - kept).max() < 30:
        ink = rng.uniform(0, 255, 3)
    return ink


@cache
def shape_mask(shape):
    """A picture of mode "L", the shape 255, which fills a square of 96 x 96."""
    scale = 4  # polygons have hard edges, so they are drawn larger
    mask = Image.new("L", (SIDE * scale, SIDE * scale))
    pen, last = ImageDraw.Draw(mask), SIDE * scale - 1
    if shape in ("circle", "ring"):
        pen.ellipse((0, 0, last, last), fill=255)
        if shape == "ring":
            pen.ellipse((0.27 * last, 0.27 * last, 0.73 * last, 0.73 * last), fill=0)
    else:
        pen.polygon([(x * last, y * last) for x, y in outline(shape)], fill=255)
    return mask.reduce(scale)


def outline(shape):
    """Corners in a square with x to the right, y down."""
    if shape == "star":
        turns = np.arange(10) * np.pi / 5
        reach = np.where(np.arange(10) % 2, 0.22, 0.525)
        return np.stack([0.5 + reach * np.sin(turns), 0.525 - reach * np.cos(turns)], 1)
    if shape == "heart":
        t = np.linspace(0, 2 * np.pi, 60)
        x = 16 * np.sin(t) ** 3
        y = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
        return np.stack([x / 32 + 0.5, (12 - y) / 29], 1)
    a, b = 0.32, 0.68  # of the cross
    return {
        "square": [(0.06, 0.06), (0.94, 0.06), (0.94, 0.94), (0.06, 0.94)],
        "triangle": [(0.5, 0.02), (1, 0.94), (0, 0.94)],
        "diamond": [(0.5, 0), (0.9, 0.5), (0.5, 1), (0.1, 0.5)],
        "cross": [(a, 0), (b, 0), (b, a), (1, a), (1, b), (b, b),
                  (b, 1), (a, 1), (a, b), (0, b), (0, a), (a, a)],
    }[shape]  # fmt: skip
