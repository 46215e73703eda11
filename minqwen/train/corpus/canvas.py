"""From masks to a picture: place, size and slant, ink on paper, wear and tear."""

import io
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image, ImageFilter

CELL = 32  # pixels of a token's side, after the merge


@dataclass(frozen=True)
class Thing:
    """A mask on its way to the canvas.

    `what` is a digit or a shape, `colour` a name or None, `ink` RGB; `matrix` [2, 2]
    takes (x, y) around the mask's middle to pixels around `centre`.
    """

    what: str
    colour: str | None
    ink: np.ndarray
    mask: Image.Image
    matrix: np.ndarray
    centre: np.ndarray

    def at(self, centre, size):
        """The same, moved to `centre` or as near as a canvas of `size` allows."""
        least = np.minimum(self.half + 1, np.array(size) / 2)
        return replace(self, centre=np.clip(centre, least, np.array(size) - least))

    @property
    def half(self):
        """Half the width and height that the mask takes up on the canvas."""
        return np.abs(self.matrix) @ np.array(self.mask.size) / 2

    def coverage(self, size):
        """Share of ink in every pixel of a canvas of `size`: float32 [H, W]."""
        back = np.linalg.inv(self.matrix)
        # Pillow asks for the source of each target pixel, by their upper left corners
        offset = np.array(self.mask.size) / 2 - back @ self.centre
        rows = np.column_stack([back, offset]).ravel().tolist()
        drawn = self.mask.transform(
            size, Image.Transform.AFFINE, rows, Image.Resampling.BILINEAR
        )
        return np.asarray(drawn, dtype=np.float32) / 255


@dataclass(frozen=True)
class Look:
    """What all of a picture has in common: paper, and what happened to it since.

    `paper` RGB; `slope` [2], how much brighter the paper is at the right and lower
    edges than in the middle; `blur` in pixels; `noise` in levels of 256; `jpeg` is a
    quality, or 0 for none.
    """

    paper: np.ndarray
    slope: np.ndarray
    blur: float
    noise: float
    jpeg: int

    @classmethod
    def draw(cls, rng, paper, contrast, height, hard):
        """A look for ink `contrast` levels from the `paper`, in things of `height`."""
        slope = rng.uniform(-0.3, 0.3, 2) * hard * contrast * (rng.random() < 0.4)
        blur = float(rng.uniform(0, 0.025) * hard * height * (rng.random() < 0.5))
        noise = rng.uniform(0, 0.12) * hard * contrast * (rng.random() < 0.6)
        jpeg = int(rng.integers(30, 95)) if rng.random() < 0.2 * hard else 0
        return cls(paper, slope, blur, noise, jpeg)


def paint(things, size, look, rng):
    """A PIL picture of the things, the later ones on top, and their masks [n, H, W]."""
    width, height = size
    picture = np.empty((height, width, 3), np.float32)
    picture[:] = look.paper
    if look.slope.any():
        across, down = np.linspace(-1, 1, width), np.linspace(-1, 1, height)
        light = look.slope[0] * across + look.slope[1] * down[:, None]
        picture += light.astype(np.float32)[:, :, None]
    masks = np.stack([thing.coverage(size) for thing in things])
    for thing, mask in zip(things, masks, strict=True):
        picture += mask[:, :, None] * (thing.ink.astype(np.float32) - picture)
    if look.noise:
        grain = rng.standard_normal((height, width, 1), dtype=np.float32)
        picture += look.noise * grain
    picture = Image.fromarray(picture.clip(0, 255).astype(np.uint8))
    if look.blur > 0.3:
        picture = picture.filter(ImageFilter.GaussianBlur(look.blur))
    if look.jpeg:
        file = io.BytesIO()
        picture.save(file, "JPEG", quality=look.jpeg)
        picture = Image.open(file).convert("RGB")
    return picture, masks


def lean(rng, hard, turn=12):
    """A matrix [2, 2]: wider or narrower, slanted, turned by `turn` degrees."""
    wide = np.exp(hard * rng.uniform(-0.25, 0.25))
    angle = np.radians(turn * hard * rng.uniform(-1, 1))
    slant = 0.2 * hard * rng.uniform(-1, 1)
    cos, sin = np.cos(angle), np.sin(angle)
    return np.array([[cos, -sin], [sin, cos]]) @ np.array([[wide, slant], [0, 1]])


def ink_and_paper(rng, hard):
    """Two RGB colours that can be told apart, and by how many levels of brightness."""
    draw = rng.random()
    if draw < 0.45:  # dark on light
        ink, paper = rng.uniform(0, 90, 3), rng.uniform(165, 255, 3)
    elif draw < 0.65:  # light on dark
        ink, paper = rng.uniform(165, 255, 3), rng.uniform(0, 90, 3)
    else:  # any two colours
        ink, paper = rng.uniform(0, 255, (2, 3))
        least = 110 - 40 * hard
        while contrast(ink, paper) < least:
            ink, paper = rng.uniform(0, 255, (2, 3))
    return ink, paper, contrast(ink, paper)


def contrast(ink, paper):
    """Levels of brightness between two colours, as eyes weigh red, green and blue."""
    return abs((ink - paper) @ np.array([0.3, 0.59, 0.11]))


def cells(masks):
    """Ink of every thing in every cell of 32 x 32: [n, H, W] -> [n, H / 32, W / 32]."""
    n, height, width = masks.shape
    cut = masks.reshape(n, height // CELL, CELL, width // CELL, CELL)
    return cut.sum((2, 4))
