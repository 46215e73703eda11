"""Writes models as GGUF files, the way llama.cpp's converter lays them out.

Written from the format, not from our reader: heads are moved one by one, names are
spelt out where they are used.
"""

import json
from itertools import cycle

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Kind
from gguf import quants

from minqwen.weights.quantised.modules import Packed

BODY = "model.language_model."
# Sizes of models whose rows are whole K blocks, without and with experts.
BLOCKS = dict(hidden_size=256, linear_value_head_dim=64)
WHOLE = BLOCKS | dict(num_experts=3, num_experts_per_tok=2, moe_intermediate_size=256,
                      shared_expert_intermediate_size=256)  # fmt: skip
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


def numbers(model):
    """{name: tensor} of all parameters, packed ones widened."""
    packed = {n: m.widened() for n, m in model.named_modules() if isinstance(m, Packed)}
    return dict(model.named_parameters()) | packed


def tensors(model, fused=False):
    """(GGUF name, float32 array) for every tensor of a model but the vision tower."""
    cfg = model.cfg
    for name, p in numbers(model).items():
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
    """A GGUF file of a model, its matrices of `kind` where their rows allow it, or of
    the kinds of a list in turn.

    `change` may alter the writer before anything is written; `split` is the most
    tensors a part may have. Returns {name: values as stored}.
    """
    arch = "qwen35moe" if model.cfg.is_moe else "qwen35"
    writer = gguf.GGUFWriter(path, arch, split_max_tensors=split)
    add_keys(writer, model.cfg)
    if tokenizer:
        add_tokenizer(writer, tokenizer, model.cfg.text.vocab_size)
    stored, turns = {}, cycle(kind if isinstance(kind, list) else [kind])
    for name, x in tensors(model, fused):
        x = np.ascontiguousarray(x, dtype=np.float32)
        small = x.ndim == 1 or "conv1d" in name
        used = Kind.F32 if small else next(turns)
        used = Kind.F32 if x.shape[-1] % block_of(used) else used
        raw = encode(x, used)
        writer.add_tensor(name, raw, raw_dtype=used)
        stored[name] = quants.dequantize(raw, used).reshape(x.shape)
    finish(writer, change)
    return stored


TOWER = {"patch_embed.proj": "v.patch_embd", "pos_embed": "v.position_embd",
         "merger.norm": "v.post_ln", "merger.linear_fc1": "mm.0",
         "merger.linear_fc2": "mm.2", "norm1": "ln1", "norm2": "ln2",
         "attn.qkv": "attn_qkv", "attn.proj": "attn_out", "mlp.linear_fc1": "ffn_up",
         "mlp.linear_fc2": "ffn_down"}  # fmt: skip


def tower_tensors(model, ollama=False):
    """(GGUF name, float32 array) for every tensor of the vision tower."""
    for name, p in model.model.visual.named_parameters():
        x, (stem, end) = p.detach().float().numpy(), name.rsplit(".", 1)
        if ollama and stem == "patch_embed.proj":
            x = x.reshape(-1, *x.shape[2:]) if end == "weight" else x
            yield f"v.patch_embed.{end}", x
        elif ollama and stem.endswith("attn.qkv"):
            block = stem.split(".")[1]
            for letter, part in zip("qkv", np.split(x, 3), strict=True):
                yield f"v.blk.{block}.attn_{letter}.{end}", part
        elif ollama:
            stem = stem.replace("blocks", "blk").replace("attn.proj", "attn_out")
            yield f"v.{stem}.{end}", x
        elif stem == "patch_embed.proj" and end == "weight":
            yield "v.patch_embd.weight", x[:, :, 0]
            yield "v.patch_embd.weight.1", x[:, :, 1]
        elif stem.startswith("blocks."):
            _, block, kind = stem.split(".", 2)
            yield f"v.blk.{block}.{TOWER[kind]}.{end}", x
        else:
            yield f"{TOWER[stem]}.{end}", x


def write_tower(model, path, kind=Kind.F32, change=None):
    """The vision tower as a file of its own, an mmproj, as llama.cpp writes it."""
    v, writer = model.cfg.vision, gguf.GGUFWriter(path, "clip")
    writer.add_type("mmproj")
    writer.add_clip_has_vision_encoder(True)
    writer.add_clip_projector_type("qwen3vl_merger")
    writer.add_vision_use_gelu(True)
    writer.add_vision_image_size(v.patch_size * int(v.num_position_embeddings**0.5))
    writer.add_vision_patch_size(v.patch_size)
    writer.add_vision_embedding_length(v.hidden_size)
    writer.add_vision_feed_forward_length(v.intermediate_size)
    writer.add_vision_block_count(v.depth)
    writer.add_vision_head_count(v.num_heads)
    writer.add_vision_projection_dim(v.out_hidden_size)
    writer.add_vision_spatial_merge_size(v.spatial_merge_size)
    writer.add_vision_attention_layernorm_eps(1e-6)
    writer.add_vision_image_mean([0.5, 0.5, 0.5])
    writer.add_vision_image_std([0.5, 0.5, 0.5])
    writer.add_vision_is_deepstack_layers([False] * v.depth)
    for name, x in tower_tensors(model):
        x = np.ascontiguousarray(x)
        used = Kind.F32 if x.ndim == 1 else kind
        writer.add_tensor(name, encode(x, used), raw_dtype=used)
    finish(writer, change)


def as_ollama(model, tower=True):
    """A change for `write`: keys, names and the tower as Ollama has them."""
    t, v = model.cfg.text, model.cfg.vision
    arch = "qwen35moe." if model.cfg.is_moe else "qwen35."

    def change(writer):
        keys = writer.kv_data[0]
        for name in ("attention.head_count_kv", "rope.dimension_sections"):
            keys.pop(arch + name)
        full = [kind == "full_attention" for kind in t.layer_types]
        kinds = [t.num_key_value_heads * yes for yes in full]
        writer.add_array(arch + "attention.head_count_kv", kinds)
        for name in ("rope.dimension_sections", "rope.mrope_section", "mrope_sections"):
            writer.add_array(arch + name, list(t.rope.mrope_section))
        writer.add_bool(arch + "rope.mrope_interleaved", True)
        writer.add_bool(arch + "ssm.v_head_reordered", True)
        if model.cfg.is_moe:
            writer.add_uint32(arch + "feed_forward_length", 0)
            writer.add_bool(arch + "norm_top_k_prob", True)
        table = writer.tensors[0]
        for name in [name for name in table if name.endswith(".ssm_dt.bias")]:
            table[name.removesuffix(".bias")] = table.pop(name)
        if tower:
            for key, value in dict(
                block_count=v.depth, embedding_length=v.hidden_size, num_channels=3,
                patch_size=v.patch_size, spatial_merge_size=v.spatial_merge_size,
                temporal_patch_size=2).items():  # fmt: skip
                writer.add_uint32(f"{arch}vision.{key}", value)
            writer.add_uint32(arch + "vision.attention.head_count", v.num_heads)
            writer.add_array(arch + "vision.image_mean", [0.5, 0.5, 0.5])
            ids = "image_token_id", "vision_start_token_id", "vision_end_token_id"
            for key in ids:
                writer.add_uint32(arch + key, getattr(model.cfg, key))
            for name, x in tower_tensors(model, ollama=True):
                kind = Kind.F16 if x.ndim > 1 else Kind.F32
                writer.add_tensor(name, encode(x, kind), raw_dtype=kind)

    return change


def finish(writer, change):
    if change:
        change(writer)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def encode(x, kind):
    """float32 to stored numbers or blocks; those of kinds that `gguf` cannot make of
    numbers are random bytes which stand for numbers below 1."""
    try:
        if kind not in (Kind.Q4_K, Kind.Q5_K, Kind.Q6_K):
            return quants.quantize(x, kind)
    except NotImplementedError:
        return drawn(x, kind)
    weights, size = gguf.GGML_QUANT_SIZES[kind]
    rng = np.random.default_rng(x.size)
    raw = rng.integers(0, 256, (*x.shape[:-1], x.shape[-1] // weights, size), np.uint8)
    scale = np.float16(x.std() / 500).view(np.uint16).tobytes()
    places = [208] if kind == Kind.Q6_K else [0, 2]
    for at in places:
        raw[..., at : at + 2] = np.frombuffer(scale, np.uint8)
    return raw.reshape(*x.shape[:-1], -1)


def drawn(x, kind):
    """Random blocks in the shape of x, of numbers that a model might have."""
    weights, size = gguf.GGML_QUANT_SIZES[kind]
    rng = np.random.default_rng(x.size + kind)
    blocks = np.zeros((0, size), np.uint8)
    while len(blocks) < x.size // weights:
        raw = rng.integers(0, 256, (20 * x.size // weights, size), np.uint8)
        with np.errstate(all="ignore"):
            values = np.abs(quants.dequantize(raw, kind))
        good = (values.max(1) < 1) & (values.max(1) > 1e-3)
        blocks = np.concatenate([blocks, raw[good]])
    return blocks[: x.size // weights].reshape(*x.shape[:-1], -1)


def block_of(kind):
    return gguf.GGML_QUANT_SIZES[kind][0]


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
