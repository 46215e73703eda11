"""A checkpoint's tokenizer and chat template, out of the bytes of its small files."""

from contextlib import contextmanager

from tokenizers import Tokenizer

from ..errors import InputError, number, show
from ..files import read_json

# The parts of this family's tokenizers; some other parts can abort the process.
PARTS = {"BPE", "ByteLevel", "NFC", "Sequence", "Split", "TemplateProcessing"}


def token_text(token):
    """A special token's text: settings give it bare, as an object, or as null."""
    text = token.get("content", token) if isinstance(token, dict) else token
    if not isinstance(text, str | None):
        raise InputError(
            f"tokenizer_config.json says {show(token, 40)} of a special token; "
            "expected its text, or an object with content"
        )
    return text


@contextmanager
def caught(what):
    """In this block, whatever the `tokenizers` library raises becomes an InputError."""
    try:
        yield
    except InputError:
        raise
    except BaseException as error:  # its panics are no Exception
        if not isinstance(error, Exception) and "Panic" not in type(error).__name__:
            raise
        raise InputError(
            f"{what} ({show(error)}); copy it again from the published checkpoint"
        ) from error


def read_tokenizer(files, source):
    """tokenizer.json as a Tokenizer that neither cuts nor pads."""
    content = files.get("tokenizer.json", b"")
    said = read_json(content, f"{source}: tokenizer.json")
    with caught(f"{source}: tokenizer.json cannot be read"):
        model = said.get("model")
        model = model.get("type", "BPE") if isinstance(model, dict) else None
        odd = {*_kinds({**said, "model": {"type": model}})} - PARTS
        if odd:
            raise ValueError(f"it has a {odd.pop()}, as no Qwen3.5's")
        tokenizer = Tokenizer.from_str(content.decode())
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def valid(text):
    """Raise InputError for anything but text, and for half characters in it."""
    if not isinstance(text, str):
        raise InputError(f"what is to be encoded is {type(text).__name__}, not text")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError(
            f"the text is not valid Unicode at character {error.start}; "
            "decode its bytes as UTF-8 first"
        ) from None


def listed(ids):
    """Ids, of a list or tensor, as a list; InputError if they are none."""
    if isinstance(ids, str) or not hasattr(ids, "__iter__"):
        raise InputError(f"ids are {type(ids).__name__}; give a list of them")
    ids = ids.tolist() if hasattr(ids, "tolist") else [*ids]
    ids = [each.item() if hasattr(each, "item") else each for each in ids]
    return [number(each, "an id", int, 0, 2**32 - 1) for each in ids]


def _kinds(part):
    """The types of all parts, however deep."""
    if isinstance(part, dict):
        yield from [part["type"]] if isinstance(part.get("type"), str) else []
        part = part.values()
    if not isinstance(part, str | int | float | None):
        for each in part:
            yield from _kinds(each)


def _byte_of_letter():
    """Byte-level BPE writes each byte as one printable letter (GPT-2's table)."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    letters = {chr(byte): byte for byte in printable}
    return letters | {chr(256 + n): byte for n, byte in enumerate(others)}


BYTE_OF_LETTER = _byte_of_letter()
