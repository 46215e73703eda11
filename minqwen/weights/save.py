"""From a model to a checkpoint in the Hugging Face layout.

Every file is first written whole under a temporary name, so a kill or a full disk
leaves nothing behind that loads as half a model.
"""

import json
import os
import re
import struct
from pathlib import Path

import torch

from ..errors import InputError
from ..forms import Stored
from .header import show
from .index import INDEX
from .layout import DTYPES, stored_tensors
from .written import named

CHUNK = 64 << 20  # bytes copied off a device at once
LABELS = {dtype: label for label, dtype in DTYPES.items()}
# What earlier saves may have left: our own names, and nobody else's.
OURS = re.compile(r"model(-\d{5}-of-\d{5})?\.safetensors(\.index\.json)?")


def save(model, folder, max_shard_bytes=5_000_000_000):
    """Write config.json and weights that `load` and transformers both read.

    One model.safetensors, or numbered shards and their index above `max_shard_bytes`
    (a single tensor larger than that gets a shard of its own). Experts are written as
    the released files have them: fused, those of the MTP head one by one. Tensors go
    out one by one, in their own dtype. Weights saved earlier in the folder are
    replaced. Raises InputError if the model has no weights or the disk refuses.
    """
    folder = Path(folder)
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
    tensors = list(stored_tensors(model))
    for name, tensor in tensors:
        if tensor.is_meta:
            raise InputError(
                f"{name} is on the meta device and has no value to save; load what is "
                "to be saved with experts='memory'."
            )
        if tensor.dtype not in LABELS:
            raise InputError(
                f"{name} is {tensor.dtype}; move the model to float32, bfloat16 or "
                "float16 before saving it."
            )
    shards = _shards(tensors, max_shard_bytes)
    config = model.cfg.to_dict() | {"dtype": _main_dtype(tensors)}
    written = {}  # final name -> temporary path
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _refuse_foreign(folder)
        for name, part in shards.items():
            written[name] = _temporary(folder, name)
            _write_safetensors(written[name], part)
        if len(shards) > 1:
            _write_json(folder, "model" + INDEX, _index(shards), written)
        _write_json(folder, "config.json", config, written)
        _publish(folder, written)
    except OSError as err:
        raise InputError(f"{show(folder)} cannot be written: {err.strerror}.") from None
    finally:
        for path in written.values():
            path.unlink(missing_ok=True)


def _shards(tensors, limit):
    """File name -> its tensors, in the model's order, at most `limit` bytes a file."""
    parts, size = [[]], 0
    for name, tensor in tensors:
        if parts[-1] and size + tensor.nbytes > limit:
            parts.append([])
            size = 0
        parts[-1].append((name, tensor))
        size += tensor.nbytes
    return named(parts)


def _main_dtype(tensors):
    """The name of the dtype most bytes have, as config.json spells it."""
    size = {}
    for _, tensor in tensors:
        size[tensor.dtype] = size.get(tensor.dtype, 0) + tensor.nbytes
    return str(max(size, key=size.get)).removeprefix("torch.")


def _index(shards):
    total = sum(tensor.nbytes for part in shards.values() for _, tensor in part)
    where = {name: file for file, part in shards.items() for name, _ in part}
    return {"metadata": {"total_size": total}, "weight_map": where}


# ---- files ----


def _temporary(folder, name):
    return folder / (name + ".tmp")  # not *.safetensors, so never taken for weights


def _write_safetensors(path, tensors):
    # Wide dtypes first keep every tensor aligned for readers that map the file.
    tensors = sorted(tensors, key=lambda item: -item[1].itemsize)
    header, at = {"__metadata__": {"format": "pt"}}, 0
    for name, tensor in tensors:
        header[name] = {
            "dtype": LABELS[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [at, at + tensor.nbytes],
        }
        at += tensor.nbytes
    raw = json.dumps(header, separators=(",", ":")).encode()
    raw += b" " * (-len(raw) % 8)
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(raw)) + raw)
        for _, tensor in tensors:
            flat = tensor.reshape(-1).view(torch.uint8)
            for low in range(0, len(flat), CHUNK):
                f.write(memoryview(flat[low : low + CHUNK].cpu().numpy()))
        _flush(f)


def _write_json(folder, name, content, written):
    written[name] = _temporary(folder, name)
    with open(written[name], "w", encoding="utf-8") as f:
        f.write(json.dumps(content, indent=2) + "\n")
        _flush(f)


def _refuse_foreign(folder):
    """Weights of other origin would be taken for part of ours, or ours for theirs."""
    for file in sorted(folder.glob("*.safetensors*")):
        if not OURS.fullmatch(file.name) and file.suffix in (".safetensors", ".json"):
            raise InputError(
                f"{show(folder)} holds {show(file.name)}, which minqwen did not write; "
                "save into another folder."
            )


def _flush(f):
    f.flush()
    os.fsync(f.fileno())


def _publish(folder, written):
    """Give all files their names, so that no moment shows old and new ones mixed.

    The same config and one file over one file is a single atomic step, and a kill
    loses nothing. Else old weights go first, and a kill here leaves none that load.
    """
    old = [file for file in folder.iterdir() if OURS.fullmatch(file.name)]
    config = folder / "config.json"
    new = written["config.json"].read_bytes()
    same = config.exists() and config.read_bytes() == new
    single = {file.name for file in old} == {"model.safetensors"} <= written.keys()
    if not (same and single):
        for file in old:
            file.unlink()
    # The index comes last: it says that all shards are there.
    for name in sorted(written, key=lambda name: (name.endswith(INDEX), name)):
        os.replace(written[name], folder / name)
