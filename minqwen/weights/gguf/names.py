"""Where a GGUF checkpoint keeps each of our parameters, and what it did to them.

llama.cpp's converter renames tensors and changes some of their values, for the sake of
its kernels:

    norms        1 + w is stored, but for the gated norm, which is w here too
    ssm_a        -exp(A_log) is stored
    conv1d       [channels, 1, taps] without the middle axis
    gate_up      an expert's two halves as two tensors, or fused as ours are
    value heads  in the order of the heads they repeat: head r K + k is our k R + r,
                 for K key heads with R value heads each

so that key heads are repeated by tiling them. Reading undoes all of it.
Source: conversion/qwen.py and src/models/qwen35*.cpp of llama.cpp.
"""

from dataclasses import dataclass

import torch

from ..checkpoint.layout import BODY

LAYER = {
    "input_layernorm.weight": "attn_norm.weight",
    "post_attention_layernorm.weight": "post_attention_norm.weight",
    "linear_attn.in_proj_qkv.weight": "attn_qkv.weight",
    "linear_attn.in_proj_z.weight": "attn_gate.weight",
    "linear_attn.in_proj_b.weight": "ssm_beta.weight",
    "linear_attn.in_proj_a.weight": "ssm_alpha.weight",
    "linear_attn.conv1d.weight": "ssm_conv1d.weight",
    "linear_attn.A_log": "ssm_a",
    "linear_attn.dt_bias": "ssm_dt.bias",
    "linear_attn.norm.weight": "ssm_norm.weight",
    "linear_attn.out_proj.weight": "ssm_out.weight",
    "self_attn.q_proj.weight": "attn_q.weight",
    "self_attn.k_proj.weight": "attn_k.weight",
    "self_attn.v_proj.weight": "attn_v.weight",
    "self_attn.o_proj.weight": "attn_output.weight",
    "self_attn.q_norm.weight": "attn_q_norm.weight",
    "self_attn.k_norm.weight": "attn_k_norm.weight",
    "mlp.gate_proj.weight": "ffn_gate.weight",
    "mlp.up_proj.weight": "ffn_up.weight",
    "mlp.down_proj.weight": "ffn_down.weight",
    "mlp.gate.weight": "ffn_gate_inp.weight",
    "mlp.experts.gate_up_proj": "ffn_gate_up_exps.weight",
    "mlp.experts.down_proj": "ffn_down_exps.weight",
    "mlp.shared_expert.gate_proj.weight": "ffn_gate_shexp.weight",
    "mlp.shared_expert.up_proj.weight": "ffn_up_shexp.weight",
    "mlp.shared_expert.down_proj.weight": "ffn_down_shexp.weight",
    "mlp.shared_expert_gate.weight": "ffn_gate_inp_shexp.weight",
}
WHOLE = {
    BODY + "embed_tokens.weight": "token_embd.weight",
    BODY + "norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}
DRAFT = {
    "mtp.fc.weight": "nextn.eh_proj.weight",
    "mtp.pre_fc_norm_embedding.weight": "nextn.enorm.weight",
    "mtp.pre_fc_norm_hidden.weight": "nextn.hnorm.weight",
    "mtp.norm.weight": "nextn.shared_head_norm.weight",
}


@dataclass(frozen=True)
class Move:
    """One stored tensor and the parameter that it becomes."""

    source: str
    name: str
    shape: tuple
    half: tuple | None = None  # rows of each expert's gate_up_proj, if not all


def moves(cfg, shapes, stored):
    """A Move for each parameter of `shapes`, name -> shape.

    Two for experts whose gate and up projections lie apart in `stored`, the names
    that the file has.
    """
    for name, shape in shapes.items():
        source = gguf_name(cfg, name)
        if name.endswith("experts.gate_up_proj") and source not in stored:
            count, rows, width = shape
            for i, part in enumerate(("gate", "up")):
                half = i * rows // 2, (i + 1) * rows // 2
                apart = source.replace("gate_up", part)
                yield Move(apart, name, (count, rows // 2, width), half)
        else:
            yield Move(source, name, tuple(shape))


def gguf_name(cfg, name):
    """The stored name of a parameter; the draft head's layer comes after the others."""
    if name in WHOLE:
        return WHOLE[name]
    last = f"blk.{cfg.text.num_hidden_layers}."
    if name in DRAFT:
        return last + DRAFT[name]
    if name.startswith("mtp.layers.0."):
        return last + LAYER[name.removeprefix("mtp.layers.0.")]
    number, _, kind = name.removeprefix(BODY + "layers.").partition(".")
    return f"blk.{number}.{LAYER[kind]}"


def as_trained(name, values):
    """The stored values of a parameter as the numbers that we keep of it."""
    if name.endswith("A_log"):
        return values.float().neg().log()
    if "norm" in name and not name.endswith("linear_attn.norm.weight"):
        return values.float() - 1
    return values


def head_order(cfg, name):
    """Where the stored rows, and columns, of a parameter go: two index tensors.

    Row i of what is stored is our row `rows[i]`, and likewise for columns. A vector is
    one row. None where they stay in place.
    """
    t = cfg.text
    one_to_one = t.linear_num_key_heads == t.linear_num_value_heads
    if one_to_one or ".linear_attn." not in name:
        return None, None
    width, kind = t.linear_value_head_dim, name.rpartition("linear_attn.")[2]
    if kind in ("in_proj_qkv.weight", "conv1d.weight"):  # q and k rows come first
        keys = t.conv_dim - t.linear_num_value_heads * width
        return torch.cat([torch.arange(keys), keys + value_order(t, width)]), None
    if kind == "in_proj_z.weight":
        return value_order(t, width), None
    if kind in ("in_proj_a.weight", "in_proj_b.weight"):
        return value_order(t, 1), None
    if kind == "out_proj.weight":
        return None, value_order(t, width)
    return None, value_order(t, 1) if kind in ("A_log", "dt_bias") else None


def value_order(text, width):
    """Where each of the value heads' numbers, stored tiled, lies among ours."""
    keys = text.linear_num_key_heads
    ours = torch.arange(text.linear_num_value_heads * width).view(keys, -1, width)
    return ours.transpose(0, 1).flatten()
