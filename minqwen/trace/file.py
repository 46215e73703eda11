"""The trace file: a safetensors file whose one metadata key says what it holds.

T tokens, L layers, K choices, Ld delta layers with H value heads each:

    expert_ids     u16 [T, L, K], best first; absent in a model without experts
    expert_weights f16 [T, L, K], or u8 of 255    router_margin f16 [T, L], logits
    runner_up      u16 [T, L], the next expert    shared_gate   f16 [T, L], 0 to 1
    router_entropy f16 [T, L], bits of the softmax over all experts (since version 2)
    token_ids      u32 [T]                        picture.i     u8 [16 rows, 16 cols, 3]
    state_norm, state_decay (g), state_beta       f16 [T, Ld, H]
    delta.l.h.{q, k} [T, K], .v [T, V], .beta, .g [T], and .start [K, V] unless zero
    attention.l.h.{q, k} [T, K], after norm and rotation

`minqwen_trace` is sorted JSON: version, source, model, length (T), layer_types,
num_experts, tokens (texts that joined give the whole, so some are empty; or null),
prompt_length (or null), pictures (kind, start, rows, columns: tokens start ... are its
patches, row by row), and perhaps opens: the token, head [l, h] and probe that the
explorers begin with, and labels: up to 8 names, and of which each token is. A file may
come from anyone, so all of it is checked on reading; `widgets/shared/trace.mjs` makes
the same checks in the browser.
"""

import json
import re

import numpy as np

from ..errors import InputError, show
from ..files import Reader, read_json
from ..model.shapes import FULL, LINEAR
from ..weights.checkpoint.header import lay_out, read_header

KEY = "minqwen_trace"
VERSION = 2  # older ones are read too: a later version adds tensors
UNKNOWN = "unknown"  # the type of a layer in a trace that does not say
PIXELS = 16  # of a stored picture, for each token and side
FLOATS = ("F16", "F32")
NUMPY = {"F16": "<f2", "F32": "<f4", "U8": "u1", "U16": "<u2", "U32": "<u4"}
LABELS = {np.dtype(code): label for label, code in NUMPY.items()}
HEAD = re.compile(r"(delta|attention)\.(\d{1,4})\.(\d{1,4})\.(q|k|v|beta|g|start)")
PICTURE = re.compile(r"picture\.(0|[1-9]\d{0,5})")


def to_bytes(meta, tensors):
    """The file's bytes: the same for the same content, whenever they are made."""
    text = json.dumps(meta, sort_keys=True, ensure_ascii=False)
    labels = {n: (LABELS[array.dtype], array.shape) for n, array in tensors.items()}
    raw, places = lay_out(dict(sorted(labels.items())), {KEY: text})
    return raw + b"".join(tensors[name].tobytes() for name in places)


def new_meta(source, model, length, layer_types, num_experts):
    """The JSON of a trace that as yet has neither texts nor pictures."""
    return {
        "version": VERSION, "source": source, "model": model, "length": length,
        "layer_types": layer_types, "num_experts": num_experts,
        "tokens": None, "prompt_length": None, "pictures": [],
    }  # fmt: skip


def read_trace(path):
    """(meta, {name: array}) of a trace file; InputError for anything that is wrong."""
    tensors = {}
    with Reader(path) as file:
        name = show(file.path.name)
        metadata, table = read_header(file)
        meta = parse_meta(metadata, name)
        for tensor, entry in table.items():
            if entry.dtype not in NUMPY:
                raise InputError(
                    f"{name}: {show(tensor)} is {entry.dtype}; a trace holds "
                    f"{', '.join(NUMPY)} only"
                )
            data = file.read(entry.nbytes, entry.start)
            array = np.frombuffer(data, NUMPY[entry.dtype])
            tensors[tensor] = array.reshape(entry.shape)
    check_trace(meta, tensors, name)
    return meta, tensors


def parse_meta(metadata, name):
    """The one metadata key's JSON object, of a version that we know."""
    try:
        meta = read_json(metadata.get(KEY, "").encode(), f"{name}: {KEY}")
    except ValueError:  # an InputError is one
        raise InputError(
            f"{name} is not a trace: its metadata has no {KEY} with a JSON object; "
            "record one with minqwen.record or minqwen trace"
        ) from None
    if not is_whole(meta.get("version"), 1, VERSION):
        raise InputError(
            f"{name} is a trace of version {show(meta.get('version'))}, expected 1 to "
            f"{VERSION}; record it again, or use the minqwen that wrote it"
        )
    return meta


def check_trace(meta, tensors, name):
    """InputError, one sentence beginning with `name`, unless all agrees."""
    check_meta(meta, tensors, name)
    for tensor, array in tensors.items():
        kinds, shape = expected_form(tensor, meta, tensors, name)
        kind = LABELS.get(array.dtype)
        if kind not in kinds or array.shape != shape:
            raise InputError(
                f"{name}: {show(tensor)} is {kind or array.dtype} "
                f"{list(array.shape)}, expected {' or '.join(kinds)} {list(shape)}"
            )
        if kind in FLOATS and not np.isfinite(array).all():
            raise InputError(f"{name}: {show(tensor)} holds a value that is not finite")
    for tensor in ("expert_ids", "runner_up"):
        if tensor in tensors:
            check_experts(tensors[tensor], meta["num_experts"], f"{name}: {tensor}")
    weights = tensors.get("expert_weights", np.zeros(1, np.uint8))
    if weights.dtype != np.uint8 and (weights.min() < 0 or weights.max() > 1):
        raise InputError(f"{name}: expert_weights are not all between 0 and 1")


def check_meta(meta, tensors, name):
    """What the JSON says must be of the right kind, and fit the tensors."""

    def need(good, key, wanted):
        if not good:
            raise InputError(f"{name}: {key} in {KEY} is wrong, expected {wanted}")

    T = meta.get("length")
    measured = tensors.get("expert_ids", tensors.get("token_ids"))
    need(is_whole(T, 1, 2**31), "length", "a whole number of tokens, at least one")
    held = None if measured is None or not measured.ndim else len(measured)
    need(held == T, "length", "the first size of expert_ids, or else of token_ids")
    ids = tensors.get("expert_ids")
    kinds = meta.get("layer_types")
    L = len(kinds or ()) if ids is None or ids.ndim != 3 else ids.shape[1]
    named = are_texts(kinds, L) and set(kinds) <= {FULL, LINEAR, UNKNOWN}
    need(named, "layer_types", f"{L} of {FULL}, {LINEAR}, {UNKNOWN}")
    experts = meta.get("num_experts")
    need(is_whole(experts, 0, 65535), "num_experts", "a whole number up to 65535")
    named = are_texts([meta.get("model"), meta.get("source")], 2)
    need(named, "model or source", "text")
    tokens, prompt = meta.get("tokens", 0), meta.get("prompt_length", -1)
    need(tokens is None or are_texts(tokens, T), "tokens", f"null or {T} texts")
    need(prompt is None or is_whole(prompt, 0, T), "prompt_length", f"null or 0 to {T}")
    pictures = meta.get("pictures")
    need(isinstance(pictures, list), "pictures", "a list")
    for i, picture in enumerate(pictures):
        picture = picture if isinstance(picture, dict) else {}
        sides = [picture.get("rows"), picture.get("columns")]
        good = all(is_whole(side, 1, T) for side in sides) and f"picture.{i}" in tensors
        good = good and is_whole(picture.get("start"), 0, T - sides[0] * sides[1])
        good = good and picture.get("kind") in ("image", "video")
        need(good, f"picture {i}", "its kind, start, rows and columns, and its pixels")
    if "labels" in meta:
        labels = meta["labels"] if isinstance(meta["labels"], dict) else {}
        names, of = labels.get("names"), labels.get("of")
        good = isinstance(names, list) and 0 < len(names) <= 8
        good = good and are_texts(names, len(names)) and isinstance(of, list)
        good = good and len(of) == T and all(is_whole(n, 0, len(names) - 1) for n in of)
        need(good, "labels", f"up to 8 names, and of which the {T} tokens are")
    opens = meta.get("opens", {})
    good = isinstance(opens, dict) and set(opens) <= {"token", "probe", "head"}
    good = good and all(is_whole(opens.get(k, 0), 0, T - 1) for k in ("token", "probe"))
    if good and "head" in opens:
        head = opens["head"]
        good = isinstance(head, list) and len(head) == 2
        good = good and all(is_whole(number, 0, 9999) for number in head)
        good = good and "delta.{}.{}.q".format(*head) in tensors
    need(good, "opens", "a token, a probe and the [layer, head] of a delta head")


def is_whole(value, low, high):
    return type(value) is int and low <= value <= high


def are_texts(values, count):
    """Whether it is a list of `count` texts, without halves of surrogate pairs."""
    right = isinstance(values, list) and len(values) == count
    right = right and all(isinstance(value, str) for value in values)
    return right and not re.search("[\ud800-\udfff]", "".join(values))


def expected_form(tensor, meta, tensors, name):
    """What `tensor` should be: dtypes, and a shape."""
    T, kinds, array = meta["length"], meta["layer_types"], tensors[tensor]
    L, last = len(kinds), array.shape[-1] if array.ndim else 0
    heads = FLOATS, (T, kinds.count(LINEAR), last)
    known = {
        "expert_ids": (("U16",), (T, L, last)),
        "expert_weights": ((*FLOATS, "U8"), np.shape(tensors.get("expert_ids"))),
        **dict.fromkeys(("router_margin", "router_entropy"), (FLOATS, (T, L))),
        "runner_up": (("U16",), (T, L)),
        "shared_gate": (FLOATS, (T, L)),
        "token_ids": (("U32",), (T,)),
        **dict.fromkeys(("state_norm", "state_decay", "state_beta"), heads),
    }
    if tensor in known:
        return known[tensor]
    picture, head = PICTURE.fullmatch(tensor), HEAD.fullmatch(tensor)
    if picture and int(picture[1]) < len(meta["pictures"]):
        grid = meta["pictures"][int(picture[1])]
        return ("U8",), (PIXELS * grid["rows"], PIXELS * grid["columns"], 3)
    if head:
        shape = head_shape(head, T, kinds, tensors, name)
        if shape:
            return FLOATS, shape
    raise InputError(f"{name}: {show(tensor)} is not a tensor of a trace")


def head_shape(head, T, kinds, tensors, name):
    """The shape of one of a head's tensors, which come together; None for no such."""
    kind, layer, _, part = head.groups()
    wanted = LINEAR if kind == "delta" else FULL
    if int(layer) >= len(kinds) or kinds[int(layer)] != wanted:
        return None
    parts = ("q", "k", "v", "beta", "g") if kind == "delta" else ("q", "k")
    own = {p: tensors.get(head[0].removesuffix(part) + p) for p in parts}
    missing = [p for p in parts if own[p] is None]
    if missing:
        raise InputError(f"{name}: {show(head[0])} comes without its {missing[0]}")
    width = {p: own[p].shape[-1] if own[p].ndim else 0 for p in parts}
    shapes = {"q": (T, width["k"]), "k": (T, width["k"])}
    if kind == "delta":
        shapes |= {"v": (T, width["v"]), "beta": (T,), "g": (T,)}
        shapes["start"] = (width["k"], width["v"])
    return shapes.get(part)


def check_experts(ids, experts, name):
    """Every id below `experts`, and no expert twice for a token in a layer."""
    if ids.size and ids.max() >= experts:
        at = np.unravel_index(ids.argmax(), ids.shape)
        raise InputError(
            f"{name} names expert {ids.max()} at token {at[0]}, layer {at[1]}, but "
            f"there are {experts}"
        )
    if ids.ndim == 3 and ids.shape[2] > 1:
        ordered = np.sort(ids, axis=-1)
        twice = (ordered[..., 1:] == ordered[..., :-1]).any(-1)
        if twice.any():
            t, layer = np.unravel_index(twice.argmax(), twice.shape)
            raise InputError(
                f"{name} names an expert twice at token {t}, layer {layer}; an engine "
                "that leaves zeros where it recorded nothing does so: cut those off"
            )
