"""Drawing in a terminal: bars and pictures made of characters."""

import math
import sys

from ..terminal import styled

COLUMNS = 32  # of a row of experts, so that a line fits 80


def heat(count):
    """A character per expert, taller for more choices; many experts share one."""
    shades = ramp(" ▁▂▃▄▅▆▇█", " .:-=+*#@")
    each = math.ceil(len(count) / COLUMNS)
    sums = [int(part.sum()) for part in count.split(each)]
    steps = [math.ceil(n / max(sums) * (len(shades) - 1)) if n else 0 for n in sums]
    return styled("".join(shades[step] for step in steps), 36)


def sketch(path, width=28, height=14):
    """A picture in characters, which are twice as high as wide."""
    from PIL import Image

    with Image.open(path) as picture:
        grey = picture.convert("L").resize((width, height))
    values = list(grey.tobytes())
    if sorted(values)[len(values) // 2] > 127:  # a bright ground: let it be empty
        values = [255 - value for value in values]
    low, high = min(values), max(values)
    shades = ramp(" ░▒▓█", " .+#@")
    step = (high - low + 1) / len(shades)
    rows = [values[i : i + width] for i in range(0, len(values), width)]
    return "\n".join(
        "  " + "".join(shades[int((v - low) / step)] for v in r) for r in rows
    )


def ramp(fine, plain):
    """Shades from light to dark that stdout's encoding has."""
    try:
        fine.encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        return plain
    return fine
