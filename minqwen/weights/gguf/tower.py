"""The vision tower of a GGUF checkpoint: in an mmproj beside its file, or in the file.

Its sizes are those of its tensors, which the keys must confirm; only the number of
heads comes from a key alone.
"""

from math import isqrt

import numpy as np

from ...errors import InputError, number, show
from .config import TOKENS
from .files import towers_beside
from .header import GGUF, read_gguf
from .names import renamed

MERGER = "qwen3vl_merger", "None"  # Ollama's files name none
NEEDED = ("v.position_embd.weight", "v.patch_embd.weight", "mm.0.weight", "mm.2.weight")
# With other values than these, the keys ask for another computation.
FIXED = {
    "attention.layer_norm_epsilon": 1e-6, "rope.freq_base": 10000.0,
    "is_deepstack_layers": 0, "deepstack_visual_indexes": 0, "n_wa_pattern": 0,
    "window_size": 0,
}  # fmt: skip
RELEASED = {"shortest_edge": 65536, "longest_edge": 16777216}  # pixels of a picture


def normal(gguf):
    """The same with llama.cpp's names; InputError if a tensor has two names."""
    tensors = {renamed(name): entry for name, entry in gguf.tensors.items()}
    if len(tensors) < len(gguf.tensors):
        raise InputError(
            f"{gguf.name} holds some tensors twice, by Ollama's names and by those of "
            "llama.cpp; it is damaged."
        )
    return GGUF(gguf.name, gguf.keys, tensors)


def tower(path, gguf, settings, width):
    """What config.json would say of the tower, its tensors, and what is left aside.

    ({} or {"vision_config", token ids}, name -> Entry, [phrases]). `width` is the
    language model's.
    """
    fit, left = _fitting(path, gguf, width)
    if not fit:
        if not left and "vision.block_count" in settings.vision:
            left = ["its vision tower, which its keys tell of and which is not there"]
        return {}, {}, left
    words = gguf.keys.get("tokenizer.ggml.tokens")
    words = {t: i for i, t in enumerate(words)} if isinstance(words, list) else {}
    ids = {key: settings.vision.get(key, words.get(t)) for key, t in TOKENS.items()}
    for key, word in TOKENS.items():
        odd = isinstance(ids[key], np.ndarray | list)
        if word in words and (odd or ids[key] != words[word]):
            raise settings.fault(key, ids[key], f"{words[word]}, which {word} is")
    if len(fit) > 1 or any(i is None for i in ids.values()):
        why = "one alone could be meant" if len(fit) > 1 else "whose tokens none names"
        return {}, {}, [f"{', '.join(what for _, what in fit)}, of which {why}"]
    part = fit[0][0]
    return {"vision_config": _config(part)} | ids, part.tensors, []


def pictures(path, gguf):
    """What preprocessor_config.json would say for a GGUF file's tower; None without.

    Limits of size are the released models'; llama.cpp has others.
    """
    table = gguf.tensors.get("token_embd.weight")
    fit, _ = _fitting(path, normal(gguf), table.shape[-1] if table else 0)
    if len(fit) != 1:
        return None
    part, sizes = fit[0][0], _config(fit[0][0])
    shift = {key: part.keys.get(key, [0.5] * 3) for key in ("image_mean", "image_std")}
    said = {key: np.asarray(value).tolist() for key, value in shift.items()}
    said |= {k: sizes[k] for k in ("patch_size", "temporal_patch_size")}
    return said | {"merge_size": sizes["spatial_merge_size"], "size": RELEASED}


def _fitting(path, gguf, width):
    """([(tower, what it is)] that fit a model of that width, [why none does]).

    The one in the file itself, or else those beside it; their keys lose their prefix.
    """
    own = {n: e for n, e in gguf.tensors.items() if n.startswith(("v.", "mm."))}
    start = f"{gguf.keys.get('general.architecture')}.vision."
    found = [(GGUF(gguf.name, gguf.keys, own), "its vision tower")] if own else []
    if not own:
        start, files = "clip.vision.", towers_beside(path)
        found = [(normal(read_gguf(f)), f"{show(f.name)} beside it") for f in files]
    fit, left = [], []
    for part, what in found:
        keys = {k.removeprefix(start): v for k, v in part.keys.items()}
        part = GGUF(part.name, keys, part.tensors)
        why = _misfit(part, width)
        left += [f"{what}, {why}"] if why else []
        fit += [] if why else [(part, what)]
    return fit, left if not fit else []


def _misfit(part, width):
    """Why this tower does not fit a model of that width, or None."""
    kind = part.keys.get("clip.projector_type", part.keys.get("projector_type"))
    if show(kind) not in MERGER:
        return f"which is of another kind ({show(kind)})"
    lacking = [name for name in NEEDED if name not in part.tensors]
    if lacking:
        return f"which has no {lacking[0]}"
    if any(name.startswith("v.deepstack") for name in part.tensors):
        return "which feeds several layers (deepstack), as Qwen3-VL's does"
    out = part.tensors["mm.2.weight"].shape[0]
    return f"which is made for a width of {out}, not {width}" if out != width else None


def _config(part):
    """vision_config; InputError where tensors and keys disagree."""
    place, patch, first, last = (part.tensors[name].shape for name in NEEDED)
    up = part.tensors.get("v.blk.0.ffn_up.weight")
    blocks = {n.split(".")[2] for n in part.tensors if n.startswith("v.blk.")}
    merge = isqrt(first[-1] // max(place[-1], 1))
    sizes = {  # config.json's name: (the key that may say it too, its value)
        "depth": ("block_count", len(blocks)),
        "hidden_size": ("embedding_length", place[-1]),
        "intermediate_size": ("feed_forward_length", up.shape[0] if up else 0),
        "in_channels": ("num_channels", 3),
        "patch_size": ("patch_size", patch[-1]),
        "temporal_patch_size": ("temporal_patch_size", 2),
        "spatial_merge_size": ("spatial_merge_size", merge),
        "out_hidden_size": ("projection_dim", last[0]),
        "num_position_embeddings": ("num_positional_embeddings", place[0]),
    }
    for key, value in (*sizes.values(), *FIXED.items()):
        said = part.keys.get(key, value)
        if isinstance(said, str | list) or not np.allclose(said, value, 1e-6, 0):
            raise part.fault(key, said, show(value))
    heads, name = "attention.head_count", f"{part.name}: attention.head_count"
    heads = number(part.keys.get(heads), name, int, 1, place[-1])
    return {ours: value for ours, (_, value) in sizes.items()} | {"num_heads": heads}
