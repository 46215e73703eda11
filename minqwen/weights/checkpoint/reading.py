"""Reading stored tensors: in place where dtype and device allow, checked at once."""

import math
from itertools import groupby

import torch
from tqdm import tqdm

from ...errors import InputError, show
from ...files import Reader
from ..quantised.codecs import FORMS
from .header import unchanged
from .layout import STORED, bytes_of

BUFFER = 32 << 20  # bytes converted or moved to a device at once
GRAIN = 32768  # elements from which torch shares an operation between threads
BAR_FROM = 2_000_000_000  # bytes; shorter loads need no progress bar


@torch.no_grad()
def read_in_order(reads):
    """Do all (entry, first byte, bytes, read) in the order on disk, without seeking.

    `read` gets the entry's file, a Reader, and a function to tell progress to. Raises
    InputError if one of the files changes meanwhile.
    """
    reads = sorted(reads, key=lambda each: (each[0].file, each[1]))
    total = sum(count for _, _, count, _ in reads)
    with tqdm(
        total=total, unit="B", unit_scale=True, desc="loading", disable=total < BAR_FROM
    ) as bar:
        for path, some in groupby(reads, key=lambda each: each[0].file):
            with Reader(path) as file:
                for entry, _, _, read in some:  # noqa: B007
                    read(file, bar.update)
                unchanged(entry, file)


def alike(entry, other):
    """Do two stored tensors hold the same bytes, of the same shape and dtype?"""
    if (entry.dtype, entry.shape) != (other.dtype, other.shape):
        return False
    with Reader(entry.file) as one, Reader(other.file) as two:
        for low in range(0, entry.nbytes, BUFFER):
            count = min(BUFFER, entry.nbytes - low)
            if one.read(count, entry.start + low) != two.read(count, other.start + low):
                return False
    return True


def check_finite(file, name, values):
    """InputError if any of `values`, a floating tensor, is NaN or infinite."""
    # One NaN or infinity spoils a sum, which costs little beside reading. Pieces below
    # torch's grain are summed without waking other threads.
    pieces = values.view(-1).split(GRAIN - 1)
    good = all(math.isfinite(piece.sum()) for piece in pieces)
    if not good and not values.isfinite().all():
        raise InputError(
            f"{show(file.name)}: {show(name)} holds NaN or infinite values, which no "
            "trained model does; copy or download it again."
        )


def check_packed(file, name, form, parts, width):
    """InputError if the parts of a quantised matrix hold what no writer means."""
    fault = FORMS[form].fault(parts, width)
    if fault:
        raise InputError(
            f"{show(file.name)}: {show(name)} {fault}, which no writer means; copy or "
            "download it again."
        )


def read_tensor(file, entry, name, target, buffer, progress=lambda count: None):
    """Fill `target` [n], a flat view of any dtype and device, from a Reader.

    Read in place where dtype and device allow, else through `buffer`, uint8 on the
    CPU. Raises InputError if the file has become shorter than its header said.
    """
    stored = STORED[entry.dtype]
    if target.dtype == stored and target.device.type == "cpu":
        file.fill(bytes_of(target), entry.start, name, progress)
        return
    through = buffer.view(stored)
    for low in range(0, len(target), len(through)):
        piece = through[: min(len(through), len(target) - low)]
        at = entry.start + low * stored.itemsize
        file.fill(bytes_of(piece), at, name, progress)
        target[low : low + len(piece)].copy_(piece)
