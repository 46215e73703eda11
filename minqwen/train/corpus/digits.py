"""Drawn digits: what the tiny model learns to see.

Font, size, place, angle, tints and noise are drawn at random, so no two pictures are
alike: always dark ink on light paper, since any colour on any other takes several
times the pictures to learn. One font family is kept for testing only.
"""

from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ...errors import InputError

TRAIN_FONTS = (
    "DejaVuSans", "DejaVuSans-Bold", "DejaVuSans-Oblique", "DejaVuSans-BoldOblique",
    "DejaVuSansMono", "DejaVuSansMono-Bold", "DejaVuSansMono-Oblique",
    "DejaVuSerif", "DejaVuSerif-Bold", "DejaVuSerif-Italic",
    "DejaVuSerif-BoldItalic", "cmr10", "cmss10", "cmtt10", "cmb10",
)  # fmt: skip
UNSEEN_FONTS = ("STIXGeneral", "STIXGeneralBol", "STIXGeneralItalic")
# (width, height): all are multiples of 32, so nothing is resized on the way in
SIZES = ((64, 64), (64, 96), (96, 64))


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
    return ImageFont.truetype(font_folder() / f"{name}.ttf", size)


def draw_digit(digit, rng, fonts=TRAIN_FONTS, size=None):
    """A PIL picture of `digit` (0 to 9), every other choice taken from `rng`."""
    width, height = SIZES[rng.integers(len(SIZES))] if size is None else size
    name = fonts[rng.integers(len(fonts))]
    glyph = font(name, int(rng.integers(48, 73)))
    mask = Image.new("L", (width, height))
    shift_x, shift_y = rng.uniform(-4, 4, size=2)
    left, top, right, bottom = glyph.getbbox(str(digit))
    corner = (
        (width - left - right) / 2 + shift_x,
        (height - top - bottom) / 2 + shift_y,
    )
    ImageDraw.Draw(mask).text(corner, str(digit), fill=255, font=glyph)
    mask = mask.rotate(rng.uniform(-8, 8), Image.Resampling.BILINEAR)
    share = np.asarray(mask, dtype=np.float32)[:, :, None] / 255
    ground, ink = rng.uniform(170, 255, 3), rng.uniform(0, 85, 3)  # RGB
    noise = rng.normal(0, rng.uniform(0, 8), (height, width, 1))
    picture = ground + share * (ink - ground) + noise
    return Image.fromarray(picture.clip(0, 255).astype(np.uint8))
