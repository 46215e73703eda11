"""The files beside the weights: tokenizer, chat template, picture settings."""

from pathlib import Path

from tokenizers import Tokenizer

from ...errors import InputError
from ...files import as_json, write_whole
from .tokenizer import MARKS, SPECIAL, build_tokenizer

# areas in pixels, despite the names that the settings file gives them
MIN_PIXELS, MAX_PIXELS = 64 * 64, 512 * 512
MAX_VIDEO_PIXELS = 16 * MAX_PIXELS
GRID = {"patch_size": 16, "temporal_patch_size": 2, "merge_size": 2}
PATCHES = {"min_pixels": MIN_PIXELS, "max_pixels": MAX_PIXELS, "mean": 0.5, "std": 0.5}
PATCHES |= GRID
MAX_POSITIONS = 32768


def write_processor(folder):
    """Write every file but config and weights into `folder`, learning the merges.

    The merges come from this Python's library, so a tokenizer that is there stays:
    another version of Python would learn other ones.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "tokenizer.json").exists():
        write_whole(folder / "tokenizer.json", build_tokenizer().to_str().encode())
    tokenizer = load_tokenizer(folder)
    template = Path(__file__).with_name("chat_template.jinja")
    write_whole(folder / template.name, template.read_bytes())
    for name, content in settings_files(tokenizer).items():
        write_whole(folder / name, as_json(content))


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
