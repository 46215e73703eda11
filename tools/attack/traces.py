"""Trace files, and what other engines and llama.cpp write: wrong in every field."""

import base64
import io
import json
from functools import partial

import numpy as np
import torch
from safetensors.numpy import save
from tiny_models import small_model

import minqwen
from minqwen.errors import show
from minqwen.trace import Trace
from minqwen.trace.engines import from_llama_csv, from_routed_experts, open_trace

from . import NAMES, NO_COUNTS, NO_NUMBERS, ODD, TINY, Case
from .configs import SPECIAL, put, special

FILE, AGAIN, KEY = "x.safetensors", "again.safetensors", "minqwen_trace"


def recorded():
    """A model, and a trace with every kind of tensor: text, a picture, heads."""
    tokens = torch.randint(5, 290, (1, 12), generator=torch.Generator().manual_seed(0))
    tokens[0, 2], tokens[0, 3:9], tokens[0, 9] = 303, 301, 304
    pixels = torch.rand(24, 1536, generator=torch.Generator().manual_seed(0)) - 0.5
    grid = torch.tensor([[1, 4, 6]])
    inputs = {"input_ids": tokens, "pixel_values": pixels, "image_grid_thw": grid}
    model = small_model(num_experts=7, num_experts_per_tok=2)
    with torch.no_grad(), minqwen.record(model, [(0, 3), (3, 2)], norms=True) as trace:
        model(**inputs)
    trace.name_tokens(minqwen.Processor.load(TINY))
    trace.meta["opens"] = {"token": 3, "probe": 2, "head": [0, 3]}
    return model, Trace(trace.meta, trace.tensors)


def packed(meta, tensors):
    arrays = {n: np.ascontiguousarray(array) for n, array in tensors.items()}
    return save(arrays, {KEY: meta if isinstance(meta, str) else json.dumps(meta)})


def use(path):
    """All that is done with a trace."""
    trace = Trace.load(path)
    repr(trace), trace.tokens, trace.heads, trace.first(1), trace.compact()
    if "expert_ids" in trace.tensors:
        str(trace.compare(trace))
    trace.save(AGAIN)
    assert Trace.load(AGAIN).meta == trace.meta


def cases(folder):
    model, good = recorded()

    def read(raw):
        (folder / FILE).write_bytes(raw)
        use(folder / FILE)

    found = []
    for name, raw, *words in (*metas(good), *arrays(good)):
        words = FILE, *words
        found.append(Case(name, partial(read, raw), words, writes=(AGAIN,)))
    few = {n: good[n] for n in ("expert_ids", "token_ids")}
    for change, tensors in (
        ({}, good.tensors), ({"prompt_length": None}, good.tensors),
        ({"tokens": None}, good.tensors), ({"new": {"a": "\x1b"}}, good.tensors),
        ({"tokens": ["\x1b[2J<b>"] * good.length}, good.tensors),
        ({"pictures": [], "opens": {}}, few),
    ):  # fmt: skip
        run = partial(read, packed(good.meta | change, tensors))
        found.append(Case(f"right: {show(change)}", run, (), "accepted", (AGAIN,)))
    for name, make in SPECIAL.items():
        for path in (folder / FILE, folder / "x.npy", folder / "x.csv"):
            run = partial(special, path, make, partial(open_trace, path))
            words = () if "link" in name or "device" in name else (path.name,)
            found.append(Case(f"{path.name} is {name}", run, words))
    return found + imports(folder, model.cfg, good)


def metas(good):
    """Files whose JSON says something wrong."""
    T, counts = good.length, NO_COUNTS.values()
    picture, kinds = good.meta["pictures"][0], good.meta["layer_types"]
    whole = "version", "length", "num_experts", "opens.token", "opens.probe"
    wrong = {key: (*counts, None) for key in whole} | {
        "prompt_length": (*counts, T + 1), "model": (*ODD[2:8], "\ud800"),
        "source": (*ODD[2:8], "\ud800"), "opens.token": (*counts, T, None),
        "tokens": (*ODD[1:], "x" * T, ["a"] * (T - 1), [None] * T, ["\ud800"] * T),
        "layer_types": (*ODD, kinds[:3], ["<b>"] * 4, [[]] * 4, "abcd", kinds[::-1]),
        "pictures": (*ODD, [None], [[]], [picture] * 2),
        "opens": (*ODD[:6], {"view": 1}, {"token": [1]}),
        "opens.head": (*ODD, [0], [9, 9], ["0", "3"], [0, 3, 1], "03", [True, 3], [0.0,
                3]),
        "num_experts": (*counts, None),
    }  # fmt: skip
    for path, values in wrong.items():
        word = {"model": "model or", "source": "or source"}.get(
            path, path.split(".")[0]
        )
        for value in values:
            changed = put(good.meta, path, value)
            words = () if path in ("pictures", "layer_types") else (word,)
            yield f"{path} is {show(value, 40)}", packed(changed, good.tensors), *words
    for key in picture:
        for value in (None, "4", -1, 0.5, 10**9, [], True, {}):
            changed = good.meta | {"pictures": [picture | {key: value}]}
            yield f"picture: {key} {value}", packed(changed, good.tensors), "picture"
    for key in ("version", "length", "num_experts", "layer_types", "pictures", "model"):
        yield f"no {key}", packed(put(good.meta, key, drop=True), good.tensors), key
    for number in (0, 5):
        yield (
            f"{number} experts",
            packed(good.meta | {"num_experts": number}, good.tensors),
        )
    text = json.dumps(good.meta)
    for raw in ("", "null", "[]", "5", '"x"', "{", "{}", "[" * 10**5, text[:-5],
                text + "x",
                text.replace('"version"', '"length": 1, "version"')):  # fmt: skip
        yield f"JSON {raw[:9]}", packed(raw, good.tensors)
    yield "no key", save(dict(good.tensors), {"other": text}), KEY
    yield "no metadata", save(dict(good.tensors)), KEY


def arrays(good):
    """Files of whose tensors one is another."""

    def other(name, array):
        return packed(good.meta, good.tensors | {name: array})

    for name, array in good.tensors.items():
        rest = {n: a for n, a in good.tensors.items() if n != name}
        if name in ("expert_ids", "picture.0", "delta.0.3.k", "attention.3.2.k"):
            yield f"no {name}", packed(good.meta, rest)
        kind = "f8" if array.dtype.kind == "f" else "u2" if name[:3] == "pic" else "u1"
        for label, value in {
            "of another kind": array.astype(kind), "of int32": np.zeros(array.shape,
                    "i4"),
            "a scalar": array.flat[0].reshape(()), "shorter": array[1:],
            "deeper": array[..., None, None], "empty": array[:0],
        }.items():  # fmt: skip
            yield f"{name} {label}", other(name, value)
        if array.dtype.kind == "f":
            for value in (np.nan, np.inf):
                spoilt = array.copy()
                spoilt.flat[-1] = value
                yield f"{name} with {value}", other(name, spoilt), name
    ids, weights = good["expert_ids"], good["expert_weights"]
    yield "an expert of no model", other("expert_ids", ids + 7), "expert_ids"
    yield "the same twice", other("expert_ids", ids * 0), "expert_ids"
    yield "a far expert", other("runner_up", good["runner_up"] | 65535), "runner_up"
    for number in (2, -1):
        spoilt = weights * 0 + number
        yield f"weights of {number}", other("expert_weights", spoilt), "expert_weights"
    for name in (*NAMES.values(), "picture.1", "picture.00", "delta.9.0.q",
                 "delta.3.2.k",
                 "delta.0.3.x", "delta.0.03.q.q", "attention.0.3.q", "expert_ids ",
                 "delta.\u0660.3.q"):  # fmt: skip
        if name != "\ud800":
            yield f"with {show(name, 20)}", other(name, good["delta.0.3.k"])
    raw = packed(good.meta, good.tensors)
    for size in (0, 7, 8, 100, len(raw) // 2, len(raw) - 1):
        yield f"cut to {size}", raw[:size]
    yield "longer", raw + b"\0"


def imports(folder, config, good):
    """Cases of what other engines give."""
    ids = good["expert_ids"].astype(int)
    text = base64.b64encode(ids.astype("<i4").tobytes()).decode()
    found = []

    def add(run, value, *words, expect="refused", **options):
        title = f"{run.__name__} {show(value, 30)} {show(options, 30)}"
        found.append(Case(title, partial(run, value, **options), words, expect))

    def routed(value, **options):
        from_routed_experts(value, **options)

    def csv(raw, top_k=None):
        (folder / "x.csv").write_bytes(raw)
        from_llama_csv(folder / "x.csv", config, top_k)

    def npy(raw):
        (folder / "x.npy").write_bytes(raw)
        open_trace(folder / "x.npy")

    for value in (*ODD, "\u00e4", b"x", [[]], [[1]], [[[1]], [[1, 2]]], ids[0],
                  ids * 1.0,
                  ids - 9, ids + 70_000, ids[:0], ids * 0, ids.astype(object), ids > 2,
                  ids.astype("U"), ids[..., None], [[["a"]]], torch.zeros(2, 3,
                          1)):  # fmt: skip
        add(routed, value)
    for shape in (*ODD, (4,), (0, 2), (-4, 2), ("4", 2), (4.0, 2), (5, 3), (True, 2),
                  (2**62, 2**62)):  # fmt: skip
        add(routed, text, shape=shape)
    for tokens in (*ODD[1:], ["a"] * 12, [1], [[1] * 12], [-1] * 12, [2**32] * 12,
                   [1.5] * 12, [[1], [1, 2]]):  # fmt: skip
        add(routed, ids, "token_ids", token_ids=tokens)
    add(routed, np.repeat(ids, 3, 1), config=config)
    for raw in (b"", b"\n", b"layer,expert\n", b"0", b"0,1,2\n", b"a,b\n", b"0,1\n0\n",
                b"-1,0\n0,1\n", b"0,-1\n", b"0,70000\n", b"99,1\n", b"0,1\n0,1\n",
                b"0,1\n0,2\n1,1\n", b"\xff\xfe0,1\n", b"0,1e9\n", b"0," + b"9" * 9999,
                b"1.5,1\n", b"0;1\n", b"0,1\x00\n", b"nan,1\n",
                b'"0","1"\n'):  # fmt: skip
        add(csv, raw)
    for top_k in (*NO_NUMBERS.values(), 0, -1, 1.5, 3):
        add(csv, b"0,1\n0,2\n1,1\n1,2\n", top_k=top_k)
    file = io.BytesIO()
    np.save(file, ids.astype("i4"))
    raw = file.getvalue()
    for size in (0, 5, 8, 20, 100, len(raw) - 1):
        add(npy, raw[:size], "x.npy")
    for old, new in {b"(12,": b"(99,", b"<i4": b"|O8", b"i4'": b"f4'", b"{": b"(",
                     b"NUMPY": b"NUMPX", b"\x01\0": b"\x09\0", b"descr": b"\xffescr",
                     b"(12, 4, 2)": b"(-1, 4, 2)"}.items():  # fmt: skip
        add(npy, raw.replace(old, new, 1))
    add(npy, raw, expect="accepted")
    return found
