"""Sizes and rates as people write them: 24GiB, 5GB/s."""

import argparse
import math
import re

from .errors import MOST, show

STEPS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}
SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(i?)b?", re.IGNORECASE)


def size(text):
    """An argparse type: bytes; GiB counts by 1,024 and GB by 1,000."""
    found = SIZE.fullmatch(text.strip())
    if not found:
        raise argparse.ArgumentTypeError(f"{text!r} is no size such as 24GiB or 500MB")
    step = 1024 if found[3] else 1000
    count = float(found[1]) * step ** STEPS[found[2].lower()]
    if count > MOST:
        raise argparse.ArgumentTypeError(
            f"{show(text, 40)!r} is more than any machine has"
        )
    return int(count)


def rate(text):
    """An argparse type: bytes a second."""
    amount, _, second = text.partition("/")
    if second.strip() != "s" or not SIZE.fullmatch(amount.strip()) or not size(amount):
        raise argparse.ArgumentTypeError(f"{text!r} is no rate such as 5GB/s")
    return size(amount)


def human(count):
    """Bytes as people write them, powers of 1000."""
    steps = max(0, min(4, int(math.log10(max(count, 1)) // 3)))
    return f"{count / 1000**steps:.4g} {('B', 'kB', 'MB', 'GB', 'TB')[steps]}"
