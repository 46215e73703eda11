"""Reading a rank's own part of a checkpoint: its ranges of every stored tensor.

Rows of a matrix, and whole experts, are one range of bytes. Columns are a range of
every row, each read at its own position. Nothing is read that the rank does not hold.
"""

import os
from dataclasses import dataclass, replace

import torch

from ..errors import InputError
from .header import Entry, show, unchanged
from .layout import DTYPES, slice_of
from .load import BAR_FROM, CHUNK, check_finite, read_tensor
from .memory import settle


@dataclass(frozen=True)
class Piece:
    """`target`, a part of the rank's memory, begins at byte `start` of a file.

    Its rows follow each other there, or lie `stride` bytes apart.
    """

    source: str
    entry: Entry
    start: int
    target: torch.Tensor
    stride: int = 0

    @property
    def num_bytes(self):
        return self.target.numel() * DTYPES[self.entry.dtype].itemsize


def pieces(source, entry, target, part, cut):
    """The Pieces of one stored tensor that belong into `target`, the rank's parameter.

    part: as in `load.match`, for a tensor that is one expert's; cut: see `Share`.
    """
    axis, ranges = cut or (0, [(0, len(target))])
    row = (entry.end - entry.start) // entry.shape[0]  # bytes
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


@torch.no_grad()
def read_share(model, table, plan, share):
    """Fill a rank's model, in memory, from the files; see `load.match` for the plan.

    Raises InputError if a file changes meanwhile, or holds NaN or infinite values.
    """
    from tqdm import tqdm

    parameters, found = dict(model.named_parameters()), []
    for source, name, part in plan:
        target = parameters[name].data
        found += pieces(source, table[source], target, part, share.cut(name))
    found.sort(key=lambda piece: (piece.entry.file, piece.start))
    total = sum(piece.num_bytes for piece in found)
    buffer = torch.empty(CHUNK, dtype=torch.uint8)
    files = dict.fromkeys(piece.entry.file for piece in found)
    with tqdm(
        total=total, unit="B", unit_scale=True, desc="loading", disable=total < BAR_FROM
    ) as bar:
        for path in files:
            own = [piece for piece in found if piece.entry.file == path]
            with _opened(path) as file:
                for piece in own:
                    settle(piece.target)
                    read = read_columns if piece.stride else read_rows
                    read(file, piece, buffer, bar.update)
                    check_finite(path, piece.source, piece.target.reshape(-1))
                unchanged(own[-1].entry, file.fileno())


def _opened(path):
    try:
        return open(path, "rb", buffering=0)
    except OSError as err:
        raise InputError(f"{show(path)} cannot be read: {err.strerror}.") from None


def read_rows(file, piece, buffer, progress):
    entry = replace(piece.entry, start=piece.start)
    target = piece.target.view(-1)
    read_tensor(file, entry, piece.source, target, buffer, progress)


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
        lines = through.view(torch.uint8).numpy()  # [rows, bytes]
        for i, line in enumerate(lines, low):
            at = piece.start + i * piece.stride
            if os.preadv(file.fileno(), [line], at) < len(line):
                raise InputError(
                    f"{show(piece.entry.file.name)} ended within {show(piece.source)}: "
                    "it became shorter while it was read; load again when nobody "
                    "writes to it."
                )
        if not direct:
            block.copy_(through)
        progress(lines.size)
