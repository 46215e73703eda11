"""The tensors of a checkpoint to be written in some form, and their places in files."""

import json
import math
import struct
from dataclasses import dataclass

from .layout import BODY, FUSED, STORED, per_expert
from .quantised import parts_of

LABELS = {dtype: label for label, dtype in STORED.items()}


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

    fp8 has its experts one by one, as the release; our own forms have all fused, and
    what is as trained is laid out as `stored_tensors` does.
    """
    for name, p in model.named_parameters():
        form, pieces = scheme.of(name), None
        stored = name if model.cfg.vision else name.replace(BODY, "model.")
        single = form == "fp8" or form is None and name.startswith("mtp.")
        if name.endswith(FUSED) and single:
            pieces = per_expert(stored, p.shape)
        for source, part in pieces or [(stored, None)]:
            shape = p.shape if part is None else (part[2] - part[1], p.shape[2])
            parts = {"": (shape, p.dtype)}
            if form:  # gate_up_proj whole is two matrices, a part of it one
                parts = parts_of(form, name if part is None else "", shape)
            for suffix, (size, dtype) in parts.items():
                yield Slot(source + suffix, tuple(size), dtype, name, suffix, part)


def split(found, limit):
    """{file name: [Slots]}, at most `limit` bytes a file if a part is no larger."""
    groups = {}
    for slot in found:
        groups.setdefault((slot.name, slot.part), []).append(slot)
    files, size = [[]], 0
    for group in groups.values():
        more = sum(slot.nbytes for slot in group)
        if files[-1] and size + more > limit:
            files.append([])
            size = 0
        files[-1] += group
        size += more
    return named(files)


def named(files):
    """{file name: its content} as transformers names one file, or shards."""
    if len(files) == 1:
        return {"model.safetensors": files[0]}
    return {
        f"model-{i:05d}-of-{len(files):05d}.safetensors": part
        for i, part in enumerate(files, 1)
    }


def header(file):
    """The first bytes of a safetensors file of Slots, and {stored name: first byte}."""
    content, places, at = {"__metadata__": {"format": "pt"}}, {}, 0
    # Wide dtypes first keep every tensor aligned for readers that map the file.
    for slot in sorted(file, key=lambda slot: -slot.dtype.itemsize):
        content[slot.stored] = {
            "dtype": LABELS[slot.dtype],
            "shape": list(slot.shape),
            "data_offsets": [at, at + slot.nbytes],
        }
        places[slot.stored] = at
        at += slot.nbytes
    raw = json.dumps(content, separators=(",", ":")).encode()
    raw += b" " * (-len(raw) % 8)
    start = 8 + len(raw)
    places = {name: start + at for name, at in places.items()}
    return struct.pack("<Q", len(raw)) + raw, places
