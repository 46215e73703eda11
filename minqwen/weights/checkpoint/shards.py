"""The tensors of a checkpoint to be written, and how they are divided into files."""

import math
from dataclasses import dataclass

import torch

from ..quantised.modules import parts_of
from ..quantised.settings import Scheme
from .layout import BODY, FUSED, per_expert, skeleton

FORMAT = {"format": "pt"}  # the metadata that transformers asks for


@dataclass(frozen=True)
class Slot:
    """A tensor to be written, and the part of a parameter that it holds."""

    stored: str
    shape: tuple
    dtype: object
    name: str  # of the parameter
    suffix: str  # of the form
    part: tuple | None  # (expert, first row, end row)

    @property
    def nbytes(self):
        return math.prod(self.shape) * self.dtype.itemsize


def slots(model, scheme):
    """A model's Slots in its own order; those of a part follow each other.

    As in the releases, fp8 experts are one by one, and as trained those of the MTP head
    alone, or in a text-only model none; our own forms have all fused.
    """
    apart = model.cfg.vision is not None
    for name, p in model.named_parameters():
        form, pieces = scheme.of(name), None
        stored = name if model.cfg.vision else name.replace(BODY, "model.")
        single = form == "fp8" or form is None and apart and name.startswith("mtp.")
        if name.endswith(FUSED) and single:
            pieces = per_expert(stored, p.shape)
        for source, part in pieces or [(stored, None)]:
            shape = p.shape if part is None else (part[2] - part[1], p.shape[2])
            # gate_up_proj whole is two matrices, a part of it one
            parts = parts_of(form, name if part is None else "", shape, p.dtype)
            for suffix, (size, dtype) in parts.items():
                yield Slot(source + suffix, tuple(size), dtype, name, suffix, part)


def expected_tensors(cfg, dtype=torch.bfloat16):
    """name -> (shape, dtype) of the released checkpoint; no weight takes memory."""
    found = slots(skeleton(cfg, dtype), Scheme())
    return {slot.stored: (slot.shape, slot.dtype) for slot in found}


def split(groups, limit):
    """{file name: its items} of [(items, bytes)], groups that stay together.

    A file has at most `limit` bytes, or a single larger group. Names are transformers'.
    """
    files, size = [[]], 0
    for items, more in groups:
        if files[-1] and size + more > limit:
            files.append([])
            size = 0
        files[-1] += items
        size += more
    count = len(files)
    if count == 1:
        return {"model.safetensors": files[0]}
    names = (f"model-{i:05d}-of-{count:05d}.safetensors" for i in range(1, count + 1))
    return dict(zip(names, files, strict=True))


def index_of(shards, total):
    """The content of the index of shards, {file name: [tensor names]}."""
    where = {name: file for file, names in shards.items() for name in names}
    return {"metadata": {"total_size": total}, "weight_map": where}
