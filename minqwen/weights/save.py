"""From a model to a checkpoint in the Hugging Face layout."""

import re
from contextlib import suppress
from pathlib import Path

import torch

from ..errors import InputError, number, show
from ..files import (
    a_path,
    as_json,
    created,
    destination,
    publish,
    read_whole,
    telling,
    temporary,
)
from ..model.forms import Stored
from ..model.qwen import Qwen
from .checkpoint.header import lay_out
from .checkpoint.index import INDEX
from .checkpoint.layout import DTYPES, LABELS, main_dtype, slice_of
from .checkpoint.shards import FORMAT, index_of, slots, split
from .quantised.settings import Scheme

BUFFER = 64 << 20  # bytes copied off a device at once
# What earlier saves may have left: our own names, and nobody else's.
OURS = re.compile(r"model(-\d{5}-of-\d{5})?\.safetensors(\.index\.json)?")


def save(model: Qwen, folder: str | Path, max_shard_bytes: int = 5_000_000_000) -> None:
    """Write config.json and weights that `load` and transformers both read.

    One model.safetensors, or numbered shards and their index above `max_shard_bytes`
    (a single tensor larger than that gets a shard of its own). Experts are written as
    the released files have them: fused, those of the MTP head one by one. Tensors go
    out one by one, in their own dtype. Weights saved earlier in the folder are
    replaced. Raises InputError if the model has no weights or the disk refuses.
    """
    folder = a_path(folder, "written")
    number(max_shard_bytes, "max_shard_bytes", int, 1)
    if model.ranks > 1:
        raise InputError(
            "one of several processes holds a part of the model alone, which is not "
            "saved; load it in one process for that."
        )
    for name, module in model.named_modules():
        if isinstance(module, Stored):
            raise InputError(
                f"{name} is held as {module.form}, and save writes plain tensors; load "
                "the model without quantize and with experts='memory', or use minqwen "
                "convert."
            )
    own, found = dict(model.named_parameters()), slots(model, Scheme())
    tensors = {s.stored: slice_of(own[s.name].detach(), s.part) for s in found}
    for name, tensor in tensors.items():
        if tensor.is_meta:
            raise InputError(
                f"{name} is on the meta device and has no value to save; load what is "
                "to be saved with experts='memory'."
            )
        if tensor.dtype not in DTYPES.values():
            raise InputError(
                f"{name} is {tensor.dtype}; move the model to float32, bfloat16 or "
                "float16 before saving it."
            )
    groups = [([name], tensor.nbytes) for name, tensor in tensors.items()]
    shards = split(groups, max_shard_bytes)
    main = main_dtype((LABELS[t.dtype], t.nbytes) for t in tensors.values())
    config = model.cfg.to_dict() | {"dtype": str(main).removeprefix("torch.")}
    small = {"config.json": as_json(config)}
    if len(shards) > 1:
        small["model" + INDEX] = as_json(index_of(shards, sum(n for _, n in groups)))
    names = sorted([*shards, *small], key=lambda name: (name.endswith(INDEX), name))
    try:
        with telling(folder, "written"):
            folder.mkdir(parents=True, exist_ok=True)
            _refuse_foreign(folder)
            for name in names:
                destination(folder / name)
            for name, part in shards.items():
                own = {name: tensors[name] for name in part}
                _write_safetensors(temporary(folder / name), own)
            for name, content in small.items():
                with created(temporary(folder / name)) as file:
                    file.write(content)
            _remove_old(folder, names, small["config.json"])
            # The index comes last: it says that all shards are there.
            publish(*(folder / name for name in names))
    finally:
        for name in names:
            with suppress(OSError):
                temporary(folder / name).unlink()


def _write_safetensors(path, tensors):
    labels = {name: (LABELS[t.dtype], t.shape) for name, t in tensors.items()}
    raw, places = lay_out(labels, FORMAT)
    with created(path) as file:
        file.write(raw)
        for name in places:
            flat = tensors[name].reshape(-1).view(torch.uint8)
            for low in range(0, len(flat), BUFFER):
                file.write(memoryview(flat[low : low + BUFFER].cpu().numpy()))


def _refuse_foreign(folder):
    """Weights of other origin would be taken for part of ours, or ours for theirs."""
    for file in sorted(folder.glob("*.safetensors*")):
        if not OURS.fullmatch(file.name) and file.suffix in (".safetensors", ".json"):
            raise InputError(
                f"{show(folder)} holds {show(file.name)}, which minqwen did not write; "
                "save into another folder."
            )


def _remove_old(folder, names, config):
    """Make way for new files, so that no moment shows old and new ones mixed."""
    # The same config and one file over one file is a single atomic step, and a kill
    # loses nothing. Else old weights go first, and a kill then leaves none that load.
    old = {file.name for file in folder.iterdir() if OURS.fullmatch(file.name)}
    there = folder / "config.json"
    same = there.exists() and read_whole(there) == config
    if not (same and old == {"model.safetensors"} <= set(names)):
        for name in old:
            (folder / name).unlink()
