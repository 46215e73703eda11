"""Something to say again, word for word, once or several times.

To go on as it went the last time (induction) is the first use that a model makes of
what it read. The whole text, not its words alone, decides the side it is on. It seldom
stands after a space, where its first word is other tokens than in the answer.
"""

from functools import cache

from . import words
from .chats import assistant, user, write
from .text import documents
from .words import held_out, invented, person, pick, up_to, word_of

ASKED = (
    "Repeat: {}", "Say: {}", "Copy: {}", 'Repeat "{}"', 'Say again: "{}"',
    'Copy this: "{}"', 'Repeat after me: "{}"', 'Echo "{}"', "Write this again:\n{}",
    "Repeat:\n{}", "Copy:\n{}", "{}\nRepeat this.", "{}\nSay that again.",
)  # fmt: skip
TIMES = (
    "Say this {count} times:\n{text}", 'Repeat {count} times: "{text}"',
    "Write this line {count} times:\n{text}",
)  # fmt: skip
COUNTS = ("two", "three", "four")
AGAIN = ("Again.", "Repeat that.", "Say it again.", "Once more.", "Again, please.")
MARKS = tuple("+-*/=<>()[]{}:;,.!?@#&%$")


def make(rng, level=1.0, unseen=False):
    return write(messages(rng, level, unseen))


def messages(rng, level, unseen):
    """A chat whose answer is in the question, or in what was answered before."""
    text = passage(rng, level, unseen)
    draw = rng.random()
    if draw < 0.2 and len(text) < 80:
        count = up_to(2, 4, level, rng)
        asked = pick(TIMES, rng).format(count=COUNTS[count - 2], text=text)
        turns = [user(asked), assistant("\n".join([text] * count))]
    else:
        turns = [user(pick(ASKED, rng).format(text)), assistant(text)]
        if draw < 0.35:
            turns += [user(pick(AGAIN, rng)), assistant(text)]
    if rng.random() < 0.1:
        turns[-1]["reasoning_content"] = "I say it again."
    return turns


def passage(rng, level, unseen):
    """A text of some kind; training never draws those that are unseen."""
    while True:
        text = pick(KINDS, rng)(rng, level, unseen).strip()
        if held_out(text) == unseen:
            return text


def some(draw, most, least=2):
    """A maker of passages: at least `least` of what `draw` gives, side by side."""

    def make(rng, level, unseen):
        gap = pick((" ", " ", ", ", "\n"), rng)
        count = up_to(least, most, level, rng)
        return gap.join(draw(rng, unseen) for _ in range(count))

    return make


def word(rng, unseen):
    lists = (words.THINGS, words.OBJECTS, words.PLACES, words.TOWNS, words.VARIABLES)
    return word_of(pick(lists, rng), rng, unseen)


def any_word(rng, unseen):
    return pick((word, person, invented, digit, letter, number), rng)(rng, unseen)


def code_word(rng, unseen):
    """Any, for no task hides how a word is written after a space and without one."""
    return pick(words.code_words(), rng)


def digit(rng, unseen):
    return str(rng.integers(10))


def letter(rng, unseen):
    return pick(words.LETTERS, rng)


def number(rng, unseen):
    return str(rng.integers(10, 10000))


def mark(rng, unseen):
    return pick(MARKS, rng)


def digits(rng, level, unseen):
    """One long number."""
    return "".join(str(rng.integers(10)) for _ in range(up_to(2, 40, level, rng)))


def letters(rng, level, unseen):
    """Small letters without a gap, as no word has them."""
    count = up_to(2, 16, level, rng)
    return "".join(pick(words.LETTERS, rng) for _ in range(count)).lower()


def row(rng, level, unseen):
    """A row of a table."""
    cells = [any_word(rng, unseen) for _ in range(up_to(2, 10, level, rng))]
    if rng.random() < 0.5:
        return f"| {' | '.join(cells)} |"
    return pick((",", "; ", " : "), rng).join(cells)


def sentence(rng, level, unseen):
    """The beginning of a sentence of the documentation."""
    parts = pick(words.prose(unseen), rng).split()
    return " ".join(parts[: up_to(2, 16, level, rng)])


def line_of_code(rng, level, unseen):
    """The beginning of a line of the library."""
    parts = pick(code_lines(unseen), rng).split(" ")
    return " ".join(parts[: up_to(2, 12, level, rng)])


@cache
def code_lines(unseen):
    """Lines of a middle length, from training files or from held-out ones."""
    found = {}
    for document in documents():
        if document.kind == "source" and document.held_out == unseen:
            found |= dict.fromkeys(map(str.strip, document.text.splitlines()))
    return tuple(text for text in found if 12 <= len(text) <= 72 and text.isascii())


KINDS = (
    some(word, 20), some(word, 20), some(person, 14), some(invented, 10),
    some(any_word, 20), some(digit, 30), some(letter, 30), some(number, 10),
    some(code_word, 3, 1), some(code_word, 3, 1), some(code_word, 3, 1),
    some(mark, 30), digits, letters, row, sentence, sentence, line_of_code,
    line_of_code,
)  # fmt: skip
