"""The files beside the weights: tokenizer, chat template, picture settings."""

import re
from pathlib import Path

from tokenizers import Tokenizer

from ...errors import InputError
from ...files import as_json, write_whole
from .resolution import GRID, MAX_PIXELS, MAX_VIDEO_PIXELS, MIN_PIXELS, PATCHES
from .tasks import sample
from .text import documents
from .tokenizer import MARKS, SPECIAL, build_tokenizer

MAX_POSITIONS = 32768
EVERY = 24  # of so many documents one is read for the merges


def write_processor(folder, begin=None):
    """Write every file but config and weights into `folder`, learning the merges.

    The merges come from this Python's library, so a tokenizer that is there stays:
    another version of Python would learn other ones. Of a model that is trained
    further, in the folder `begin`, the tokenizer is taken.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "tokenizer.json").exists():
        known = load_tokenizer(begin) if begin else build_tokenizer(texts())
        write_whole(folder / "tokenizer.json", known.to_str().encode())
    tokenizer = load_tokenizer(folder)
    template = Path(__file__).with_name("chat_template.jinja")
    write_whole(folder / template.name, template.read_bytes())
    for name, content in settings_files(tokenizer).items():
        write_whole(folder / name, as_json(content))


def texts():
    """What the merges are learned from: chats of every task, and some of the library.

    Not all of it, or the words of the tasks would be rare beside those of programs.
    """
    shown = [doc.text for doc in documents() if not doc.held_out]
    yield from shown[::EVERY]
    for text in sample():
        yield re.sub("|".join(map(re.escape, SPECIAL + MARKS)), "\n", text)


def load_tokenizer(folder):
    """The folder's tokenizer.json; InputError where there is none."""
    file = Path(folder) / "tokenizer.json"
    if not file.is_file():
        raise InputError(
            f"{file} is missing: write_processor(folder) makes the tokenizer."
        )
    return Tokenizer.from_file(str(file))


def settings_files(tokenizer):
    """The JSON files by name."""
    ends = [tokenizer.token_to_id(t) for t in ("<|im_end|>", "<|endoftext|>")]
    return {
        "tokenizer_config.json": tokenizer_settings(tokenizer),
        "preprocessor_config.json": picture_settings(
            "image_processor_type", "Qwen2VLImageProcessor", MAX_PIXELS
        ),
        "video_preprocessor_config.json": picture_settings(
            "video_processor_type", "Qwen3VLVideoProcessor", MAX_VIDEO_PIXELS
        ),
        "generation_config.json": {
            "do_sample": False,
            "eos_token_id": ends,
            "pad_token_id": ends[-1],
        },
    }


def tokenizer_settings(tokenizer):
    added = {
        str(tokenizer.token_to_id(text)): {
            "content": text,
            "lstrip": False,
            "normalized": False,
            "rstrip": False,
            "single_word": False,
            "special": text in SPECIAL,
        }
        for text in SPECIAL + MARKS
    }
    return {
        "add_bos_token": False,
        "add_prefix_space": False,
        "added_tokens_decoder": added,
        "additional_special_tokens": list(SPECIAL[1:]),
        "bos_token": None,
        "clean_up_tokenization_spaces": False,
        "eos_token": "<|im_end|>",
        "errors": "replace",
        "model_max_length": MAX_POSITIONS,
        "pad_token": "<|endoftext|>",
        "split_special_tokens": False,
        "tokenizer_class": "Qwen2Tokenizer",
        "unk_token": None,
    }


def picture_settings(key, name, largest):
    return {
        key: name,
        "processor_class": "Qwen3VLProcessor",
        "size": {"shortest_edge": MIN_PIXELS, "longest_edge": largest},
        **GRID,
        "image_mean": [PATCHES["mean"]] * 3,
        "image_std": [PATCHES["std"]] * 3,
    }
