"""Conversations for the tiny model, cut where the assistant begins and ends to write.

A chat is written exactly as chat_template.jinja writes it (a test compares the two).
"""

import json
from dataclasses import dataclass, field

CALL_A_TOOL = "Call a tool when it helps."  # what the template says of tools


@dataclass
class Chat:
    """A conversation in pieces, and its pictures.

    `parts` are (text, is it the assistant's own), in order; the last one is.
    `images` and `videos` hold (patches float32 [t*h*w, 1536], grid (t, h, w)). What
    they were written from are `messages` and `tools`.
    """

    parts: list[tuple[str, bool]]
    images: list = field(default_factory=list)
    videos: list = field(default_factory=list)
    messages: list = field(default_factory=list)
    tools: list | None = None

    @property
    def prompt(self):
        """Everything before the last answer."""
        return "".join(text for text, _ in self.parts[:-1])

    @property
    def answer(self):
        """The last answer, up to and with the mark that ends its turn."""
        return self.parts[-1][0]


def exchange(question, answer, reasoning=None, **pictures):
    """One question and its answer; `reasoning` None is the form without thinking."""
    reasoned = assistant(answer) | {"reasoning_content": reasoning}
    return write([user(question), reasoned], **pictures)


def user(content):
    return {"role": "user", "content": content}


def assistant(content):
    return {"role": "assistant", "content": content}


def write(messages, tools=None, images=(), videos=()):
    """Messages as the template takes them, contents being text, to a `Chat`.

    Reasoning is written, and learned, only where the template keeps it: after the
    last message of the user. Pictures stand as placeholders in the text.
    """
    queries = [i for i, m in enumerate(messages) if m["role"] == "user"]
    parts = [(tools_turn(tools, messages[0]), False)] if tools else []
    for i, message in enumerate(messages):
        if message["role"] == "assistant":
            parts += assistant_parts(message, newest=i > queries[-1])
        elif message["role"] == "tool":
            parts.append((tool_text(messages, i), False))
        elif message["role"] == "user" or not tools:
            parts.append((turn(message["role"], message["content"]), False))
    return Chat(joined(parts), list(images), list(videos), messages, tools)


def followed(first, second):
    """One conversation of two, of which one offers tools at most, and the first alone
    may begin with the system's words."""
    return write(
        first.messages + second.messages,
        first.tools or second.tools,
        first.images + second.images,
        first.videos + second.videos,
    )


def turn(role, content):
    return f"<|im_start|>{role}\n{content}<|im_end|>\n"


def tools_turn(tools, first):
    lines = "\n".join(json.dumps(tool, ensure_ascii=False) for tool in tools)
    text = f"# Tools\n\n<tools>\n{lines}\n</tools>\n\n{CALL_A_TOOL}"
    if first["role"] == "system":
        text += f"\n\n{first['content']}"
    return turn("system", text)


def assistant_parts(message, newest):
    head, text = "<|im_start|>assistant\n", answer_text(message)
    reasoning = message.get("reasoning_content")
    if newest and reasoning:
        head, text = f"{head}<think>\n", f"{reasoning}\n</think>\n\n{text}"
    elif newest:
        head += "<think>\n\n</think>\n\n"
    return [(head, False), (f"{text}<|im_end|>\n", True)]


def answer_text(message):
    """What the assistant says, then its calls, as it would write them itself."""
    content = message.get("content") or ""
    calls = [call_text(call["function"]) for call in message.get("tool_calls") or ()]
    return content + ("\n\n" if content and calls else "") + "\n".join(calls)


def call_text(function):
    lines = ["<tool_call>", f"<function={function['name']}>"]
    for key, value in function["arguments"].items():
        shown = value if isinstance(value, str) else json.dumps(value)
        lines += [f"<parameter={key}>", shown, "</parameter>"]
    return "\n".join([*lines, "</function>", "</tool_call>"])


def tool_text(messages, i):
    """One result; neighbours among the results share a turn of the user."""
    roles = [message["role"] for message in messages]
    text = f"\n<tool_response>\n{messages[i]['content']}\n</tool_response>"
    begins = roles[i - 1] != "tool"
    ends = roles[i + 1 : i + 2] != ["tool"]
    return "<|im_start|>user" * begins + text + "<|im_end|>\n" * ends


def joined(parts):
    """Neighbouring parts of one kind become one."""
    whole = []
    for text, learned in parts:
        if whole and whole[-1][1] == learned:
            text = whole.pop()[0] + text
        whole.append((text, learned))
    return whole
