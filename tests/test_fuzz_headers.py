"""Headers spoilt at random: an InputError or a sound table, nothing else ever.

MINQWEN_FUZZ=100000 sets the number of cases of each test. The outside truth is the
format's own library: what we accept it accepts too, and reads the same bytes.
"""

import copy
import json
import os
import random

import gguf_files
import pytest
import safetensors
from gguf import GGUFReader
from tiny_models import small_model

from minqwen.errors import InputError
from minqwen.weights.checkpoint.header import parse_header, read_table
from minqwen.weights.gguf.load import open_gguf

pytestmark = pytest.mark.slow

CASES = int(os.environ.get("MINQWEN_FUZZ", 5000))
GOOD = {
    "__metadata__": {"format": "pt"},
    "a": {"dtype": "BF16", "shape": [3, 2], "data_offsets": [0, 12]},
    "b": {"dtype": "F32", "shape": [], "data_offsets": [12, 16]},
    "c": {"dtype": "U8", "shape": [0, 5], "data_offsets": [16, 16]},
}
BITS = [b'"', b"{", b"}", b"[", b"]", b",", b":", b"-", b"9", b"1e9", b"NaN", b"null",
        b"\\u0000", b"\xff", b'"a"', b'"F32"', b"true", b"0", b" "]  # fmt: skip
VALUES = [None, True, -1, 0, 1, 2, 12, 16, 2**31, 2**32, 2**63, 2**64, 10**30, 0.5, "",
          "F32", "BF16", "F4", [], [0], [1] * 70, [0, 16], [12, 0], [2**32, 2**32], {},
          {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}]  # fmt: skip


def spoil_bytes(raw, rng):
    for _ in range(rng.randint(1, 3)):
        at, length = rng.randrange(len(raw)), rng.choice([0, 1, 1, 2, 8])
        raw[at : at + length] = rng.choice(BITS)
    return raw


def spoil_fields(rng):
    """Valid JSON, with fields and tensors changed, lost, doubled or renamed."""
    header = copy.deepcopy(GOOD)
    for _ in range(rng.randint(1, 3)):
        where = rng.choice([header, *[v for v in header.values() if type(v) is dict]])
        key, value = rng.choice([*where, "extra"]), copy.deepcopy(rng.choice(VALUES))
        if rng.random() < 0.2 and key in where:
            where.pop(key)
        elif rng.random() < 0.2 and type(where.get(key)) is list and where[key]:
            where[key][rng.randrange(len(where[key]))] = value
        else:
            where[key] = value
    return bytearray(json.dumps(header).encode())


def test_spoilt_text():
    good = json.dumps(GOOD).encode()
    assert len(parse_header(good, 16, "f")[1]) == 3
    rng, passed = random.Random(0), 0
    for _ in range(CASES):
        raw = spoil_bytes(bytearray(good), rng)
        try:
            _, table = parse_header(bytes(raw), 16, "f")
        except InputError as err:
            assert "\n" not in str(err)
        else:
            passed += 1
            ends = sorted(entry[2:] for entry in table.values())
            assert ends[0][0] == 0 and ends[-1][1] == 16
    assert 0 < passed < 0.4 * CASES


def test_spoilt_files_beside_the_reference(tmp_path):
    rng, passed, file = random.Random(1), 0, tmp_path / "x.safetensors"
    for case in range(CASES):
        header = spoil_fields(rng)
        if case % 4 == 0:
            header = spoil_bytes(header, rng)
        sizes = [0, 2, 17, 2**63, 2**64 - 1] if case % 16 == 1 else [len(header)]
        size = rng.choice(sizes)
        length = rng.choice([16] * 8 + [0, 15, 17, 200])
        raw = size.to_bytes(8, "little") + bytes(header) + bytes(range(length))
        raw = raw[: rng.randrange(len(raw))] if case % 16 == 2 else raw
        file.write_bytes(raw)
        try:
            table = read_table(file)
        except InputError as err:
            assert "\n" not in str(err)
            continue
        passed += 1
        theirs = dict(safetensors.deserialize(raw))
        assert theirs.keys() == table.keys()
        for name, entry in table.items():
            assert (list(entry.shape), entry.dtype) == (
                theirs[name]["shape"], theirs[name]["dtype"])  # fmt: skip
            assert raw[entry.start : entry.end] == bytes(theirs[name]["data"])
    assert 0 < passed < 0.4 * CASES


NUMBERS = [0, 1, 2, 3, 5, 8, 9, 12, 255, 2**16, 2**31, 2**32 - 1, 2**32, 2**40, 2**60,
           2**63, 2**64 - 1]  # fmt: skip


def test_spoilt_gguf_files_beside_the_reference(tmp_path):
    file, rng, passed = tmp_path / "x.gguf", random.Random(2), 0
    gguf_files.write(small_model(moe=False, vision=False), file)
    good = file.read_bytes()
    head = bytearray(good[: min(t.data_offset for t in GGUFReader(file).tensors)])
    with open(file, "r+b") as f:
        for case in range(CASES):
            raw = bytearray(head)
            for _ in range(rng.randint(1, 3)):
                at, width = rng.randrange(len(raw)), rng.choice([1, 1, 2, 4, 8])
                value = rng.choice([rng.randrange(256), rng.choice(NUMBERS)])
                raw[at : at + width] = (value % 256**width).to_bytes(width, "little")
            f.seek(0)
            f.write(raw[: len(head)])
            f.truncate(rng.randrange(len(good)) if case % 8 == 0 else len(good))
            f.flush()
            try:
                tensors = open_gguf(file).table
            except InputError as err:
                assert "\n" not in str(err) and len(str(err)) < 1000
                continue
            passed += 1
            theirs = GGUFReader(file)
            assert {t.name for t in theirs.tensors} == tensors.keys()
            for t in theirs.tensors:
                entry = tensors[t.name]
                assert (t.data_offset, t.n_bytes) == (
                    entry.start, entry.end - entry.start)  # fmt: skip
                assert tuple(reversed(t.shape.tolist())) == entry.shape
    assert 0 < passed < 0.7 * CASES
