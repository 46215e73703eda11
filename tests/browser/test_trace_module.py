"""trace.mjs in Node: what it reads equals what Python reads, and it is as strict."""

import json
from pathlib import Path

import chromium
import numpy as np
import pytest
from test_trace import HOSTILE, METADATA, changed

from minqwen.trace import Trace
from minqwen.widgets.bundle import bundle

SAMPLE = Path(__file__).resolve().parents[2] / "assets" / "picture.safetensors"
READ = """
import { readFileSync } from "node:fs";
const trace = module_shared_trace.parseTrace(readFileSync(process.argv[2]));
const tensors = Object.fromEntries(trace.names.map((name) => {
  const { dtype, shape, data } = trace.tensor(name);
  return [name, { dtype, shape, data: Array.from(data) }];
}));
const { meta, T, L, K, E, layerTypes, tokens } = trace;
const result = { meta, T, L, K, E, layerTypes, tokens, tensors };
for (const key of ["expertIds", "expertWeights", "routerMargin", "tokenIds"]) {
  result[key] = Array.from(trace[key] ?? []);
}
console.log(JSON.stringify(result));
"""
REFUSE = """
import { readFileSync } from "node:fs";
const told = process.argv.slice(2).map((path) => {
  try {
    module_shared_trace.parseTrace(readFileSync(path));
    return "";
  } catch (error) {
    return `${error.constructor.name}: ${error.message}`;
  }
});
console.log(JSON.stringify(told));
"""


def node(script, *args):
    return json.loads(chromium.node(bundle("shared/trace.mjs") + script, *args))


@pytest.fixture(scope="module")
def trace():
    return Trace.load(SAMPLE)


@pytest.mark.parametrize("form", ["as saved", "compact", "odd", "nameless"])
def test_it_reads_what_python_reads(trace, tmp_path, form):
    path = tmp_path / "x.safetensors"
    trace.save(path)
    if form == "compact":
        path.write_bytes(trace.compact())
    if form == "nameless":
        path.write_bytes(changed(trace, lambda m, t: m.update(tokens=None)))
    if form == "odd":  # the tensors begin at an odd byte: nothing is aligned
        data = path.read_bytes()
        size = int.from_bytes(data[:8], "little")
        header = data[8 : 8 + size].rstrip() + b" "
        header += b" " * (1 - len(header) % 2)
        path.write_bytes(len(header).to_bytes(8, "little") + header + data[8 + size :])
    want, got = Trace.load(path), node(READ, path)
    assert got["meta"] == want.meta and got["tokens"] == want.tokens
    T, L, K = want["expert_ids"].shape
    assert [got[x] for x in "TLKE"] == [T, L, K, want.meta["num_experts"]]
    assert got["tensors"].keys() == want.tensors.keys()
    for name, found in got["tensors"].items():
        assert (np.array(found["data"]) == want[name].astype(float).ravel()).all(), name
        assert tuple(found["shape"]) == want[name].shape
    assert got["expertIds"] == want["expert_ids"].ravel().tolist()
    weights = want["expert_weights"].astype(float)
    weights = weights if form == "compact" else weights * 255
    assert np.abs(np.array(got["expertWeights"]) - weights.ravel()).max() <= 0.501
    assert got["tokenIds"] == want["token_ids"].tolist()


def test_every_half_is_read_right(trace, tmp_path):
    """All finite numbers of half precision, as margins of a long trace."""
    bits = np.arange(65536, dtype=np.uint16).view(np.float16)
    bits = bits[np.isfinite(bits)]
    T, (_, L, K) = len(bits) // 8, trace["expert_ids"].shape
    ids = np.broadcast_to(np.arange(K, dtype=np.uint16), (T, L, K))
    margins = bits.reshape(T, L)
    meta = trace.meta | dict(length=T, tokens=None, pictures=[])
    long = Trace(meta, {"expert_ids": ids, "router_margin": margins})
    long.save(tmp_path / "x.safetensors")
    found = node(READ, tmp_path / "x.safetensors")["routerMargin"]
    assert (np.array(found) == margins.astype(float).ravel()).all()


def hostile(trace, folder):
    """Every hostile file, by the name of its case."""
    files = {case: changed(trace, change) for case, (change, _) in HOSTILE.items()}
    files |= {f"metadata {i}": changed(trace, None, m) for i, m in enumerate(METADATA)}
    data = changed(trace)
    files |= {f"cut at {n}": data[:n] for n in (0, 4, 8, 100, len(data) - 1)}
    files["longer"] = data + b"\0"
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    for name, entry in {
        "overlap": {"data_offsets": [1, 1 + 4 * header["token_ids"]["shape"][0]]},
        "negative": {"data_offsets": [-4, 0]}, "fraction": {"shape": [0.5]},
        "huge": {"shape": [2**53, 2**53]}, "prototype": {"dtype": "__proto__"},
        "null": {"shape": None},
    }.items():  # fmt: skip
        bad = json.dumps(header | {"token_ids": header["token_ids"] | entry}).encode()
        files[name] = len(bad).to_bytes(8, "little") + bad + data[8 + size :]
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return files


def test_hostile_files_get_one_sentence(model_trace, tmp_path):
    files = hostile(model_trace, tmp_path)
    told = node(REFUSE, *(tmp_path / name for name in files))
    for name, words in zip(files, told, strict=True):
        assert words.startswith("Error: ") and "\n" not in words, f"{name}: {words}"
        assert len(words) < 200 and "<" not in words, f"{name}: {words}"


@pytest.fixture(scope="module")
def model_trace():
    """The trace that test_trace.py's cases are written for."""
    from test_trace import HEADS, record, with_picture
    from tiny_models import small_model

    trace = record(small_model(), with_picture(), states=HEADS, norms=True)
    trace.meta["tokens"] = [f"t{i}" for i in range(trace.length)]
    return trace
