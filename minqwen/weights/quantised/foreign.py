"""Matrices as other libraries pack them, widened to float32 while they are read.

    FP8, INT8  one code a byte [R, C], with scales [n, m] that each cover a rectangle:
               the matrix, a row, a group or a block, as their shape shows
    NVFP4      two E2M1 codes a byte, the even column in the low half; an E4M3 scale for
               every 16 columns, and a number for the whole matrix, by which one
               multiplies (modelopt's `_scale_2`) or divides (`_global_scale`)
    MXFP4      the same codes, and a power of two for every 32 columns
    INT4       compressed-tensors: integers packed into int32 along a row, lowest bits
               first; the zero point is 2^(bits - 1), or packed along the columns
    GPTQ       the same, all transposed; `_g_idx` gives each column's group. Version 1
               stores zero points less 1, with a borrow from the bits above

In float32 the results equal those of compressed-tensors 0.20, modelopt and gptqmodel
bit for bit.
"""

from dataclasses import dataclass

import torch

from ...errors import InputError, show
from ..checkpoint.layout import STORED, bytes_of
from .settings import Scheme

FLOATS = "F32", "BF16", "F16"
POWERS = "F8_E8M0", "U8"  # exponents of two, plus 127
# Kinds, and the dtypes of their parts by suffix; None: the part may be missing.
KINDS = [
    ("FP8", {"": ("F8_E4M3",), "_scale": FLOATS + POWERS}),
    ("INT8", {"": ("I8",), "_scale": FLOATS, "_zero_point": ("I8", None)}),
    ("NVFP4", {"": ("U8",), "_scale": ("F8_E4M3", "U8"), "_scale_2": FLOATS}),
    ("NVFP4", {"_packed": ("U8",), "_scale": ("F8_E4M3",), "_global_scale": FLOATS}),
    ("MXFP4", {"_packed": ("U8",), "_scale": POWERS}),
    ("INT4", {"_packed": ("I32",), "_scale": FLOATS, "_zero_point": ("I32", None),
              "_g_idx": ("I32", None), "_shape": ("I64", "I32", None)}),
    ("GPTQ", {"qweight": ("I32",), "scales": FLOATS, "qzeros": ("I32",),
              "g_idx": ("I32", "I64", None)}),
]  # fmt: skip
TURNED = {"qweight": "_packed", "scales": "_scale", "qzeros": "_zero_point",
          "g_idx": "_g_idx"}  # fmt: skip
DTYPES = STORED | {
    "I8": torch.int8, "I32": torch.int32, "I64": torch.int64, "F8_E8M0": torch.uint8,
}  # fmt: skip
LEVELS = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6])  # of E2M1
LEVELS = torch.cat((LEVELS, -LEVELS))
PAIRS = torch.cartesian_prod(LEVELS, LEVELS).flip(1)  # [256, 2] for a byte


@dataclass(frozen=True)
class Foreign:
    """Stands in for an Entry: a matrix [R, C], or one for each expert [E, R, C]."""

    name: str
    dtype: str  # its kind
    parts: dict  # {suffix: Entry with its stored name}, GPTQ's by INT4's suffixes
    shape: tuple
    bits: int  # of a code packed into int32; 0 in other kinds
    scheme: Scheme

    first = property(lambda self: next(iter(self.parts.values())))
    file = property(lambda self: self.first.file)
    start = property(lambda self: self.first.start)
    stamp = property(lambda self: self.first.stamp)
    nbytes = property(lambda self: sum(e.nbytes for e in self.parts.values()))

    def read(self, files, expert, low, high):
        """float32 [high - low, C] of one matrix; `files`: {path: Reader}.

        InputError if a part holds something that is no number, or no group.
        """
        p = {s: self._part(files, s, expert, low, high) for s in self.parts}
        zeros, scales = p.get("_zero_point"), numbers(p["_scale"])
        if self.bits:
            x, zeros = unpack(p["_packed"], self.bits), self._zeros(zeros, low, high)
        else:
            x = p.get("_packed", p.get(""))
            x = pairs(x) if x.dtype == torch.uint8 else x.float()
            scales = scales * p.get("_scale_2", 1) / p.get("_global_scale", 1)
        x, index = x[:, : self.shape[-1]], p.get("_g_idx")
        if zeros is not None:
            x -= self._spread(zeros.float(), index)
        return x.mul_(self._spread(scales, index))

    def _part(self, files, suffix, expert, low, high):
        """Rows [low, high) of a part, or all of it if it is not laid out by rows."""
        entry, gptq = self.parts[suffix], self.dtype == "GPTQ"
        stacked = len(self.shape) == 3 and entry.shape[:1] == self.shape[:1]
        n, m = (*entry.shape[stacked:], 1, 1)[:2]
        by_rows = not self.bits or suffix in ("_packed", "_scale")
        each, first, last = 1, 0, n
        if by_rows and not gptq:
            each = span(self.shape[-2], n, self.scheme.sides)
            first, last = low // each, -(-high // each)
        e4m3 = self.dtype == "NVFP4" and suffix == "_scale"  # even if labelled U8
        dtype = torch.float8_e4m3fn if e4m3 else DTYPES[entry.dtype]
        out = torch.empty(last - first, m, dtype=dtype)
        at = entry.start + (stacked * expert * n + first) * m * out.itemsize
        files[entry.file].fill(bytes_of(out), at, entry.name)
        if fault := self._fault(suffix, out):
            raise damaged(entry, entry.name, f"{fault}, which no writer means")
        if gptq:
            return out.T[low:high] if by_rows else out.T
        if each > 1:
            out = numbers(out).repeat_interleave(each, 0)
            out = out[low - first * each :][: high - low]
        return out

    def _fault(self, suffix, t):
        """What is wrong with a part, as a phrase, or None."""
        if suffix == "_g_idx":
            groups = self.parts["_scale"].shape[0 if self.dtype == "GPTQ" else 1]
            if len(t) and not 0 <= t.min() <= t.max() < groups:
                return "names groups that are not there"
        elif suffix == "_shape" and t.flatten().tolist() != list(self.shape):
            return f"says {t.flatten().tolist()} of {list(self.shape)}"
        elif "scale" in suffix:
            scales = numbers(t)
            good = scales != 0 if self.bits or self.dtype == "INT8" else scales > 0
            if self.dtype == "NVFP4" and suffix == "_scale":
                # A small group's may round to 0 beside a very large one's, not all.
                good = (scales >= 0) & scales.any()
            if not (good & scales.isfinite()).all():
                return "has scales that are NaN, infinite, zero or negative"
        elif t.dtype == torch.float8_e4m3fn and not t.float().isfinite().all():
            return "holds NaN"
        return None

    def _zeros(self, packed, low, high):
        """float32 [high - low, groups], or [1, 1] if no zero points are stored.

        InputError if they are those of GPTQ's other version.
        """
        middle, gptq = 2.0 ** (self.bits - 1), self.dtype == "GPTQ"
        if packed is None:
            return torch.tensor([[middle]])
        short = gptq * self.scheme.short
        ones = sum(short << at for at in range(0, 32, self.bits))
        zeros = unpack(packed.T + ones, self.bits).T[: self.shape[-2]]
        if gptq and self.scheme.symmetric and (zeros == middle + 2 * short - 1).all():
            entry, names = self.parts["_zero_point"], ("gptq", "gptq_v2")
            raise damaged(
                entry, entry.name, f"is of {names[short]}, and config.json's "
                f"checkpoint_format of {names[1 - short]}",
            )  # fmt: skip
        return zeros[low:high]

    def _spread(self, x, index):
        """A number for each group of columns -> one a column, or one for all."""
        if x.shape[1] == 1:
            return x
        each = span(self.shape[-1], x.shape[1], self.scheme.sides)
        if index is not None and index.any():  # all 0: not ordered by activation
            index = index.flatten()
            if not torch.equal(index, torch.arange(len(index)) // (each or 1)):
                return x[:, index.long()]
        return x.repeat_interleave(each, 1)[:, : self.shape[-1]]


def entries_of(table):
    """The stored tensors behind each Entry or Foreign."""
    for entry in table:
        yield from entry.parts.values() if isinstance(entry, Foreign) else (entry,)


def damaged(entry, name, fault):
    return InputError(
        f"{show(entry.file.name)}: {show(name)} {fault}; copy or download the files "
        "again, config.json with them."
    )


def span(total, count, sides=()):
    """How many of `total` rows or columns share one of `count` scales, or None.

    A size that config.json gives, if it fits, or else the only power of two that does.
    """
    if count == 1:
        return total
    powers = (2**k for k in range(15))
    return next((s for s in (*sides, *powers) if -(-total // s) == count), None)


def unpack(words, bits):
    """int32 [..., N] -> float32 [..., N * 32 / bits], the lowest bits first."""
    at = torch.arange(0, 32, bits, dtype=torch.int32)
    return (words.contiguous()[..., None] >> at & 2**bits - 1).flatten(-2).float()


def pairs(x):
    """uint8 [R, N], two E2M1 codes each -> float32 [R, 2 N]."""
    return PAIRS.index_select(0, x.flatten().int()).view(len(x), -1)


def numbers(scales):
    """float32 of scales; bytes are exponents of two."""
    if scales.dtype == torch.uint8:
        return torch.ldexp(torch.ones(scales.shape), scales.int() - 127)
    return scales.float()
