"""Experts that stay in the checkpoint's files until a token chooses them.

Of 397B parameters a token visits 17B, and which ones is known only layer by layer, from
the router. So all but the routed experts are loaded, and those are read when they are
chosen (pages.py). Nothing is guessed and none is left out: the arithmetic is that of
`Experts`, on the slots of a cache, so the logits are the same.

Where all experts fit beside the rest, and lie fused in the dtype asked for, the files
are mapped instead: they are the parameters, and the system reads what is touched.
"""

import math
import mmap
from time import perf_counter

import torch
from torch import nn

from ..errors import InputError
from ..moe import Experts, SparseMoE
from .header import show
from .layout import DTYPES
from .match import base
from .memory import available
from .pages import Files, Pages, Part, Stats
from .quantised import PACKED, PackedExperts, in_waves, parts_of

SPARE = 0.9  # of the free memory that a mapping or a cache may fill


# ---- leaving them out, and putting what reads them in their place ----


def take_out(model, path):
    """Leave the routed experts out of a model on the meta device: {name: Experts}."""
    taken = {}
    for name, module in model.named_modules():
        if isinstance(module, SparseMoE):
            taken[name + ".experts"] = module.experts
    if not taken:
        raise InputError(
            f"{show(path)} has no experts to leave on disk; leave out experts='disk'."
        )
    for name in taken:
        model.get_submodule(name.removesuffix(".experts")).experts = None
    return taken


def put_back(model, taken, plan, table, cache_bytes, device, forms):
    """Give each layer experts that are read, or mapped where all of them fit."""
    plan = [step for step in plan if ".experts." in step[1]]
    forms = {name: forms[name + ".down_proj"] for name in taken}
    sizes = {n: len(e.down_proj) * expert_bytes(e, forms[n]) for n, e in taken.items()}
    total = sum(sizes.values())
    room, stats, made = int(SPARE * available()), Stats(), {}
    if cache_bytes is None and total <= room and device.type == "cpu":
        made = _mapped(_mappable(taken, plan, table), stats)
    rest = {name: experts for name, experts in taken.items() if name not in made}
    # Half of what is free: the system keeps in the other half what it read last.
    most = cache_bytes or (total if total <= room else room // 2)
    for form in {forms[name] for name in rest}:  # one, but for a head left as trained
        some = {name: experts for name, experts in rest.items() if forms[name] == form}
        share = sum(sizes[n] for n in some) / sum(sizes[n] for n in rest)
        made |= _paged(some, plan, table, int(most * share), stats, device, form)
    for name, experts in made.items():
        model.get_submodule(name.removesuffix(".experts")).experts = experts


def expert_bytes(experts, form):
    """What one of a layer's experts takes in memory."""
    total = 0
    for kind, p in experts.named_parameters():
        parts = parts_of(form, kind, p.shape) if form else {"": (p.shape, p.dtype)}
        for shape, dtype in parts.values():
            total += math.prod(shape[1:]) * dtype.itemsize
    return total


def _mappable(taken, plan, table):
    """{layer: its two entries} where a parameter is one stored tensor of its dtype."""
    found = {name: table[source] for source, name, part in plan if part is None}
    layers = {}
    for name, experts in taken.items():
        own = [found.get(f"{name}.{kind}") for kind, _ in experts.named_parameters()]
        dtype = experts.down_proj.dtype
        if all(e and DTYPES.get(e.dtype) == dtype for e in own):
            if all(e.start % dtype.itemsize == 0 for e in own):
                layers[name] = own
    return layers


def _mapped(layers, stats):
    files = Files(entry for own in layers.values() for entry in own)
    maps = {
        # A private copy of whatever is written, so that training cannot reach the file.
        file: mmap.mmap(reader.fileno(), 0, access=mmap.ACCESS_COPY)
        for file, reader in files.open.items()
    }
    pages, made = Mapping(files, stats), {}
    for name, own in layers.items():
        views = [
            torch.frombuffer(
                maps[e.file], dtype=DTYPES[e.dtype], offset=e.start,
                count=(e.end - e.start) // DTYPES[e.dtype].itemsize,
            ).view(e.shape)
            for e in own
        ]  # fmt: skip
        made[name] = MappedExperts(name, pages, views, {e.file for e in own})
    return made


def _paged(taken, plan, table, cache_bytes, stats, device, form):
    parts = {}
    for source, parameter, part in plan:
        suffix = parameter.removeprefix(base(parameter))
        name, _, kind = base(parameter).rpartition(".")
        if name not in taken:
            continue
        entry, place = table[source], kind + PACKED + suffix if form else kind
        if part is not None:
            whole = Part(entry, entry.start, place, *part[1:])
            parts.setdefault((name, part[0]), []).append(whole)
            continue
        count, rows, _ = entry.shape
        size = (entry.end - entry.start) // count
        for e in range(count):
            piece = Part(entry, entry.start + e * size, place, 0, rows)
            parts.setdefault((name, e), []).append(piece)
    some = next(iter(taken.values()))
    one = expert_bytes(some, form)
    slots = min(cache_bytes // one, len(parts))
    if not slots:
        raise InputError(
            f"{cache_bytes} bytes for a cache hold no expert, which takes {one}; give "
            "expert_cache at least that."
        )
    held = _slots(some, slots, form).to_empty(device=device).requires_grad_(False)
    pages = Pages(parts, held, stats)
    return {name: PagedExperts(e, name, pages) for name, e in taken.items()}


def _slots(experts, count, form):
    """Experts of the same widths on the meta device, `count` of them."""
    dtype, (dim, width) = experts.down_proj.dtype, experts.down_proj.shape[1:]
    with torch.device("meta"):
        if form is None:
            return Experts(dim, count, width).to(dtype)
        shapes = {k: (count, *p.shape[1:]) for k, p in experts.named_parameters()}
        return PackedExperts(form, shapes, dtype)


# ---- what stands in their place ----


class PagedExperts(nn.Module):
    """A layer's experts, out of Pages. The parameters are names without memory."""

    def __init__(self, experts, name, pages):
        super().__init__()
        self.gate_up_proj, self.down_proj = experts.gate_up_proj, experts.down_proj
        self.name, self.pages = name, pages

    def forward(self, x, weights, ids):
        """x [N, D]; weights, ids [N, top_k] -> sum_k weights_k expert_k(x) [N, D]."""
        begun = perf_counter()
        out = in_waves(self._some, self.pages.capacity, x, weights, ids)
        self.pages.stats.expert_seconds += perf_counter() - begun
        return out

    def _some(self, x, weights, ids, chosen):
        slots = self.pages.fetch(self.name, chosen)
        slot_of = ids.new_zeros(len(self.down_proj))
        slot_of[chosen] = ids.new_tensor(slots)
        out = self.pages.slots(x, weights, slot_of[ids])
        if out.isfinite().all() or not x.isfinite().all():
            return out
        held = self.pages.slots
        if isinstance(held, PackedExperts):
            held, slots = held.widened(slots), range(len(slots))
        for e, slot in zip(chosen, slots, strict=True):
            refuse_nan(self.name, e, *(p[slot] for p in held.parameters()))
        return out

    def _apply(self, fn, recurse=True):
        raise InputError(
            "experts on disk cannot be moved or cast; load the model again with the "
            "device and dtype it is to have."
        )


class Mapping:
    """What the MappedExperts of a model share."""

    mapped, cache_bytes = True, 0

    def __init__(self, files, stats):
        self.files, self.stats = files, stats


class MappedExperts(Experts):
    """Experts whose parameters are the files themselves."""

    def __init__(self, name, pages, views, files):
        nn.Module.__init__(self)
        self.gate_up_proj, self.down_proj = map(nn.Parameter, views)
        self.name, self.pages, self.used = name, pages, files

    def forward(self, x, weights, ids):
        begun = perf_counter()
        for file in self.used:  # a page behind a file's end would kill the process
            self.pages.files.check(file)
        out = super().forward(x, weights, ids)
        if not out.isfinite().all() and x.isfinite().all():
            for e in ids.unique().tolist():
                refuse_nan(self.name, e, self.gate_up_proj[e], self.down_proj[e])
        self.pages.stats.hits += len(ids.unique())
        self.pages.stats.expert_seconds += perf_counter() - begun
        return out


def refuse_nan(name, expert, *values):
    if not all(v.isfinite().all() for v in values):
        raise InputError(
            f"{name}: expert {expert} holds NaN or infinite values, which no trained "
            "model does; copy or download the checkpoint again."
        )
