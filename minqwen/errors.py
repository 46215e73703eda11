"""The one exception a user of minqwen is meant to see."""


class InputError(ValueError):
    """Bad input: one sentence naming the culprit, what was expected, what to do."""
