"""Reading a rank's own part of a checkpoint: its ranges of every stored tensor.

Rows of a matrix, and whole experts, are one range of bytes. Columns are a range of
every row, each read at its own position. Nothing is read that the rank does not hold.
"""

from dataclasses import dataclass, replace
from functools import partial

import torch

from ..weights.checkpoint.header import Entry
from ..weights.checkpoint.layout import DTYPES, bytes_of, slice_of
from ..weights.checkpoint.memory import populate
from ..weights.checkpoint.reading import (
    BUFFER,
    check_finite,
    read_in_order,
    read_tensor,
)


@dataclass(frozen=True)
class Piece:
    """`target`, a part of the rank's memory, begins at byte `start` of a file."""

    source: str
    entry: Entry
    start: int
    target: torch.Tensor
    stride: int = 0  # bytes from row to row, where they do not follow each other

    @property
    def num_bytes(self):
        return self.target.numel() * DTYPES[self.entry.dtype].itemsize


def cut_pieces(source, entry, target, part, cut):
    """The Pieces of one stored tensor that belong into `target`, the rank's parameter.

    part: as in `match_tensors`, for a tensor that is one expert's; cut: see `Share`.
    """
    axis, ranges = cut or (0, [(0, len(target))])
    row = entry.nbytes // entry.shape[0]  # bytes
    if part is not None:
        expert, low, high = part
        (first, end), *_ = ranges
        if first <= expert < end:
            own = slice_of(target, (expert - first, low, high))
            yield Piece(source, entry, entry.start, own)
    elif axis == 0:
        at = 0
        for low, high in ranges:
            own = target[at : at + high - low]
            yield Piece(source, entry, entry.start + low * row, own)
            at += high - low
    else:
        ((low, _),) = ranges
        start = entry.start + low * DTYPES[entry.dtype].itemsize
        yield Piece(source, entry, start, target, row)


def read_share(model, table, plan, share):
    """Fill a rank's model, in memory, from the files; see `match_tensors` for the plan.

    Raises InputError if a file changes meanwhile, or holds NaN or infinite values.
    """
    parameters, reads = dict(model.named_parameters()), []
    buffer = torch.empty(BUFFER, dtype=torch.uint8)
    for source, name, part in plan:
        target = parameters[name].data
        for piece in cut_pieces(source, table[source], target, part, share.cut(name)):
            read = partial(read_piece, piece, buffer)
            reads.append((piece.entry, piece.start, piece.num_bytes, read))
    read_in_order(reads)


def read_piece(piece, buffer, file, progress):
    populate(piece.target)
    if piece.stride:
        read_columns(file, piece, buffer, progress)
    else:
        entry = replace(piece.entry, start=piece.start)
        read_tensor(file, entry, piece.source, piece.target.view(-1), buffer, progress)
    check_finite(piece.entry.file, piece.source, piece.target.reshape(-1))


def read_columns(file, piece, buffer, progress):
    """A range of each row; straight into the target where dtype and device allow."""
    target, stored = piece.target, DTYPES[piece.entry.dtype]
    rows, width = target.shape
    direct = target.dtype == stored and target.device.type == "cpu"
    step = rows if direct else max(1, len(buffer) // (width * stored.itemsize))
    for low in range(0, rows, step):
        block = target[low : low + step]
        through = block
        if not direct:
            through = buffer.view(stored)[: block.numel()].view(block.shape)
        lines = bytes_of(through).reshape(len(block), -1)
        for i, line in enumerate(lines, low):
            file.fill(line, piece.start + i * piece.stride, piece.source)
        if not direct:
            block.copy_(through)
        progress(lines.size)
