"""What a GGUF file says about itself: keys, and where every tensor lies.

A GGUF file is magic and version, two counts, the keys (name, type, value), the tensors
(name, sizes, type, offset), and, from the next multiple of `general.alignment`, their
bytes. Unlike safetensors it carries the model's settings and its tokenizer. All of it
is checked against the file's size before a byte of any tensor is read.

Source: ggml/docs/gguf.md of llama.cpp; versions 2 and 3, little endian.
"""

import math
import re
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...errors import InputError, show
from ...files import Reader, telling
from ..checkpoint.header import ELSE, MAX_HEADER, Entry, check_place, stamp_of

MAGIC, VERSIONS = b"GGUF", (2, 3)
ALIGNMENT = 32  # where general.alignment is not given
MAX_DIMS = 4
MAX_COUNT = 100_000  # of keys or tensors; the largest release has 1,118 tensors
FLOAT32, STRING, ARRAY = 6, 8, 9
SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q",
           11: "q", 12: "d"}  # fmt: skip
# Type id -> name, weights a block, bytes a block.
TYPES = {
    0: ("F32", 1, 4), 1: ("F16", 1, 2), 30: ("BF16", 1, 2), 2: ("Q4_0", 32, 18),
    3: ("Q4_1", 32, 20), 6: ("Q5_0", 32, 22), 7: ("Q5_1", 32, 24), 8: ("Q8_0", 32, 34),
    10: ("Q2_K", 256, 84), 11: ("Q3_K", 256, 110), 12: ("Q4_K", 256, 144),
    13: ("Q5_K", 256, 176), 14: ("Q6_K", 256, 210), 16: ("IQ2_XXS", 256, 66),
    17: ("IQ2_XS", 256, 74), 18: ("IQ3_XXS", 256, 98), 19: ("IQ1_S", 256, 50),
    20: ("IQ4_NL", 32, 18), 21: ("IQ3_S", 256, 110), 22: ("IQ2_S", 256, 82),
    23: ("IQ4_XS", 256, 136), 29: ("IQ1_M", 256, 56), 34: ("TQ1_0", 256, 54),
    35: ("TQ2_0", 256, 66), 39: ("MXFP4", 32, 17), 40: ("NVFP4", 64, 36),
}  # fmt: skip
BLOCKS = {name: (weights, size) for name, weights, size in TYPES.values()}
PART = re.compile(r"(.*)-(\d{5})-of-(\d{5})\.gguf", re.DOTALL)


@dataclass(frozen=True)
class GGUF:
    """A checkpoint's keys, and name -> Entry with shapes as torch writes them."""

    name: str  # for messages
    keys: dict
    tensors: dict

    def fault(self, key, value, wanted):
        """An InputError for a key whose value is not `wanted`."""
        value = value.tolist() if isinstance(value, np.ndarray) else value
        return InputError(f"{self.name}: {key} is {show(value)}; expected {wanted}.")


def read_gguf(path):
    """Keys and tensors of a file, or of all parts of a divided checkpoint.

    Parts are named `x-00001-of-00009.gguf` and so on; the keys are the first one's.
    Raises InputError for a file that does not hold what the format promises.
    """
    path = first_part(Path(path))
    first = _read_one(path)
    count = first.keys.get("split.count", 1)
    if count in (0, 1) or type(count) is not int:
        return first
    match = PART.fullmatch(path.name)
    if match is None or int(match[3]) != count or first.keys.get("split.no") != 0:
        raise InputError(
            f"{first.name} is one of {show(count)} parts, but is not named as the "
            f"first, ...-00001-of-{count:05d}.gguf, is; rename all as they were."
        )
    tensors = dict(first.tensors)
    for number in range(2, count + 1):
        part = _read_one(there(path, match, number))
        twice = sorted(tensors.keys() & part.tensors.keys())
        if twice:
            raise InputError(
                f"{part.name} holds {show(twice[0])}, which an earlier part holds too; "
                "one of them belongs to another checkpoint."
            )
        tensors |= part.tensors
    said = first.keys.get("split.tensors.count", len(tensors))
    if said != len(tensors):
        raise InputError(
            f"{first.name}: split.tensors.count is {show(said)}, its {count} parts "
            f"hold {len(tensors)}; is one of them from another checkpoint?"
        )
    return GGUF(first.name, first.keys, tensors)


def first_part(path):
    """The first part, if `path` is named as a part of a checkpoint; else `path`."""
    match = PART.fullmatch(path.name)
    return there(path, match, 1) if match and int(match[2]) > 1 else path


def there(path, match, number):
    """The part of that number beside `path`; InputError if it is missing."""
    part = path.with_name(f"{match[1]}-{number:05d}-of-{match[3]}.gguf")
    if not part.exists():
        raise InputError(
            f"{show(part.name)} is missing from {show(part.parent)}, where other parts "
            "of the same checkpoint are; download it too."
        )
    return part


def _read_one(path):
    with Reader(path) as file, telling(path, "read"):
        header = Header(show(path.name), file)
        keys = header.keys()
        return GGUF(header.name, keys, header.entries(keys))


class Header:
    """Reads a header from front to back, never past the file's end or MAX_HEADER."""

    def __init__(self, name, reader):
        self.name, self.reader, self.info, self.at = name, reader, reader.stat(), 0
        self.left = self.info.st_size
        self.file = open(reader.fileno(), "rb", closefd=False)  # buffers small reads
        head = self.take(min(self.left, 24), "magic, version and counts")
        if head[:4] != MAGIC:
            known = (what for start, what in ELSE.items() if head.startswith(start))
            told = next(known, "damaged or another format")
            if head[8:9] == b"{":
                told = "safetensors by what follows: rename it .safetensors"
            raise self.fault(
                f"begins with {show(head[:4])}, not with GGUF", f"it is {told}"
            )
        if len(head) < 24:
            raise self.fault("ends before its counts", "copy or download it again")
        version, self.tensor_count, self.key_count = struct.unpack("<IQQ", head[4:])
        if version & 0xFFFF == 0:
            raise self.fault("is big-endian", "convert it for this machine")
        if version not in VERSIONS:
            raise self.fault(f"has version {version}", "versions 2 and 3 are read")
        for count, what in (self.key_count, "keys"), (self.tensor_count, "tensors"):
            if count > MAX_COUNT:
                raise self.fault(f"announces {count} {what}, above {MAX_COUNT}")

    def fault(self, what, advice="it is damaged"):
        return InputError(f"{self.name} {what}; {advice}.")

    def take(self, count, what):
        """The next `count` bytes, called `what` in messages."""
        if count > self.left or self.at + count > MAX_HEADER:
            raise self.fault(
                f"announces {count} bytes for {show(what)}, but {self.left} are left "
                f"and a header may have {MAX_HEADER}",
                "it is damaged or cut short",
            )
        raw = self.file.read(count)
        self.at, self.left = self.at + count, self.left - count
        if len(raw) < count:
            raise self.reader.shorter(what)
        return raw

    def number(self, letter, what):
        return struct.unpack("<" + letter, self.take(struct.calcsize(letter), what))[0]

    def string(self, what):
        raw = self.take(self.number("Q", what), what)
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError:
            raise self.fault(f"holds {show(what)}, which is not UTF-8") from None

    def keys(self):
        """All keys: numbers, strings, lists of strings, NumPy arrays of numbers."""
        found = {}
        for key, value in self.pairs():
            if key in found:
                raise self.fault(f"has the key {show(key)} twice")
            found[key] = value
        return found

    def pairs(self):
        for _ in range(self.key_count):
            key = self.string("a key's name")
            yield key, self.value(key, self.number("I", key))

    def value(self, key, kind):
        if kind == STRING:
            return self.string(key)
        if kind in SCALARS:
            value = self.number(SCALARS[kind], key)
            # 1e-6, not the nearest float32's 9.999999974752427e-07.
            return float(str(np.float32(value))) if kind == FLOAT32 else value
        inner = self.number("I", key) if kind == ARRAY else None
        if inner != STRING and inner not in SCALARS:  # nor an array in an array
            raise self.fault(f"has the key {show(key)} of unknown type {kind}")
        count = self.number("Q", key)
        if inner == STRING:
            if count * 8 > self.left:  # each has its length in front; take refuses
                self.take(count * 8, key)
            return [self.string(key) for _ in range(count)]
        dtype = np.dtype("<" + SCALARS[inner])
        return np.frombuffer(self.take(count * dtype.itemsize, key), dtype)

    def tensors(self):
        """Name -> (type's name, shape, offset from the data's start)."""
        found = {}
        for _ in range(self.tensor_count):
            name = self.string("a tensor's name")
            if name in found:
                raise self.fault(f"has the tensor {show(name)} twice")
            dims = self.number("I", name)
            if not 1 <= dims <= MAX_DIMS:
                raise self.fault(
                    f"has {show(name)} with {dims} dimensions, not 1 to {MAX_DIMS}"
                )
            shape = tuple(self.number("Q", name) for _ in range(dims))
            kind, offset = self.number("I", name), self.number("Q", name)
            if kind not in TYPES:
                known = ", ".join(BLOCKS)
                raise self.fault(
                    f"has {show(name)} of type {kind}", f"what can be read is {known}"
                )
            # The fastest dimension comes first here, and last in torch.
            found[name] = TYPES[kind][0], shape[::-1], offset
        return found

    def entries(self, keys):
        """Name -> Entry; InputError unless tensors and padding fill the data."""
        tensors, align = self.tensors(), keys.get("general.alignment", ALIGNMENT)
        if type(align) is not int or align < 1 or align & (align - 1):
            raise self.fault(f"has general.alignment {show(align)}, not a power of two")
        table, stamp, held = {}, stamp_of(self.info), self.info.st_size
        start = at = -(-self.at // align) * align
        for tensor, found in sorted(tensors.items(), key=lambda item: item[1][2]):
            kind, shape, offset = found
            weights, size = BLOCKS[kind]
            if shape[-1] % weights:
                raise self.fault(
                    f"has {show(tensor)}, {show(list(shape))} {kind}, whose rows come "
                    f"in blocks of {weights}"
                )
            # Python's whole numbers do not overflow: no shape can wrap around to fit.
            begin = start + offset
            end = begin + math.prod(shape) // weights * size
            check_place(self.name, tensor, begin, at)
            if end > held:
                raise self.fault(
                    f"is cut short: {show(tensor)} ends at byte {end}, the file at "
                    f"{held}", "copy or download it again",
                )  # fmt: skip
            table[tensor] = Entry(self.reader.path, kind, shape, begin, end, stamp)
            at = -(-end // align) * align
        if held > at:
            raise self.fault(f"has {held - at} bytes that no tensor owns")
        return table
