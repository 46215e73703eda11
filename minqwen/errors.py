"""The one exception a user of minqwen is meant to see, and names fit for its text."""


class InputError(ValueError):
    """Bad input: one sentence naming the culprit, what was expected, what to do."""


def show(text, limit=120):
    """A name out of a file, fit for a one-line message on any terminal."""
    text = str(text)
    text = text if text.isprintable() else ascii(text)
    return text if len(text) <= limit else text[: limit - 3] + "..."
