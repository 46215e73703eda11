"""The tasks: written as the template writes them, repeatable, disjoint and right."""

import re
from pathlib import Path

import numpy as np
import pytest

from minqwen.prompt.template import template_environment
from minqwen.train.corpus import about, notes, relations, repeats, sums, tools, words
from minqwen.train.corpus import chats as chats_module
from minqwen.train.corpus.chats import write
from minqwen.train.corpus.tasks import TASKS, sample

COUNT = 200
FILE = Path(chats_module.__file__).with_name("chat_template.jinja")
TEMPLATE = template_environment().from_string(FILE.read_text())
TEXT_TASKS = ["notes", "repeats", "sums", "tools", "about"]


def chats(name, level=1.0, unseen=False, count=COUNT):
    for seed in range(count):
        yield TASKS[name](np.random.default_rng(seed), level, unseen)


def whole(chat):
    return "".join(text for text, _ in chat.parts)


def talk(chat):
    """(role, text) of every turn, without the marks of thinking."""
    turns = re.findall(r"<\|im_start\|>(\w+)\n(.*?)<\|im_end\|>\n", whole(chat), re.S)
    return [(role, re.sub(r"<think>.*?</think>\n\n", "", t, flags=re.S))
            for role, t in turns]  # fmt: skip


def exchanges(chat):
    """(question, answer) of the user's own turns, in order."""
    turns = [turn for turn in talk(chat) if turn[0] != "system"]
    for (asker, question), (_, answer) in zip(turns, turns[1:], strict=False):
        if asker == "user":
            yield question, answer


@pytest.fixture
def asked(monkeypatch):
    """Every call of `write`, and what came of it."""
    made = []

    def listening(messages, tools=None, **pictures):
        chat = write(messages, tools, **pictures)
        made.append((messages, tools, chat))
        return chat

    for module in (notes, repeats, sums, tools, about):
        monkeypatch.setattr(module, "write", listening)
    return made


def render(messages, tools=None, **options):
    return TEMPLATE.render(messages=messages, tools=tools, **options)


@pytest.mark.parametrize("name", TEXT_TASKS)
def test_chats_are_what_the_template_writes(asked, name):
    list(chats(name))
    assert len(asked) == COUNT
    for messages, offered, chat in asked:
        assert whole(chat) == render(messages, offered)
        thinking = bool(messages[-1].get("reasoning_content"))
        options = {"add_generation_prompt": True, "enable_thinking": thinking}
        assert chat.prompt == render(messages[:-1], offered, **options)
        assert chat.answer.endswith("<|im_end|>\n")
        learned = [learned for _, learned in chat.parts]
        assert learned == [False, True] * (len(learned) // 2)


@pytest.mark.parametrize("name", TASKS)
def test_a_chat_depends_on_its_generator_alone(name):
    for unseen in (False, True):
        first = [whole(c) for c in chats(name, 0.5, unseen, count=40)]
        assert first == [whole(c) for c in chats(name, 0.5, unseen, count=40)]
        assert len(set(first)) > 30


@pytest.mark.parametrize("name", TEXT_TASKS)
def test_training_never_asks_what_is_unseen(name):
    questions = {
        unseen: {c.prompt for level in (0, 1) for c in chats(name, level, unseen)}
        for unseen in (False, True)
    }
    assert not questions[False] & questions[True]


@pytest.mark.parametrize("name", TEXT_TASKS)
def test_the_lowest_level_is_small(name):
    low, high = (np.mean([len(whole(c)) for c in chats(name, level, count=100)])
                 for level in (0, 1))  # fmt: skip
    assert low < 0.8 * high


def test_the_sample_holds_every_task_and_is_the_same_twice():
    texts = list(sample(5, pictured=2))
    assert len(texts) == 5 * (len(TASKS) - 2) + 2 * 2
    assert texts == list(sample(5, pictured=2))


def test_names_of_unseen_notes_are_held_out():
    for seed in range(COUNT):
        for unseen in (False, True):
            book = notes.Notes(np.random.default_rng(seed), 1.0, unseen)
            book.tell(8)
            for name in {name for _, name, _ in book.known} - {""}:
                letter = name in words.LETTERS and not unseen
                kinds = {words.held_out(name), words.held_out(name.lower())}
                assert letter or unseen in kinds


CLEARED = re.compile("|".join(
    [re.escape(form.split("{")[0].strip()) for form in notes.NEWS + notes.ASKED if
     form[0] != "{"] + [re.escape(head.strip()) for head in notes.HEADS if head]
))  # fmt: skip
FIELDS = {"n": r"(?P<n>\w+)", "t": r"(?P<t>\w+)", "v": r"(?P<v>[\w\"]+)"}


def pattern(form, **known):
    """A way to say or ask something as a pattern; what is not known is a group."""
    text = re.escape(form).replace(r"\{", "{").replace(r"\}", "}")
    text = text.format(**FIELDS | {k: re.escape(v) for k, v in known.items()})
    return re.compile(rf"\b{text}(?!\w)", re.I)


def key(relation, match):
    found = match.groupdict()
    return relation, found.get("n", "").lower(), found.get("t", "").lower()


RELATIONS = list({*relations.RELATIONS, *relations.ME, relations.CODE})
SAID = [(r, form, pattern(form)) for r in RELATIONS for form in r.said]
ANSWERS = [(r, (r.answer,) if r.answer else r.said) for r in RELATIONS]
ANSWERED = [(r, form, pattern(form)) for r, forms in ANSWERS for form in forms]


def read(text, known):
    """Take down what a text says, in order."""
    text = CLEARED.sub(" ", text).replace(" and ", ". ")
    found = [(m.start(), r, form, m) for r, form, p in SAID for m in p.finditer(text)]
    for _, relation, form, match in sorted(found, key=lambda item: item[0]):
        known[key(relation, match)] = match["v"], form


def asks(question, item):
    relation, n, t = item
    # in haste one leaves the mark out, but a name alone is no question
    asked = [form if form == "{n}?" else form.rstrip("?") for form in relation.asked]
    forms = [pattern(form, n=n, t=t) for form in asked]
    forms.append(re.compile(rf"\bAnd (the )?{re.escape(n)}\?", re.I))
    return any(form.search(question) for form in forms)


def is_said(question, answer, known):
    """Whether an answer is one to the question, and as it was said last."""
    for relation, form, way in ANSWERED:
        match = way.fullmatch(answer)
        item = match and key(relation, match)
        value, said = known.get(item, (None, None))
        as_said = form in (said, relation.answer)
        if match and value == match["v"] and as_said and asks(question, item):
            return True
    return False


def test_notes_are_answered_by_what_was_said_last():
    unsaid = 0
    for chat in chats("notes"):
        known = {}
        for question, answer in exchanges(chat):
            read(question, known)
            if answer == notes.NOTED:
                continue
            for part in re.split(r"(?<=\.) |\n", answer):
                if part == notes.NOT_SAID:
                    unsaid += 1
                else:
                    assert is_said(question, part, known), (question, part)
            if answer == notes.NOT_SAID:
                assert not any(asks(question, item) for item in known), question
    assert 10 < unsaid < COUNT


def test_repeats_say_what_was_asked():
    for chat in chats("repeats"):
        for question, answer in exchanges(chat):
            times = re.match(r"[\w ]+ (\w+) times:", question)
            count = repeats.COUNTS.index(times[1]) + 2 if times else 1
            text = answer[: (len(answer) + 1) // count - 1]
            assert "\n".join([text] * count) == answer
            assert text in question or question in repeats.AGAIN


def thought(chat):
    match = re.fullmatch(r"(.*)\n</think>\n\n(.*)<\|im_end\|>\n", chat.answer, re.S)
    return match and match.groups()


def test_sums_are_right():
    columns = 0
    for chat in chats("sums"):
        for question, answer in exchanges(chat):
            if " " not in answer:  # a list of columns
                lines = answer.split("\n")
                assert ", ".join(x.split("=")[0] for x in lines) in question
                assert all(eval(line.replace("=", "==")) for line in lines)
                columns += 1
                continue
            asked = sorted(map(int, re.findall(r"\d+", question)))
            said = re.match(r"(?:(Yes|No), )?(\d+) is (\w+) than (\d+)\.", answer)
            if said is None:
                shown, result = answer.split(" = ")
                assert eval(shown) == int(result)
                numbers = re.findall(r"\d+", shown)
            else:
                numbers = said[2], said[4]
                assert (int(said[2]) > int(said[4])) == (said[3] == "larger")
                first = re.search(r"\d+", question)[0]
                assert said[1] in (None, "Yes" if first == said[2] else "No")
            assert sorted(map(int, numbers)) == asked
    assert columns > COUNT / 6


def test_thinking_goes_through_the_columns():
    seen = 0
    for chat in chats("sums"):
        if thought(chat) and " = " in thought(chat)[1]:
            reasoning, answer = thought(chat)
            lines = [line for line in reasoning.splitlines() if "=" in line]
            for line in lines:
                column, found = line.split("=")[0], line.split("=")[1].split(", ")
                assert eval(column) == int(found[0])
            assert int(found[1]) == abs(int(answer.split(" = ")[1]))
            seen += 1
    assert seen > 20


def test_one_digit_is_enough_for_something_unseen():
    """Or drawing an unseen pair of the lowest level would never end."""
    for sign in "+-<":
        pairs = [(a, b) for a in range(10) for b in range(a + 1, 10)]
        held = [pair for pair in pairs if sums.is_held_out(sign, *pair)]
        assert 0 < len(held) < 10


def test_calls_are_copied_from_list_and_question(asked):
    called = 0
    for _ in chats("tools"):
        messages, offered, _ = asked.pop()
        functions = {tool["function"]["name"]: tool["function"] for tool in offered}
        for at, message in enumerate(messages):
            for call in message.get("tool_calls", ()):
                function = functions[call["function"]["name"]]
                [(name, value)] = call["function"]["arguments"].items()
                assert function["parameters"]["required"] == [name]
                assert value in messages[at - 1]["content"].replace("times", "*")
                result, answer = (m["content"] for m in messages[at + 1 : at + 3])
                read_out = result == tools.MISSING or result in answer
                assert read_out or answer in result
                if re.fullmatch(r"[\d+*/() -]+", value):
                    assert float(result) == round(eval(value), 4)
                called += 1
    assert called > COUNT / 2


def test_what_is_elsewhere_gets_one_answer():
    answers = {answer for _, answer in about.own_questions(False)}
    answers |= {about.ELSEWHERE, about.NO_PICTURE, notes.NOT_SAID}
    given = []
    for seed in range(COUNT):
        for unseen in (False, True):
            said = TASKS["about"](np.random.default_rng(seed), 0.0, unseen)
            given += [answer for _, answer in exchanges(said)]
    assert set(given) <= answers
    assert 0.4 < given.count(about.ELSEWHERE) / len(given) < 0.8


def test_forms_and_topics_are_on_both_sides():
    for lines in (about.lines_of("elsewhere.txt"), about.topics(), about.PICTURE):
        assert len(lines) == len(set(lines))
        assert words.on_side(lines, True) and words.on_side(lines, False)
    assert all(1 <= line.count("{}") <= 2 for line in about.lines_of("elsewhere.txt"))
