"""The tokenizer and chat template inside a GGUF file, as the files they came from.

A GGUF file lists tokens, merges and the name of a pattern that first cuts the text; the
pattern itself, and that text is normalised to NFC, its readers know. One thing is lost:
added tokens that look like `<|this|>` all become special. Ids stay the same.
"""

import json

import numpy as np

from ...errors import InputError, show
from .header import read_gguf
from .tower import pictures

PRE = "qwen35"
# Contractions, letters with their marks, single digits, punctuation, line ends, spaces.
PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}"
    r"| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
NORMAL, CONTROL, USER, UNUSED = 1, 3, 4, 5
FLAGS = "single_word", "lstrip", "rstrip", "normalized"  # false for all added tokens


def text_files(path):
    """{"tokenizer.json": bytes, ...} of a .gguf file, as Processor takes them.

    Raises InputError for a tokenizer that is not Qwen3.5's, or is damaged.
    """
    gguf = read_gguf(path)
    keys = {k[10:]: v for k, v in gguf.keys.items() if k.startswith("tokenizer.")}
    kind = show(keys.get("ggml.model")), show(keys.get("ggml.pre"))
    if kind != ("gpt2", PRE) or keys.get("ggml.add_bos_token", False) is not False:
        raise InputError(
            f"{gguf.name} holds no tokenizer of Qwen3.5's kind (tokenizer.ggml.model "
            f"is {kind[0]}, tokenizer.ggml.pre is {kind[1]}); name a folder that has "
            "tokenizer.json with --tokenizer."
        )
    tokens = _column(gguf, keys, "ggml.tokens")
    settings = {}
    for name, key in ("eos_token", "eos"), ("pad_token", "padding"):
        token = keys.get(f"ggml.{key}_token_id")
        if type(token) is int and 0 <= token < len(tokens):
            settings[name] = tokens[token]
    files = {
        "tokenizer.json": json.dumps(_tokenizer(gguf, keys, tokens)).encode(),
        "tokenizer_config.json": json.dumps(settings).encode(),
    }
    template = keys.get("chat_template")
    if not isinstance(template, str | None):
        raise InputError(f"{gguf.name}: tokenizer.chat_template is not a text.")
    if template:
        files["chat_template.jinja"] = template.encode()
    if said := pictures(path, gguf):
        files["preprocessor_config.json"] = json.dumps(said).encode()
    return files


def _column(gguf, keys, name):
    values = keys.get(name)
    if not isinstance(values, list):
        raise InputError(f"{gguf.name}: tokenizer.{name} is not a list of strings.")
    return values


def _tokenizer(gguf, keys, tokens):
    """The content of tokenizer.json."""
    types = keys.get("ggml.token_type")
    whole = isinstance(types, np.ndarray) and types.dtype.kind in "iu"
    types = types.tolist() if whole else []
    if len(types) != len(tokens) or set(types) - {NORMAL, CONTROL, USER, UNUSED}:
        raise InputError(
            f"{gguf.name}: tokenizer.ggml.token_type must name the kind of each of its "
            f"{len(tokens)} tokens, {NORMAL}, {CONTROL}, {USER} or {UNUSED}."
        )
    vocab, added = {}, []
    for id, (token, kind) in enumerate(zip(tokens, types, strict=True)):
        if kind == NORMAL:
            if vocab.setdefault(token, id) != id:
                raise InputError(
                    f"{gguf.name}: tokens {vocab[token]} and {id} are both "
                    f"{show(token)}; the file is damaged."
                )
        elif kind != UNUSED and token != f"[PAD{id}]":  # Ollama marks that as used
            told = {"id": id, "content": token, "special": kind == CONTROL}
            added.append(dict.fromkeys(FLAGS, False) | told)
    merges = [merge.split(" ") for merge in _column(gguf, keys, "ggml.merges")]
    odd = next((pair for pair in merges if len(pair) != 2), None)
    if odd is not None:
        raise InputError(
            f"{gguf.name}: tokenizer.ggml.merges holds {show(' '.join(odd))}, not two "
            "tokens."
        )
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True,
             "use_regex": False}  # fmt: skip
    cut = {"type": "Split", "pattern": {"Regex": PATTERN}, "behavior": "Isolated",
           "invert": False}  # fmt: skip
    return {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": added,
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [cut, level]},
        "post_processor": None,
        "decoder": level,
        "model": {
            "type": "BPE", "dropout": None, "unk_token": None,
            "continuing_subword_prefix": None, "end_of_word_suffix": None,
            "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
            "vocab": vocab, "merges": merges,
        },
    }  # fmt: skip
