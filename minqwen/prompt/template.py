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
import jinja2.meta
from jinja2.compiler import CodeGenerator
from jinja2.ext import Extension
from jinja2.sandbox import ImmutableSandboxedEnvironment

from ..errors import InputError, show
from ..files import read_json
from .messages import REASONING, json_only

MOST_BLOCKS = 10**7  # run by a template: some seconds
MOST_TEXT = 2**28  # characters that one step of it may make
MARK = "\ue000it goes on here\ue000 "  # its space shows whether a template trims
# Variables that only some of the released templates read: the others ignore them.
USUAL = ("documents", "enable_thinking", "preserve_thinking", "reasoning_effort",
         "add_vision_id")  # fmt: skip
EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh", "max")


class _Generation(Extension):
    """`{% generation %}` marks the assistant's words for training; ignored here."""

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
    """Bound what a method makes of a text by other texts, or by numbers as widths."""
    sizes = [max(1, len(x)) for x in (first, *others) if isinstance(x, str | list)]
    sizes += [max(1, abs(x)) for x in others if isinstance(x, int)]
    weigh(math.prod(sizes))


def weigh_form(text):
    """Bound what a pattern of `format` or % makes: numbers in it may be widths."""
    weigh(max(map(int, re.findall(r"\d{1,20}", text)), default=0))


def _weighed(name, used):
    @functools.wraps(used)  # with the marks that Jinja knows filters by
    def filtered(*args, **kwargs):
        first = args[0] if args and isinstance(args[0], str) else ""
        weigh_all(first, *args[1:], *kwargs.values())
        weigh_form(first * (name == "format"))
        return used(*args, **kwargs)

    return filtered


class ChatTemplate:
    """A template's text, compiled; `name` and `source` say where it comes from.

    `variables` are the names that it reads, `efforts` the words that it compares a
    reasoning effort with. Raises InputError for what is no template.
    """

    def __init__(self, text, name, source):
        environment = template_environment()
        self.source = source
        try:
            tree = environment.parse(text)
            self.efforts = _compared(tree, "reasoning_effort")  # the next folds them
            self.compiled = environment.from_string(text)
            self.variables = jinja2.meta.find_undeclared_variables(tree)
        except Exception as error:  # its constants are computed here
            at = f"line {error.lineno}: " if hasattr(error, "lineno") else ""
            raise InputError(
                f"{source}: {name} is not a Jinja template ({at}"
                f"{show(getattr(error, 'message', error))}); copy it again from the "
                "published checkpoint"
            ) from error

    def render(self, messages, tools, variables):
        """The text it makes; InputError if it refuses, or does not end."""
        tools = json_only(tools, "a tool")
        schemas = isinstance(tools, list) and all(isinstance(t, dict) for t in tools)
        if tools is not None and not schemas:
            said = show(tools, 40)
            raise InputError(f"tools are {said}; give a list of JSON schemas")
        self.compiled.environment.ticks = 0
        try:
            return self.compiled.render(messages=messages, tools=tools, **variables)
        except Exception as error:  # a template is a stranger's program
            said = show(" ".join(str(error).split()), 300)
            raise InputError(
                f"the chat template of {self.source} refuses these messages: {said}"
            ) from error

    def render_open(self, messages, field, tools, variables):
        """The same, cut off after `field` of the last message, to be continued."""
        last = messages[-1]
        said, fields = last.get(field), [field]
        if field in REASONING:  # its copies under other names
            fields = [name for name in REASONING if last.get(name) == said]
        if isinstance(said, list):
            texts = [part for part in said if "text" in part]
            last, fields = (texts or [{}])[-1], ["text"]
            said = last.get("text")
        if not isinstance(said, str):
            raise InputError(f"the last message has no text in {show(field)} to go on")
        last |= {name: said + MARK for name in fields}
        text = self.render(messages, tools, variables)
        begun, mark, after = text.rpartition(MARK.strip())
        if not mark or said.strip() not in text:
            raise InputError(
                f"the chat template of {self.source} does not write {show(field)} of "
                "the last message as it is, so it cannot be gone on with"
            )
        # A template that trims the text would trim what is open as well.
        return begun if after.startswith(MARK[-1]) else begun.rstrip()

    def effort(self, word):
        """The nearest reasoning effort that the template knows."""
        if not self.efforts or word in self.efforts:
            return word
        at = EFFORTS.index(word) if word in EFFORTS else None
        known = [each for each in EFFORTS if each in self.efforts]
        if at is None or not known:
            raise InputError(
                f"reasoning_effort is {show(word, 40)}, but the chat template of "
                f"{self.source} knows {', '.join(self.efforts)}"
            )
        # Of two that are as near, the higher: high is the highest of most services.
        return min(known[::-1], key=lambda each: abs(EFFORTS.index(each) - at))


def prompt_of(template, messages, thinking, tools, tokens, variables):
    """What a ChatTemplate writes for plain messages; `variables` are the caller's.

    tokens: {"eos_token": text}. Raises InputError for a variable that it never reads.
    """
    if not (thinking is None or isinstance(thinking, bool)):
        raise InputError(f"thinking is {show(thinking, 40)}; give True, False or None")
    given = json_only(variables, "a template variable")
    given = {k: v for k, v in given.items() if v is not None and k != "chat_template"}
    field = given.pop("continue_final_message", None)
    opening = given.pop("add_generation_prompt", not field)
    if field and opening:
        raise InputError(
            "continue_final_message goes on with the last message, and "
            "add_generation_prompt begins another; give one of them"
        )
    if odd := sorted(given.keys() - template.variables - {*tokens, *USUAL}):
        raise InputError(
            f"the chat template of {template.source} reads no variable "
            f"{show(odd[0])}; leave it out"
        )
    if "reasoning_effort" in given:
        given["reasoning_effort"] = template.effort(given["reasoning_effort"])
    if thinking is not None and thinking != given.get("enable_thinking", thinking):
        raise InputError("thinking says another thing than enable_thinking; give one")
    given |= {} if thinking is None else {"enable_thinking": thinking}
    given = {"documents": None, "add_generation_prompt": opening, **tokens, **given}
    if not field:
        return template.render(messages, tools, given)
    field = field if isinstance(field, str) else "content"
    return template.render_open(messages, field, tools, given)


def _compared(tree, name):
    """The texts that a template compares with variables that have `name` in theirs."""
    found = set()
    for node in tree.find_all(jinja2.nodes.Compare):
        if any(name in each.name for each in node.find_all(jinja2.nodes.Name)):
            found |= {each.value for each in node.find_all(jinja2.nodes.Const)}
    return sorted(value for value in found if isinstance(value, str))


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


def read_templates(files, source):
    """{name: ChatTemplate} from whichever file has them; empty if none has."""
    name = "chat_template.jinja"
    text = files.get(name, b"").decode(errors="replace")
    for other in ("chat_template.json", "tokenizer_config.json"):
        if not text and other in files:
            name, text = other, read_json(files[other], other).get("chat_template")
    if isinstance(text, list):  # several, each with a name
        if not all(
            isinstance(each, dict) and {"name", "template"} <= {*each} for each in text
        ):
            raise InputError(f"{source}: {name} has templates without name and text")
        texts = {show(each["name"]): each["template"] for each in text}
    else:
        texts = {"default": text} if text else {}
    if not all(isinstance(text, str) for text in texts.values()):
        raise InputError(f"{source}: chat_template in {name} is not text")
    return {key: ChatTemplate(text, name, source) for key, text in texts.items()}


def choose(templates, wanted, tools, source):
    """One of `templates` by its name, or a template given as text; else the usual."""
    usual = "tool_use" if tools and "tool_use" in templates else "default"
    name = usual if wanted is None else wanted
    if isinstance(name, str) and name in templates:
        return templates[name]
    if isinstance(name, str) and "{" in name:
        return ChatTemplate(wanted, "chat_template", "this call")
    if wanted is None and not templates:
        raise InputError(
            f"{source} has no chat template; encode plain text instead, or "
            "copy chat_template.jinja from the published checkpoint"
        )
    raise InputError(
        f"chat_template is {show(wanted, 40)}, but {source} has "
        f"{', '.join(templates) or 'none'}; name one, or give a template's text"
    )
