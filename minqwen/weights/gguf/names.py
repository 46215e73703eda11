"""Where a GGUF checkpoint keeps each of our parameters, and what it did to them.

llama.cpp's converter renames tensors and changes some values to suit its kernels:

    norms        1 + w is stored; w for the gated norm and those of the vision tower
    ssm_a        -exp(A_log) is stored
    conv1d       [channels, 1, taps] without the middle axis
    gate_up      an expert's two halves as two tensors, or fused as ours are
    patch_embd   [D, channels, frames, h, w] as a tensor for each of the two frames
    value heads  in the order of the heads they repeat: head r K + k is our k R + r,
                 for K key heads with R value heads each

so that tiling repeats the key heads. Reading undoes all of it. Ollama has other names
for some tensors, and keeps the tower in the model's file, with q, k and v apart and the
patches in one tensor.
Source: conversion/qwen.py, conversion/qwen3vl.py, src/models/qwen35*.cpp of llama.cpp;
convert/convert_qwen3next.go and llama/compat/llama-ollama-compat.cpp of Ollama.
"""

import re
from dataclasses import dataclass

import torch

from ..checkpoint.layout import BODY

LAYER = {
    "input_layernorm": "attn_norm", "post_attention_layernorm": "post_attention_norm",
    "linear_attn.in_proj_qkv": "attn_qkv", "linear_attn.in_proj_z": "attn_gate",
    "linear_attn.in_proj_b": "ssm_beta", "linear_attn.in_proj_a": "ssm_alpha",
    "linear_attn.conv1d": "ssm_conv1d", "linear_attn.norm": "ssm_norm",
    "linear_attn.A_log": "ssm_a", "linear_attn.dt_bias": "ssm_dt.bias",
    "linear_attn.out_proj": "ssm_out", "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm", "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down", "mlp.gate": "ffn_gate_inp",
    "mlp.experts.gate_up_proj": "ffn_gate_up_exps.weight",
    "mlp.experts.down_proj": "ffn_down_exps.weight",
    "mlp.shared_expert.gate_proj": "ffn_gate_shexp",
    "mlp.shared_expert.up_proj": "ffn_up_shexp",
    "mlp.shared_expert.down_proj": "ffn_down_shexp",
    "mlp.shared_expert_gate": "ffn_gate_inp_shexp",
    # and the tower's
    "norm1": "ln1", "norm2": "ln2", "attn.qkv": "attn_qkv", "attn.proj": "attn_out",
    "mlp.linear_fc1": "ffn_up", "mlp.linear_fc2": "ffn_down",
}  # fmt: skip
ALL = slice(None)
WHOLE = {
    BODY + "embed_tokens": "token_embd", BODY + "norm": "output_norm",
    "lm_head": "output", "mtp.fc": "nextn.eh_proj",
    "mtp.pre_fc_norm_embedding": "nextn.enorm",
    "mtp.pre_fc_norm_hidden": "nextn.hnorm", "mtp.norm": "nextn.shared_head_norm",
    "model.visual.patch_embed.proj": "v.patch_embd",
    "model.visual.pos_embed": "v.position_embd",
    "model.visual.merger.norm": "v.post_ln",
    "model.visual.merger.linear_fc1": "mm.0", "model.visual.merger.linear_fc2": "mm.2",
}  # fmt: skip
# Ollama's names, and llama.cpp's; the last line is for names that quantisers write.
RENAMED = {
    r"(blk\.\d+\.ssm_dt)": r"\1.bias", r"v\.pos_embed(.*)": r"v.position_embd\1",
    r"v\.patch_embed(\..*)": r"v.patch_embd\1", r"v\.merger\.norm(.*)": r"v.post_ln\1",
    r"v\.merger\.linear_fc1(.*)": r"mm.0\1", r"v\.merger\.linear_fc2(.*)": r"mm.2\1",
    r"(v\.blk\.\d+\.)norm(\d\..*)": r"\1ln\2",
    r"(v\.blk\.\d+\.)mlp\.linear_fc1(.*)": r"\1ffn_up\2",
    r"(v\.blk\.\d+\.)mlp\.linear_fc2(.*)": r"\1ffn_down\2",
    r"(.*)\.weight\.((?:input_)?scale)": r"\1.\2",
}  # fmt: skip


@dataclass(frozen=True)
class Move:
    """One stored tensor, and the parameter or the part of one that it becomes."""

    source: str
    name: str
    shape: tuple
    part: tuple = ()  # where in the parameter, as an index


def renamed(name):
    """llama.cpp's name of a stored tensor."""
    for theirs, ours in RENAMED.items():
        match = re.fullmatch(theirs, name)
        if match:
            return match.expand(ours)
    return name


def moves(cfg, shapes, stored):
    """The Moves that make up each parameter of `shapes`, name -> shape.

    There are several where `stored`, the file's names, has the parts one by one.
    """
    for name, shape in shapes.items():
        source = gguf_name(cfg, name)
        for stem, size, part in _parts(name, source, tuple(shape), stored):
            yield Move(stem, name, size, part)


def _parts(name, source, shape, stored):
    """(stored name, shape, where it goes) for all that makes up a parameter."""
    first, *rest = shape
    if name.endswith("experts.gate_up_proj") and source not in stored:
        half = rest[0] // 2
        for i, part in enumerate(("gate", "up")):
            where = ALL, slice(i * half, (i + 1) * half)
            yield source.replace("gate_up", part), (first, half, rest[1]), where
    elif ".attn.qkv." in name and source not in stored:
        third = first // 3
        for i, part in enumerate("qkv"):
            where = slice(i * third, (i + 1) * third)
            yield source.replace("qkv", part), (third, *rest), (where,)
    elif name.endswith("patch_embed.proj.weight") and source + ".1" in stored:
        for i, end in enumerate(("", ".1")):
            yield source + end, (first, rest[0], *rest[2:]), (..., i, ALL, ALL)
    elif name.endswith("patch_embed.proj.weight"):  # as Ollama packs it
        yield source, (first * rest[0], *rest[1:]), ()
    else:
        yield source, shape, ()


def gguf_name(cfg, name):
    """The stored name of a parameter; the draft head's layer comes after the others."""
    end = re.search(r"(\.weight|\.bias)?$", name)[0]
    stem, last = name.removesuffix(end), f"blk.{cfg.text.num_hidden_layers}."
    if stem in WHOLE:
        return last * stem.startswith("mtp.") + WHOLE[stem] + end
    prefix, number, kind = re.fullmatch(r"(.*?)\.(\d+)\.(.*)", stem).groups()
    if prefix == "mtp.layers":
        return last + LAYER[kind] + end
    tower = "v." * prefix.startswith("model.visual")
    return f"{tower}blk.{number}.{LAYER[kind]}{end}"


def as_trained(name, values):
    """A parameter's own values, from those that are stored."""
    if name.endswith("A_log"):
        return values.float().neg().log()
    kept = name.endswith("linear_attn.norm.weight") or name.startswith("model.visual.")
    return values.float() - 1 if "norm" in name and not kept else values


def head_order(cfg, name, tiled):
    """Where the stored rows and columns of a parameter go: two index tensors.

    Row i of what is stored is our row `rows[i]`; likewise for columns. A vector is one
    row. None for what stays in place, as all does in files that are not `tiled`.
    """
    t = cfg.text
    one_to_one = t.linear_num_key_heads == t.linear_num_value_heads
    if one_to_one or not tiled or ".linear_attn." not in name:
        return None, None
    wide, heads = value_order(t, t.linear_value_head_dim), value_order(t, 1)
    keys = t.conv_dim - len(wide)  # rows of q and k, which come first
    all_rows = torch.cat([torch.arange(keys), keys + wide])
    orders = {
        "in_proj_qkv": (all_rows, None), "conv1d": (all_rows, None),
        "in_proj_z": (wide, None), "out_proj": (None, wide),
        "in_proj_a": (heads, None), "in_proj_b": (heads, None),
        "A_log": (None, heads), "dt_bias": (None, heads),
    }  # fmt: skip
    kind = name.rpartition("linear_attn.")[2].removesuffix(".weight")
    return orders.get(kind, (None, None))


def value_order(text, width):
    """Where each of the value heads' numbers, stored tiled, lies among ours."""
    keys = text.linear_num_key_heads
    ours = torch.arange(text.linear_num_value_heads * width).view(keys, -1, width)
    return ours.transpose(0, 1).flatten()
