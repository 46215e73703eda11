"""Small models with every feature of the real ones, all weights off their start."""

import torch

from minqwen.model.config import Config
from minqwen.model.qwen import Qwen


def small_config(moe=True, vision=True, **text_changes):
    """4 layers, value heads twice key heads, query heads twice kv heads, 33 experts."""
    text = dict(
        vocab_size=320, hidden_size=64, num_hidden_layers=4, num_attention_heads=4,
        num_key_value_heads=2, head_dim=32, full_attention_interval=4,
        linear_num_key_heads=2, linear_num_value_heads=4, linear_key_head_dim=16,
        linear_value_head_dim=24, linear_conv_kernel_dim=4, rms_norm_eps=1e-6,
        max_position_embeddings=4096, eos_token_id=300, mtp_num_hidden_layers=0,
        rope_parameters=dict(rope_type="default", rope_theta=10_000_000.0,
                             partial_rotary_factor=0.25, mrope_section=[2, 1, 1],
                             mrope_interleaved=True))  # fmt: skip
    if moe:
        text |= dict(num_experts=33, num_experts_per_tok=5, moe_intermediate_size=24,
                     shared_expert_intermediate_size=40)  # fmt: skip
    else:
        text["intermediate_size"] = 96
    text |= text_changes
    tied = text.pop("tie_word_embeddings", False)
    base = "qwen3_5_moe" if moe else "qwen3_5"
    if not vision:
        return Config.from_dict(
            text | dict(model_type=base + "_text", tie_word_embeddings=tied)
        )
    tower = dict(depth=3, hidden_size=48, intermediate_size=80, num_heads=4,
                 in_channels=3, patch_size=16, temporal_patch_size=2,
                 spatial_merge_size=2, out_hidden_size=text["hidden_size"],
                 num_position_embeddings=36)  # fmt: skip
    return Config.from_dict(dict(
        model_type=base, text_config=text, vision_config=tower,
        tie_word_embeddings=tied,
        image_token_id=301, video_token_id=302, vision_start_token_id=303,
        vision_end_token_id=304))  # fmt: skip


def scatter(model, seed=0):
    """Move every weight from where it starts: norms, gates, rates and biases too."""
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            noise = torch.randn(p.shape, generator=g)
            if name.endswith("A_log"):
                p.copy_(noise.abs().clamp(0.05, 3).log())
            elif name.endswith("dt_bias") or "norm" in name and name.endswith("weight"):
                p.add_(noise * 0.3)
            elif "embed_tokens" in name:
                p.copy_(noise * 0.5)
            elif "merger.linear_fc2" in name:
                p.copy_(noise * 2 * p.shape[-1] ** -0.5)
            elif p.dim() > 1:
                fan_in = p[0].numel() if p.dim() == 5 else p.shape[-1]
                p.copy_(noise * 0.7 * fan_in**-0.5)
            else:
                p.copy_(noise * 0.2)
    return model


def small_model(seed=0, **kw):
    torch.manual_seed(seed)
    return scatter(Qwen(small_config(**kw)), seed).eval()


def transformers_twin(model):
    """The same weights in transformers' own classes, fp32, or an error naming a key."""
    import transformers as tf

    cfg = model.cfg
    values = cfg.to_dict()
    kind = values.pop("architectures")[0]
    prefix = "Qwen3_5Moe" if cfg.is_moe else "Qwen3_5"
    form = "TextConfig" if kind.endswith("CausalLM") else "Config"
    config = getattr(tf, prefix + form)(**values)
    twin = getattr(tf, kind)(config).eval()
    state = {k: v for k, v in model.state_dict().items() if not k.startswith("mtp.")}
    if kind.endswith("CausalLM"):
        state = {k.replace("language_model.", ""): v for k, v in state.items()}
    if cfg.tie_word_embeddings:
        twin.tie_weights()
    missing, unexpected = twin.load_state_dict(state, strict=False)
    assert not unexpected, unexpected
    assert set(missing) <= {"lm_head.weight"}, missing
    return twin


def parity_error(model, twin, **inputs):
    """Largest logit difference to the twin over its largest logit, padding left out."""
    ids, mask = inputs["input_ids"], inputs.get("attention_mask")
    kinds = (ids == model.cfg.image_token_id).int()
    kinds += 2 * (ids == model.cfg.video_token_id).int()
    extra = {"mm_token_type_ids": kinds} if kinds.any() else {}
    with torch.no_grad():
        ours, theirs = model(**inputs), twin(**inputs, **extra).logits
    if mask is not None:
        ours, theirs = ours[mask.bool()], theirs[mask.bool()]
    return ((ours - theirs).abs().max() / theirs.abs().max()).item()
