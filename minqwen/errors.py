"""The one exception a user of minqwen is meant to see, and what its texts are made of.

Names out of files go through `show`, numbers out of files and calls through `number`.
"""

import numbers
from pathlib import PurePath

MOST_SAID = 2000  # characters of one message
MOST = 2**53  # of any number; larger ones, infinity and NaN are a slip or an attack


class InputError(ValueError):
    """Bad input: one sentence naming the culprit, what was expected, what to do.

    What no terminal should be sent, in a part of it that nobody escaped, is escaped.
    """

    def __init__(self, sentence):
        parts = (c if c.isprintable() else ascii(c)[1:-1] for c in str(sentence))
        super().__init__("".join(parts)[:MOST_SAID])


def show(text, limit=120):
    """A name out of a file, fit for a one-line message on any terminal.

    What is too long loses its end, a path its beginning.
    """
    path = isinstance(text, PurePath)
    try:
        text = str(text)
    except (ValueError, RecursionError):  # of thousands of digits, or of lists
        text = f"{type(text).__name__} without end"
    text = text if text.isprintable() else ascii(text)
    if len(text) <= limit:
        return text
    return "..." + text[3 - limit :] if path else text[: limit - 3] + "..."


def number(value, name, kind=float, low=-MOST, high=MOST, over=False):
    """`value` as an int or float from low (or over it) to high; else InputError.

    Texts, truth values, NaN and infinity are no numbers; NumPy's are.
    """
    real = isinstance(value, numbers.Real) and not isinstance(value, bool)
    whole = "a whole number" if kind is int else ""
    if not real or whole and not isinstance(value, numbers.Integral):
        said = show(f'"{value}"' if isinstance(value, str) else value, 40)
        expected = whole if real else "a number"
        raise InputError(f"{name} is {said}; expected {expected}")
    if not low <= value <= high or over and value == low:
        bounds = f"{whole}, " if whole else ""
        bounds += f"over {low}" if over else f"{low} or more"
        bounds += f", and at most {high}" if high < MOST else ""
        said = ", but" if abs(value) < MOST else ", out of range: it"
        raise InputError(f"{name} is {show(value, 40)}{said} must be {bounds}")
    return kind(value)
