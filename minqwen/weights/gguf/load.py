"""GGUF checkpoints, as llama.cpp writes and quantises them, into the same model.

    minqwen generate Qwen3.5-35B-A3B-Q4_K_M.gguf --prompt "Hello"

Config, weights and tokenizer come out of the one file. Quantised weights are put back
into numbers while loading, by the dequantisers of llama.cpp's own `gguf` package.
"""

from functools import partial

import torch

from ...errors import InputError, show
from ..checkpoint.layout import DTYPES, Lean, bytes_of, main_dtype, skeleton
from ..checkpoint.match import unfit
from ..checkpoint.memory import populate
from ..checkpoint.reading import check_finite, read_in_order
from .config import Settings
from .header import BLOCKS, read_gguf
from .names import as_trained, head_order, moves

BUFFER = 1 << 20  # bytes read, and put back into numbers, at once; fits a cache


def open_gguf(path):
    """(Config, name -> Entry, all keys) of a .gguf file; reads no tensor.

    The Config is that of a text model: vision towers come in files of their own.
    Raises InputError if it is not a Qwen3.5.
    """
    gguf = read_gguf(path)
    return Settings(gguf).config(), gguf.tensors, gguf.keys


def load_gguf(path, device, dtype, experts="memory"):
    """The model of a .gguf file, on `device`; dtype None takes the file's own.

    That is bf16 where the weights are quantised. Memory: the model's and a few BUFFERs.
    Raises InputError, before reading any weight, for all tensors that do not fit.
    """
    if experts != "memory":
        raise InputError(
            f"experts={experts!r} reads safetensors files only; load {show(path)} with "
            "experts='memory'."
        )
    cfg, table, _ = open_gguf(path)
    dtype = dtype or main_dtype((e.dtype, e.nbytes) for e in table.values())
    model = skeleton(cfg, dtype, show(path.name))
    plan = match_moves(path, model, table)
    with Lean():
        model.to_empty(device=device)
    _read_all(model, table, plan)
    return model


def match_moves(path, model, table):
    """The Moves that fill every parameter of `model` once, from all of `table`."""
    shapes = {name: p.shape for name, p in model.named_parameters()}
    plan = list(moves(model.cfg, shapes, table.keys()))
    faults = []
    for move in plan:
        entry = table.get(move.source)
        if entry is None:
            faults.append(f"missing {show(move.source)}")
        elif squeezed(entry.shape) != squeezed(move.shape):
            faults.append(
                f"{show(entry.file.name)}: {show(move.source)} is {list(entry.shape)}, "
                f"the keys ask for {list(move.shape)}"
            )
    for name in sorted(table.keys() - {move.source for move in plan}):
        faults.append(f"unexpected {show(name)} in {show(table[name].file.name)}")
    if faults:
        raise unfit(
            path, "its keys", faults, "Is it whole, and of a model that this is?"
        )
    return plan


def squeezed(shape):
    """Without axes of one, which llama.cpp writes or leaves out as it likes."""
    return [size for size in shape if size != 1]


def _read_all(model, table, plan):
    parameters, reads = dict(model.named_parameters()), []
    for move in plan:
        entry, where = table[move.source], head_order(model.cfg, move.name)
        read = partial(read_move, entry, move, parameters[move.name].data, where)
        reads.append((entry, entry.start, entry.nbytes, read))
    read_in_order(reads)


def read_move(entry, move, parameter, where, file, progress):
    """Read one stored tensor into the parameter's rows that its Move fills."""
    targets = [parameter.view(-1, parameter.shape[-1])]
    if move.half is not None:
        targets = [expert[slice(*move.half)] for expert in parameter]
    start = entry.start
    for target in targets:  # [rows, width]
        populate(target)
        for first, values in dequantised(file, entry, move, start, target, progress):
            put_rows(target, first, values, *where)
        check_finite(entry.file, move.source, target)
        start += entry.nbytes // len(targets)


def dequantised(file, entry, move, start, target, progress):
    """(first row, [rows, width]) of what is stored for `target` from `start` on."""
    weights, size = BLOCKS[entry.dtype]
    row = target.shape[-1] // weights * size  # bytes
    step = max(1, BUFFER // row)
    buffer = torch.empty(min(step, len(target)) * row, dtype=torch.uint8)
    for first in range(0, len(target), step):
        raw = buffer[: (len(target) - first) * row]
        file.fill(bytes_of(raw), start + first * row, move.source, progress)
        values = as_trained(move.name, dequantise(raw, entry.dtype))
        if values.isnan().any() and move.name.endswith("A_log"):
            raise InputError(
                f"{show(entry.file.name)}: {show(move.source)} must be below zero "
                "throughout; copy or download the file again."
            )
        yield first, values.view(-1, target.shape[-1])


def put_rows(target, first, values, rows, columns):
    """Put stored rows, the first of which is `first`, where they belong."""
    if columns is not None:
        values = values[:, columns.argsort()]
    if rows is None:
        target[first : first + len(values)].copy_(values)
    else:
        there = rows[first : first + len(values)].to(target.device)
        target[there] = values.to(target)


def dequantise(raw, kind):
    """Stored bytes [n] uint8 as the numbers they stand for."""
    if kind in DTYPES:
        return raw.view(DTYPES[kind])
    try:
        import gguf
    except ImportError:
        raise InputError(
            f"weights of type {kind} are put back into numbers by the gguf package; "
            'pip install "minqwen[gguf]".'
        ) from None
    blocks = raw.numpy()[None]  # one row of all blocks, which know nothing of rows
    kind = gguf.GGMLQuantizationType[kind]
    return torch.from_numpy(gguf.quants.dequantize(blocks, kind)[0])
