"""A bounded cache of experts in front of a checkpoint's files, for all layers."""

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from queue import SimpleQueue
from time import perf_counter

import torch

from ...errors import InputError
from ...files import Reader
from ..checkpoint.header import Entry, unchanged
from ..checkpoint.layout import STORED, bytes_of
from ..quantised.foreign import Foreign, entries_of
from ..quantised.modules import Packed
from .places import Places

AT_ONCE = 4 << 20  # bytes of one positioned read
THREADS = 8  # reads under way at once; disks answer several sooner than one by one


@dataclass
class Stats:
    """What paging did since loading; the difference of two is what it did between."""

    hits: int = 0  # chosen experts found in the cache
    misses: int = 0  # and those that had to be read
    bytes_read: int = 0
    read_seconds: float = 0.0  # while reads were under way
    wait_seconds: float = 0.0  # of these, while nothing else could be done
    expert_seconds: float = 0.0  # in experts, waiting included

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
    """A cache of experts in front of the files.

    `parts` maps (layer's name, expert) to its Parts. `slots` are the cache's places:
    {"gate_up_proj": [slots, 2 I, D], "down_proj": [slots, D, I]}, tensors or Packed.
    """

    mapped = False

    def __init__(self, parts, slots, stats):
        self.parts, self.slots, self.stats = parts, slots, stats
        self.files = Files(
            entries_of(p.entry for found in parts.values() for p in found)
        )
        self.capacity = len(slots["down_proj"])
        self.places = Places(self.capacity, len({layer for layer, _ in parts}))
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
        for _ in self.ask(layer, experts):
            pass
        return [self.places.of[layer, e] for e in experts]

    def ask(self, layer, experts):
        """Start to read what is missing; an iterator of (which of `experts`, slots).

        First those that are there, then others as they arrive. There may be more than
        `capacity`: slots are good until the next pair is asked for.
        """
        arriving = self._arriving(layer, experts)
        next(arriving)  # from here on reads are under way
        return arriving

    def _arriving(self, layer, experts):
        for low in range(0, len(experts), self.capacity):
            some = [(layer, e) for e in experts[low : low + self.capacity]]
            slots, new = self.places.reserve(some)
            self.stats.hits += len(some) - len(new)
            self.stats.misses += len(new)
            begun, done, left = perf_counter(), SimpleQueue(), {}
            for n in new:
                reads = list(self._reads(some[n], slots[n]))
                left[n] = len(reads)
                for read in reads:
                    self.threads.submit(self._deliver, n, read, done)
            try:
                if not low:
                    yield
                there = [n for n in range(len(slots)) if n not in left]
                while there or left:
                    if there:
                        yield [low + n for n in there], [slots[n] for n in there]
                    there = self._wait(done, left, begun) if left else []
                self._check(layer, {experts[low + n]: slots[n] for n in new})
            except BaseException:
                # What a slot holds is unknown now: nobody may take it for an expert.
                for _ in range(sum(left.values())):
                    done.get()  # and nobody writes to it any more
                self.places.clear()
                raise

    def _wait(self, done, left, begun):
        """Wait for an expert, at least, to be whole; which ones are."""
        waited, there = perf_counter(), []
        while left and not (there and done.empty()):
            n, count, when = done.get()
            left[n] -= 1
            if not left[n]:
                del left[n]
                there.append(n)
            if isinstance(count, BaseException):
                raise count
            self.stats.bytes_read += count
        self.stats.wait_seconds += perf_counter() - waited
        self.stats.read_seconds += 0 if left else when - begun
        return there

    def _check(self, layer, new):
        """InputError if a file, or a scale, is not what it should be.

        Of weights that are no numbers, the sums will tell.
        """
        found = [part for e in new for part in self.parts[layer, e]]
        self.files.check(*{part.entry.file for part in found})
        for expert, slot in new.items():
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

    @torch.inference_mode()  # a model loaded within that mode has such tensors
    def _deliver(self, n, read, done):
        """Read a piece of expert n; tell how many bytes, or what went wrong."""
        try:
            count = self._read(*read)
        except BaseException as error:
            count = error
        done.put((n, count, perf_counter()))

    def _read(self, part, at, target):
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
