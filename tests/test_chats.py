"""Chats are written and cut as the template of the corpus has them."""

from pathlib import Path

import numpy as np
import pytest

from minqwen.prompt.template import template_environment
from minqwen.train.corpus import chats, tools
from minqwen.train.corpus.chats import exchange, followed, user, write

FILE = Path(chats.__file__).with_name("chat_template.jinja")
TEMPLATE = template_environment().from_string(FILE.read_text())
CALL = {"name": "add", "arguments": {"a": "é", "b": 2, "c": [1]}}
CALLS = {"tool_calls": [{"type": "function", "function": CALL}]}


def whole(chat):
    return "".join(text for text, _ in chat.parts)


def render(messages, tools=None, **options):
    return TEMPLATE.render(messages=messages, tools=tools, **options)


ODD = [
    [user("Hi"), {"role": "assistant", "content": "Hm."} | CALLS],
    [user("Hi"), {"role": "assistant", "content": ""} | CALLS,
     {"role": "tool", "content": "3"}, {"role": "tool", "content": "4"},
     {"role": "assistant", "content": "7", "reasoning_content": "3 + 4"}],
    [{"role": "system", "content": "Be short."}, user("Hi"),
     {"role": "assistant", "content": "Hello", "reasoning_content": "Hm."},
     user("And?"), {"role": "assistant", "content": "And?"}],
]  # fmt: skip


@pytest.mark.parametrize("offers", [False, True])
@pytest.mark.parametrize("messages", ODD)
def test_odd_chats_are_what_the_template_writes(messages, offers):
    offered = tools.described(tools.NOTES, np.random.default_rng(0), False)
    offered = [offered, offered] if offers else None
    assert whole(write(messages, offered)) == render(messages, offered)


@pytest.mark.parametrize("first", ODD)
@pytest.mark.parametrize("second", ODD[:2])
def test_chats_one_after_the_other_are_what_the_template_writes(first, second):
    """Earlier reasoning is dropped, tools stand in front, pictures stay in order."""
    offered = [tools.described(tools.NOTES, np.random.default_rng(0), False)]
    for offers in ((None, None), (offered, None), (None, offered)):
        chat = followed(write(first, offers[0], [0]), write(second, offers[1], [1]))
        assert whole(chat) == render(first + second, offers[0] or offers[1])
        assert chat.images == [0, 1]


def test_a_result_given_as_a_users_turn_is_no_new_question():
    call = [user("Hi"), {"role": "assistant", "content": "", "reasoning_content": "Hm."}
            | CALLS]  # fmt: skip
    result = "<tool_response>\n3\n</tool_response>"
    by_user = render([*call, user(result)])
    assert by_user == render([*call, {"role": "tool", "content": "3"}])
    assert "Hm." in by_user


def test_prompt_and_answer_of_an_exchange():
    chat = exchange("2 + 2", "2 + 2 = 4", "2+2=4, 4")
    assert chat.prompt.endswith("<|im_start|>assistant\n<think>\n")
    assert chat.answer == "2+2=4, 4\n</think>\n\n2 + 2 = 4<|im_end|>\n"
    plain = exchange("2 + 2", "2 + 2 = 4")
    assert plain.prompt.endswith("<think>\n\n</think>\n\n")
