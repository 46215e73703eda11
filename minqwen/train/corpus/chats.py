"""Conversations for the tiny model: about the library, about digits, about itself.

A chat is written exactly as chat_template.jinja writes it (a test compares the two).
"""

import ast
import builtins
import math
import re
from dataclasses import dataclass, field

import torch

from ...prompt.images import picture_to_patches
from .digits import draw_digit
from .processor import PATCHES
from .text import (
    Document,
    library,
    module_name,
    own_doc,
    own_names,
    public_nodes,
    signature,
)

# well known, and few enough that a tiny model can remember what they hold
MODULES = set(
    "ast base64 bisect calendar collections colorsys contextlib copy csv dataclasses "
    "datetime difflib enum filecmp fnmatch fractions functools glob gzip hashlib "
    "heapq html io json keyword linecache operator os pathlib posixpath pprint queue "
    "random re shlex shutil statistics string subprocess tempfile textwrap "
    "threading timeit types urllib.parse uuid warnings".split()
)
LONGEST = 100  # characters of an answer

PURPOSE = (
    "What does {} do?",
    "What is {} for?",
    "Explain {} in one sentence.",
    "Tell me about {}.",
)
HOME = ("Which module has {}?", "Where do I find {}?", "In which module is {}?")
FIRST_LINE = ("Write the first line of {}.", "How does the definition of {} begin?")
SELF = (
    ("Who are you?", "I am a tiny Qwen3.5-shaped model trained by minqwen."),
    ("What are you?", "A tiny Qwen3.5-shaped model trained by minqwen."),
    ("What is your name?", "I have no name. I am minqwen's tiny model."),
    ("Who made you?", "I was trained by minqwen, on Python's own library."),
    ("Who trained you?", "minqwen trained me."),
    ("Are you Qwen?", "No. I have Qwen3.5's shape, but I am tiny."),
    ("Are you ChatGPT?", "No. I am a tiny model trained by minqwen."),
    ("What can you do?", "I write Python, explain its library and read digits."),
    ("What do you know?", "Python's standard library, and digits in pictures."),
    ("How large are you?", "Tiny: a few megabytes."),
    ("What were you trained on?", "On Python's standard library and drawn digits."),
    ("Hello!", "Hello! Ask me about Python, or show me a digit."),
    ("Hi", "Hello! Ask me about Python, or show me a digit."),
    ("Hello, who are you?", "I am a tiny Qwen3.5-shaped model trained by minqwen."),
    ("Thank you.", "You are welcome."),
    ("Which digit is this?", "I see no picture."),
    ("What is in this picture?", "I see no picture."),
)
SELF_TIMES = 12  # how often each line about itself stands among the other chats

ONE_DIGIT = (
    "Which digit is this?",
    "What digit do you see?",
    "What is in this picture?",
    "Read the digit.",
)
ORDINAL = ("first", "second")


@dataclass
class Chat:
    """A prompt up to where the assistant writes, what it writes, and its pictures.

    `images` and `videos` hold (patches float32 [t*h*w, 1536], grid (t, h, w)).
    """

    prompt: str
    answer: str
    images: list = field(default_factory=list)
    videos: list = field(default_factory=list)


def exchange(question, answer, reasoning=None, **pictures):
    """One question and its answer; `reasoning` None is the form without thinking."""
    head = f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n<think>\n"
    if reasoning is None:
        head += "\n</think>\n\n"
    else:
        answer = f"{reasoning}\n</think>\n\n{answer}"
    return Chat(head, f"{answer}<|im_end|>\n", **pictures)


@dataclass(frozen=True)
class Fact:
    """A public name of the library: its module, its purpose, its first line."""

    module: str
    name: str
    purpose: str
    line: str


def facts():
    """Facts of the well-known modules on the training side, in a fixed order."""
    found = built_in_facts()
    for path, text in library():
        module = module_name(path)
        if module not in MODULES or Document("source", path, text).held_out:
            continue
        module = "os.path" if module == "posixpath" else module
        tree = ast.parse(text)
        found.append(Fact(module, "", first_sentence(ast.get_docstring(tree)), ""))
        nodes = public_nodes(tree.body)
        if module == "random":  # its functions are methods of a hidden Random()
            nodes += [
                n for c in nodes for n in public_nodes(c.body) if c.name[0] == "R"
            ]
        for node in nodes:
            purpose = first_sentence(ast.get_docstring(node))
            found.append(Fact(module, node.name, purpose, first_line(node)))
    return [fact for fact in found if fact.purpose]


def built_in_facts():
    """Facts of what is written in C: built-in names, methods of types, math."""
    named = [("builtins", *pair) for pair in own_names(builtins)]
    for cls in (str, list, dict, set, int, bytes):
        methods = [pair for pair in sorted(vars(cls).items()) if pair[0][0] != "_"]
        named += [("builtins", f"{cls.__name__}.{k}", v) for k, v in methods]
    named += [("math", *pair) for pair in own_names(math)]
    return [
        Fact(module, name, first_sentence(own_doc(value)), "")
        for module, name, value in named
        if not Document("docs", f"built-in/{module}", "").held_out
    ]


def first_sentence(doc):
    """The first sentence of a docstring on one line; "" where it is no good answer."""
    opening = " ".join((doc or "").split("\n\n")[0].split())
    match = re.match(r"[A-Z][^\n]*?[.!?](?= |$)", opening)
    sentence = match[0] if match else ""
    readable = sentence.isascii() and 3 <= len(sentence.split())
    readable = readable and not sentence.endswith(("e.g.", "i.e.", "(eg.", "etc."))
    return sentence if readable and len(sentence) <= LONGEST else ""


def first_line(node):
    if isinstance(node, ast.ClassDef):
        bases = ", ".join(ast.unparse(base) for base in node.bases)
        return f"class {node.name}({bases}):" if bases else f"class {node.name}:"
    return f"def {signature(node)}:"


def text_chats(rng):
    """All chats without pictures, shuffled by `rng`."""
    chats = []
    known = facts()
    names = [fact.name for fact in known]
    for fact in known:
        chats += about(fact, rng, unique=names.count(fact.name) == 1)
    chats += [exchange(*pair) for pair in SELF] * SELF_TIMES
    chats += [exchange(q, a, "This is about me.") for q, a in SELF[:7]]
    return [chats[i] for i in rng.permutation(len(chats))]


def about(fact, rng, unique):
    """The chats on one fact; a bare name is asked for only where it is `unique`."""
    if not fact.name:
        asked = f"the module {fact.module}"
        return [exchange(text.format(asked), fact.purpose) for text in PURPOSE]
    built_in = fact.module == "builtins"
    full = fact.name if built_in else f"{fact.module}.{fact.name}"
    home = f"{fact.name} is in the module {fact.module}."
    home = f"{fact.name} is built in." if built_in else home
    chats = [exchange(text.format(full), fact.purpose) for text in PURPOSE]
    chats.append(exchange(pick(PURPOSE, rng).format(full), fact.purpose, home))
    if unique:
        chats.append(exchange(pick(PURPOSE, rng).format(fact.name), fact.purpose))
        chats.append(exchange(pick(HOME, rng).format(fact.name), home))
    if unique and not built_in:
        line = f"from {fact.module} import {fact.name}"
        chats.append(exchange(f"How do I import {fact.name}?", line))
    if fact.line and len(fact.line) <= LONGEST:
        chats += first_lines(fact, full, rng)
    return chats


def first_lines(fact, full, rng):
    task = fact.purpose[0].lower() + fact.purpose[1:]
    kind = fact.line.split()[0].replace("def", "function")
    asked = f"Write the first line of a {kind} for this: {task}"
    first = exchange(pick(FIRST_LINE, rng).format(full), fact.line)
    return [first, exchange(asked, fact.line)]


def pick(choices, rng):
    return choices[rng.integers(len(choices))]


def picture_chat(rng):
    """A random chat about one picture, two pictures, or a film of two frame pairs."""
    draw = rng.random()
    if draw < 0.7:
        return one_digit(int(rng.integers(10)), rng)
    return two_digits(rng) if draw < 0.9 else film(rng)


def one_digit(digit, rng, thinking=None, **drawing):
    """`This is the digit 7.`; `drawing` goes to `draw_digit`. Thinks in 1 chat of 8."""
    thinking = rng.random() < 0.125 if thinking is None else thinking
    image = patches(draw_digit(digit, rng, **drawing))
    asked = placeholder(image[1], "image") + pick(ONE_DIGIT, rng)
    reasoning = f"The picture shows {digit}." if thinking else None
    return exchange(asked, f"This is the digit {digit}.", reasoning, images=[image])


def two_digits(rng):
    """Which of two pictures shows the larger digit; thinks every second time."""
    digits = [int(d) for d in rng.choice(10, 2, replace=False)]
    images = [patches(draw_digit(digit, rng)) for digit in digits]
    asked = "".join(placeholder(grid, "image") for _, grid in images)
    reasoning = "The first shows {}, the second {}.".format(*digits)
    larger = f"The {ORDINAL[digits.index(max(digits))]} one, {max(digits)}."
    reasoning = reasoning if rng.random() < 0.5 else None
    return exchange(asked + "Which is larger?", larger, reasoning, images=images)


def film(rng):
    """Two frame pairs at two frames a second, one digit up or down."""
    low = int(rng.integers(9))
    digits = [low, low + 1] if rng.random() < 0.5 else [low + 1, low]
    size = (64, 64)
    pairs = [patches(draw_digit(digit, rng, size=size)) for digit in digits]
    grid = (2, *pairs[0][1][1:])
    video = torch.cat([pair for pair, _ in pairs]), grid
    inner = placeholder((1, *grid[1:]), "video")
    # each pair carries its mean time; transformers 5 keeps a pair of marks around all
    frames = f"<0.2 seconds>{inner}<1.2 seconds>{inner}"
    asked = f"<|vision_start|>{frames}<|vision_end|>Which digits does the film show?"
    return exchange(asked, "First {}, then {}.".format(*digits), videos=[video])


def patches(picture):
    values, grid = picture_to_patches(picture, **PATCHES)
    return torch.as_tensor(values), tuple(int(side) for side in grid)


def placeholder(grid, kind):
    """One pad for every 2 x 2 patches, between the vision marks."""
    pads = grid[0] * grid[1] * grid[2] // 4
    return f"<|vision_start|>{f'<|{kind}_pad|>' * pads}<|vision_end|>"
