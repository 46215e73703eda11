"""Prompts of the released chat templates, against transformers with the same ones."""

import copy
import io
import json
import shutil
import sys
from pathlib import Path

import pytest
from released_templates import BEGINNINGS, released
from transformers import AutoTokenizer

from minqwen.errors import InputError
from minqwen.prompt.processor import Processor

TINY = Path(__file__).parents[1] / "assets" / "tiny"
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "look",
            "description": "Weather <now> & later",
            "parameters": {"type": "object", "properties": {"city": {}}},
        },
    }
]
ASK = {"role": "user", "content": " What is 2 < 3 in Köln? "}
ARGUMENTS = {"city": "Köln", "days": [1, 2.5], "deep": {"a": None}, "yes": True}
PICTURE = {"type": "image", "image": "x.png"}
FILM = {"type": "video", "video": "x.mp4"}


def call(arguments, **more):
    function = {"name": "look", "arguments": arguments}
    calls = [{"id": "1", "type": "function", "function": function}]
    return {"role": "assistant", "tool_calls": calls, **more}


TOLD = {"role": "tool", "tool_call_id": "1", "content": "sunny"}
SYSTEM = {"role": "system", "content": "Be brief."}
ANSWER = {"role": "assistant", "content": "It is.\n", "reasoning_content": "\nHm.\n"}
TALKS = {
    "question": [ASK],
    "system": [SYSTEM, ASK, ANSWER, ASK],
    "empty system": [{"role": "system", "content": ""}, ASK],
    "call": [ASK, call(ARGUMENTS, content=None), TOLD],
    "calls": [ASK, call({}, content="I look."), TOLD, TOLD, ANSWER, ASK],
    "bare call": [ASK, {"role": "assistant", "content": "",
                        "tool_calls": [{"name": "look", "arguments": {"n": 3}}]}],
    "thought inside": [ASK, {"role": "assistant",
                             "content": "<think>\nHm.\n</think>\n\nYes."}, ASK],
    "reasoning": [ASK, {"role": "assistant", "content": "Yes.", "reasoning": "Hm."}],
    "nulls": [{**ASK, "name": None, "tool_calls": None},
              {**ANSWER, "reasoning_content": None, "thinking": "So."}],
    "pictures": [SYSTEM, {"role": "user", "content": [
        PICTURE, {"type": "text", "text": "and"}, FILM, PICTURE]}, ANSWER,
        {"role": "user", "content": [FILM, {"type": "text", "text": "?"}]}],
    "address": [{"role": "user", "content": [
        {"type": "image_url", "image_url": {"url": "x.png"}},
        {"type": "image", "url": "x.png"}]}],
    "shown by a tool": [ASK, call({"n": 1}), {**TOLD, "content": [
        PICTURE, {"type": "text", "text": "seen"}]}],
}  # fmt: skip


@pytest.fixture(params=BEGINNINGS, scope="module")
def pair(request):
    """Ours and transformers', with one of the released templates."""
    theirs = AutoTokenizer.from_pretrained(TINY)
    theirs.chat_template = released()[request.param]
    files = {name: (TINY / name).read_bytes() for name in ("tokenizer.json",)}
    files["chat_template.jinja"] = theirs.chat_template.encode()
    files["tokenizer_config.json"] = (TINY / "tokenizer_config.json").read_bytes()
    return Processor(files), theirs


def wanted(theirs, messages, **options):
    options = {"add_generation_prompt": True} | options
    return theirs.apply_chat_template(
        copy.deepcopy(messages), tokenize=False, **options
    )


@pytest.mark.parametrize("name", TALKS)
@pytest.mark.parametrize("tools", [None, TOOLS], ids=["", "tools"])
def test_prompts_equal_transformers(pair, name, tools):
    ours, theirs = pair
    before = json.dumps(TALKS[name])
    for thinking in (None, True, False):
        options = {} if thinking is None else {"enable_thinking": thinking}
        expected = wanted(theirs, TALKS[name], tools=tools, **options)
        assert ours.chat_text(TALKS[name], thinking, tools) == expected
        assert ours.chat_text(TALKS[name], tools=tools, **options) == expected
    assert json.dumps(TALKS[name]) == before, "the caller's messages are left alone"


@pytest.mark.parametrize(
    "options",
    [
        {"preserve_thinking": True},
        {"preserve_thinking": False},
        {"add_vision_id": True},
        {"add_generation_prompt": False},
        {"reasoning_effort": "low"},
        {"reasoning_effort": "medium", "enable_thinking": False},
    ],
    ids=str,
)
def test_variables_reach_the_template(pair, options):
    ours, theirs = pair
    for name in "system", "pictures", "calls":
        expected = wanted(theirs, TALKS[name], **options)
        assert ours.chat_text(TALKS[name], **options) == expected


def test_the_templates_own_choice_of_thinking(pair, request):
    ours, _ = pair
    off = "up to 2B" in request.node.callspec.id
    opened = "<think>\n\n</think>\n\n" if off else "<think>\n"
    assert ours.chat_text([ASK]).endswith("assistant\n" + opened)
    text = ours.decode(ours.chat([ASK])["input_ids"][0], skip_special=False)
    assert text.endswith("assistant\n" + opened)


def test_a_template_that_cannot_be_kept_from_thinking():
    """As that of Qwen3.8-2.4T-A95B, of which no copy is at hand."""
    refusing = (
        "{%- if enable_thinking is defined and enable_thinking is false -%}"
        "{{- raise_exception('Thinking cannot be disabled.') -}}{%- endif -%}"
    )
    ours = Processor.load(TINY)
    text = refusing + released()["3.8"]
    assert ours.chat_text([ASK], chat_template=text).endswith("<think>\n")
    fails("Thinking cannot be dis", ours.chat_text, [ASK], False, chat_template=text)
    fails("thinking is yes; give", ours.chat_text, [ASK], "yes")
    fails("thinking says another", ours.chat_text, [ASK], True, enable_thinking=False)


def test_a_talk_on_the_command_line_keeps_its_thoughts(tmp_path, run, monkeypatch):
    """As 3.8 wants them; the small model was trained to think about sums."""
    shutil.copytree(TINY, tmp_path / "tiny")
    (tmp_path / "tiny" / "chat_template.jinja").write_text(released()["3.8"])
    monkeypatch.setattr(sys, "stdin", io.StringIO("17 + 26\n4 + 5\n"))
    _, out, err = run("chat", tmp_path / "tiny", "--thinking", "--temperature", 0)
    thought = err.split("ends]\n")[1].split("\n\n[")[0]
    answer = out.splitlines()[0]
    assert "3" in thought and "43" in answer
    told = [
        {"role": "user", "content": "17 + 26"},
        {"role": "assistant", "content": answer, "reasoning_content": thought},
        {"role": "user", "content": "4 + 5"},
    ]
    ids = Processor.load(tmp_path / "tiny").chat(told, True)["input_ids"]
    assert f"[{ids.shape[1]} tokens read" in err


# ---- what agents send ----


@pytest.mark.parametrize(
    "said, meant",
    [(json.dumps(ARGUMENTS), ARGUMENTS), ("{}", {}), ("", {}), (None, {}),
     ("null", {}), (' {"n": 3}\n', {"n": 3})],
)  # fmt: skip
def test_arguments_as_json_text(pair, said, meant):
    ours, theirs = pair
    expected = wanted(theirs, [ASK, call(meant), TOLD])
    assert ours.chat_text([ASK, call(said), TOLD]) == expected
    bare = {"role": "assistant", "tool_calls": [{"name": "look", "arguments": said}]}
    assert ours.chat_text([ASK, bare, TOLD]) == expected


def test_arguments_that_are_no_json_name_their_message():
    ours = Processor.load(TINY)
    for said in '{"city": "Kö', "[1]", "3", '"x"', "{'a': 1}", ["a"], "x" * 10**6:
        messages = [ASK, call({"n": 1}), TOLD, call(said)]
        place = r"messages\[3\].tool_calls\[0\] has arguments that are not a JSON"
        assert len(fails(place, ours.chat_text, messages)) < 400


def test_a_developer_is_the_system(pair):
    ours, theirs = pair
    expected = wanted(theirs, [SYSTEM, ASK], tools=TOOLS)
    developer = {**SYSTEM, "role": "developer"}
    assert ours.chat_text([developer, ASK], tools=TOOLS) == expected


@pytest.mark.parametrize(
    "word, meant",
    [("none", "low"), ("minimal", "low"), ("low", "low"), ("medium", "medium"),
     ("high", "xhigh"), ("xhigh", "xhigh"), ("max", "xhigh"), (None, "xhigh")],
)  # fmt: skip
def test_words_for_effort_are_the_nearest_that_are_known(pair, request, word, meant):
    ours, theirs = pair
    expected = wanted(theirs, [ASK], reasoning_effort=meant)
    assert ours.chat_text([ASK], reasoning_effort=word) == expected
    if "3.8" in request.node.callspec.id:
        fails("is a lot, but .* knows low, medium, xhigh", ours.chat_text, [ASK],
              reasoning_effort="a lot")  # fmt: skip
        fails("reasoning_effort is 3", ours.chat_text, [ASK], reasoning_effort=3)


def test_variables_that_no_template_reads_are_named():
    ours = Processor.load(TINY)
    for name in "tokenize", "return_dict", "padding", "enable_thinkng", "max_length":
        fails(f"reads no variable {name}; leave", ours.chat, [ASK], **{name: True})
    assert ours.chat_text([ASK], preserve_thinking=True) == ours.chat_text([ASK])


# ---- going on with what is written ----

OPEN = {
    "content": [ASK, {"role": "assistant", "content": "The answer is"}],
    "spaces": [ASK, {"role": "assistant", "content": "\nThe answer is  "}],
    "twice": [ASK, {"role": "assistant", "content": "a"}, ASK,
              {"role": "assistant", "content": "a"}],
    "thought": [ASK, {"role": "assistant", "content": "Is", "reasoning_content": "H"}],
    "parts": [ASK, {"role": "assistant", "content": [
        {"type": "text", "text": "One"}, {"type": "text", "text": "two "}]}],
    "a user": [{"role": "user", "content": "I would like"}],
}  # fmt: skip


@pytest.mark.parametrize("name", OPEN)
def test_continue_final_message_equals_transformers(pair, name):
    ours, theirs = pair
    options = {"continue_final_message": True}
    expected = wanted(theirs, OPEN[name], add_generation_prompt=False, **options)
    assert ours.chat_text(OPEN[name], **options) == expected
    both = options | {"add_generation_prompt": False}
    assert ours.chat_text(OPEN[name], **both) == expected
    ids = ours.chat(OPEN[name], **options)["input_ids"][0]
    assert ids.tolist() == theirs(expected)["input_ids"]


@pytest.mark.parametrize("said", ["reasoning_content", "reasoning", "thinking"])
def test_a_thought_can_be_continued(pair, said):
    ours, theirs = pair
    messages = [ASK, {"role": "assistant", "content": "", said: "Let me see"}]
    for asked in said, "reasoning_content":
        options = {"continue_final_message": asked, "add_generation_prompt": False}
        expected = wanted(theirs, messages, **options)
        assert ours.chat_text(messages, **options) == expected
        assert expected.endswith("<think>\nLet me see")


def test_what_cannot_be_continued():
    ours = Processor.load(TINY)
    go_on = {"continue_final_message": True}
    fails("give one of them", ours.chat_text, OPEN["content"], **go_on,
          add_generation_prompt=True)  # fmt: skip
    fails("no text in content to go on", ours.chat_text, [ASK, call({})], **go_on)
    picture = [{"role": "user", "content": [PICTURE]}]
    fails("no text in content to go on", ours.chat_text, picture, **go_on)
    fails("no text in mood to go on", ours.chat_text, [ASK],
          continue_final_message="mood")  # fmt: skip
    forgets = "{{ messages[0].role }}"
    fails("does not write content of the last", ours.chat_text, [ASK], **go_on,
          chat_template=forgets)  # fmt: skip


# ---- other templates than the folder's own ----

BY_NAME = [{"name": "default", "template": "d {{ messages[0].content }}"},
           {"name": "tool_use", "template": "t {{ tools[0].function.name }}"},
           {"name": "rag", "template": "r {{ documents[0].text }}"}]  # fmt: skip


def test_chat_template_equals_transformers(pair):
    ours, theirs = pair
    text = "{{ messages[0].content }}!{{ eos_token }}{{ add_generation_prompt }}"
    expected = wanted(theirs, [ASK], chat_template=text)
    assert ours.chat_text([ASK], chat_template=text) == expected
    ids = ours.chat([ASK], chat_template=text)["input_ids"][0]
    assert ids.tolist() == theirs(expected)["input_ids"]


def test_templates_by_name_equal_transformers(tmp_path):
    settings = json.loads((TINY / "tokenizer_config.json").read_text())
    settings["chat_template"] = BY_NAME
    files = {"tokenizer_config.json": json.dumps(settings).encode()}
    files["tokenizer.json"] = (TINY / "tokenizer.json").read_bytes()
    ours = Processor(files)
    ours.save(tmp_path)
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    for options in (
        {}, {"tools": TOOLS}, {"tools": TOOLS, "chat_template": "default"},
        {"chat_template": "rag", "documents": [{"title": "a", "text": "b"}]},
    ):  # fmt: skip
        assert ours.chat_text([ASK], **options) == wanted(theirs, [ASK], **options)
    fails("is missing, but .* has default, tool_use, rag; name", ours.chat_text, [ASK],
          chat_template="missing")  # fmt: skip
    fails("chat_template is 5, but", ours.chat_text, [ASK], chat_template=5)
    fails("not a Jinja", ours.chat_text, [ASK], chat_template="{% if %}")


def fails(match, function, *args, **options):
    with pytest.raises(InputError, match=match) as caught:
        function(*args, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)
