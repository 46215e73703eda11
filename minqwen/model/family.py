"""Reading and writing config.json, and the eight members of the family by name.

Split from config.py so that the latter stays the list of numbers a reader needs.
Sizes: the released checkpoints' config.json files.
"""

import dataclasses

from ..errors import InputError
from .shapes import FULL, LINEAR, RopeConfig, TextConfig, VisionConfig

MOE = ("num_experts", "num_experts_per_tok", "moe_intermediate_size",
       "shared_expert_intermediate_size")  # fmt: skip
# Keys whose other values would be another architecture, and the one we compute.
FIXED = {"hidden_act": "silu", "attention_bias": False, "attn_output_gate": True,
         "mamba_ssm_dtype": "float32", "mlp_only_layers": [], "attention_dropout": 0.0,
         "mtp_use_dedicated_embeddings": False, "output_gate_type": "swish",
         "norm_topk_prob": True, "decoder_sparse_step": 1}  # fmt: skip
# Keys that say nothing about the computation, or say again what another key says.
IGNORED = {"model_type", "dtype", "torch_dtype", "use_cache", "rope_parameters",
           "layer_types", "full_attention_interval", "tie_word_embeddings",
           "transformers_version", "architectures", "text_config", "vision_config",
           "output_router_logits", "pad_token_id", "bos_token_id", "eos_token_id",
           "partial_rotary_factor"}  # fmt: skip
DEEPEST = 1000  # layers; checked before any list of them is built
LARGEST = 2**53  # of any number; larger ones, infinity and NaN are a slip or an attack
VISION_FIXED = {"hidden_act": "gelu_pytorch_tanh", "deepstack_visual_indexes": []}
VISION_IGNORED = {"model_type", "dtype", "rope_parameters"}
IDS = (
    "image_token_id",
    "video_token_id",
    "vision_start_token_id",
    "vision_end_token_id",
)

# name: D, L, Hq, Hkv, Hv, (dense FFN | E, top-k, I), tied, (depth, width, MLP, heads)
_27 = (27, 1152, 4304, 16)
SIZES = {
    "397B-A17B": (4096, 60, 32, 2, 64, (512, 10, 1024), False, _27),
    "122B-A10B": (3072, 48, 32, 2, 64, (256, 8, 1024), False, _27),
    "35B-A3B": (2048, 40, 16, 2, 32, (256, 8, 512), False, _27),
    "27B": (5120, 64, 24, 4, 48, 17408, False, _27),
    "9B": (4096, 32, 16, 4, 32, 12288, False, _27),
    "4B": (2560, 32, 16, 4, 32, 9216, True, (24, 1024, 4096, 16)),
    "2B": (2048, 24, 8, 2, 16, 6144, True, (24, 1024, 4096, 16)),
    "0.8B": (1024, 24, 8, 2, 16, 3584, True, (12, 768, 3072, 12)),
}


def named(name: str) -> dict:
    """The config.json content of one released size."""
    short = name.removeprefix("Qwen/").removeprefix("Qwen3.5-")
    if short not in SIZES:
        raise InputError(
            f"no Qwen3.5 is named {name!r}; choose one of {', '.join(SIZES)}"
        )
    hidden, layers, heads, kv_heads, value_heads, ffn, tied, tower = SIZES[short]
    text = dict(
        vocab_size=248320, hidden_size=hidden, num_hidden_layers=layers,
        num_attention_heads=heads, num_key_value_heads=kv_heads, head_dim=256,
        full_attention_interval=4, linear_num_key_heads=16,
        linear_num_value_heads=value_heads, linear_key_head_dim=128,
        linear_value_head_dim=128, linear_conv_kernel_dim=4, rms_norm_eps=1e-6,
        max_position_embeddings=262144, eos_token_id=248044, mtp_num_hidden_layers=1,
        initializer_range=0.02, hidden_act="silu", attention_bias=False,
        attn_output_gate=True, mamba_ssm_dtype="float32",
        rope_parameters=dict(rope_type="default", rope_theta=10_000_000,
                             partial_rotary_factor=0.25, mrope_section=[11, 11, 10],
                             mrope_interleaved=True))  # fmt: skip
    if isinstance(ffn, tuple):
        text |= dict(zip(MOE, (*ffn, ffn[2]), strict=True), router_aux_loss_coef=0.001)
    else:
        text["intermediate_size"] = ffn
    depth, width, mlp, tower_heads = tower
    vision = dict(depth=depth, hidden_size=width, intermediate_size=mlp,
                  num_heads=tower_heads, in_channels=3, patch_size=16,
                  temporal_patch_size=2, spatial_merge_size=2, out_hidden_size=hidden,
                  num_position_embeddings=2304)  # fmt: skip
    model_type = "qwen3_5_moe" if isinstance(ffn, tuple) else "qwen3_5"
    return dict(model_type=model_type, text_config=text, vision_config=vision,
                tie_word_embeddings=tied, image_token_id=248056, video_token_id=248057,
                vision_start_token_id=248053, vision_end_token_id=248054)  # fmt: skip


def parse(cls, values: dict, source: str):
    """config.json content -> Config, strictly: nothing is guessed."""
    kind = values.get("model_type")
    if kind not in ("qwen3_5", "qwen3_5_moe", "qwen3_5_text", "qwen3_5_moe_text"):
        raise InputError(
            f"{source}: model_type is {kind!r}; this is not a Qwen3.5 "
            "(expected qwen3_5, qwen3_5_moe or their _text forms)"
        )
    flat = kind.endswith("_text")
    text = values if flat else values.get("text_config")
    if not isinstance(text, dict):
        raise InputError(
            f"{source}: text_config is missing; a {kind} file must hold one"
        )
    where = source if flat else f"{source}: text_config"
    tied = values.get("tie_word_embeddings", False)
    if not isinstance(tied, bool):
        raise InputError(
            f"{source}: tie_word_embeddings is {tied!r}; expected true or false"
        )
    ends = end_ids(text.get("eos_token_id"), where)
    ends = end_ids(values.get("eos_token_id"), source, ends)  # some say it up here
    extra = _unknown(text, TextConfig, FIXED, IGNORED | set(IDS), where)
    vision, ids = None, {}
    if not flat:
        tower = values.get("vision_config")
        if tower is not None:
            at = f"{source}: vision_config"
            _object(tower, at)
            odd = _unknown(tower, VisionConfig, VISION_FIXED, VISION_IGNORED, at)
            extra |= {f"vision_config.{k}": v for k, v in odd.items()}
            vision = _build(VisionConfig, tower, at)
            ids = {name: _need(values, name, source) for name in IDS}
        extra |= {k: v for k, v in values.items() if k not in IGNORED | set(IDS)}
    text = _text(text | {"eos_token_id": ends}, "moe" in kind, where)
    config = cls(model_type=kind, text=text, vision=vision, tie_word_embeddings=tied,
                 extra=extra, **ids)  # fmt: skip
    check(config, source)
    return config


def end_ids(value, where, known=()):
    """`known` and what a file says of eos_token_id: null, an id, or a list of them."""
    ids = tuple(value) if isinstance(value, list | tuple) else (value,)
    ids = () if value is None else ids
    if not all(type(token) is int and 0 <= token < LARGEST for token in ids):
        raise InputError(
            f"{where}: eos_token_id is {repr(value)[:40]}; expected token ids"
        )
    return tuple(dict.fromkeys(known + ids))


def _need(values, key, where):
    if key not in values or values[key] is None:
        raise InputError(
            f"{where}: {key} is missing; take config.json from the checkpoint"
        )
    return values[key]


def _object(value, where):
    if not isinstance(value, dict):
        raise InputError(f"{where} is {value!r}; expected an object")
    return value


def _list(value, where):
    if not isinstance(value, list | tuple):
        raise InputError(f"{where}: {value!r} stands where a list is expected")
    return value


def _unknown(values, cls, fixed, ignored, where):
    """Keys nobody reads; and an error for a key that asks for another computation."""
    for key, want in fixed.items():
        if key in values and values[key] not in (want, None):
            raise InputError(
                f"{where}: {key} is {values[key]!r}; only {want!r} is supported"
            )
    known = {f.name for f in dataclasses.fields(cls)} | set(fixed) | ignored
    return {k: v for k, v in values.items() if k not in known}


def _build(cls, values, where, **given):
    """Fill a dataclass; a missing or mistyped number is an error naming its key."""
    for f in dataclasses.fields(cls):
        if f.name in given:
            continue
        if f.default is dataclasses.MISSING:
            _need(values, f.name, where)
        value = values.get(f.name, f.default)
        given[f.name] = value if value is not None else f.default
        if f.type in (str, tuple) or f.name in given and given[f.name] is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise InputError(f"{where}: {f.name} is {value!r}; expected a number")
        if not abs(value) < LARGEST:
            raise InputError(f"{where}: {f.name} is {str(value)[:20]}, out of range")
        if f.type in (int, int | None) and not (isinstance(value, int) and value >= 0):
            raise InputError(f"{where}: {f.name} is {value!r}; expected a whole number")
    return cls(**given)


def _text(values, moe, where):
    if values.get("rope_scaling"):
        raise InputError(f"{where}: rope_scaling is the old place, no longer read; "
                         "move its content into rope_parameters")  # fmt: skip
    rope = dict(
        _object(_need(values, "rope_parameters", where), f"{where}.rope_parameters")
    )
    if "partial_rotary_factor" in values:
        rope.setdefault("partial_rotary_factor", values["partial_rotary_factor"])
    at = f"{where}.rope_parameters"
    if not rope.get("mrope_interleaved", True):
        raise InputError(f"{at}: mrope_interleaved is false; only true is supported")
    rope["mrope_section"] = tuple(_list(_need(rope, "mrope_section", at), at))
    odd = rope.keys() - {f.name for f in dataclasses.fields(RopeConfig)}
    if odd - {"mrope_interleaved", "type"}:
        names = ", ".join(sorted(odd - {"mrope_interleaved", "type"}))
        raise InputError(f"{at}: {names} would change the angles and is not supported")
    rope = _build(RopeConfig, rope, at)
    if rope.rope_type not in ("default", "yarn"):
        raise InputError(
            f"{at}: rope_type is {rope.rope_type!r}; expected default or yarn"
        )
    if rope.rope_type == "yarn" and not (
        rope.factor and rope.original_max_position_embeddings
    ):
        raise InputError(
            f"{at}: yarn needs factor and original_max_position_embeddings"
        )
    for key in MOE if moe else ("intermediate_size",):
        _need(values, key, where)
    return _build(
        TextConfig, values, where, rope=rope, layer_types=_layers(values, where)
    )


def _layers(values, where):
    """layer_types, written out or implied by full_attention_interval."""
    count = _need(values, "num_hidden_layers", where)
    types = values.get("layer_types")
    if not isinstance(count, int) or not 0 < count <= DEEPEST:
        raise InputError(
            f"{where}: num_hidden_layers is {count!r}; expected 1 to {DEEPEST}"
        )
    if types is None:
        every = _need(values, "full_attention_interval", where)
        if not isinstance(every, int) or every < 1:
            raise InputError(
                f"{where}: full_attention_interval is {every!r}; expected 1 or more"
            )
        types = [LINEAR if (i + 1) % every else FULL for i in range(count)]
    if len(_list(types, f"{where}: layer_types")) != count:
        raise InputError(f"{where}: layer_types names {len(types)} layers, "
                         f"num_hidden_layers says {count}")  # fmt: skip
    for i, kind in enumerate(types):
        if kind not in (LINEAR, FULL):
            raise InputError(f"{where}: layer_types[{i}] is {kind!r}; "
                             f"expected {LINEAR} or {FULL}")  # fmt: skip
    return tuple(types)


def check(config, source):
    """Contradictions between keys, found before any memory is taken."""
    t, v = config.text, config.vision
    rotary = int(t.head_dim * t.rope.partial_rotary_factor)
    rules = [
        (t.num_key_value_heads and t.num_attention_heads % t.num_key_value_heads == 0,
         "num_attention_heads must be a multiple of num_key_value_heads"),
        (t.linear_num_key_heads
         and t.linear_num_value_heads % t.linear_num_key_heads == 0,
         "linear_num_value_heads must be a multiple of linear_num_key_heads"),
        (rotary % 2 == 0 and sum(t.rope.mrope_section) == rotary // 2
         and len(t.rope.mrope_section) == 3,
         f"mrope_section must be three counts summing to {rotary // 2}, half of the "
         "rotated dimensions"),
        (bool(t.num_experts) == config.is_moe,
         f"num_experts is {t.num_experts}, but model_type is {config.model_type}"),
        (len(t.layer_types) == t.num_hidden_layers,
         "layer_types and num_hidden_layers differ"),
        (not config.is_moe or t.num_experts_per_tok <= t.num_experts,
         f"num_experts_per_tok {t.num_experts_per_tok} exceeds num_experts"),
        (isinstance(t.eos_token_id, tuple),
         f"eos_token_id is {t.eos_token_id!r}; expected a tuple of token ids"),
        (t.mtp_num_hidden_layers <= 1, "mtp_num_hidden_layers must be 0 or 1"),
        (v is None or v.out_hidden_size == t.hidden_size,
         "vision_config.out_hidden_size must equal text_config.hidden_size"),
        (v is None or v.depth <= DEEPEST,
         f"vision_config.depth must be at most {DEEPEST}"),
        (v is None or (v.num_heads and v.hidden_size % (4 * v.num_heads) == 0),
         "vision_config.hidden_size must be a multiple of 4 * num_heads"),
        (v is None or (v.num_position_embeddings**0.5).is_integer(),
         "vision_config.num_position_embeddings must be a square"),
    ]  # fmt: skip
    for holds, sentence in rules:
        if not holds:
            raise InputError(f"{source}: {sentence}")


def unparse(config) -> dict:
    """Config -> config.json content, in the released files' form."""
    text = dataclasses.asdict(config.text)
    rope = {k: v for k, v in text.pop("rope").items() if v is not None}
    if rope["rope_type"] == "default":
        rope = {k: v for k, v in rope.items() if not k.startswith("beta_")}
    rope["mrope_section"] = list(rope["mrope_section"])
    ends = list(text["eos_token_id"]) or [None]
    text["eos_token_id"] = ends if len(ends) > 1 else ends[0]  # as released files do
    text = {k: v for k, v in text.items() if v is not None}
    text["layer_types"] = list(text["layer_types"])
    text |= {"rope_parameters": rope | {"mrope_interleaved": True},
             "hidden_act": "silu", "attention_bias": False, "attn_output_gate": True,
             "mamba_ssm_dtype": "float32"}  # fmt: skip
    if not config.is_moe:
        text.pop("router_aux_loss_coef")
    base = config.model_type.removesuffix("_text")
    form = "Qwen3_5Moe" if config.is_moe else "Qwen3_5"
    if config.model_type.endswith("_text"):
        return text | {
            "model_type": config.model_type,
            "architectures": [form + "ForCausalLM"],
            "tie_word_embeddings": config.tie_word_embeddings,
        }
    out = {"architectures": [form + "ForConditionalGeneration"], "model_type": base,
           "text_config": text | {"model_type": base + "_text"},
           "tie_word_embeddings": config.tie_word_embeddings}  # fmt: skip
    if config.vision:
        out |= {name: getattr(config, name) for name in IDS}
        out["vision_config"] = dataclasses.asdict(config.vision) | {
            "model_type": base, "hidden_act": "gelu_pytorch_tanh",
            "deepstack_visual_indexes": []}  # fmt: skip
    return out
