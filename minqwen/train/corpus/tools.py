"""Tools to call: a calculator, notes to look things up in, and some others.

A call copies its tool's name from the list and its argument from the question. What
comes back cannot be guessed (products are too large to work out here, and a note holds
anything), so the answer must be read from it. Sometimes no tool is needed, or none of
those offered helps.

NOTE: a word in small letters is other tokens at the start of a line than after a space,
so what is copied from one place to the other (towns, names, sums, "the lamp") begins
with a capital, a digit or a word that is always the same.
"""

from dataclasses import dataclass

from . import notes, repeats, sums, words
from .about import ELSEWHERE
from .chats import assistant, user, write
from .relations import RELATIONS
from .relations import value as value_of
from .words import held_out, invented, person, pick, up_to, word_of

MISSING = "nothing found"
SKIES = ("sunny", "rainy", "cloudy", "windy", "foggy", "snowy", "cold", "warm", "dry")


@dataclass(frozen=True)
class Kind:
    """One kind of tool, called by several names; `draw` gives a `Use` of it."""

    names: tuple
    descriptions: tuple
    parameters: tuple
    draw: object


@dataclass(frozen=True)
class Use:
    """A question, the argument in it, what the tool returns, and the answer then."""

    question: str
    argument: str
    result: str
    answer: str


def calculation(rng, level, unseen):
    while True:
        shown, result = expression(rng, level)
        if held_out(shown) == unseen:
            break
    asked = (
        "What is {}?", "Calculate {}.", "Compute {}.", "Work out {}.", "{}", "{} =",
        "How much is {}?", "What does {} make?", "Please work out {}.",
    )  # fmt: skip
    said = shown.replace("*", pick(("*", "*", "*", "times"), rng))
    return Use(pick(asked, rng).format(said), shown, result, f"{shown} = {result}")


def expression(rng, level):
    """Two numbers or three, and what they make."""
    a, b, c = (sums.number(up_to(1, 4, level, rng), rng) for _ in range(3))
    return pick(
        (
            (f"{a} * {b}", f"{a * b}"),
            (f"{a} * {b}", f"{a * b}"),
            (f"{a} + {b}", f"{a + b}"),
            (f"{a} - {b}", f"{a - b}"),
            (f"{a} / {b + 1}", f"{round(a / (b + 1), 4)}"),
            (f"{a} * {b} + {c}", f"{a * b + c}"),
            (f"({a} + {b}) * {c}", f"{(a + b) * c}"),
            (f"{a} + {b} + {c}", f"{a + b + c}"),
        ),
        rng,
    )


def look_up(rng, level, unseen):
    """The whole note on somebody, or what it says of one thing."""
    name = person(rng, unseen)
    known = [r for r in RELATIONS if r.of == "person" and not r.lines]
    facts = [note(pick(known, rng), name, rng, level, unseen)]
    if rng.random() < 0.3 * level:
        facts.append(note(pick(known, rng), name, rng, level, unseen))
    if rng.random() < 0.5:
        question, answer = pick(facts, rng)
    else:
        asked = (
            "What do the notes say about {}?", "Look up {}.", "Look {} up.",
            "Find the note on {}.", "What is the note on {}?", "Who is {}?",
            "What do you know about {}?", "Search the notes for {}.",
        )  # fmt: skip
        question = pick(asked, rng).format(name)
        answer = " ".join(fact for _, fact in facts)
    if rng.random() < 0.15:
        return Use(question, name, MISSING, f"There is no note on {name}.")
    return Use(question, name, " ".join(fact for _, fact in facts), answer)


def note(relation, name, rng, level, unseen):
    """A question about somebody, and the sentence that answers it."""
    value = value_of(relation.values, rng, level, unseen)
    filled = {"n": name, "t": pick(relation.things, rng), "v": value}
    said = pick(relation.said, rng)
    return pick(relation.asked, rng).format(**filled), said.format(**filled)


def weather(rng, level, unseen):
    town = word_of(words.TOWNS, rng, unseen)
    sky = f"it is {pick(SKIES, rng)}, {rng.integers(-9, 35)} degrees"
    asked = (
        "What is the weather in {}?", "How is the weather in {}?",
        "Weather in {}?", "Tell me the weather in {}.",
    )  # fmt: skip
    question = pick(asked, rng).format(town)
    return Use(question, town, sky, f"In {town} {sky}.")


def clock(rng, level, unseen):
    town = word_of(words.TOWNS, rng, unseen)
    time = f"{rng.integers(24)}:{rng.integers(60):02}"
    asked = (
        "What is the time in {}?", "How late is it in {}?", "Time in {}?",
        "Tell me the time in {}.",
    )  # fmt: skip
    return Use(pick(asked, rng).format(town), town, time, f"In {town} it is {time}.")


def price(rng, level, unseen):
    thing = f"the {word_of(words.OBJECTS, rng, unseen)}"
    coins = str(rng.integers(2, 1000))
    asked = (
        "What does {} cost?", "How much is {}?", "Price of {}?",
        "What is the price of {}?",
    )  # fmt: skip
    answer = f"{thing.capitalize()} costs {coins} coins."
    return Use(pick(asked, rng).format(thing), thing, f"{coins} coins", answer)


# fmt: off
CALCULATOR = Kind(
    ("calculator", "calculator", "calculate", "calc", "evaluate"),
    ("Works out an expression.", "A calculator.", "Calculates an expression."),
    ("expression", "expression", "formula"), calculation)
NOTES = Kind(
    ("notes", "notes", "look_up", "find_note", "get_note"),
    ("Finds the note on a name.", "Looks up a name in the notes.", "Notes by name."),
    ("name", "name", "key"), look_up)
OTHERS = (
    Kind(("weather", "get_weather", "forecast"),
         ("Tells the weather in a town.", "The weather of a town."),
         ("town", "city", "place"), weather),
    Kind(("clock", "get_time", "time"),
         ("Tells the time in a town.", "The time of a town."),
         ("town", "city", "place"), clock),
    Kind(("price", "get_price", "shop"),
         ("Tells the price of a thing.", "Prices of things."),
         ("thing", "item", "name"), price),
)
# fmt: on
KINDS = (CALCULATOR, CALCULATOR, NOTES, NOTES, *OTHERS)
HELPLESS = (  # what is done without tools, and the tools that would interfere
    (notes, {NOTES}),
    (repeats, set()),
    (sums, {CALCULATOR}),
)


def make(rng, level=1.0, unseen=False):
    """A chat in which tools are offered, and mostly used."""
    if rng.random() < 0.2:
        return unused(rng, level, unseen)
    kinds = [pick(KINDS, rng) for _ in range(up_to(1, 2, level, rng))]
    offered = offer(set(kinds), set(), rng, level, unseen)
    thinking = rng.random() < 0.2
    messages = []
    for kind in kinds:
        messages += used(kind.draw(rng, level, unseen), offered[kind], thinking)
    return write(messages, list(offered.values()))


def used(use, tool, thinking):
    """Question, call, result and answer."""
    function = tool["function"]
    parameter = function["parameters"]["required"][0]
    name, arguments = function["name"], {parameter: use.argument}
    call = {"type": "function", "function": {"name": name, "arguments": arguments}}
    calling = assistant("") | {"tool_calls": [call]}
    answer = assistant(use.answer)
    if thinking:
        calling["reasoning_content"] = f"I call {name}."
        answer["reasoning_content"] = f"It says: {use.result}"
    return [
        user(use.question),
        calling,
        {"role": "tool", "content": use.result},
        answer,
    ]


def unused(rng, level, unseen):
    """No tool is needed, or the one that would be is not there."""
    if rng.random() < 0.4:
        missing = pick((CALCULATOR, *OTHERS), rng)
        offered = offer(set(), {missing}, rng, level, unseen)
        asked = missing.draw(rng, level, unseen)
        while missing is CALCULATOR and "*" not in asked.argument:
            asked = missing.draw(rng, level, unseen)  # a plain sum it can do alone
        messages = [user(asked.question), assistant(ELSEWHERE)]
    else:
        task, barred = pick(HELPLESS, rng)
        offered = offer(set(), barred, rng, level, unseen)
        messages = task.messages(rng, level / 2, unseen)
    return write(messages, list(offered.values()))


def offer(needed, barred, rng, level, unseen):
    """Kinds to tools, in any order: those needed and perhaps one or two more."""
    others = [kind for kind in set(KINDS) - needed - barred]
    others.sort(key=lambda kind: kind.names)
    rng.shuffle(others)
    more = up_to(0, 2, level, rng) if needed else up_to(1, 2, level, rng)
    kinds = sorted(needed, key=lambda kind: kind.names) + others[:more]
    rng.shuffle(kinds)
    return {kind: described(kind, rng, unseen) for kind in kinds}


def described(kind, rng, unseen):
    """A tool of one text argument, as a JSON schema; often under an odd name.

    Else its name is guessed from the question and not read from the list. Training has
    more of them than the card, since to read is harder than to guess.
    """
    strange, odd = rng.random(2) < ((0.4, 0.3) if unseen else (0.6, 0.5))
    name = invented(rng, unseen) if strange else pick(kind.names, rng)
    parameter = invented(rng, unseen) if odd else pick(kind.parameters, rng)
    schema = {"type": "object", "properties": {parameter: {"type": "string"}}}
    function = {
        "name": name,
        "description": pick(kind.descriptions, rng),
        "parameters": schema | {"required": [parameter]},
    }
    return {"type": "function", "function": function}
