"""A checkpoint's tokenizer and chat template, out of the bytes of its small files."""

from tokenizers import Tokenizer

from ..errors import InputError, show


def token_text(token):
    """A special token's text: settings give it bare, as an object, or as null."""
    text = token.get("content", token) if isinstance(token, dict) else token
    if not isinstance(text, str | None):
        raise InputError(
            f"tokenizer_config.json says {show(token, 40)} of a special token; "
            "expected its text, or an object with content"
        )
    return text


def read_tokenizer(files, source):
    """tokenizer.json as a Tokenizer that neither cuts nor pads."""
    try:
        tokenizer = Tokenizer.from_str(files["tokenizer.json"].decode())
    except Exception as error:  # `tokenizers` raises plain Exception
        raise InputError(
            f"{source}: tokenizer.json cannot be read ({show(error)}); "
            "copy it again from the published checkpoint"
        ) from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _byte_of_letter():
    """Byte-level BPE writes each byte as one printable letter (GPT-2's table)."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    letters = {chr(byte): byte for byte in printable}
    return letters | {chr(256 + n): byte for n, byte in enumerate(others)}


BYTE_OF_LETTER = _byte_of_letter()
