"""A bounded cache of experts in front of a checkpoint's files, for all layers."""

import math
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from time import perf_counter

import torch

from ...errors import InputError
from ...files import Reader
from ..checkpoint.header import Entry, unchanged
from ..checkpoint.layout import STORED, bytes_of
from ..quantised.foreign import Foreign, entries_of
from ..quantised.modules import Packed

AT_ONCE = 4 << 20  # bytes of one positioned read
THREADS = 8  # reads under way at once; disks answer several sooner than one by one


@dataclass
class Stats:
    """What paging did since loading; the difference of two is what it did between."""

    hits: int = 0  # chosen experts found in the cache
    misses: int = 0  # and those that had to be read
    bytes_read: int = 0
    read_seconds: float = 0.0
    expert_seconds: float = 0.0  # in experts, reading included

    def __sub__(self, earlier):
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return Stats(**{k: v - getattr(earlier, k) for k, v in values.items()})


@dataclass(frozen=True)
class Part:
    """Bytes of a file: rows [low, high) of one expert in the target `kind`."""

    entry: Entry | Foreign
    start: int
    kind: str
    low: int
    high: int
    expert: int = 0  # which matrix of a Foreign it is


class Files:
    """The files behind some entries, open until nobody needs them."""

    def __init__(self, entries):
        self.entries = {entry.file: entry for entry in entries}
        self.open = {file: Reader(file) for file in self.entries}
        self.check(*self.entries)

    def check(self, *files):
        for file in files:
            unchanged(self.entries[file], self.open[file])


class Pages:
    """A cache of experts in front of the files, least recently used out first.

    `parts` maps (layer's name, expert) to its Parts. `slots` are the cache's places:
    {"gate_up_proj": [slots, 2 I, D], "down_proj": [slots, D, I]}, tensors or Packed.
    """

    mapped = False

    def __init__(self, parts, slots, stats):
        self.parts, self.slots, self.stats = parts, slots, stats
        self.files = Files(
            entries_of(p.entry for found in parts.values() for p in found)
        )
        self.place = OrderedDict()  # (layer, expert) -> slot, longest unused first
        self.free = list(range(len(slots["down_proj"])))[::-1]
        self.capacity = len(self.free)
        self.threads = ThreadPoolExecutor(THREADS)

        self.packed = {k: p for k, p in slots.items() if isinstance(p, Packed)}
        self.targets = {k: t for k, t in slots.items() if k not in self.packed}
        for kind, packed in self.packed.items():
            self.targets |= {kind + s: part for s, part in packed.parts().items()}

    @property
    def cache_bytes(self):
        return sum(target.nbytes for target in self.targets.values())

    def fetch(self, layer, experts):
        """The slots of at most `capacity` experts of a layer, read where need be."""
        begun, reads, new = perf_counter(), [], []
        for key in ((layer, e) for e in experts):
            if key in self.place:
                self.place.move_to_end(key)  # before any is evicted
        for key in ((layer, e) for e in experts):
            if key in self.place:
                self.stats.hits += 1
                continue
            self.stats.misses += 1
            slot = self.free.pop() if self.free else self.place.popitem(last=False)[1]
            self.place[key] = slot
            reads += self._reads(key, slot)
            new.append((key, slot))
        try:
            for count in self.threads.map(self._read, reads):
                self.stats.bytes_read += count
            self.files.check(*{part.entry.file for part, *_ in reads})
            self._check(new)
        except BaseException:
            # What a slot holds is unknown now: nobody may take it for an expert.
            self.free += self.place.values()
            self.place.clear()
            raise
        self.stats.read_seconds += perf_counter() - begun if reads else 0.0
        return [self.place[layer, e] for e in experts]

    def _check(self, new):
        """InputError for a scale that is no number; of weights, the sums will tell."""
        for (layer, expert), slot in new:
            for fault in [p.bad_scales(slot) for p in self.packed.values()]:
                if fault:
                    raise InputError(
                        f"{layer}: expert {expert} {fault}, which no writer means; "
                        "copy or download the checkpoint again."
                    )

    def _reads(self, key, slot):
        """(part, first byte, target) for each piece of an expert; targets are flat.

        Of a Foreign: (part, its matrix, all of the target's rows).
        """
        for part in self.parts[key]:
            rows = self.targets[part.kind][slot, part.low : part.high]
            if isinstance(part.entry, Foreign):
                yield part, part.expert, rows
                continue
            width = STORED[part.entry.dtype].itemsize
            at = part.start
            for target in rows.reshape(-1).split(AT_ONCE // width):
                yield part, at, target
                at += len(target) * width

    def _read(self, read):
        part, at, target = read
        if isinstance(part.entry, Foreign):
            target.copy_(part.entry.read(self.files.open, at, 0, len(target)))
            return part.entry.nbytes // math.prod(part.entry.shape[:-2])
        stored = STORED[part.entry.dtype]
        direct = target.dtype == stored and target.device.type == "cpu"
        buffer = target if direct else torch.empty(len(target), dtype=stored)
        self.files.open[part.entry.file].fill(bytes_of(buffer), at, "an expert")
        if not direct:
            target.copy_(buffer)
        return buffer.nbytes
