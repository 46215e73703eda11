"""What notes are about: ways to say and to ask one thing, and its values."""

from dataclasses import dataclass

from . import words
from .words import person, pick, up_to


@dataclass(frozen=True)
class Relation:
    """Ways to say and to ask one thing of `n`; v is its value.

    t is what else it is about, the pears that n has 7 of. The answer says it as the
    notes did, unless there is an `answer`. With `lines` the facts are no sentences, so
    each has a line of its own.
    """

    said: tuple
    asked: tuple
    values: str
    things: tuple = ("",)
    of: str = "person"
    lines: bool = False
    answer: str = ""


def counted(verb, plain):
    asked = (f"How many {{t}} does {{n}} {plain}?",)
    return Relation((f"{{n}} {verb} {{v}} {{t}}.",), asked, "count", words.THINGS)


# fmt: off
RELATIONS = (
    counted("has", "have"), counted("has", "have"), counted("owns", "own"),
    counted("keeps", "keep"), counted("sells", "sell"), counted("wants", "want"),
    counted("needs", "need"), counted("sees", "see"),
    Relation(("{n} is {v} years old.", "{n} is {v}."),
             ("How old is {n}?", "What is the age of {n}?"), "age"),
    Relation(("{n} lives in {v}.", "{n} has a flat in {v}.", "{n} has a home in {v}."),
             ("Where does {n} live?", "In which town does {n} live?"), "town"),
    Relation(("{n} comes from {v}.", "{n} was born in {v}."),
             ("Where does {n} come from?", "Which town does {n} come from?"), "town"),
    Relation(("{n} works in {v}.", "{n} has a job in {v}."),
             ("Where does {n} work?",), "town"),
    Relation(("{n} likes {v}.", "{n} is fond of {v}."),
             ("What does {n} like?",), "liked"),
    Relation(("{n} wears {v}.",),
             ("Which colour does {n} wear?", "What does {n} wear?"), "colour"),
    Relation(("{n} works as a {v}.", "{n} is a {v}."),
             ("What does {n} work as?", "What is the job of {n}?"), "job"),
    Relation(("{n} speaks {v}.",),
             ("Which language does {n} speak?", "What does {n} speak?"), "language"),
    Relation(("{n} plays {v}.",),
             ("What does {n} play?", "Which game does {n} play?"), "game"),
    Relation(("{n}'s {t} is called {v}.", "{n} has a {t} called {v}."),
             ("What is {n}'s {t} called?",), "person", words.PETS),
    Relation(("{n}'s {t} is {v}.",), ("What colour is {n}'s {t}?",),
             "colour", ("car", "hat", "coat", "bag", "bike", "house", "door")),
    Relation(("{n}'s {t} is {v}.",), ("What is {n}'s {t}?",),
             "code", ("code", "room", "number", "score", "seat", "locker")),
    Relation(("{n} arrives on {v}.", "{n} comes on {v}."),
             ("When does {n} arrive?", "On which day does {n} arrive?"), "day"),
    Relation(("{n} is in the {v}.", "{n} went to the {v}."),
             ("Where is {n}?",), "place"),
    Relation(("{n} sits next to {v}.",), ("Who does {n} sit next to?",), "person"),
    Relation(("{n}: {v}",), ("{n}?",), "any", lines=True),
    Relation(("The {n} is in the {v}.", "The {n} lies in the {v}."),
             ("Where is the {n}?", "Where do I find the {n}?"), "place", of="object"),
    Relation(("The {n} is {v}.", "The {n} is painted {v}."),
             ("What colour is the {n}?", "Which colour is the {n}?"), "colour",
             of="object"),
    Relation(("The {n} costs {v} coins.", "The {n} sells for {v} coins."),
             ("What does the {n} cost?", "How much does the {n} cost?"), "count",
             of="object"),
    Relation(("The {n} has the code {v}.",),
             ("What is the code of the {n}?", "Which code has the {n}?"), "code",
             of="object"),
    Relation(("The {n} belongs to {v}.", "The {n} is owned by {v}."),
             ("Who does the {n} belong to?", "Who owns the {n}?"), "person",
             of="object"),
    Relation(("The {n} opens on {v}.",),
             ("When does the {n} open?", "On which day does the {n} open?"), "day",
             of="object"),
)
ME = (
    Relation(("My name is {v}.", "I am {v}.", "I am called {v}."),
             ("What is my name?", "Who am I?"), "person", answer="Your name is {v}."),
    Relation(("I live in {v}.", "My home is {v}."),
             ("Where do I live?",), "town", answer="You live in {v}."),
    Relation(("My {t} is {v}.",), ("What is my {t}?",), "code",
             ("code", "number", "room", "age", "score"), answer="Your {t} is {v}."),
    Relation(("I am {v} years old.",), ("How old am I?",), "age",
             answer="You are {v} years old."),
    Relation(("I work as a {v}.", "I am a {v}."),
             ("What do I work as?", "What is my job?"), "job",
             answer="You work as a {v}."),
    Relation(("I like {v}.", "I am fond of {v}."), ("What do I like?",), "liked",
             answer="You like {v}."),
    Relation(("I come from {v}.", "I was born in {v}."),
             ("Where do I come from?", "Where am I from?"), "town",
             answer="You come from {v}."),
    Relation(("My favourite colour is {v}.", "I like {v} best."),
             ("What is my favourite colour?", "Which colour do I like?"), "colour",
             answer="Your favourite colour is {v}."),
    Relation(("My {t} is called {v}.", "I have a {t} called {v}."),
             ("What is my {t} called?",), "person", words.PETS,
             answer="Your {t} is called {v}."),
)
CODE = Relation(("{n} = {v}",),
                ("What is {n}?", "What is the value of {n}?", "print({n})"),
                "literal", of="variable", lines=True)
VALUES = {
    "town": words.TOWNS, "colour": words.COLOURS, "job": words.JOBS,
    "language": words.LANGUAGES, "game": words.GAMES, "day": words.DAYS,
    "place": words.PLACES, "liked": words.THINGS + words.COLOURS,
}
# fmt: on


def value(kind, rng, level, unseen):
    """What may stand in the place of v; numbers are small at the lowest level."""
    if kind == "any":
        kind = pick(("count", "colour", "town", "person", "liked"), rng)
    if kind == "literal":
        word = pick(words.COLOURS + words.TOWNS, rng).lower()
        return f'"{word}"' if rng.random() < 0.3 else value("count", rng, level, unseen)
    if kind == "count":
        return str(rng.integers(2, 100 if rng.random() < 0.4 * level else 10))
    if kind == "age":
        return str(rng.integers(2, 100))
    if kind == "code":
        return "".join(str(rng.integers(10)) for _ in range(up_to(2, 4, level, rng)))
    if kind == "person":
        return person(rng, unseen)
    return pick(VALUES[kind], rng)
