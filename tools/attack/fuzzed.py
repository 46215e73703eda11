"""Traces spoilt by chance, the same at every run: each a sentence, or sound."""

import copy
import json
import random
from functools import partial

from . import NO_COUNTS, Case
from .traces import AGAIN, FILE, packed, recorded, use

COUNT = 3000
BITS = (b'"', b"{", b"}", b"[", b"]", b",", b":", b"-", b"9", b"1e9", b"NaN", b"null",
        b"\\u0000", b"\xff", b"true", b"0", b"\0", b"F32", b"delta.0.3.q")  # fmt: skip
VALUES = (
    *NO_COUNTS.values(),
    0,
    1,
    2,
    12,
    None,
    "\ud800",
    "full_attention",
    [0, 3],
    [[]],
)


def cases(folder):
    _, trace = recorded()
    trace.meta["tokens"] = ["ab"] * trace.length
    good = packed(trace.meta, trace.tensors)
    size = 8 + int.from_bytes(good[:8], "little")

    def read(seed):
        rng = random.Random(seed)
        spoil = (bits, values, data)[seed % 3]
        (folder / FILE).write_bytes(spoil(rng, trace, good, size))
        use(folder / FILE)

    return [
        Case(f"seed {seed}", partial(read, seed), (FILE,), "either",
             (AGAIN,))
        for seed in range(COUNT)
    ]  # fmt: skip


def bits(rng, trace, good, size):
    """Bytes of the header, replaced, lost or doubled."""
    head = bytearray(good[8:size])
    for _ in range(rng.randint(1, 3)):
        at, length = rng.randrange(len(head)), rng.choice([0, 1, 1, 2, 8])
        head[at : at + length] = rng.choice(BITS)
    length = rng.choice([len(head)] * 9 + [0, len(head) + 1, 2**63])
    return length.to_bytes(8, "little") + bytes(head) + good[size:]


def values(rng, trace, good, size):
    """Fields of the JSON, of the trace or of the header, that are others."""
    head, meta = json.loads(good[8:size]), copy.deepcopy(trace.meta)
    for _ in range(rng.randint(1, 3)):
        pictures = meta.get("pictures")
        places = [meta, meta.get("opens"), *head.values()]
        places += pictures if isinstance(pictures, list) else []
        at = rng.choice([place for place in places if isinstance(place, dict)])
        key = rng.choice([*at, "new"])
        if rng.random() < 0.2:
            at.pop(key, None)
        elif isinstance(at.get(key), list) and at[key] and rng.random() < 0.5:
            at[key] = [*at[key]]
            at[key][rng.randrange(len(at[key]))] = rng.choice(VALUES)
        else:
            at[key] = rng.choice(VALUES)
    head["__metadata__"] = head["__metadata__"] | {"minqwen_trace": json.dumps(meta)}
    raw = json.dumps(head).encode()
    return len(raw).to_bytes(8, "little") + raw + good[size:]


def data(rng, trace, good, size):
    """Numbers of the tensors that are others, or a file cut short."""
    raw = bytearray(good)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(size, len(raw) - 8)
        raw[at : at + rng.choice([1, 2, 4])] = rng.randbytes(rng.choice([1, 2, 2, 4]))
    return bytes(raw[: rng.choice([len(raw)] * 5 + [rng.randrange(len(raw))])])
