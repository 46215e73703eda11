"""Where every tensor of a file lies, learnt from its header alone.

A safetensors file is eight bytes (the header's length, little endian), a JSON header
(name -> dtype, shape, first and last byte), and the tensors' bytes, end to end. We
parse it ourselves, since paging and slicing need the offsets, and check every promise
of the format: a header that lies could mean reads outside the file, or a wrong model.
"""

import json
import math
import struct
from dataclasses import dataclass
from pathlib import Path

from ...errors import InputError, show
from ...files import Reader, read_json

MAX_HEADER = 100_000_000  # bytes; the reference implementation's bound
FIELDS = {"dtype", "shape", "data_offsets"}
MAX_RANK = 64  # torch's limit; keeps the products of hostile shapes cheap
BITS = {
    "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "BOOL": 8, "U8": 8, "I8": 8,
    "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8,
    "I16": 16, "U16": 16, "F16": 16, "BF16": 16, "I32": 32, "U32": 32, "F32": 32,
    "I64": 64, "U64": 64, "F64": 64, "C64": 64,
}  # fmt: skip
# How what was downloaded in a file's place begins, and what it is.
ELSE = {
    b"version ": "what git leaves without LFS; run git lfs pull in its folder",
    b"PK": "a pickle or an archive, which is refused; take .safetensors or GGUF",
    b"<": "a web page, not the file behind its link; download it again",
}


@dataclass(frozen=True, slots=True)
class Entry:
    """One stored tensor: bytes [start, end) of `file`, `shape` of `dtype`."""

    file: Path
    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int
    stamp: tuple = ()  # of the file, for `unchanged`
    name: str = ""  # in the file, if it is not the released one

    @property
    def nbytes(self):
        return self.end - self.start


def unchanged(entry, file):
    """InputError if the entry's file, a Reader, has changed since it was first read."""
    if entry.stamp != stamp_of(file.stat()):
        raise InputError(
            f"{show(entry.file.name)} was changed while it was in use, so its weights "
            "may be a mixture; load again when nobody writes to it."
        )


def stamp_of(info):
    return info.st_dev, info.st_ino, info.st_size, info.st_mtime_ns


def read_table(path, own=False):
    """Name -> Entry for one safetensors file (see Reader); reads its header only."""
    with Reader(path, own) as file:
        metadata, table = read_header(file)
    if metadata.get("format") == "mlx":
        raise InputError(
            f"{show(file.path.name)} was written by MLX, which keeps convolutions "
            "turned and norms shifted by one; take the checkpoint it was made from."
        )
    return table


def read_header(file):
    """A safetensors file's metadata, and name -> Entry; `file` is a Reader."""
    info, name = file.stat(), show(file.path.name)
    if info.st_size < 8:
        raise InputError(
            f"{name} is {info.st_size} bytes long, too short for a safetensors header; "
            "copy or download it again."
        )
    first = file.read(8)
    size, most = int.from_bytes(first, "little"), info.st_size - 8
    if size > min(MAX_HEADER, most):
        for begin, what in ELSE.items():
            if first.startswith(begin):
                raise InputError(f"{name} is {what}.")
        raise InputError(
            f"{name} announces a header of {size} bytes, but holds {most} after that "
            f"number and at most {MAX_HEADER} are allowed; it is damaged or not a "
            "safetensors file."
        )
    metadata, table = parse_header(file.read(size, 8), most - size, name)
    base, stamp = 8 + size, stamp_of(info)
    return metadata, {
        tensor: Entry(file.path, dtype, shape, base + start, base + end, stamp)
        for tensor, (dtype, shape, start, end) in table.items()
    }


def parse_header(raw, data_size, name):
    """Metadata, and name -> (dtype, shape, start, end) from the data's start on.

    `raw` is the header's bytes, `data_size` the number of bytes behind it, `name`
    the file's name for messages. Accepts only what the format promises: UTF-8 JSON
    without duplicate keys, known dtypes, byte counts that follow from the shapes,
    and tensors that cover the data without gap or overlap.
    """
    header = read_json(raw, f"{name}: the header")
    said = header.pop("__metadata__", {})
    if not isinstance(said, dict) or any(type(v) is not str for v in said.values()):
        raise InputError(f"{name}: __metadata__ must map strings to strings.")
    table = {tensor: _parse_info(name, tensor, info) for tensor, info in header.items()}

    at = 0
    for tensor, (_, _, start, end) in sorted(table.items(), key=lambda t: t[1][2:]):
        check_place(name, tensor, start, at)
        at = end
    if at != data_size:
        fault = "is cut short" if data_size < at else "has bytes no tensor owns"
        raise InputError(
            f"{name} {fault}: its header describes {at} bytes of tensors, the file "
            f"holds {data_size}; copy or download it again."
        )
    return said, table


def check_place(name, tensor, start, at):
    """InputError unless a tensor starts where the one before it ended."""
    if start != at:
        fault = "overlaps the one before it" if start < at else "leaves a gap"
        raise InputError(
            f"{name}: {show(tensor)} starts at byte {start} instead of {at}, so it "
            f"{fault}; the file is damaged."
        )


def _parse_info(name, tensor, info):
    def fault(text):
        return InputError(f"{name}: {show(tensor)} {text}.")

    if not isinstance(info, dict) or info.keys() != FIELDS:
        raise fault("must be described by dtype, shape and data_offsets alone")
    dtype, shape, offsets = info["dtype"], info["shape"], info["data_offsets"]
    if not isinstance(dtype, str) or dtype not in BITS:
        raise fault(f"has the unknown dtype {show(dtype)}")
    for key, values in (("shape", shape), ("data_offsets", offsets)):
        if not _whole(values):
            raise fault(f"has {key} {show(values)}, not a list of whole numbers >= 0")
    if len(offsets) != 2 or offsets[0] > offsets[1]:
        raise fault(f"has data_offsets {show(offsets)}, not [start, end]")
    bits = math.prod(shape) * BITS[dtype]
    # Python's whole numbers do not overflow, so no shape can wrap around to fit.
    if bits != (offsets[1] - offsets[0]) * 8:
        raise fault(
            f"is {show(shape)} {dtype}, which takes {-(-bits // 8)} bytes, but its "
            f"offsets span {offsets[1] - offsets[0]}; the header is wrong"
        )
    return dtype, tuple(shape), *offsets


def _whole(values):
    """Can this be a list of a tensor's sizes or offsets? Truth values are no sizes."""
    short = isinstance(values, list) and len(values) <= MAX_RANK
    return short and all(type(v) is int and 0 <= v < 2**63 for v in values)


def lay_out(tensors, metadata):
    """The header of a file of {name: (dtype, shape)}, and {name: its first byte}.

    Wide dtypes come first, so that every tensor is aligned for readers that map the
    file; the places are in that order.
    """
    header, ends = {"__metadata__": metadata}, [0]
    for name, (dtype, shape) in sorted(tensors.items(), key=lambda t: -BITS[t[1][0]]):
        ends.append(ends[-1] + math.prod(shape) * BITS[dtype] // 8)
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": ends[-2:]}
    raw = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    raw += b" " * (-len(raw) % 8)
    names = list(header)[1:]
    places = {n: 8 + len(raw) + at for n, at in zip(names, ends, strict=False)}
    return struct.pack("<Q", len(raw)) + raw, places
