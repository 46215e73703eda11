"""GGUF checkpoints, as llama.cpp and Ollama write them, into the same model.

    minqwen generate Qwen3.5-35B-A3B-Q4_K_M.gguf --prompt "Hello"

Config, weights and tokenizer come from one file, the vision tower from the same or from
an mmproj beside it. Weights in the forms of quantised/ggml.py stay as they are; those
of other types are widened while loading, by llama.cpp's own `gguf` package.
"""

import math
import warnings
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import torch

from ...errors import InputError, show
from ...files import Reader
from ...model.config import Config
from ..checkpoint.layout import DTYPES, Lean, bytes_of, main_dtype, skeleton
from ..checkpoint.match import unfit
from ..checkpoint.memory import populate
from ..checkpoint.reading import check_finite, check_packed, read_in_order
from ..disk.paged import put_back, take_out
from ..quantised import ggml
from ..quantised.codecs import FORMS
from ..quantised.modules import Packed, pack, places, round_activations, unrounded
from .config import Settings
from .header import BLOCKS, read_gguf
from .names import as_trained, head_order, moves
from .tower import normal, tower

ASIDE = ("v.", "mm.", "mtp.")  # not the language model's, or not read
KINDS = "gate_up_proj", "down_proj"  # of experts
BUFFER = 1 << 20  # bytes read and widened at once; fits a cache


class Opened(NamedTuple):
    """What a GGUF checkpoint's headers say."""

    cfg: Config
    table: dict  # name -> Entry, by llama.cpp's names
    keys: dict
    tiled: bool  # how value heads lie (see names.py)
    left: list  # phrases for what is set aside


def open_gguf(path):
    """What a .gguf file and the vision tower beside it or in it say; reads no tensor.

    Raises InputError if it is not a Qwen3.5.
    """
    gguf = normal(read_gguf(path))
    settings = Settings(gguf)
    text = settings.text()
    sight, parts, left = tower(path, gguf, settings, text["hidden_size"])
    if sight:
        kind, tie = text["model_type"].removesuffix("_text"), "tie_word_embeddings"
        text = {"model_type": kind, "text_config": text, tie: text[tie]} | sight
    cfg = Config.from_dict(text, source=gguf.name)
    table = {n: e for n, e in gguf.tensors.items() if not n.startswith(ASIDE)}
    if any(name.startswith("mtp.") for name in gguf.tensors):
        left.append("its draft head, mtp.*, which writers store in several ways")
    if settings.headless:
        left.append("its draft head, which its keys tell of and which is not there")
    if any(name.endswith(".input_scale") for name in table):
        left.append("the scales of activations, .input_scale")
    table = {n: e for n, e in table.items() if not n.endswith(".input_scale")}
    return Opened(cfg, table | parts, gguf.keys, settings.tiled, left)


def load_gguf(
    path, device, dtype, experts="memory", expert_cache=None, rounded=False
):  # fmt: skip
    """The model of a GGUF file, on `device`, in memory of its own and a few BUFFERs.

    dtype None takes the file's own, or bf16 if it is quantised; experts "disk" leaves
    the routed ones in the file; rounded is load's activations="int8". Raises one
    InputError, before reading any weight, for all tensors that do not fit.
    """
    opened, model, plan = examine_gguf(path, dtype)
    taken = {}
    if experts == "disk":
        taken = take_out(model, path)
        left = on_disk(opened.table, [m for m in plan if ".experts." in m.name])
        plan = [move for move in plan if ".experts." not in move.name]
    packed = keep_packed(opened.table, model, plan)
    if rounded and not packed:
        raise unrounded(path)
    with Lean():
        model.to_empty(device=device)
    targets, reads = places(model), []
    for move in plan:
        stored, target = Stored(opened, move), targets[move.name].data[move.part]
        if move.name in packed and stored.columns is not None:
            packed[move.name].columns = stored.columns.to(device)
        fill = partial(stored.keep if move.name in packed else stored.fill, target)
        reads.append((stored.entry, stored.entry.start, stored.entry.nbytes, fill))
    read_in_order(reads)
    if taken:
        steps, table, forms = left
        put_back(model, taken, steps, table, expert_cache, device, forms)
    if rounded:
        round_activations(model)
    return model


def on_disk(table, moves):
    """Experts as disk/ takes them: plan, {stored name: Entry}, {parameter: form}."""
    kinds, entries, steps = stored_kinds(table, moves), {}, []
    for move in moves:
        name, entry = move.source, table[move.source]
        kind, other = (kinds.get(f"{move.name.rpartition('.')[0]}.{k}") for k in KINDS)
        packed = kind in ggml.BLOCKS and other in ggml.BLOCKS
        if not packed and not (kind in DTYPES and other in DTYPES):
            raise InputError(
                f"{show(entry.file.name)}: {show(name)} is {entry.dtype}, which "
                "experts='disk' cannot use as it lies; load it with experts='memory', "
                "or convert it with minqwen convert --quantize int4."
            )
        if packed:
            shape = FORMS[entry.dtype].stored(move.shape)[""][0]
            entry = replace(entry, dtype="U8", shape=shape)
        entries[name], part = entry, None
        if move.part:  # gate or up
            part = None, *move.part[1].indices(2 * move.shape[1])[:2]
        steps.append((name, move.name, part))
    return (
        steps,
        entries,
        {n: k if k in ggml.BLOCKS else None for n, k in kinds.items()},
    )


def keep_packed(table, model, plan):
    """Replace what stays as it is stored by Packed weights, on meta: {name: weight}."""
    kinds = stored_kinds(table, plan)
    kept = {name: kind for name, kind in kinds.items() if kind in ggml.BLOCKS}
    for name in [name for name in kept if ".experts." in name]:  # both or neither
        both = (f"{name.rpartition('.')[0]}.{kind}" for kind in KINDS)
        if not kept.keys() >= {*both}:
            del kept[name]
    pack(model, kept.get)
    return {n: m for n, m in model.named_modules() if isinstance(m, Packed)}


def stored_kinds(table, plan):
    """{parameter: the one kind in which all of it is stored, without a factor}."""
    found = {}
    for move in plan:
        scaled = scale_of(move.source) in table
        found.setdefault(move.name, set()).add(scaled or table[move.source].dtype)
    return {name: kinds.pop() for name, kinds in found.items() if len(kinds) == 1}


def examine_gguf(path, dtype):
    """What is Opened, the model on the meta device, and the Moves that fill it."""
    opened = open_gguf(path)
    sizes = ((e.dtype, e.nbytes) for e in opened.table.values())
    model = skeleton(opened.cfg, dtype or main_dtype(sizes), show(path.name))
    plan = match_moves(path, model, opened.table)
    if opened.left:
        # stacklevel 4: the line that called load.
        said = " and ".join(opened.left)
        warnings.warn(f"{show(path)}: loaded without {said}", stacklevel=4)
    return opened, model, plan


def match_moves(path, model, table):
    """The Moves that fill every parameter of `model` once, from all of `table`."""
    shapes = {name: p.shape for name, p in model.named_parameters()}
    plan = list(moves(model.cfg, shapes, table.keys()))
    faults, used = [], set()
    for move in plan:
        used |= {move.source, scale_of(move.source)}
        entry, scale = table.get(move.source), table.get(scale_of(move.source))
        if entry is None:
            faults.append(f"missing {show(move.source)}")
        elif squeezed(entry.shape) != squeezed(move.shape):
            faults.append(
                f"{show(entry.file.name)}: {show(move.source)} is {list(entry.shape)}, "
                f"the keys ask for {list(move.shape)}"
            )
        if scale and scale.shape not in ((1,), move.shape[:-2]):
            faults.append(f"{show(scale_of(move.source))} is {list(scale.shape)}")
    for name in sorted(table.keys() - used):
        faults.append(f"unexpected {show(name)} in {show(table[name].file.name)}")
    if faults:
        raise unfit(path, "its keys", faults, "Is the file complete, and unchanged?")
    return plan


def scale_of(source):
    """The name of a factor for each matrix or expert, which NVFP4 files have."""
    return source.removesuffix(".weight") + ".scale"


def squeezed(shape):
    """Without axes of one, which llama.cpp sometimes leaves out."""
    return [size for size in shape if size != 1]


class Stored:
    """One stored tensor, and where its `rows` and `columns` go (see `head_order`)."""

    def __init__(self, opened, move):
        self.move, self.entry = move, opened.table[move.source]
        self.rows, self.columns = head_order(opened.cfg, move.name, opened.tiled)
        self.count = math.prod(move.shape[:-1])
        self.scale, scale = None, opened.table.get(scale_of(move.source))
        if scale is not None:
            raw = torch.empty(scale.nbytes, dtype=torch.uint8)
            with Reader(scale.file) as file:
                file.fill(bytes_of(raw), scale.start)
            self.scale = dequantise(raw, scale.dtype).float()

    def fill(self, target, file, progress=lambda count: None):
        """Fill `target`, a parameter or a part of it, from the tensor's file."""
        at = 0
        for piece in _pieces(target):
            populate(piece)
            count, width = piece.shape
            for first, values in self.read(file, at, count, width, progress):
                if self.columns is not None:
                    values = values[:, self.columns.argsort()]
                if self.rows is None:
                    piece[first : first + len(values)].copy_(values)
                else:
                    there = self.rows[first : first + len(values)].to(piece.device)
                    piece[there] = values.to(piece)
            checked(self, piece)
            at += count

    def keep(self, target, file, progress=lambda count: None):
        """Fill `target`, uint8 [..., rows, bytes of a row], with what is stored."""
        kind, at = self.entry.dtype, self.entry.start
        for piece in _pieces(target):
            populate(piece)
            direct = self.rows is None and piece.device.type == "cpu"
            raw = piece if direct else torch.empty(piece.shape, dtype=torch.uint8)
            file.fill(bytes_of(raw), at, self.move.source, progress)
            if not direct:
                order = ... if self.rows is None else self.rows.to(piece.device)
                piece[order] = raw.to(piece.device)
            check_packed(self.entry.file, self.move.source, kind, {"": piece}, 0)
            at += piece.nbytes

    def read(self, file, start, count, width, progress=lambda count: None):
        """(row, values [rows, width]) for `count` rows from `start` on, in pieces."""
        weights, size = BLOCKS[self.entry.dtype]
        row, source = width // weights * size, self.move.source  # bytes
        step = max(1, BUFFER // row)
        buffer = torch.empty(min(step, count) * row, dtype=torch.uint8)
        for first in range(0, count, step):
            raw = buffer[: (count - first) * row]
            at = self.entry.start + (start + first) * row
            file.fill(bytes_of(raw), at, source, progress)
            values = dequantise(raw, self.entry.dtype).view(-1, width)
            if self.scale is not None:
                each = torch.arange(start + first, start + first + len(values))
                each = each * len(self.scale) // self.count
                values = values * self.scale[each, None]
            values = as_trained(self.move.name, values)
            if self.move.name.endswith("A_log") and values.isnan().any():
                raise InputError(
                    f"{show(self.entry.file.name)}: {show(source)} must be below zero "
                    "throughout; copy or download the file again."
                )
            yield first, values


def checked(stored, values):
    check_finite(stored.entry.file, stored.move.source, values)
    return values


def _pieces(target):
    """The contiguous pieces [rows, width] of a tensor, in order."""
    if target.is_contiguous():
        yield target.view(-1, target.shape[-1])
    else:
        for part in target:
            yield from _pieces(part)


def dequantise(raw, kind):
    """The numbers that stored bytes [n] uint8 stand for."""
    if kind in DTYPES:
        return raw.view(DTYPES[kind])
    try:
        import gguf
    except ImportError:
        raise InputError(
            f"weights of type {kind} are put back into numbers by the gguf package; "
            'pip install "minqwen[gguf]".'
        ) from None
    blocks = raw.numpy()[None]  # as one row, since blocks do not depend on rows
    try:
        number = gguf.GGMLQuantizationType[kind]
        return torch.from_numpy(gguf.quants.dequantize(blocks, number)[0])
    except (KeyError, NotImplementedError):
        raise InputError(
            f"weights of type {kind} are newer than the installed gguf package; "
            "pip install --upgrade gguf."
        ) from None
