"""What the card measures: chats of known size and kind, none of them trained on."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from .abilities import TESTING
from .corpus import films, notes, pictures, sums, tools, words
from .corpus.about import ELSEWHERE, oneself
from .corpus.chats import exchange, write
from .corpus.glyphs import PILLOW, STIX
from .corpus.words import pick

STRANGERS = Path(__file__).with_name("elsewhere_test.txt")


@dataclass(frozen=True)
class Case:
    """A line of the card: `make(rng)` gives a chat, the last answer of which counts."""

    task: str
    what: str
    make: Callable
    floor: float  # share that must be right
    long: bool = False  # of so many tokens that a few chats must do for a quick look

    def chats(self, count, seed=0):
        """`count` chats, the same ones every time, which no training batch holds."""
        rngs = [np.random.default_rng([seed, TESTING, i]) for i in range(count)]
        return [self.make(rng) for rng in rngs]


def remembered(rng, facts=8, changed=0, filler=0):
    """So many facts, some overwritten, among `filler` other sentences; a question."""
    known = notes.Notes(rng, 1.0, unseen=True)
    told = [known.fact(known.new_key()) for _ in range(facts)]
    told += [known.news() for _ in range(changed)]
    prose = words.prose(True)
    for _ in range(filler):
        told.insert(int(rng.integers(len(told) + 1)), pick(prose, rng))
    of_changed = known.changed and rng.random() < 0.5
    key = pick(known.changed if of_changed else list(known.known), rng)
    gap = known.form if known.form in (" ", "\n") else " "
    return exchange(f"{gap.join(told)}\n{known.question(key)}", known.answer(key))


def summed(rng, digits=3, thinking=False):
    """A sum or a difference of two numbers, the longer one of `digits` digits."""
    while True:
        task = pick((sums.addition, sums.subtraction), rng)
        asked, answer, reasoning = task(rng, 1.0, True)
        longest = max(len(part) for part in answer.split(" = ")[0].split())
        if longest == digits:
            return exchange(asked, answer, reasoning if thinking else None)


def compared(rng):
    asked, answer, _ = sums.comparison(rng, 1.0, True)
    return exchange(asked, answer)


def seen(rng, kind=None, source=pictures, unseen=True):
    return source.make(rng, 1.0, unseen, kind=kind, turns=1)


# the kinds of pictures with what is held fixed
IN_STIX = partial(pictures.one_digit, fonts=STIX)
IN_PILLOW = partial(pictures.one_digit, fonts=(PILLOW,))


def three(rng, hard, unseen):
    """A number of three digits, and nothing asked but the number."""
    scenes, facts = pictures.number(rng, hard, unseen, length=3)
    return scenes, facts[:1]


def called(rng, turn):
    """A chat with one tool call: up to the call, or with the answer that it led to."""
    kind = pick(tools.KINDS, rng)
    offered = tools.offer({kind}, set(), rng, 1.0, True)
    use = kind.draw(rng, 1.0, True)
    chat = write(tools.used(use, offered[kind], False), list(offered.values()))
    return replace(chat, parts=chat.parts[:turn])


def itself(rng):
    return exchange(*oneself(rng, True)[:2])


def strangers():
    """The 200 questions that people typed who had not seen the corpus."""
    lines = STRANGERS.read_text().splitlines()
    return [exchange(line, ELSEWHERE) for line in lines]


CASES = (
    Case("notes", "1 fact", partial(remembered, facts=1), 0.95),
    Case("notes", "8 facts, 2 overwritten", partial(remembered, changed=2), 0.95),
    Case("notes", "32 facts", partial(remembered, facts=32), 0.8),
    Case("notes", "8 facts, 2 overwritten, about 2,048 tokens",
         partial(remembered, changed=2, filler=92), 0.8, long=True),
    Case("sums", "3 digits, thinking", partial(summed, thinking=True), 0.95),
    Case("sums", "3 digits, at once", summed, 0.0),
    Case("sums", "compared", compared, 0.0),
    Case("pictures", "a digit, known fonts",
         partial(seen, kind=pictures.one_digit, unseen=False), 0.99),
    Case("pictures", "a digit, STIX", partial(seen, kind=IN_STIX), 0.97),
    Case("pictures", "a digit, Pillow's font", partial(seen, kind=IN_PILLOW), 0.95),
    Case("pictures", "three digits in a row", partial(seen, kind=three), 0.95),
    Case("pictures", "shapes", partial(seen, kind=pictures.shapes_seen), 0.95),
    Case("pictures", "counted", partial(seen, kind=pictures.counting), 0.0),
    Case("films", "what moves and changes", partial(seen, source=films), 0.95),
    Case("tools", "the call", partial(called, turn=2), 0.98),
    Case("tools", "the answer", partial(called, turn=4), 0.98),
    Case("about", "itself", itself, 0.0),
)  # fmt: skip
