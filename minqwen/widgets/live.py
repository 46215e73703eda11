"""A model for a page: its weights as int8, small enough to be inside one file."""

import tempfile
from pathlib import Path

import torch

from ..errors import InputError, show
from ..files import read_whole
from ..model.config import Config
from ..weights.checkpoint.hub import resolve
from ..weights.checkpoint.layout import skeleton
from ..weights.convert import convert

MOST = 40_000_000  # parameters: a page of 60 MB
PARTS = {"config": "config.json", "tokenizer": "tokenizer.json"}


def model_files(path):
    """{"config", "tokenizer", "weights": bytes} of the checkpoint at `path`, as int8.

    InputError for a model that live/model.mjs does not compute, or too large a one.
    """
    folder = Path(resolve(path))
    cfg = Config.from_json(folder / "config.json")
    count = skeleton(cfg, torch.bfloat16).num_parameters()["total"]
    if not cfg.text.num_experts or count > MOST:
        raise InputError(
            f"{show(path)} has {count:,} parameters and {cfg.text.num_experts or 'no'} "
            f"experts; a page can hold a model with experts of up to {MOST:,}"
        )
    with tempfile.TemporaryDirectory() as made:
        convert(folder, Path(made) / "int8", "int8")
        found = {"weights": read_whole(Path(made) / "int8" / "model.safetensors")}
    return found | {key: read_whole(folder / name) for key, name in PARTS.items()}
