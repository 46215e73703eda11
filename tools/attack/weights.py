"""safetensors files and their index: headers, offsets, names and shards that lie."""

import json
import shutil
from functools import partial

import torch
from tiny_models import small_model

import minqwen
from minqwen.errors import show

from . import NAMES, NO_COUNTS, ODD, Case
from .configs import IDS, SPECIAL, put, special

FILE, INDEX = "model.safetensors", "model.safetensors.index.json"
ONE, NEXT = "model.norm.weight", "lm_head.weight"  # tensors that are spoilt


def cases(folder):
    model = small_model(moe=False, vision=False).to(torch.bfloat16)
    minqwen.save(model, folder / "one")
    minqwen.save(model, folder / "shards", max_shard_bytes=150_000)
    with torch.no_grad():
        logits = minqwen.load(folder / "one")(IDS)
    raw = (folder / "one" / FILE).read_bytes()
    size = int.from_bytes(raw[:8], "little")
    header, data = json.loads(raw[8 : 8 + size]), raw[8 + size :]

    def load(where):
        with torch.no_grad():
            assert minqwen.load(where)(IDS).equal(logits)

    def whole(raw):
        (folder / "one" / FILE).write_bytes(raw)
        load(folder / "one")

    found = []
    for name, spoilt, *words in headers(header):
        run = partial(whole, joined(spoilt, data))
        found.append(Case(f"header: {name}", run, (FILE, *words)))
    for name, spoilt in files(raw, header, data):
        found.append(Case(f"file: {name}", partial(whole, spoilt), (FILE,)))
    for i, content in enumerate(unusual(header)):
        run = partial(whole, joined(content, data))
        found.append(Case(f"right: {i}", run, expect="accepted"))
    return found + indexes(folder, load)


def joined(header, data, size=None):
    if not isinstance(header, bytes):
        header = json.dumps(header).encode()
    size = len(header) if size is None else size
    return size.to_bytes(8, "little") + header + data


def headers(good):
    """(name, header, what the message must name): one tensor told wrongly."""
    start, end = good[ONE]["data_offsets"]
    for key, values in {
        "dtype": (*ODD, "F16", "F32", "I16", "BF17", "bf16", "F8_E4M3", "F4", "C64"),
        "shape": (*ODD, 64, [63], [65], [-64], [64.0], ["64"], [True], [[64]], [1, 64],
                  [0],
                  [2**63], [2**62, 4], [1] * 65, [10**400], [None]),
        "data_offsets": (*ODD, start, [start], [start, end, end], [end, start], [-end,
                end],
                         [float(start), end], [start, str(end)], [start, end + 2],
                         [start + 2, end + 2], [start - 2, end - 2], [start, start],
                         [2**63, 2**63 + 128], [0, 10**400], [True, end]),
    }.items():  # fmt: skip
        for value in values:
            told = good | {ONE: good[ONE] | {key: value}}
            yield f"{key} {show(value, 40)}", told, ONE
        yield (
            f"no {key}",
            good | {ONE: {k: v for k, v in good[ONE].items() if k != key}},
            ONE,
        )
    for info in (*ODD, good[ONE] | {"extra": 1}):
        yield show(info, 40), good | {ONE: info}, ONE
    for value in (*ODD, {"a": None}, {"a": {}}, {"format": ["pt"]}):
        if value != {}:
            yield f"metadata {value}", good | {"__metadata__": value}, "__metadata__"
    yield "swapped", good | {ONE: good[NEXT], NEXT: good[ONE]}, ONE
    same = good["model.layers.0.linear_attn.norm.weight"]
    yield "twice the place", good | {ONE: same}
    empty = {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]}
    for label, name in (NAMES | {"x": "x"}).items():
        yield f"named {label}", {name if n == ONE else n: i for n, i in good.items()}
        yield f"with {label}", good | {name: empty}
    yield "one less", {n: info for n, info in good.items() if n != ONE}


def files(raw, header, data):
    """(name, bytes) of files that are cut, longer, or of another kind."""
    text = json.dumps(header)
    for size in (*range(9), 20, 1000, len(raw) // 2, len(raw) - 1):
        yield f"cut to {size}", raw[:size]
    for more in (b"\0", bytes(10_000)):
        yield f"{len(more)} more", raw + more
    right = len(text.encode())
    for size in (0, 1, right - 1, right + 1, 2**31, 2**40, 2**63, 2**64 - 1):
        yield f"announces {size}", joined(header, data, size)
    for content in (b"", b"null", b"[]", b"5", b'"x"', b"{", b"[" * 10**5, b"{}",
                    b"\0" * 64,
                    text.encode("utf-16"), b"\xff" + text.encode(),
                    text.encode() + b"}",
                    text.replace(f'"{ONE}"', f'"{NEXT}"').encode(),
                    text.replace('"dtype"', '"dtype": "F32", "dtype"',
                                 1).encode()):  # fmt: skip
        yield f"header {show(content[:12])}", joined(content, data)
    for name in (ONE, NEXT):
        at = header[name]["data_offsets"][0]
        for label, two in ("NaN", b"\xc0\x7f"), ("infinity", b"\x80\x7f"):
            yield f"{label} at {at}", joined(header, data[:at] + two + data[at + 2 :])
    for magic in (
        b"GGUF",
        b"PK\x03\x04",
        b"\x80\x02",
        b"<html>",
        b"version https://git",
    ):
        yield f"begins with {magic}", magic + raw


def unusual(header):
    """Headers that say the same in another way."""
    text = json.dumps(header).encode()
    yield from ({n: i for n, i in header.items() if n[:2] != "__"}, text + b" " * 1000,
                header | {"__metadata__": {"\x1b": "\x1b"}},
                dict(reversed(header.items())),
                json.dumps(header, indent=8).encode())  # fmt: skip


def indexes(folder, load):
    """Cases of shards and the index that names them."""
    shards, spoilt = folder / "shards", folder / "spoilt"
    good = json.loads((shards / INDEX).read_text())
    files = good["weight_map"]
    first, *_, last = sorted(set(files.values()))

    def use(change):
        shutil.rmtree(spoilt, ignore_errors=True)
        shutil.copytree(shards, spoilt)
        change(spoilt)
        load(spoilt)

    found = []

    def add(name, change, *words, **options):
        found.append(Case(name, partial(use, change), words, **options))

    def index(content, *words, **options):
        raw = content if isinstance(content, bytes) else json.dumps(content).encode()
        run = partial(use, lambda to: (to / INDEX).write_bytes(raw))
        title = f"index: {show(content, 20)}, {show(words)}"
        found.append(Case(title, run, words, **options))

    for name in ("..", "../" + first, "/etc/passwd", "a/" + first, "./" + first,
                 "C:\\" + first, "a\\" + first, "x\0.safetensors", "\x1b.safetensors",
                 "\u202e.safetensors", "A" * 10**6, *ODD):  # fmt: skip
        index(good | {"weight_map": files | {ONE: name}}, ONE)
    for name in ("model.bin", "x.pt"):
        index(good | {"weight_map": files | {ONE: name}}, name)
    index(good | {"weight_map": files | {"lost": "gone.safetensors"}}, "gone.safe")
    # An index that is wrong about what the files hold loses to them.
    index(good | {"weight_map": files | {ONE: first}}, expect="accepted")
    for value in ODD:
        index(good | {"weight_map": value}, INDEX)
        if value not in (None, {}, {"a": 1}):
            index(good | {"metadata": value}, INDEX, "metadata")
    for label, value in NO_COUNTS.items():
        if label not in ("a half", "a float", "2**63", "infinity", "10**400"):
            index(put(good, "metadata.total_size", value), INDEX, "total_size")
    text = json.dumps(good)
    for raw in ("", "null", "[]", "{", "[" * 10**5, text[:-9], text + "x", "{}",
                text.replace(f'"{ONE}"', f'"{NEXT}"'), "\ufeff" + text):  # fmt: skip
        index(raw.encode(), INDEX)
    index({"weight_map": files | {"x": first}}, expect="accepted")
    without = {name: file for name, file in files.items() if name != ONE}
    index({"weight_map": without}, expect="accepted")
    for metadata in ({}, {"total_size": 5.0}):
        index({"weight_map": files, "metadata": metadata}, expect="accepted")
    for label, make in SPECIAL.items():
        for name in (first, INDEX):
            if (label, name) != ("missing", INDEX):

                def change(to, name=name, make=make):
                    special(to / name, make, partial(load, to))

                add(f"{name[-20:]} is {label}", change, name)

    def two(to):
        (to / INDEX).rename(to / ("a" + INDEX))
        shutil.copy(to / ("a" + INDEX), to / ("b" + INDEX))

    def swapped(to):
        (to / first).rename(to / "x")
        (to / last).rename(to / first)
        (to / "x").rename(to / last)

    add("two indexes", two, "index")
    add("a single file too", lambda to: shutil.copy(to / first, to / FILE), FILE)
    add("shards swapped", swapped, expect="accepted")
    return found
