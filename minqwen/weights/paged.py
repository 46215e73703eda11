"""Experts that stay in the checkpoint's files until a token chooses them.

Of 397B parameters a token visits 17B, and which ones is known only layer by layer, from
the router. So all but the routed experts are loaded, and those are read when they are
chosen (pages.py). Nothing is guessed and none is left out: the arithmetic is that of
`Experts`, on the slots of a cache, so the logits are the same.

Where all experts fit beside the rest, and lie fused in the dtype asked for, the files
are mapped instead: they are the parameters, and the system reads what is touched.
"""

import mmap
from time import perf_counter

import torch
from torch import nn

from ..errors import InputError
from ..moe import Experts, SparseMoE
from .header import show
from .layout import DTYPES, FUSED
from .memory import available
from .pages import Files, Pages, Part, Stats

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


def put_back(model, taken, plan, table, cache_bytes, device):
    """Give each layer experts that are read, or mapped where all of them fit."""
    plan = [step for step in plan if step[1].endswith(FUSED)]
    total = sum(p.nbytes for experts in taken.values() for p in experts.parameters())
    room, stats, made = int(SPARE * available()), Stats(), {}
    if cache_bytes is None and total <= room and device.type == "cpu":
        made = _mapped(_mappable(taken, plan, table), stats)
    rest = {name: experts for name, experts in taken.items() if name not in made}
    if rest:
        # Half of what is free: the system keeps in the other half what it read last.
        most = cache_bytes or (total if total <= room else room // 2)
        made |= _paged(rest, plan, table, most, stats, device)
    for name, experts in made.items():
        model.get_submodule(name.removesuffix(".experts")).experts = experts


def _mappable(taken, plan, table):
    """{layer: its two entries} where a parameter is one stored tensor of its dtype."""
    found = {name: table[source] for source, name, part in plan if part is None}
    layers = {}
    for name, experts in taken.items():
        own = [found.get(f"{name}.{kind}") for kind, _ in experts.named_parameters()]
        dtype = experts.down_proj.dtype
        if all(e and DTYPES[e.dtype] == dtype for e in own):
            if all(e.start % dtype.itemsize == 0 for e in own):
                layers[name] = own
    return layers


def _mapped(layers, stats):
    files = Files(entry for own in layers.values() for entry in own)
    maps = {
        # A private copy of whatever is written, so that training cannot reach the file.
        file: mmap.mmap(number, 0, access=mmap.ACCESS_COPY)
        for file, number in files.open.items()
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


def _paged(taken, plan, table, cache_bytes, stats, device):
    parts = {}
    for source, parameter, part in plan:
        name, _, kind = parameter.rpartition(".")
        if name not in taken:
            continue
        count, rows, _ = getattr(taken[name], kind).shape
        entry = table[source]
        size = (entry.end - entry.start) // count
        if part is not None:
            whole = Part(entry, entry.start, kind, *part[1:])
            parts.setdefault((name, part[0]), []).append(whole)
            continue
        for e in range(count):
            piece = Part(entry, entry.start + e * size, kind, 0, rows)
            parts.setdefault((name, e), []).append(piece)
    some = next(iter(taken.values()))
    one = sum(p[0].nbytes for p in some.parameters())
    slots = min(cache_bytes // one, len(parts))
    if not slots:
        raise InputError(
            f"{cache_bytes} bytes for a cache hold no expert, which takes {one}; give "
            "expert_cache at least that."
        )
    dim, width = some.down_proj.shape[1:]
    with torch.device("meta"):
        held = Experts(dim, slots, width).to(some.down_proj.dtype)
    held = held.to_empty(device=device).requires_grad_(False)
    pages = Pages(parts, held, stats)
    return {name: PagedExperts(e, name, pages) for name, e in taken.items()}


# ---- what stands in their place ----


class PagedExperts(nn.Module):
    """A layer's experts, out of Pages. The parameters are names without memory."""

    def __init__(self, experts, name, pages):
        super().__init__()
        self.gate_up_proj, self.down_proj = experts.gate_up_proj, experts.down_proj
        self.name, self.pages = name, pages

    def forward(self, x, weights, ids):
        """x [N, D]; weights, ids [N, top_k] -> sum_k weights_k expert_k(x) [N, D]."""
        begun, chosen = perf_counter(), ids.unique().tolist()
        room = self.pages.capacity
        if len(chosen) <= room:
            out = self._some(x, weights, ids, chosen)
        else:  # a long prompt's: as many at a time as there are slots
            flat = ids.flatten()
            each = x.new_empty(len(flat), x.shape[1])  # [N * top_k, D]
            for low in range(0, len(chosen), room):
                wave = chosen[low : low + room]
                mine = torch.isin(flat, torch.tensor(wave, device=ids.device)).nonzero()
                rows = mine[:, 0] // ids.shape[1]
                alone = weights.new_ones(len(rows), 1)
                each[mine[:, 0]] = self._some(x[rows], alone, flat[mine], wave)
            out = (each.view(*ids.shape, -1) * weights[..., None]).sum(1)
        self.pages.stats.expert_seconds += perf_counter() - begun
        return out

    def _some(self, x, weights, ids, chosen):
        slots = self.pages.fetch(self.name, chosen)
        slot_of = ids.new_zeros(len(self.down_proj))
        slot_of[chosen] = ids.new_tensor(slots)
        out = self.pages.slots(x, weights, slot_of[ids])
        if out.isfinite().all() or not x.isfinite().all():
            return out
        for e, slot in zip(chosen, slots, strict=True):
            refuse_nan(self.name, e, *(p[slot] for p in self.pages.slots.parameters()))
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
