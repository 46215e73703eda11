"""The vision tower of a GGUF checkpoint: in an mmproj beside its file, or in the file.

Its sizes are those of its tensors, which the keys must not deny; one, how many heads
there are, no tensor tells.
"""

from math import isqrt

import numpy as np

from ...errors import InputError, show
from .config import TOKENS
from .files import towers_beside
from .header import GGUF, read_gguf
from .names import renamed

KIND = "qwen3vl_merger"
KEYS = {
    "depth": "block_count", "hidden_size": "embedding_length",
    "intermediate_size": "feed_forward_length", "num_heads": "attention.head_count",
    "in_channels": "num_channels", "patch_size": "patch_size",
    "temporal_patch_size": "temporal_patch_size",
    "spatial_merge_size": "spatial_merge_size", "out_hidden_size": "projection_dim",
    "num_position_embeddings": "num_positional_embeddings",
}  # fmt: skip
# Keys whose other values would be another computation, and the ones we do.
FIXED = {
    "attention.layer_norm_epsilon": 1e-6, "rope.freq_base": 10000.0,
    "is_deepstack_layers": 0, "deepstack_visual_indexes": 0, "n_wa_pattern": 0,
    "window_size": 0,
}  # fmt: skip
NEEDED = ("v.position_embd.weight", "v.patch_embd.weight", "mm.0.weight", "mm.2.weight")


def normal(gguf):
    """The same with llama.cpp's names; InputError if a tensor is there by two."""
    tensors = {renamed(name): entry for name, entry in gguf.tensors.items()}
    if len(tensors) < len(gguf.tensors):
        raise InputError(
            f"{gguf.name} holds some tensors twice, by Ollama's names and by those of "
            "llama.cpp; it is damaged."
        )
    return GGUF(gguf.name, gguf.keys, tensors)


def tower(path, gguf, settings, width):
    """What the model's tower says in config.json, its tensors, and what is left aside.

    ({} or {"vision_config", token ids}, name -> Entry, [phrases]). `width` is the
    language model's.
    """
    fit, left = _parts(path, gguf, width)
    ids = _ids(gguf, settings)
    if fit and (len(fit) > 1 or None in ids.values()):
        why = "one alone could be meant" if len(fit) > 1 else "whose tokens none names"
        left.append(f"{', '.join(what for _, what in fit)}, of which {why}")
        fit = []
    if not fit and not left and "vision.block_count" in settings.vision:
        left.append("its vision tower, which its keys tell of and which is not there")
    if not fit:
        return {}, {}, left
    return {"vision_config": _config(fit[0][0])} | ids, fit[0][0].tensors, left


def pictures(path, gguf):
    """What preprocessor_config.json says, for the tower of a GGUF file; None without.

    Limits of size, of which llama.cpp has others, are those of the released models.
    """
    table = gguf.tensors.get("token_embd.weight")
    fit, _ = _parts(path, normal(gguf), table.shape[-1] if table else 0)
    if len(fit) != 1:
        return None
    told, sizes = fit[0][0].keys, _config(fit[0][0])
    said = {f"image_{key}": told.get(f"image_{key}") for key in ("mean", "std")}
    said = {
        k: [0.5] * 3 if v is None else np.float64(v).tolist() for k, v in said.items()
    }
    size = {"shortest_edge": 65536, "longest_edge": 16777216}
    return said | {
        "size": size, "patch_size": sizes["patch_size"],
        "temporal_patch_size": 2, "merge_size": sizes["spatial_merge_size"],
    }  # fmt: skip


def _parts(path, gguf, width):
    """([(tower, what it is)] of those that fit a model of that width, [why not])."""
    own = {n: e for n, e in gguf.tensors.items() if n.startswith(("v.", "mm."))}
    if own:
        start = f"{gguf.keys.get('general.architecture')}.vision."
        found = [(_plain(GGUF(gguf.name, gguf.keys, own), start), "its vision tower")]
    else:
        files = [normal(read_gguf(file)) for file in towers_beside(path)]
        found = [
            (_plain(file, "clip.vision."), f"{file.name} beside it") for file in files
        ]
    whys = [_misfit(part, width) for part, _ in found]
    fit = [each for each, why in zip(found, whys, strict=True) if not why]
    left = [f"{e[1]}, {why}" for e, why in zip(found, whys, strict=True) if why]
    return fit, left


def _plain(gguf, start):
    """A tower with plain keys, which begin with `start` in its file."""
    keys = {k.removeprefix(start): v for k, v in gguf.keys.items()}
    kind = keys.get("clip.projector_type", keys.get("projector_type"))
    return GGUF(gguf.name, keys | {"projector_type": kind}, gguf.tensors)


def _misfit(part, width):
    """Why this is not the tower of a model of that width, or None."""
    kind = part.keys["projector_type"]
    if show(kind) not in (KIND, "None"):  # Ollama's files do not say it
        return f"which is of another kind ({show(kind)})"
    lacking = [name for name in NEEDED if name not in part.tensors]
    if lacking:
        return f"which has no {lacking[0]}"
    out = part.tensors["mm.2.weight"].shape[0]
    return f"which is made for a width of {out}, not {width}" if out != width else None


def _ids(gguf, settings):
    """The ids of the tokens around and under pictures, None where none is known."""
    tokens = gguf.keys.get("tokenizer.ggml.tokens")
    places = {t: i for i, t in enumerate(tokens)} if isinstance(tokens, list) else {}
    return {k: settings.vision.get(k, places.get(t)) for k, t in TOKENS.items()}


def _config(part):
    """vision_config, as far as tensors and keys agree; else InputError."""

    def size(name, axis):
        return part.tensors[name].shape[axis] if name in part.tensors else 0

    width = size(NEEDED[0], -1)
    found = {
        "depth": len({n.split(".")[2] for n in part.tensors if n[:6] == "v.blk."}),
        "hidden_size": width,
        "intermediate_size": size("v.blk.0.ffn_up.weight", 0),
        "num_heads": part.keys.get("attention.head_count"),
        "in_channels": 3,
        "patch_size": size(NEEDED[1], -1),
        "temporal_patch_size": 2,
        "spatial_merge_size": isqrt(size(NEEDED[2], -1) // max(width, 1)),
        "out_hidden_size": size(NEEDED[3], 0),
        "num_position_embeddings": size(NEEDED[0], 0),
    }
    for ours, key in KEYS.items():
        said = part.keys.get(key, found[ours])
        if isinstance(said, np.ndarray | list) or said != found[ours]:
            raise _fault(part, key, said, found[ours])
    for key, want in FIXED.items():
        said = part.keys.get(key, want)
        wrong = isinstance(said, str | list) or not np.allclose(said, want, 1e-6, 0)
        if wrong:
            raise _fault(part, key, said, want)
    return found


def _fault(part, key, said, wanted):
    said = said.tolist() if isinstance(said, np.ndarray) else said
    return InputError(f"{part.name}: {key} is {show(said)}; expected {show(wanted)}.")
