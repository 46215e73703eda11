"""Matrices as other libraries pack them, widened to float32 while they are read.

    FP8, INT8  codes of one byte [R, C], and scales [n, m], each for so many rows and
               columns: one number, one a row, groups and blocks are all in use, and
               which it is their shape says, not their name (`_scale`, `_scale_inv`)
    NVFP4      two E2M1 codes a byte, the even column in the low half; an E4M3 scale for
               each 16 of a row, and one number for all of them, which multiplies as
               modelopt's `_scale_2` and divides as compressed-tensors' `_global_scale`
    MXFP4      the same codes, and for each 32 of a row a power of two
    INT4       compressed-tensors: whole numbers in words of 32 bits, the first column
               lowest, less their zero: 2^(bits - 1), or one that is packed downwards
    GPTQ       the same words, of the matrix turned over: [C / 8, R]; `g_idx` says which
               group a column is in. In the first version zeros are one too small, taken
               off whole words, and so given back here

Sources: the widening of compressed-tensors 0.20, modelopt and gptqmodel, whose results
these are to the bit in float32.
"""

from dataclasses import dataclass

import torch

from ...errors import InputError, show
from ..checkpoint.layout import STORED, bytes_of

FLOATS = "F32", "BF16", "F16"
POWERS = "F8_E8M0", "U8"  # exponents of two, 127 too large
# Kind, the dtypes of what it is stored as, and of what may stand beside that.
KINDS = [
    ("FP8", {"": ("F8_E4M3",), "_scale": FLOATS + POWERS}, {}),
    ("INT8", {"": ("I8",), "_scale": FLOATS}, {"_zero_point": ("I8",)}),
    ("NVFP4", {"": ("U8",), "_scale": ("F8_E4M3", "U8"), "_scale_2": FLOATS}, {}),
    ("NVFP4", {"_packed": ("U8",), "_scale": ("F8_E4M3",),
               "_global_scale": FLOATS}, {}),
    ("MXFP4", {"_packed": ("U8",), "_scale": POWERS}, {}),
    ("INT4", {"_packed": ("I32",), "_scale": FLOATS},
     {"_shape": ("I64", "I32"), "_zero_point": ("I32",), "_g_idx": ("I32",)}),
    ("GPTQ", {"qweight": ("I32",), "scales": FLOATS, "qzeros": ("I32",)},
     {"g_idx": ("I32", "I64")}),
]  # fmt: skip
DTYPES = STORED | {
    "I8": torch.int8, "I32": torch.int32, "I64": torch.int64, "F8_E8M0": torch.uint8,
}  # fmt: skip
PACKS = 2, 4, 8  # bits of a code, of which a word holds a whole number
LEVELS = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6])  # of E2M1
LEVELS = torch.cat((LEVELS, -LEVELS))
PAIRS = torch.cartesian_prod(LEVELS, LEVELS).flip(1)  # [256, 2] for a byte


@dataclass(frozen=True)
class Foreign:
    """In place of an Entry: a matrix [R, C], or one for each expert [E, R, C]."""

    name: str
    dtype: str  # its kind
    parts: dict  # {suffix: Entry with its name}; `_scale` is also `_scale_inv`
    shape: tuple
    bits: int = 0  # of a code in words
    sides: tuple = ()  # for how many rows or columns a scale is, by config.json
    short: int = 0  # by how much zeros are too small
    even: bool = False  # does config.json say that all zeros are in the middle?

    first = property(lambda self: next(iter(self.parts.values())))
    file = property(lambda self: self.first.file)
    start = property(lambda self: self.first.start)
    stamp = property(lambda self: self.first.stamp)
    nbytes = property(lambda self: sum(e.nbytes for e in self.parts.values()))

    def grid(self, suffix):
        """The sizes [n, m] that a part has for each matrix."""
        shape = self.parts[suffix].shape
        if len(self.shape) == 3 and shape[:1] == self.shape[:1]:
            shape = shape[1:]
        return (*shape, 1, 1)[: max(2, len(shape))]

    def read(self, files, expert, low, high):
        """float32 [high - low, C] of one matrix; `files`: {path: Reader}.

        InputError if a part holds what is no number, or no group.
        """
        p = {s: self._rows(files, s, expert, low, high) for s in self.parts}
        for suffix, part in p.items():
            if fault := self._fault(suffix, part):
                entry = self.parts[suffix]
                raise damaged(entry, entry.name, f"{fault}, which no writer means")
        index = p.get("g_idx", p.get("_g_idx"))
        middle = torch.tensor([[2.0**self.bits / 2]])
        if self.dtype == "GPTQ":
            x, zeros = unpack(p["qweight"].T[low:high], self.bits), self._zeros(p)
            zeros, scales = zeros[:, low:high].T, p["scales"].T[low:high].float()
        elif self.dtype == "INT4":
            x, zeros, scales = unpack(p["_packed"], self.bits), middle, p["_scale"]
            if "_zero_point" in p:
                zeros = unpack(p["_zero_point"].T, self.bits)[:, low:high].T
        else:
            x, zeros = codes(p), p.get("_zero_point")
            scales = numbers(p["_scale"]) * p.get("_scale_2", 1)
            scales = scales / p.get("_global_scale", 1)
        x = x[:, : self.shape[-1]]
        if zeros is not None:
            x -= self._spread(zeros.float(), index)
        return x.mul_(self._spread(scales.float(), index))

    def _zeros(self, p):
        """Of GPTQ: [groups, R]. InputError if they are of the other version's files."""
        ones = sum(self.short << at for at in range(0, 32, self.bits))
        zeros, middle = unpack(p["qzeros"] + ones, self.bits), 2 ** (self.bits - 1)
        zeros = zeros[:, : self.shape[-2]]
        if self.even and (zeros == middle + 2 * self.short - 1).all():
            entry, names = self.parts["qzeros"], ("gptq", "gptq_v2")
            raise damaged(
                entry, entry.name, f"is of {names[self.short]}, and config.json's "
                f"checkpoint_format of {names[1 - self.short]}",
            )  # fmt: skip
        return zeros

    def _spread(self, x, index):
        """A number for each group of columns -> one a column, or one for all."""
        if x.shape[1] == 1:
            return x
        each = span(self.shape[-1], x.shape[1], self.sides)
        if index is not None and index.any():  # all 0: in no order of activations
            index = index.flatten()
            if not torch.equal(index, torch.arange(len(index)) // (each or 1)):
                return x[:, index.long()]
        return x.repeat_interleave(each, 1)[:, : self.shape[-1]]

    def _rows(self, files, suffix, expert, low, high):
        """What is stored of rows [low, high); all of what is not laid out by rows."""
        entry, (n, m) = self.parts[suffix], self.grid(suffix)
        whole = self.dtype in ("GPTQ", "INT4") and suffix not in ("_packed", "_scale")
        each = 1 if whole else span(self.shape[-2], n, self.sides)
        first, last = (0, n) if whole else (low // each, -(-high // each))
        lead = expert * n if entry.shape[:1] == self.shape[:-2] else 0
        e4m3 = self.dtype == "NVFP4" and suffix == "_scale"  # also where it says U8
        dtype = torch.float8_e4m3fn if e4m3 else DTYPES[entry.dtype]
        out = torch.empty(last - first, m, dtype=dtype)
        at = entry.start + (lead + first) * m * out.itemsize
        files[entry.file].fill(bytes_of(out), at, entry.name)
        if each == 1:
            return out
        out = numbers(out).repeat_interleave(each, 0)
        return out[low - first * each :][: high - low]

    def _fault(self, suffix, t):
        """What is wrong with a part, as a phrase, or None."""
        if suffix.endswith("g_idx"):
            turned = self.dtype == "GPTQ"
            groups = self.grid("scales")[0] if turned else self.grid("_scale")[1]
            if len(t) and not 0 <= t.min() <= t.max() < groups:
                return "names groups that are not there"
        elif suffix == "_shape" and t.flatten().tolist() != list(self.shape):
            return f"says {t.flatten().tolist()} of {list(self.shape)}"
        elif "scale" in suffix and not self._sound(suffix, numbers(t)):
            return "has scales that are NaN, infinite, zero or negative"
        elif t.dtype == torch.float8_e4m3fn and not t.float().isfinite().all():
            return "holds NaN"
        return None

    def _sound(self, suffix, scales):
        if self.dtype == "NVFP4" and suffix == "_scale":
            # Beside a very large group E4M3 has 0 for a small one, but not for all.
            good = (scales >= 0) & scales.any()
        else:
            good = scales != 0 if self.bits or self.dtype == "INT8" else scales > 0
        return bool((good & scales.isfinite()).all())


def entries_of(table):
    """The stored tensors behind what is an Entry or a Foreign, each."""
    for entry in table:
        yield from entry.parts.values() if isinstance(entry, Foreign) else (entry,)


def damaged(entry, name, fault):
    return InputError(
        f"{show(entry.file.name)}: {show(name)} {fault}; copy or download the files "
        "again, config.json with them."
    )


def span(total, count, sides=()):
    """How many of `total` each of `count` scales is for: rows, groups, blocks; or None.

    What config.json says where it fits, else a power of two, which no other has too.
    """
    if count == 1:
        return total
    powers = (2**k for k in range(15))
    return next((s for s in (*sides, *powers) if -(-total // s) == count), None)


def unpack(words, bits):
    """int32 [..., N] -> float32 [..., N * 32 / bits], the lowest bits first."""
    at = torch.arange(0, 32, bits, dtype=torch.int32)
    return (words.contiguous()[..., None] >> at & 2**bits - 1).flatten(-2).float()


def codes(parts):
    """float32 [R, C] of bytes that are a code each, or two."""
    pairs = parts.get("_packed", parts.get(""))
    if pairs.dtype != torch.uint8:
        return pairs.float()
    return PAIRS.index_select(0, pairs.flatten().int()).view(len(pairs), -1)


def numbers(scales):
    """float32 of scales; bytes are exponents."""
    if scales.dtype == torch.uint8:
        return torch.ldexp(torch.ones(scales.shape), scales.int() - 127)
    return scales.float()
