"""Writes models as GGUF files, the way llama.cpp's converter lays them out.

Written from the format, not from our reader: heads are moved one by one, names are
spelt out where they are used.
"""

import json

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Kind
from gguf import quants

BODY = "model.language_model."
DELTA = {"in_proj_qkv.weight": "attn_qkv.weight",
         "in_proj_z.weight": "attn_gate.weight", "in_proj_b.weight": "ssm_beta.weight",
         "in_proj_a.weight": "ssm_alpha.weight",
         "conv1d.weight": "ssm_conv1d.weight", "A_log": "ssm_a",
         "dt_bias": "ssm_dt.bias", "norm.weight": "ssm_norm.weight",
         "out_proj.weight": "ssm_out.weight"}  # fmt: skip
FULL = {"q_proj": "attn_q", "k_proj": "attn_k", "v_proj": "attn_v",
        "o_proj": "attn_output", "q_norm": "attn_q_norm",
        "k_norm": "attn_k_norm"}  # fmt: skip
DRAFT = {"fc": "eh_proj", "pre_fc_norm_embedding": "enorm",
         "pre_fc_norm_hidden": "hnorm", "norm": "shared_head_norm"}  # fmt: skip


def tiled(x, axis, cfg, width):
    """Value heads k R + r, each `width` long, to the places r K + k along an axis."""
    t = cfg.text
    keys, heads = t.linear_num_key_heads, t.linear_num_value_heads
    ratio = heads // keys
    x = np.moveaxis(x, axis, 0)
    out = np.empty_like(x)
    for k in range(keys):
        for r in range(ratio):
            ours, theirs = (k * ratio + r) * width, (r * keys + k) * width
            out[theirs : theirs + width] = x[ours : ours + width]
    return np.moveaxis(out, 0, axis)


def delta_tensor(kind, x, cfg):
    t = cfg.text
    width = t.linear_value_head_dim
    if kind == "A_log":
        return tiled(-np.exp(x), 0, cfg, 1)
    if kind == "dt_bias" or kind[:9] in ("in_proj_a", "in_proj_b"):
        return tiled(x, 0, cfg, 1)
    if kind == "in_proj_z.weight":
        return tiled(x, 0, cfg, width)
    if kind == "out_proj.weight":
        return tiled(x, 1, cfg, width)
    if kind in ("in_proj_qkv.weight", "conv1d.weight"):
        keys = 2 * t.linear_num_key_heads * t.linear_key_head_dim
        x = x[:, 0] if kind == "conv1d.weight" else x
        return np.concatenate([x[:keys], tiled(x[keys:], 0, cfg, width)])
    return x  # the gated norm


def tensors(model, fused=False):
    """(GGUF name, float32 array) for every tensor of a model but the vision tower."""
    cfg = model.cfg
    for name, p in model.named_parameters():
        if name.startswith("model.visual."):
            continue
        x = p.detach().float().numpy()
        if name == BODY + "embed_tokens.weight":
            yield "token_embd.weight", x
        elif name == BODY + "norm.weight":
            yield "output_norm.weight", x + 1
        elif name == "lm_head.weight":
            yield "output.weight", x
        elif name.startswith("mtp.") and not name.startswith("mtp.layers"):
            block = f"blk.{cfg.text.num_hidden_layers}.nextn."
            part = name.split(".")[1]
            yield f"{block}{DRAFT[part]}.weight", x if part == "fc" else x + 1
        else:
            number, rest = name.split("layers.")[1].split(".", 1)
            if name.startswith("mtp."):
                number = cfg.text.num_hidden_layers
            for stored, y in layer_tensor(rest, x, cfg, fused):
                yield f"blk.{number}.{stored}", y


def layer_tensor(rest, x, cfg, fused):
    part, _, kind = rest.partition(".")
    if part == "input_layernorm":
        yield "attn_norm.weight", x + 1
    elif part == "post_attention_layernorm":
        yield "post_attention_norm.weight", x + 1
    elif part == "linear_attn":
        yield DELTA[kind], delta_tensor(kind, x, cfg)
    elif part == "self_attn":
        kind = kind.removesuffix(".weight")
        yield FULL[kind] + ".weight", x + 1 if "norm" in kind else x
    elif kind == "experts.gate_up_proj" and not fused:
        half = x.shape[1] // 2
        yield "ffn_gate_exps.weight", x[:, :half]
        yield "ffn_up_exps.weight", x[:, half:]
    else:
        yield (
            {
                "gate.weight": "ffn_gate_inp.weight",
                "experts.gate_up_proj": "ffn_gate_up_exps.weight",
                "experts.down_proj": "ffn_down_exps.weight",
                "shared_expert.gate_proj.weight": "ffn_gate_shexp.weight",
                "shared_expert.up_proj.weight": "ffn_up_shexp.weight",
                "shared_expert.down_proj.weight": "ffn_down_shexp.weight",
                "shared_expert_gate.weight": "ffn_gate_inp_shexp.weight",
                "gate_proj.weight": "ffn_gate.weight",
                "up_proj.weight": "ffn_up.weight",
                "down_proj.weight": "ffn_down.weight",
            }[kind],
            x[0] if kind == "shared_expert_gate.weight" else x,
        )


def write(model, path, kind=Kind.F32, fused=False, tokenizer=None, change=None,
          split=0):  # fmt: skip
    """A GGUF file of a model, its matrices of `kind` where their rows allow it.

    `change` may alter the writer before anything is written; `split` is the most
    tensors a part may have. Returns {name: values as stored}.
    """
    arch = "qwen35moe" if model.cfg.is_moe else "qwen35"
    writer = gguf.GGUFWriter(path, arch, split_max_tensors=split)
    add_keys(writer, model.cfg)
    if tokenizer:
        add_tokenizer(writer, tokenizer, model.cfg.text.vocab_size)
    stored = {}
    for name, x in tensors(model, fused):
        x = np.ascontiguousarray(x, dtype=np.float32)
        block = gguf.GGML_QUANT_SIZES[kind][0]
        small = x.ndim == 1 or "conv1d" in name or x.shape[-1] % block
        used = Kind.F32 if small else kind
        raw = encode(x, used)
        writer.add_tensor(name, raw, raw_dtype=used)
        stored[name] = quants.dequantize(raw, used).reshape(x.shape)
    if change:
        change(writer)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return stored


def encode(x, kind):
    """float32 to stored numbers or blocks; K blocks, which `gguf` cannot make of
    numbers, are random bytes with scales near those of x."""
    if kind not in (Kind.Q4_K, Kind.Q5_K, Kind.Q6_K):
        return quants.quantize(x, kind)
    weights, size = gguf.GGML_QUANT_SIZES[kind]
    rng = np.random.default_rng(x.size)
    raw = rng.integers(0, 256, (*x.shape[:-1], x.shape[-1] // weights, size), np.uint8)
    scale = np.float16(x.std() / 500).view(np.uint16).tobytes()
    places = [208] if kind == Kind.Q6_K else [0, 2]
    for at in places:
        raw[..., at : at + 2] = np.frombuffer(scale, np.uint8)
    return raw.reshape(*x.shape[:-1], -1)


def add_keys(writer, cfg):
    t = cfg.text
    writer.add_block_count(t.num_hidden_layers + t.mtp_num_hidden_layers)
    if t.mtp_num_hidden_layers:
        writer.add_nextn_predict_layers(t.mtp_num_hidden_layers)
    writer.add_context_length(t.max_position_embeddings)
    writer.add_embedding_length(t.hidden_size)
    writer.add_head_count(t.num_attention_heads)
    writer.add_head_count_kv(t.num_key_value_heads)
    writer.add_key_length(t.head_dim)
    writer.add_value_length(t.head_dim)
    writer.add_layer_norm_rms_eps(t.rms_norm_eps)
    writer.add_rope_freq_base(t.rope.rope_theta)
    writer.add_rope_dimension_count(int(t.head_dim * t.rope.partial_rotary_factor))
    writer.add_rope_dimension_sections([*t.rope.mrope_section, 0])
    if t.rope.rope_type == "yarn":
        writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
        writer.add_rope_scaling_factor(t.rope.factor)
        writer.add_rope_scaling_orig_ctx_len(t.rope.original_max_position_embeddings)
        writer.add_rope_scaling_yarn_beta_fast(t.rope.beta_fast)
        writer.add_rope_scaling_yarn_beta_slow(t.rope.beta_slow)
    writer.add_ssm_conv_kernel(t.linear_conv_kernel_dim)
    writer.add_ssm_state_size(t.linear_key_head_dim)
    writer.add_ssm_group_count(t.linear_num_key_heads)
    writer.add_ssm_time_step_rank(t.linear_num_value_heads)
    writer.add_ssm_inner_size(t.linear_num_value_heads * t.linear_value_head_dim)
    writer.add_full_attention_interval(4)
    if cfg.is_moe:
        writer.add_expert_count(t.num_experts)
        writer.add_expert_used_count(t.num_experts_per_tok)
        writer.add_expert_feed_forward_length(t.moe_intermediate_size)
        writer.add_expert_shared_feed_forward_length(t.shared_expert_intermediate_size)
    else:
        writer.add_feed_forward_length(t.intermediate_size)


def add_tokenizer(writer, processor, vocab_size):
    """A Processor's tokenizer and template, as the converter writes them."""
    tokenizer, settings = processor.tokenizer, processor.settings
    added = tokenizer.get_added_tokens_decoder()
    texts, types = [], []
    for token in range(vocab_size):
        text = tokenizer.id_to_token(token)
        texts.append(text or f"[PAD{token}]")
        if token in added:
            types.append(3 if added[token].special else 4)
        else:
            types.append(5 if text is None else 1)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen35")
    writer.add_token_list(texts)
    writer.add_token_types(types)
    content = json.loads(processor.files["tokenizer.json"])
    writer.add_token_merges([" ".join(pair) for pair in content["model"]["merges"]])
    writer.add_eos_token_id(tokenizer.token_to_id(settings["eos_token"]))
    writer.add_pad_token_id(tokenizer.token_to_id(settings["pad_token"]))
    writer.add_chat_template(processor.files["chat_template.jinja"].decode())
