"""Experts that stay in the checkpoint's files until a token chooses them.

Of 397B parameters a token visits 17B, and which ones is known only layer by layer, from
the router. So all but the routed experts are loaded, and those are read when they are
chosen (pages.py). Nothing is guessed and none is left out: the arithmetic is that of
`moe.experts`, on the slots of a cache, so the logits are the same.

Where all experts fit beside the rest, and lie fused in the dtype asked for, the files
are mapped instead: they are the parameters, and the system reads what is touched.
"""

import math
import mmap
from functools import partial
from time import perf_counter

import torch

from ...errors import InputError
from ...model import moe
from ...model.forms import Stored, register
from ...model.moe import SparseMoE
from ..checkpoint.header import show
from ..checkpoint.layout import DTYPES
from ..checkpoint.match import base
from ..checkpoint.memory import available
from ..quantised.modules import Packed, in_waves, stored_bytes
from .pages import Files, Pages, Part, Stats

SPARE = 0.9  # of the free memory that a mapping or a cache may fill
for form in ("disk", "mapped"):
    register("experts", form, f"{__name__}:{form}")


def take_out(model, path):
    """Leave out a model's routed experts: {layer's name: {kind: the parameter}}."""
    taken = {}
    for name, module in model.named_modules():
        if isinstance(module, SparseMoE):
            found = taken[name + ".experts"] = dict(module.experts.named_parameters())
            for kind in found:
                setattr(module.experts, kind, None)
    if not taken:
        raise InputError(
            f"{show(path)} has no experts to leave on disk; leave out experts='disk'."
        )
    return taken


def put_back(model, taken, plan, table, cache_bytes, device, forms):
    """Give each layer experts that are read, or mapped where all of them fit."""
    plan = [step for step in plan if ".experts." in step[1]]
    forms = {n: tuple(forms[f"{n}.{kind}"] for kind in e) for n, e in taken.items()}
    sizes = {
        n: len(e["down_proj"]) * expert_bytes(e, forms[n]) for n, e in taken.items()
    }
    total = sum(sizes.values())
    room, stats, made = int(SPARE * available()), Stats(), {}
    if cache_bytes is None and total <= room and device.type == "cpu":
        made = _mapped(_mappable(taken, plan, table), stats)
    rest = {name: experts for name, experts in taken.items() if name not in made}
    # Half of what is free: the system keeps in the other half what it read last.
    most = cache_bytes or (total if total <= room else room // 2)
    for held in {forms[name] for name in rest}:  # often one
        some = {name: experts for name, experts in rest.items() if forms[name] == held}
        share = sum(sizes[n] for n in some) / sum(sizes[n] for n in rest)
        made |= _paged(some, plan, table, int(most * share), stats, device, held)
    for name, experts in made.items():
        for kind, stored in experts.items():
            stored.take_place(model.get_submodule(name), kind)


def expert_bytes(experts, forms):
    """What one of a layer's experts takes in memory."""
    return sum(
        stored_bytes(form, kind, (1, *p.shape[1:]), p.dtype)
        for form, (kind, p) in zip(forms, experts.items(), strict=True)
    )


def _mappable(taken, plan, table):
    """{layer: {kind: entry}} where a parameter is one stored tensor of its dtype."""
    found = {name: table[source] for source, name, part in plan if part is None}
    layers = {}
    for name, experts in taken.items():
        own = {kind: found.get(f"{name}.{kind}") for kind in experts}
        dtype = experts["down_proj"].dtype
        if all(e and DTYPES.get(e.dtype) == dtype for e in own.values()):
            if all(e.start % dtype.itemsize == 0 for e in own.values()):
                layers[name] = own
    return layers


def _mapped(layers, stats):
    files = Files(entry for own in layers.values() for entry in own.values())
    maps = {
        # A private copy of whatever is written, so that training cannot reach the file.
        file: mmap.mmap(reader.fileno(), 0, access=mmap.ACCESS_COPY)
        for file, reader in files.open.items()
    }
    made = {}
    for name, own in layers.items():
        views = {kind: view_of(maps[e.file], e) for kind, e in own.items()}
        pages = InFiles(files, {e.file for e in own.values()}, views, stats)
        made[name] = {
            kind: Mapped(name, pages, kind, view.shape, view.dtype, "mapped")
            for kind, view in views.items()
        }
    return made


def view_of(memory, entry):
    """An entry's tensor, in the memory that its file is mapped to."""
    dtype, count = DTYPES[entry.dtype], math.prod(entry.shape)
    flat = torch.frombuffer(memory, dtype=dtype, offset=entry.start, count=count)
    return flat.view(entry.shape)


def _paged(taken, plan, table, cache_bytes, stats, device, forms):
    """Parts of `plan` are (expert, first row, end row), or (None, ...) of all."""
    parts = {}
    for source, parameter, part in plan:
        suffix = parameter.removeprefix(base(parameter))
        name, _, kind = base(parameter).rpartition(".")
        if name not in taken:
            continue
        entry, place = table[source], kind + suffix
        expert, low, high = part or (None, 0, entry.shape[1])
        each = [expert] if expert is not None else range(entry.shape[0])
        size = entry.nbytes // len(each)
        for n, e in enumerate(each):
            piece = Part(entry, entry.start + n * size, place, low, high, n)
            parts.setdefault((name, e), []).append(piece)
    some = next(iter(taken.values()))
    one = expert_bytes(some, forms)
    slots = min(cache_bytes // one, len(parts))
    if not slots:
        raise InputError(
            f"{cache_bytes} bytes for a cache hold no expert, which takes {one}; give "
            "expert_cache at least that."
        )
    pages = Pages(parts, _slots(some, slots, forms, device), stats)
    return {
        name: {k: OnDisk(name, pages, k, p.shape, p.dtype) for k, p in own.items()}
        for name, own in taken.items()
    }


def _slots(experts, count, forms, device):
    """{kind: matrices [count, ...]} for so many experts of the same widths."""

    def slots(form, kind, p):
        shape = count, *p.shape[1:]
        if form is None:
            return torch.empty(shape, dtype=p.dtype)
        return Packed(form, kind, shape, p.dtype)

    pairs = zip(forms, experts.items(), strict=True)
    with torch.device(device):
        return {kind: slots(form, kind, p) for form, (kind, p) in pairs}


class OnDisk(Stored):
    """One of a layer's two expert matrices, out of Pages; stands in its place."""

    def __init__(self, layer, pages, kind, shape, dtype, form="disk"):
        super().__init__(form, shape, dtype)
        self.layer, self.pages, self.kind = layer, pages, kind

    @property
    def held(self):
        """The matrices that `visit` speaks of: those in the cache's slots."""
        return self.pages.slots[self.kind]

    def _apply(self, fn, recurse=True):
        raise InputError(
            "experts on disk cannot be moved or cast; load the model again with the "
            "device and dtype it is to have."
        )

    def visit(self, experts, meanwhile, multiply):
        """meanwhile()'s result, got while what is missing of `experts` is being read.

        Calls multiply(which of them, their slots) as they arrive; it returns a tensor
        or array of its products, or of their sums, which is checked.
        """
        begun, pages = perf_counter(), self.pages
        arriving = pages.ask(self.layer, experts)
        result = meanwhile()
        for which, slots in arriving:
            rows = multiply(which, slots)
            if not math.isfinite(rows.sum()):
                for n, slot in zip(which, slots, strict=True):
                    refuse_nan(self, experts[n], slot)
        pages.stats.expert_seconds += perf_counter() - begun
        return result


class Mapped(OnDisk):
    """One of a layer's expert matrices, which lies in the file itself."""


class InFiles:
    """What Pages are, for one layer's experts, which all lie in mapped files."""

    mapped, cache_bytes = True, 0

    def __init__(self, files, used, slots, stats):
        self.files, self.used, self.slots, self.stats = files, used, slots, stats

    def ask(self, layer, experts):
        self.files.check(*self.used)  # a page behind a file's end would end the process
        self.stats.hits += len(experts)
        return [(list(range(len(experts))), experts)]


def disk(x, weights, ids, gate_up_proj, down_proj):
    """`moe.experts` for matrices OnDisk."""
    begun, pages = perf_counter(), down_proj.pages
    some = partial(from_slots, down_proj)
    out = in_waves(some, pages.capacity, x, weights, ids)
    pages.stats.expert_seconds += perf_counter() - begun
    return out


def from_slots(stored, x, weights, ids, chosen):
    """The experts `chosen`, as many as the cache can hold, on the cache's slots."""
    held = stored.pages.slots.values()
    slots = stored.pages.fetch(stored.layer, chosen)
    slot_of = ids.new_zeros(len(stored))
    slot_of[chosen] = ids.new_tensor(slots)
    out = moe.experts(x, weights, slot_of[ids], *held)
    if not out.isfinite().all() and x.isfinite().all():
        for e, slot in zip(chosen, slots, strict=True):
            refuse_nan(stored, e, slot)
    return out


def mapped(x, weights, ids, gate_up_proj, down_proj):
    """`moe.experts` for matrices Mapped."""
    begun, chosen = perf_counter(), ids.unique().tolist()
    down_proj.pages.ask(down_proj.layer, chosen)
    out = moe.experts(x, weights, ids, gate_up_proj.held, down_proj.held)
    if not out.isfinite().all() and x.isfinite().all():
        for e in chosen:
            refuse_nan(down_proj, e, e)
    down_proj.pages.stats.expert_seconds += perf_counter() - begun
    return out


def refuse_nan(stored, expert, slot):
    """InputError if an expert, in its slot, holds what no trained one does."""
    for matrices in stored.pages.slots.values():
        packed = isinstance(matrices, Packed)
        values = matrices.widened([slot]) if packed else matrices[slot]
        if not values.isfinite().all():
            raise InputError(
                f"{stored.layer}: expert {expert} holds NaN or infinite values, which "
                "no trained model does; copy or download the checkpoint again."
            )
