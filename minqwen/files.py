"""A checkpoint's small files: tokenizer, template and settings, read with care."""

import json
import os
from pathlib import Path

import jinja2
from tokenizers import Tokenizer

from .chat import template_environment
from .errors import InputError

# The small model, a picture and a trace: a wheel has them inside the package, a clone
# beside it.
ASSETS = Path(__file__).resolve().parent / "assets"
if not ASSETS.is_dir():
    ASSETS = ASSETS.parents[1] / "assets"
FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "chat_template.json",
    "processor_config.json",
    "preprocessor_config.json",
    "video_preprocessor_config.json",
    "generation_config.json",
)


def write_whole(path, content):
    """Write bytes under another name, then rename: never half a file."""
    new = path.with_name(path.name + ".tmp")
    new.write_bytes(content)
    os.replace(new, path)


def read_json(content, name):
    """The JSON object in `content`, bytes of the file `name`; InputError if none."""
    try:
        value = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"{name} is not JSON ({error}); copy it again from the checkpoint"
        ) from None
    if not isinstance(value, dict):
        raise InputError(f"{name} holds no JSON object; copy it from the checkpoint")
    return value


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
