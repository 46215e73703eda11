"""What a chat template is given and the language it is written in.

A template is a program that comes with a checkpoint, so it runs in a sandbox and
sees plain JSON only: never a picture, a file or an object of ours.
"""

import functools
import json
import math
import re
from datetime import datetime

import jinja2
from jinja2.compiler import CodeGenerator
from jinja2.ext import Extension
from jinja2.sandbox import ImmutableSandboxedEnvironment

from ..errors import InputError, show
from ..files import read_json

MOST_BLOCKS = 10**7  # run by a template: some seconds
MOST_TEXT = 2**28  # characters that one step of it may make
NAMED = ("name", "template")  # what one of several templates has


def plain_messages(messages):
    """Messages as plain JSON for the template, and the media taken out of them.

    Media are (kind, source, fps or None) in order; the template only needs to know
    where they are. Raises InputError naming the place of what is not a message.
    """
    if not isinstance(messages, (list, tuple)) or not messages:
        raise InputError(
            f"messages are {type(messages).__name__} of length 0 or no list; give a "
            'list such as [{"role": "user", "content": "Hello"}]'
        )
    plain, media = [], []
    for i, message in enumerate(messages):
        content = message.get("content") if isinstance(message, dict) else None
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise InputError(
                f"messages[{i}] is {show(message, 60)}, but a dict with "
                '"role" and "content" is needed'
            )
        if not isinstance(content, (str, list, tuple, type(None))):
            raise InputError(
                f"messages[{i}] has content of type {type(content).__name__}; "
                "give text or a list of content items"
            )
        if isinstance(content, (list, tuple)):
            places = [f"messages[{i}].content[{k}]" for k in range(len(content))]
            pairs = zip(content, places, strict=True)
            message = {**message, "content": [_part(p, at, media) for p, at in pairs]}
        plain.append(json_only(message, f"messages[{i}]"))
    return plain, media


def _part(part, place, media):
    kind = part.get("type") if isinstance(part, dict) else None
    if kind not in ("text", "image", "video"):
        said = "null" if kind is None else f'"{show(kind)}"'
        raise InputError(
            f"{place} has the type {said}, "
            'but only "text", "image" and "video" are known'
        )
    if part.get(kind) is None or (kind == "text" and not isinstance(part[kind], str)):
        raise InputError(
            f'{place} is of type "{kind}", so it must have a key "{kind}" with the '
            f"{'text' if kind == 'text' else kind + ' itself, or the path of its file'}"
        )
    if kind == "text":
        return part
    media.append((kind, part[kind], part.get("fps")))
    return {**part, kind: f"<{kind}>"}


class _Generation(Extension):
    """`{% generation %}` marks the assistant's words for training: no effect here."""

    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return jinja2.nodes.Scope(body).set_lineno(line)


class _Counting(CodeGenerator):
    """Templates that count their blocks, and weigh what they join with `~`."""

    def blockvisit(self, nodes, frame):
        self.writeline("environment.tick()")
        super().blockvisit(nodes, frame)

    def visit_Concat(self, node, frame):
        self.write("environment.joined((")
        for each in node.nodes:
            self.visit(each, frame)
            self.write(", ")
        self.write("))")


class Bounded(ImmutableSandboxedEnvironment):
    """A sandbox whose templates end, and take no memory out of proportion."""

    code_generator_class = _Counting
    intercepted_binops = frozenset("+ * ** %".split())  # nor done while compiling
    ticks = 0

    def tick(self):
        self.ticks += 1
        if self.ticks > MOST_BLOCKS:
            raise jinja2.TemplateRuntimeError("it does not come to an end")

    def joined(self, parts):
        texts = [str(part) for part in parts]
        weigh(sum(map(len, texts)))
        return "".join(texts)

    def call_binop(self, context, operator, left, right):
        sizes = [len(x) if isinstance(x, str | list) else 0 for x in (left, right)]
        if operator == "+":
            weigh(sum(sizes))
        elif operator == "**":
            weigh(64 * abs(right) * int(abs(left)).bit_length())
        elif operator == "%" and isinstance(left, str):
            weigh_form(left)
        elif operator == "*" and any(sizes):
            text = isinstance(left, str) or isinstance(right, str)
            times = abs(left if sizes[1] else right)
            weigh(max(sizes) * times if text else math.inf)
        return super().call_binop(context, operator, left, right)

    def call(self, context, called, *args, **kwargs):
        method = getattr(called, "__wrapped__", called)  # a text's `format` is wrapped
        own = getattr(method, "__self__", "")
        if isinstance(own, str) and own:  # a text's method
            weigh_all(own, *args)
            if called.__name__.startswith("format"):
                weigh_form(own)
        return super().call(context, called, *args, **kwargs)


def weigh(size):
    if size > MOST_TEXT:
        raise jinja2.TemplateRuntimeError("it makes a text without end")


def weigh_all(first, *others):
    """What a text may become by others, or by numbers that are widths."""
    sizes = [max(1, len(x)) for x in (first, *others) if isinstance(x, str | list)]
    sizes += [max(1, abs(x)) for x in others if isinstance(x, int)]
    weigh(math.prod(sizes))


def weigh_form(text):
    """A form as of `format` or %, of which a number is a width."""
    weigh(max(map(int, re.findall(r"\d{1,20}", text)), default=0))


def _weighed(name, used):
    @functools.wraps(used)  # with the marks that Jinja knows filters by
    def filtered(*args, **kwargs):
        first = args[0] if args and isinstance(args[0], str) else ""
        weigh_all(first, *args[1:], *kwargs.values())
        weigh_form(first * (name == "format"))
        return used(*args, **kwargs)

    return filtered


def render(template, source, messages, tools, variables):
    """The text that a template makes; InputError if it refuses, or does not end."""
    tools = json_only(tools, "a tool")
    schemas = isinstance(tools, list) and all(isinstance(each, dict) for each in tools)
    if tools is not None and not schemas:
        raise InputError(f"tools are {show(tools, 40)}; give a list of JSON schemas")
    template.environment.ticks = 0
    try:
        return template.render(messages=messages, tools=tools, **variables)
    except Exception as error:  # a template is a stranger's program
        said = show(" ".join(str(error).split()), 300)
        raise InputError(
            f"the chat template of {source} refuses these messages: {said}"
        ) from error


def template_environment():
    """Jinja as chat templates expect it, in a sandbox: they are others' programs."""
    environment = Bounded(
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=["jinja2.ext.loopcontrols", _Generation],
    )

    def raise_exception(message):
        raise jinja2.TemplateError(message)

    def tojson(value, ensure_ascii=False, **options):  # Jinja's own escapes HTML
        return json.dumps(value, ensure_ascii=ensure_ascii, **options)

    del environment.globals["lipsum"]
    filters = environment.filters.items()
    environment.filters = {name: _weighed(name, used) for name, used in filters}
    environment.filters["tojson"] = tojson
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    return environment


def json_only(value, name):
    """A copy of JSON data; InputError for anything that is more than that."""
    try:
        return json.loads(json.dumps(value))
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(
            f"{name} is not plain JSON data ({show(error)}); "
            "give dicts, lists, text and numbers"
        ) from None


def read_template(files, source):
    """The chat template from whichever file has it, compiled; None if none has."""
    name = "chat_template.jinja"
    text = files.get(name, b"").decode(errors="replace")
    for other in ("chat_template.json", "tokenizer_config.json"):
        if not text and other in files:
            name, text = other, read_json(files[other], other).get("chat_template")
    if isinstance(text, list):  # several, each with a name
        if not all(isinstance(each, dict) and {*NAMED} <= {*each} for each in text):
            raise InputError(f"{source}: {name} has templates without name and text")
        named = [each["template"] for each in text if each["name"] == "default"]
        text = named[-1] if named else None
    if not isinstance(text, str | None):
        raise InputError(f"{source}: chat_template in {name} is not text")
    try:
        return template_environment().from_string(text) if text else None
    except jinja2.TemplateSyntaxError as error:
        raise InputError(
            f"{source}: {name} is not a Jinja template (line {error.lineno}: "
            f"{show(error.message)}); copy it again from the published checkpoint"
        ) from error
