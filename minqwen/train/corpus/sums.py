"""Sums, differences and comparisons, at once or digit by digit.

    478 + 356 -> 8+6=14, 4     each line: a column, then the digits found so far
                 7+5+1=13, 34
                 4+3+1=8, 834

A token is a digit here, so without thinking all carries must be seen at one glance.
"""

from .chats import assistant, user, write
from .words import held_out, pick, up_to

MOST_DIGITS = 4
HELD_OUT = 0.04  # of all pairs of numbers, for each thing done with them

ADD = (
    "{a} + {b}", "{a} + {b} =", "{a}+{b}", "What is {a} + {b}?", "Add {a} and {b}.",
    "What is {a} plus {b}?", "How much is {a} + {b}?", "Calculate {a} + {b}.",
    "Compute {a} + {b}.", "What do {a} and {b} make?", "{a} plus {b}?",
    "What is the sum of {a} and {b}?",
)  # fmt: skip
SUBTRACT = (
    "{a} - {b}", "{a} - {b} =", "{a}-{b}", "What is {a} - {b}?", "{a} minus {b}?",
    "Subtract {b} from {a}.", "What is {a} minus {b}?", "How much is {a} - {b}?",
    "Calculate {a} - {b}.", "Compute {a} - {b}.", "Take {b} from {a}.",
)  # fmt: skip
LARGER = (
    "Which is larger, {a} or {b}?", "Which number is larger: {a} or {b}?",
    "Which is greater, {a} or {b}?", "What is more, {a} or {b}?",
    "Compare {a} and {b}.", "Is {a} larger than {b}?", "Is {a} more than {b}?",
)  # fmt: skip
SMALLER = (
    "Which is smaller, {a} or {b}?", "Which number is smaller: {a} or {b}?",
    "What is less, {a} or {b}?", "Is {a} smaller than {b}?", "Is {a} less than {b}?",
)  # fmt: skip


SEVERAL = (
    "Work out: {}",
    "Calculate: {}",
    "{}",
    "What do these make? {}",
    "Compute {}",
)


def make(rng, level=1.0, unseen=False):
    return write(messages(rng, level, unseen))


def messages(rng, level, unseen):
    """One sum or two; the last one is thought over in two chats of three.

    One chat in four of training is a list of columns, which other sums are made of.
    """
    if not unseen and rng.random() < 0.25:
        return several(rng, level)
    thinking = rng.random() < 2 / 3
    said = []
    for _ in range(up_to(1, 2, level, rng)):
        question, answer, reasoning = pick(TASKS, rng)(rng, level, unseen)
        said += [user(question), assistant(answer)]
    if thinking:
        said[-1]["reasoning_content"] = reasoning
    return said


def several(rng, level):
    """Many small sums at once."""
    columns = [column(rng) for _ in range(up_to(2, 14, max(level, 0.5), rng))]
    question = pick(SEVERAL, rng).format(", ".join(text for text, _ in columns))
    answer = "\n".join(f"{text}={result}" for text, result in columns)
    return [user(question), assistant(answer)]


def column(rng):
    """What a line of thinking holds: two digits, perhaps a carry, and the result."""
    sign = pick("+-", rng)
    a, b = pair(sign, rng, 0, unseen=False)
    carry = int(rng.random() < 0.3)
    if sign == "+":
        return f"{a}+{b}{'+1' * carry}", a + b + carry
    a += 10 * (a - b - carry < 0)
    return f"{a}-{b}{'-1' * carry}", a - b - carry


def written(rng, level):
    """A whole sum as thinking works it out: `17 + 26 =`, its columns, the result."""
    _, answer, reasoning = pick((addition, subtraction), rng)(rng, level, False)
    shown, result = answer.split("=")
    return shown, f"\n{reasoning}\n{result.strip()}\n"


def addition(rng, level, unseen):
    a, b = pair("+", rng, level, unseen)
    return pick(ADD, rng).format(a=a, b=b), f"{a} + {b} = {a + b}", added(a, b)


def subtraction(rng, level, unseen):
    """Seldom the smaller number comes first, and the result is negative."""
    a, b = pair("-", rng, level, unseen)
    if (a < b) != (rng.random() < 0.1):
        a, b = b, a
    return pick(SUBTRACT, rng).format(a=a, b=b), f"{a} - {b} = {a - b}", taken(a, b)


def comparison(rng, level, unseen):
    a, b = pair("<", rng, level, unseen)
    if rng.random() < 0.5:
        form, first, word = pick(LARGER, rng), max(a, b), "larger"
    else:
        form, first, word = pick(SMALLER, rng), min(a, b), "smaller"
    answer = f"{first} is {word} than {a + b - first}."
    if form.startswith("Is "):
        answer = ("Yes, " if first == a else "No, ") + answer
    return form.format(a=a, b=b), answer, compared(a, b)


TASKS = (addition, addition, subtraction, subtraction, comparison)


def pair(sign, rng, level, unseen):
    """Two numbers, which of them comes first being left to chance."""
    while True:
        digits = up_to(1, MOST_DIGITS, level, rng)
        a = number(digits, rng)
        b = number(int(rng.integers(1, digits + 1)), rng)
        alike = sign == "<" and a == b
        if not alike and is_held_out(sign, a, b) == unseen:
            return (a, b) if rng.random() < 0.5 else (b, a)


def is_held_out(sign, a, b):
    return held_out(f"sum {min(a, b)} {sign} {max(a, b)}", HELD_OUT)


def number(digits, rng):
    low = 10 ** (digits - 1) if digits > 1 else 0
    return int(rng.integers(low, 10**digits))


def columns(a, b):
    """The digits of both numbers from the right, zeros before the shorter one."""
    width = max(len(str(a)), len(str(b)))
    pairs = zip(f"{a:0{width}}"[::-1], f"{b:0{width}}"[::-1], strict=True)
    return [(int(x), int(y)) for x, y in pairs]


def added(a, b):
    """A line for each column, the carry from the one before at its end."""
    lines, carry, found = [], 0, ""
    places = columns(a, b)
    for i, (x, y) in enumerate(places):
        total = x + y + carry
        last = i == len(places) - 1
        found = (str(total) if last else str(total % 10)) + found
        lines.append(f"{x}+{y}{'+1' * carry}={total}, {found}")
        carry = total // 10
    return "\n".join(lines)


def taken(a, b):
    """Ten more in a column is borrowed: the next one has the one less at its end."""
    lines = ["The result is negative."] if a < b else []
    borrowed, found = 0, ""
    for x, y in columns(max(a, b), min(a, b)):
        lent = x - y - borrowed < 0
        left = x + 10 * lent - y - borrowed
        found = str(left) + found
        lines.append(f"{x + 10 * lent}-{y}{'-1' * borrowed}={left}, {found}")
        borrowed = int(lent)
    return "\n".join(lines)


def compared(a, b):
    """The first digit that differs decides, if both numbers are of one length."""
    if len(str(a)) != len(str(b)):
        return f"{len(str(a))} and {len(str(b))} digits"
    signs = []
    for x, y in columns(a, b)[::-1]:
        signs.append(f"{x}{'<' if x < y else '>' if x > y else '='}{y}")
        if x != y:
            break
    return ", ".join(signs)
