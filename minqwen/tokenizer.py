"""A checkpoint's tokenizer and chat template, out of the bytes of its small files."""

import jinja2
from tokenizers import Tokenizer

from .chat import template_environment
from .errors import InputError
from .files import read_json


def token_text(token):
    """A special token's text: settings give it bare or as an object."""
    return token["content"] if isinstance(token, dict) else token


def read_tokenizer(files, source):
    """tokenizer.json as a Tokenizer that neither cuts nor pads."""
    try:
        tokenizer = Tokenizer.from_str(files["tokenizer.json"].decode())
    except Exception as error:  # `tokenizers` raises plain Exception
        raise InputError(
            f"{source}: tokenizer.json cannot be read ({error}); "
            "copy it again from the published checkpoint"
        ) from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def read_template(files, source):
    """The chat template from whichever file has it, compiled; None if none has."""
    name = "chat_template.jinja"
    text = files.get(name, b"").decode(errors="replace")
    for other in ("chat_template.json", "tokenizer_config.json"):
        if not text and other in files:
            name, text = other, read_json(files[other], other).get("chat_template")
    if isinstance(text, list):  # several, each with a name
        text = {entry["name"]: entry["template"] for entry in text}.get("default")
    try:
        return template_environment().from_string(text) if text else None
    except jinja2.TemplateSyntaxError as error:
        raise InputError(
            f"{source}: {name} is not a Jinja template (line {error.lineno}: "
            f"{error.message}); copy it again from the published checkpoint"
        ) from error


def _byte_of_letter():
    """Byte-level BPE writes each byte as one printable letter (GPT-2's table)."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    letters = {chr(byte): byte for byte in printable}
    return letters | {chr(256 + n): byte for n, byte in enumerate(others)}


BYTE_OF_LETTER = _byte_of_letter()
