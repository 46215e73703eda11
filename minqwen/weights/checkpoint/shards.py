"""The tensors of a checkpoint to be written in some form, and their places in files."""

import math
from dataclasses import dataclass

import torch

from ..quantised.modules import parts_of
from ..quantised.settings import Scheme
from .layout import BODY, FUSED, per_expert, skeleton

FORMAT = {"format": "pt"}  # the metadata that transformers asks for


@dataclass(frozen=True)
class Slot:
    """A tensor: what it is called, and the part of a parameter that it stands for."""

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

    fp8 has its experts one by one, as the release; our own forms have all fused. As
    trained, also as the releases, those of the MTP head alone are one by one, and in a
    text-only model none.
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

    At most `limit` bytes a file where no group is larger, named as transformers names
    one file, or shards.
    """
    files, size = [[]], 0
    for items, more in groups:
        if files[-1] and size + more > limit:
            files.append([])
            size = 0
        files[-1] += items
        size += more
    if len(files) == 1:
        return {"model.safetensors": files[0]}
    return {
        f"model-{i:05d}-of-{len(files):05d}.safetensors": part
        for i, part in enumerate(files, 1)
    }


def index_of(shards, total):
    """The content of the index of shards, {file name: [tensor names]}."""
    where = {name: file for file, names in shards.items() for name in names}
    return {"metadata": {"total_size": total}, "weight_map": where}
