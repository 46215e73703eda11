"""What a checkpoint is made of, from its headers, without reading a weight."""

import math
import os
from collections import Counter
from textwrap import wrap

import torch

from ..model.config import Config
from ..model.forms import available_kinds
from ..model.members import member, repository
from ..model.shapes import FULL
from ..units import human
from ..weights import expected_tensors, open_checkpoint, resolve
from ..weights.checkpoint.foreign import refuse_folder
from ..weights.checkpoint.header import BITS
from ..weights.checkpoint.layout import LABELS, skeleton
from ..weights.gguf.files import find_gguf
from ..weights.gguf.header import BLOCKS
from ..weights.gguf.load import open_gguf
from ..weights.load import agree_on_parts
from ..weights.quantised.settings import KEY
from .forms import quantisation

# Of one weight: a block of 256 in Q4_K takes 144 bytes, which is 4.5 bits each.
BITS = BITS | {kind: 8 * size / weights for kind, (weights, size) in BLOCKS.items()}
WIDTH = 13  # of the left column


def describe(path):
    """Some twenty lines on a folder, file, hub id, or a released size by name."""
    # Without weights at hand the tensors are those that the config asks for, in bf16.
    cfg, tensors, whence = survey(path)
    lines = [("config", f"{whence}, {cfg.model_type}")]
    forms = []
    for label, text in quantisation(path, cfg, tensors):
        parts = wrap(text, 80 - WIDTH, break_long_words=False, break_on_hyphens=False)
        forms += zip([label, *[""] * len(parts)], parts, strict=False)
    lines += [*language_model(cfg.text), vision_tower(cfg.vision)]
    if not any(name.startswith("mtp.") for name in tensors):
        cfg = cfg.replace(mtp_num_hidden_layers=0)  # files without the head it names
    counts = skeleton(cfg, torch.bfloat16).num_parameters()
    words = {"total": "", "active": "active for a token of text"}
    for i, part in enumerate(("total", "text", "vision", "mtp", "active")):
        if counts[part]:
            count = f"{counts[part]:>15,} {words.get(part, part)}"
            lines.append(("" if i else "parameters", count))
    size = sum(math.prod(shape) * BITS[kind] for shape, kind in tensors.values())
    size = round(size / 8)
    kinds = Counter(kind for _, kind in tensors.values()).most_common()
    kinds = ", ".join(f"{n:,} {kind}" for kind, n in kinds)
    lines.append(("tensors", f"{len(tensors):,}: {kinds}"))
    lines.append(("bytes", f"{size:,}, which is {human(size)}"))
    lines += forms
    lines.append(("kernels", available_kinds()))
    unknown = sorted(cfg.extra.keys() - {KEY})
    lines.append(("unknown keys", ", ".join(unknown) or "none"))
    return "\n".join(f"{label:<{WIDTH}}{text}".rstrip() for label, text in lines)


def survey(path):
    """Config, {name: (shape, dtype's name)}, and where they were found."""
    key = member(path)
    here = os.path.exists(path)  # also of a name too long to ask for
    if not here and (key or "/" not in str(path)):
        cfg = Config.named(str(path))
        return cfg, asked_tensors(cfg), repository(key).removeprefix("Qwen/")
    found = resolve(path, wanted=["config.json"])  # never the weights, if far away
    if here and (file := find_gguf(found)):
        cfg, stored, *_ = open_gguf(file)
        draft = f"blk.{cfg.text.num_hidden_layers}."  # where the draft head is
        stored = {"mtp." * n.startswith(draft) + n: e for n, e in stored.items()}
        return cfg, {n: (e.shape, e.dtype) for n, e in stored.items()}, str(path)
    folder = found if found.is_dir() else found.parent
    if found.is_dir() and not (found / "config.json").exists():
        refuse_folder(found)
    cfg = Config.from_json(folder)
    if not here or found.is_dir() and not any(found.glob("*.safetensors*")):
        return cfg, asked_tensors(cfg), f"{path} (no weights here)"
    stored = open_checkpoint(found)
    cfg = agree_on_parts(cfg, stored)[0]
    return cfg, {n: (e.shape, e.dtype) for n, e in stored.items()}, str(path)


def asked_tensors(cfg):
    """{name: (shape, dtype's name)} that the config asks for in the released layout."""
    tensors = expected_tensors(cfg, torch.bfloat16)
    return {name: (shape, LABELS[dtype]) for name, (shape, dtype) in tensors.items()}


def language_model(t):
    """What the language model is built from."""
    count, full = len(t.layer_types), t.layer_types.count(FULL)
    yield "layers", f"{count}: {count - full} delta, {full} full"
    yield "width", f"{t.hidden_size}, vocabulary {t.vocab_size:,}"
    heads = f"{t.num_attention_heads} query, {t.num_key_value_heads} key/value"
    yield "full", f"{heads} heads of {t.head_dim}"
    heads = f"{t.linear_num_key_heads} key, {t.linear_num_value_heads} value"
    size = f"{t.linear_key_head_dim} x {t.linear_value_head_dim}"
    yield "delta", f"{heads} heads, states of {size}, window {t.linear_conv_kernel_dim}"
    if t.num_experts:
        routed = f"{t.num_experts_per_tok} of {t.num_experts}"
        widths = t.moe_intermediate_size, t.shared_expert_intermediate_size
        yield "experts", f"{routed}, {widths[0]} wide; one shared, {widths[1]} wide"
    else:
        yield "mlp", f"{t.intermediate_size} wide"
    yield "positions", f"{t.max_position_embeddings:,}, rope {t.rope.rope_type}"


def vision_tower(v):
    if v is None:
        return "vision", "none"
    pixels = v.patch_size * v.spatial_merge_size
    size = f"{v.depth} layers, {v.hidden_size} wide, {v.num_heads} heads"
    return "vision", f"{size}; a token is {pixels} x {pixels} pixels"
