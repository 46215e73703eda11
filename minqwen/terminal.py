"""What the terminal shows: answers as they are written, one-line complaints, style."""

import logging
import os
import sys
from contextlib import contextmanager
from time import perf_counter


def complain(error):
    """One line on stderr, whatever the message was made of."""
    if isinstance(error, OSError) and error.strerror:
        name = f"{error.filename}: " if error.filename else ""
        error = f"{name}{error.strerror}"
    elif isinstance(error, MemoryError):
        error = "out of memory"
    say("minqwen: " + printable(" ".join(str(error).split())))


class Aloud(logging.Handler):
    def emit(self, record):
        say(f"[{record.getMessage()}]")


@contextmanager
def aloud():
    """Within the block, what the package logs for information is said."""
    logger, handler = logging.getLogger("minqwen"), Aloud()
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)


def say(text="", end="\n"):
    """For the reader's eyes, not part of the answer: to stderr."""
    print(text, end=end, file=sys.stderr, flush=True)


def printable(text):
    """Text that cannot steer the terminal: no control characters but newline, tab."""
    return "".join(c for c in text if c.isprintable() or c in "\n\t")


def styled(text, code, stream=None):
    """Bold (1), dim (2) or coloured (31 to 36) on a terminal that wants it."""
    stream = stream or sys.stdout
    plain = os.environ.get("TERM", "") in ("", "dumb")
    if plain or os.environ.get("NO_COLOR") or not stream.isatty():
        return text
    return f"\x1b[{code}m{text}\x1b[0m"


def follow(steps, show=True):
    """Print steps as they come: the answer to stdout, thinking to stderr."""
    begun, first, ids, texts, drafted = perf_counter(), None, [], ["", ""], 0
    for step in steps:
        first = first or perf_counter()
        ids.append(step.token)
        drafted += step.drafted
        if show and step.text:
            if texts[True] and not texts[False] and not step.thinking:
                say()  # the answer begins on a line of its own
            stream = sys.stderr if step.thinking else sys.stdout
            text = printable(step.text) if stream.isatty() else step.text
            print(text, end="", file=stream, flush=True)
        texts[step.thinking] += step.text
    if show:
        say(end="\n" if texts[True] and not texts[False] else "")
        print(flush=True)
    return {
        "text": texts[False],
        "thinking": texts[True].strip("\n"),
        "tokens": len(ids),
        "token_ids": ids,
        "drafted_tokens": drafted,
        "finish_reason": step.finish,
        "prompt_seconds": round(first - begun, 4),
        "seconds": round(perf_counter() - begun, 4),
    }


def summary(answer, asked):
    """What an answer took, in one line; `asked`: the most tokens it might have had."""
    seconds = answer["seconds"] - answer["prompt_seconds"]
    parts = [
        f"{answer['prompt_tokens']} tokens read in {answer['prompt_seconds']:.2f} s",
        f"{answer['tokens']} written",
    ]
    if answer["tokens"] > 1:
        parts[-1] += f", {(answer['tokens'] - 1) / seconds:.1f} a second"
    if answer["drafted_tokens"]:
        parts[-1] += f", {answer['drafted_tokens']} of them guessed ahead"
    if answer["finish_reason"] == "length":
        parts.append(f"cut off after the {asked} tokens asked for")
    if answer["finish_reason"] == "context":
        parts.append("cut off where the model's positions end")
    return "; ".join(parts)
