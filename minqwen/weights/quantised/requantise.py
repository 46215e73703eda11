"""Weights read in pieces of bounded size, as float32, whatever form the files have."""

import math
from itertools import product

import torch
from tqdm import tqdm

from ..checkpoint.layout import STORED, bytes_of
from ..checkpoint.match import base
from ..checkpoint.reading import check_finite, check_packed
from ..disk.pages import Files
from .codecs import FORMS, rows_of, take
from .foreign import Foreign, entries_of
from .modules import places

BUFFER = 32 << 20  # bytes of float32 worked on at once


class Rows:
    """The parameters of a plan (see `match_tensors`), read some rows at a time.

    Each is a matrix [R, C], or one for each expert [E, R, C]; other ranks are
    flattened to [first, rest].
    """

    def __init__(self, plan, table, forms, shapes):
        self.table, self.forms = table, forms
        self.shapes = {name: matrix(name, shape) for name, shape in shapes.items()}
        self.sources = {}  # (parameter, its part's expert and first row) -> stored name
        for source, name, part in plan:
            if name == base(name):
                self.sources[name, part and part[:2]] = source
        self.files = Files(entries_of(table[source] for source, _, _ in plan))

    def pieces(self, name, part=None):
        """(expert or None, first row, end row) of pieces that cover a parameter.

        Each lies in one stored matrix and begins at a multiple of 128 of its rows.
        `part`, such a triple of a whole stored matrix, limits them to itself.
        """
        *experts, rows, width = self.shapes[name]
        whole = rows // halves(name)
        step = max(1, BUFFER // 4 // width // 128) * 128
        each = range(experts[0]) if experts else [None]
        matrices = [part[:2]] if part else product(each, range(0, rows, whole))
        for e, first in matrices:
            for low in range(0, whole, step):
                yield e, first + low, first + min(low + step, whole)

    def read(self, name, e, low, high):
        """float32 [high - low, C] of one of `pieces`; InputError if it holds NaN."""
        form, (*_, rows, width) = self.forms[name], self.shapes[name]
        lead, source = e or 0, self.sources.get((name, None))
        if source is None:  # expert by expert, gate and up apart
            lead, rows = 0, rows // halves(name)
            first = low // rows * rows
            source = self.sources[name, (e, first)]
            low, high = low - first, high - first
        if isinstance(self.table[source], Foreign):
            return self.table[source].read(self.files.open, lead, low, high)
        parts = {}
        for suffix in FORMS[form].suffixes if form else [""]:
            entry = self.table[source + suffix]
            shape = entry.shape[-2:] if form else (rows, width)
            begin, end = rows_of(shape, low, high, rows)
            begin, end = begin + lead * shape[0], end + lead * shape[0]
            parts[suffix] = self._bytes(entry, begin, end, shape[1])
        if form is None:
            wide = parts[""].float()
            check_finite(entry.file, source, wide)
            return wide
        check_packed(entry.file, source, form, parts, width)
        return FORMS[form].widen(parts, width)

    def _bytes(self, entry, first, last, width):
        dtype = STORED[entry.dtype]
        out = torch.empty(last - first, width, dtype=dtype)
        at = entry.start + first * width * dtype.itemsize
        self.files.open[entry.file].fill(bytes_of(out), at)
        return out

    def check(self):
        """InputError if one of the files has changed since it was opened."""
        self.files.check(*self.files.entries)


def matrix(name, shape):
    """The sizes [E, R, C] of experts, or [R, C] of anything else."""
    if ".experts." in name:
        return tuple(shape)
    return (1, *shape) if len(shape) < 2 else (shape[0], math.prod(shape[1:]))


def halves(name):
    """How many matrices an expert's rows hold: two for gate and up."""
    return 2 if name.endswith("gate_up_proj") else 1


@torch.no_grad()
def requantise(model, table, plan, forms):
    """Fill parameters whose form in the files is another one, piece by piece."""
    if not plan:
        return
    targets, modules = places(model), dict(model.named_modules())
    names = dict.fromkeys(base(name) for _, name, _ in plan)
    whole = {name: modules.get(name, targets.get(name)) for name in names}
    rows = Rows(plan, table, forms, {name: w.shape for name, w in whole.items()})
    for name in tqdm(names, desc="quantising", disable=len(names) < 100):
        form, count = getattr(whole[name], "form", None), rows.shapes[name][-2]
        for e, low, high in rows.pieces(name):
            wide = rows.read(name, e, low, high)
            parts = FORMS[form].pack(wide) if form else {"": wide}
            for suffix, part in parts.items():
                target = targets[name + suffix]
                target = target if e is None else target[e]
                take({suffix: target}, low, high, count)[suffix].copy_(part)
    rows.check()
