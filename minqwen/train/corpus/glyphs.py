"""Masks of digits: from fonts, and from strokes of our own.

A mask is a picture of mode "L", cut to its ink (255). Two families of fonts are kept
for testing: STIX, and the one that Pillow carries.
"""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ...errors import InputError

TRAIN_FONTS = (
    "DejaVuSans", "DejaVuSans-Bold", "DejaVuSans-Oblique", "DejaVuSans-BoldOblique",
    "DejaVuSansMono", "DejaVuSansMono-Bold", "DejaVuSansMono-Oblique",
    "DejaVuSerif", "DejaVuSerif-Bold", "DejaVuSerif-Italic",
    "DejaVuSerif-BoldItalic", "cmr10", "cmss10", "cmtt10", "cmb10", "cmti10",
)  # fmt: skip
STIX = ("STIXGeneral", "STIXGeneralBol", "STIXGeneralItalic", "STIXGeneralBolIta")
PILLOW = "Pillow's own"
UNSEEN_FONTS = (*STIX, PILLOW, PILLOW)  # each family about as often
STROKE_SHARE = 0.4  # of the digits that training sees: drawn with strokes
HEIGHTS = (20, 28, 40, 56, 80, 112)  # ink is kept at these, and scaled down from them


@cache
def font_folder():
    try:
        import matplotlib
    except ImportError:
        raise InputError(
            "digits are drawn with matplotlib's fonts, and matplotlib is missing: "
            'install it with pip install "minqwen[course]".'
        ) from None
    return Path(matplotlib.get_data_path()) / "fonts" / "ttf"


@cache
def font(name, size):
    if name == PILLOW:
        return ImageFont.load_default(size)
    return ImageFont.truetype(font_folder() / f"{name}.ttf", size)


@cache
def font_mask(name, digit, height, weight):
    """A digit about `height` high; `weight` in hundredths of it is added all around."""
    glyph = font(name, round(height * 1.4))
    added = round(weight * height / 100)
    left, top, right, bottom = glyph.getbbox(digit, stroke_width=added)
    mask = Image.new("L", (int(right - left) + 2, int(bottom - top) + 2))
    pen = ImageDraw.Draw(mask)
    pen.text((1 - left, 1 - top), digit, fill=255, font=glyph, stroke_width=added)
    return mask.crop(mask.getbbox())


def oval(*places):
    """A closed curve through `places`."""
    return [*places, places[0]]


SIX = [(0.85, 0.03), (0.4, 0.14), (0.06, 0.52), (0.1, 0.85), (0.5, 1), (0.92, 0.84),
       (0.92, 0.6), (0.52, 0.44), (0.06, 0.66)]  # fmt: skip
STEM = [(0.5, 0), (0.5, 1)]
FLAG = [(0.05, 0.27), (0.5, 0), (0.5, 0), (0.5, 1)]
SEVEN = [(0, 0), (1, 0), (1, 0), (0.35, 1)]
BELLY = [(0.9, 0.57), (1, 0.76), (0.55, 1), (0, 0.88)]  # of 3
# Each digit's forms; a form is strokes, a stroke is a smooth curve through places in
# a square, x to the right, y down. A place given twice is a corner.
FORMS = {
    "0": ([oval((0.5, 0), (0.1, 0.18), (0, 0.5), (0.1, 0.82), (0.5, 1), (0.9, 0.82),
                (1, 0.5), (0.9, 0.18))],),
    "1": ([STEM], [FLAG], [FLAG, [(0.05, 1), (0.95, 1)]]),
    "2": ([[(0, 0.24), (0.15, 0.05), (0.5, 0), (0.9, 0.1), (0.95, 0.32), (0.68, 0.6),
            (0, 1), (0, 1), (1, 1)]],),
    "3": ([[(0.05, 0.12), (0.45, 0), (0.9, 0.13), (0.85, 0.36), (0.4, 0.47),
            (0.4, 0.47), *BELLY]],
          [[(0, 0), (0.95, 0), (0.95, 0), (0.4, 0.42), (0.4, 0.42), *BELLY]]),
    "4": ([[(0.72, 1), (0.72, 0), (0.72, 0), (0, 0.7), (0, 0.7), (1, 0.7)]],
          [[(0.2, 0), (0.03, 0.6), (0.03, 0.6), (1, 0.6)], [(0.72, 0.2), (0.72, 1)]]),
    "5": ([[(0.92, 0), (0.14, 0), (0.14, 0), (0.06, 0.46), (0.06, 0.46), (0.5, 0.36),
            (0.95, 0.52), (0.95, 0.8), (0.5, 1), (0, 0.88)]],),
    "6": ([SIX],),
    "7": ([SEVEN], [SEVEN, [(0.2, 0.5), (0.9, 0.5)]]),
    "8": ([oval((0.5, 0.46), (0.1, 0.3), (0.15, 0.08), (0.5, 0), (0.85, 0.08),
                (0.9, 0.3), (0.5, 0.46), (0.03, 0.66), (0.08, 0.9), (0.5, 1),
                (0.92, 0.9), (0.97, 0.66))],),
    "9": ([[(1 - x, 1 - y) for x, y in SIX]],
          [[(0.92, 0.36), (0.5, 0.55), (0.07, 0.4), (0.07, 0.13), (0.5, 0),
            (0.9, 0.12), (0.93, 0.4), (0.93, 0.4), (0.85, 1)]]),
}  # fmt: skip


@dataclass(frozen=True)
class Pen:
    """What draws all digits of one number alike: a `font`, or strokes where None.

    `weight` is what a font gets all around, or a stroke's width, in hundredths of the
    height; the rest is for strokes: width of a digit over its height, how far places
    stray, and whether ends are round.
    """

    font: str | None
    weight: int
    aspect: float = 0.6
    stray: float = 0.0
    round_ends: bool = True

    @classmethod
    def draw(cls, rng, hard=1.0, unseen=False, fonts=None):
        """A pen at random; `fonts` replaces the choice that `unseen` stands for."""
        if not (unseen or fonts) and rng.random() < STROKE_SHARE:
            aspect = rng.uniform(0.45, 0.8)
            return cls(
                None,
                int(rng.uniform(7, 26 * aspect)),
                aspect,
                stray=0.01 + 0.03 * hard * rng.random(),
                round_ends=bool(rng.random() < 0.6),
            )
        fonts = fonts or (UNSEEN_FONTS if unseen else TRAIN_FONTS)
        name = fonts[rng.integers(len(fonts))]
        weight = rng.integers(1, 5) if rng.random() < 0.3 and "Bol" not in name else 0
        return cls(name, int(weight))

    def mask(self, digit, height, rng):
        """`digit` at least `height` high, and at most one and a half times that."""
        height = next((h for h in HEIGHTS if h >= height), HEIGHTS[-1])
        if self.font is not None:
            return font_mask(self.font, digit, height, self.weight)
        return self._strokes(digit, height, rng)

    def _strokes(self, digit, height, rng):
        forms = FORMS[digit]
        form = forms[rng.integers(len(forms))]
        scale = 2  # lines have hard edges, so they are drawn twice as large
        thick = max(3, round(scale * height * self.weight / 100))
        side = np.array([self.aspect * (0.5 if form == [STEM] else 1), 1])
        area = side * scale * height - thick
        mask = Image.new("L", tuple(int(s + 4 * thick) for s in area))
        pen = ImageDraw.Draw(mask)
        for stroke in form:
            places = np.array(stroke)
            stray = rng.normal(0, self.stray, places.shape)
            same = (places[1:] == places[:-1]).all(1)
            stray[1:][same] = stray[:-1][same]  # a corner stays one
            line = curve(places + stray) * area + 2 * thick
            pen.line(line.ravel().tolist(), 255, thick, joint="curve")
            if self.round_ends:
                for x, y in line[[0, -1]]:
                    pen.circle((x, y), thick / 2, fill=255)
        return mask.crop(mask.getbbox()).reduce(scale)


def curve(places, parts=4):
    """A Catmull-Rom spline through `places` [N, 2], each step cut into `parts`."""
    around = np.concatenate([places[:1], places, places[-1:]])
    before, start, end, after = (around[i : len(around) - 3 + i] for i in range(4))
    t = np.linspace(0, 1, parts, endpoint=False)[:, None, None]
    line = start + t / 2 * (
        end - before
        + t * (2 * before - 5 * start + 4 * end - after)
        + t * t * (3 * (start - end) + after - before)
    )  # fmt: skip
    return np.concatenate([line.transpose(1, 0, 2).reshape(-1, 2), places[-1:]])
