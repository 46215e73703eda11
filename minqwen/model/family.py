"""Reading and writing config.json.

Split from config.py so that the latter stays the list of numbers a reader needs.
"""

import dataclasses
import json
import re
from typing import Any

from ..errors import MOST, InputError, number, show
from .members import difference
from .ranges import DEEPEST, MOE_KEYS, in_range
from .shapes import FULL, LINEAR, RopeConfig, TextConfig, VisionConfig

KINDS = ("qwen3_5", "qwen3_5_moe", "qwen3_5_text", "qwen3_5_moe_text")
# Keys whose other values would be another architecture, and those that we compute: what
# a config says that leaves them out, and other words for it.
COMPUTED = json.loads("""{
    "hidden_act": ["silu", "swish"], "attention_bias": [false],
    "attn_output_gate": [true], "mamba_ssm_dtype": ["float32"],
    "mlp_only_layers": [[]], "mtp_use_dedicated_embeddings": [false],
    "output_gate_type": ["swish", "silu"], "norm_topk_prob": [true],
    "decoder_sparse_step": [1], "use_sliding_window": [false]
}""")
VISION_COMPUTED = json.loads("""{
    "hidden_act": ["gelu_pytorch_tanh"], "deepstack_visual_indexes": [[]],
    "use_postshuffle_norm": [false], "fullatt_block_indexes": [[]],
    "rope_parameters": [{"rope_theta": 10000, "rope_type": "axial"},
                        {"rope_theta": 10000, "rope_type": "default"}, {}]
}""")
# Keys of other architectures, and what they say where nothing else is asked of ours.
ASKING: dict[str, tuple] = {
    r"\w*_bias|\w*soft_?cap\w*|layer_scale\w*|\w*_sinks?|\w*neg_eigval|clip_qkv"
    r"|scale_(emb|depth)|query_pre_attn_scalar|\w*sliding_window|attention_chunk_size"
    r"|(use_)?(bidirectional|parallel)_\w+|no_?(p|r)ope\w*|first_k_dense_replace"
    r"|attn_temperature\w*|rope_interleaved?": (None, False, []),
    r"(?!\w*(loss|init))\w*(multiplier|_scal(e|ing)(_factor)?)": (None, False, 1),
    r"\w+_group": (None, 1),
    r"\w*scor\w+_func\w*|\w*rout\w+_func\w*": (None, "softmax"),
    r"(use_)?qk_norm|is_causal": (None, True),
}
WRITTEN = ("hidden_act", "attention_bias", "attn_output_gate", "mamba_ssm_dtype")
VISION_WRITTEN = ("hidden_act", "deepstack_visual_indexes")
# Keys that say nothing about the computation, or say again what another key says.
IDLE = """
    model_type dtype torch_dtype use_cache rope_parameters layer_types
    full_attention_interval tie_word_embeddings transformers_version architectures
    text_config vision_config output_router_logits pad_token_id bos_token_id
    eos_token_id rope_theta partial_rotary_factor attention_dropout rope_scaling
    original_max_position_embeddings language_model_only
    image_token_id video_token_id vision_start_token_id vision_end_token_id
""".split()
IDS = IDLE[-4:]
SHARE = "partial_rotary_factor"
YARN = ("factor", "original_max_position_embeddings", "beta_fast", "beta_slow")


def parse(cls: type, values: dict, source: str) -> Any:
    """config.json content -> Config, strictly: nothing is guessed."""
    _of(dict, values, source)
    kind = show(values.get("model_type"), 40)
    _ask(kind in KINDS, source, difference(kind))
    flat = kind.endswith("_text")
    where = source if flat else f"{source}: text_config"
    text = values if flat else _of(dict, _need(values, "text_config", source), where)
    # The upper level counts, as in transformers; where it is silent, the lower one.
    tied = values.get("tie_word_embeddings", text.get("tie_word_embeddings", False))
    _of(bool, tied, f"{source}: tie_word_embeddings")
    ends = end_ids(text.get("eos_token_id"), where)
    ends = end_ids(values.get("eos_token_id"), source, ends)  # some say it up here
    extra = _unknown(text, TextConfig, COMPUTED, where)
    vision, ids = None, {}
    if not flat:
        tower, at = values.get("vision_config"), f"{source}: vision_config"
        if tower is not None:
            odd = _unknown(_of(dict, tower, at), VisionConfig, VISION_COMPUTED, at)
            extra |= {f"vision_config.{k}": v for k, v in odd.items()}
            vision = _build(VisionConfig, tower, at)
            for name in IDS:
                ids[name] = _need(values, name, source)
                number(ids[name], f"{source}: {name}", int, 0)
    built = _text(text | {"eos_token_id": ends}, "moe" in kind, where, vision is None)
    if not flat:
        extra |= _above(values, text, source)
    config = cls(kind, built, vision, tied, extra=extra, **ids)
    contradictions(config, source)
    return config


def end_ids(value: Any, where: Any, known: tuple[int, ...] = ()) -> tuple[int, ...]:
    """`known` and what a file says of eos_token_id: null, an id, or a list of them."""
    ids = tuple(value) if isinstance(value, list | tuple) else (value,)
    ids = () if value is None else ids
    good = all(type(token) is int and 0 <= token < MOST for token in ids)
    _ask(good, where, f"eos_token_id is {repr(value)[:40]}; expected token ids")
    return tuple(dict.fromkeys(known + ids))


def _ask(holds: Any, where: Any, sentence: str) -> None:
    if not holds:  # what it quotes may be of any length
        raise InputError(f"{where}: {show(sentence, 300)}")


def _need(values: dict, key: str, where: str) -> Any:
    there = values.get(key) is not None
    _ask(there, where, f"{key} is missing; take config.json from the checkpoint")
    return values[key]


def _of(kind: type, value: Any, where: str) -> Any:
    expected = {dict: "an object", list: "a list", bool: "true or false"}[kind]
    if not isinstance(value, (list, tuple) if kind is list else kind):
        raise InputError(f"{where} is {show(repr(value), 40)}; expected {expected}")
    return value


def _count(values: dict, key: str, where: str) -> int:
    count = _need(values, key, where)
    good = isinstance(count, int) and 0 < count <= DEEPEST
    _ask(good, where, f"{key} is {count!r}; expected 1 to {DEEPEST}")
    return count


def _unknown(values: dict, cls: type, computed: dict, where: str) -> dict:
    """Keys nobody reads; and an error for a key that asks for another computation."""
    for key, wanted in computed.items():
        said = values.get(key)
        same = said is None or said in wanted
        _ask(same, where, f"{key} is {said!r}; only {wanted[0]!r} is supported")
    known = {f.name for f in dataclasses.fields(cls)} | {*computed, *IDLE}
    odd = {k: v for k, v in values.items() if k not in known}
    if values.get("use_sliding_window") is False:
        odd.pop("sliding_window", None)  # how wide it would be
    for key, said in odd.items() if cls is TextConfig else ():
        for pattern, idle in ASKING.items():
            same = said in idle or not re.fullmatch(pattern, key[:99])
            _ask(same, where, f"{key} is {said!r}, which nothing here computes")
    return odd


def _above(values: dict, text: dict, where: str) -> dict:
    """Keys nobody reads beside text_config; an error if one contradicts it."""
    both = {f.name for f in dataclasses.fields(TextConfig)} - {"vocab_size"}
    both |= {*COMPUTED, "rope_parameters", "rope_scaling", "rope_theta", SHARE}
    inside = (text.get("rope_parameters") or {}) | text
    for key in both & values.keys() - {"eos_token_id", "initializer_range"}:
        same = values[key] in (None, inside.get(key), *COMPUTED.get(key, ()))
        _ask(same, where, f"{key} is another one than in text_config; keep one")
    rest = {k: v for k, v in values.items() if k not in both}
    return _unknown(rest, TextConfig, {}, where)


def _build(cls: type, values: dict, where: str, **given: Any) -> Any:
    """Fill a dataclass; a missing or mistyped number is an error naming its key."""
    for f in dataclasses.fields(cls):
        if f.name in given:
            continue
        if f.default is dataclasses.MISSING:
            _need(values, f.name, where)
        value: Any = values.get(f.name)
        given[f.name] = f.default if value is None else value
    built = cls(**given)
    in_range(built, where)
    return built


def _text(values: dict, moe: bool, where: str, blind: bool) -> TextConfig:
    for key in MOE_KEYS if moe else ("intermediate_size",):
        least = 0 if key == "num_experts" else 1  # 0 of which has an error of its own
        number(_need(values, key, where), f"{where}: {key}", int, least)
    rope, types = _rope(values, where, blind), _layers(values, where)
    return _build(TextConfig, values, where, rope=rope, layer_types=types)


def _rope(values: dict, where: str, blind: bool) -> RopeConfig:
    """rope_parameters, and what is said again beside them; blind: of text alone."""
    at = f"{where}.rope_parameters"
    said = _of(dict, _need(values, "rope_parameters", where), at)
    said = {key: value for key, value in said.items() if value is not None}
    old = values.get("rope_scaling") or {}
    again = isinstance(old, dict) and old.items() <= said.items()
    _ask(again, where, "rope_scaling is the old place; move it into rope_parameters")
    for key in ("rope_theta", SHARE, YARN[1]):
        beside = values.get(key)
        same = beside is None or said.setdefault(key, beside) == beside
        _ask(same, where, f"{key} is {beside!r}, another one in rope_parameters")
    dealt = said.pop("mrope_interleaved", True)
    _ask(dealt, at, "mrope_interleaved is false; only true is supported")
    old = said.pop("type", None)  # the name that rope_type had
    alone = old in (None, "default", "mrope", said.get("rope_type"))
    _ask(alone, at, f"type is {old!r}; say it as rope_type")
    _ask(said.pop("truncate", True), at, "truncate is false; only true is supported")
    if blind and "mrope_section" not in said:  # any, as the axes of text agree
        pairs = number(_need(values, "head_dim", where), f"{where}: head_dim", int)
        share = number(_need(said, SHARE, at), f"{at}: {SHARE}")
        said["mrope_section"] = [int(pairs * share / 2 + 2 - i) // 3 for i in range(3)]
    section = _of(list, _need(said, "mrope_section", at), f"{at}: mrope_section")
    for pairs in section:
        number(pairs, f"{at}: a part of mrope_section", int, 0)
    said["mrope_section"] = tuple(section)
    odd = said.keys() - {f.name for f in dataclasses.fields(RopeConfig)}
    names = ", ".join(show(name, 40) for name in sorted(odd))
    _ask(not odd, at, f"{names} would change the angles and is not supported")
    rope = _build(RopeConfig, said, at)
    known, yarn = rope.rope_type in ("default", "yarn"), rope.rope_type == "yarn"
    _ask(known, at, f"rope_type is {rope.rope_type!r}; expected default or yarn")
    whole = not yarn or (rope.factor >= 1 and rope.original_max_position_embeddings)
    _ask(whole, at, "yarn needs factor, from 1, and original_max_position_embeddings")
    return rope


def _layers(values: dict, where: str) -> tuple[str, ...]:
    """layer_types, written out or implied by full_attention_interval."""
    count = _count(values, "num_hidden_layers", where)
    types = values.get("layer_types")
    if types is None:
        every = _count(values, "full_attention_interval", where)
        types = [LINEAR if (i + 1) % every else FULL for i in range(count)]
    named = len(_of(list, types, f"{where}: layer_types"))
    said = f"layer_types names {named} layers, num_hidden_layers says {count}"
    _ask(named == count, where, said)
    for i, kind in enumerate(types):
        said = f"layer_types[{i}] is {kind!r}; expected {LINEAR} or {FULL}"
        _ask(kind in (LINEAR, FULL), where, said)
    return tuple(types)


def contradictions(config: Any, source: str) -> None:
    """InputError where keys contradict each other, before any memory is taken."""
    t, v = config.text, config.vision
    in_range(t, source)
    kinds, dealt = t.layer_types, t.rope.mrope_section
    pairs = int(t.head_dim * t.rope.partial_rotary_factor) / 2
    ends = f"eos_token_id is {t.eos_token_id!r}; expected a tuple of token ids"
    many = f"num_experts_per_tok {t.num_experts_per_tok} exceeds num_experts"
    moe = f"num_experts is {t.num_experts}, but model_type is {config.model_type}"
    three = f"mrope_section must be three counts summing to {pairs:g}, all the pairs"

    def multiple(whole: str, part: str) -> tuple[bool, str]:
        a, b = getattr(t, whole), getattr(t, part)
        return b > 0 and a % b == 0, f"{whole} must be a multiple of {part}"

    rules = [
        multiple("num_attention_heads", "num_key_value_heads"),
        multiple("linear_num_value_heads", "linear_num_key_heads"),
        (len(dealt) == 3 and sum(dealt) == pairs, three),
        (bool(t.num_experts) == config.is_moe, moe),
        (len(kinds) == t.num_hidden_layers, "layer_types and num_hidden_layers differ"),
        (t.num_experts_per_tok <= t.num_experts, many),
        (isinstance(t.eos_token_id, tuple), ends),
        (t.mtp_num_hidden_layers <= 1, "mtp_num_hidden_layers must be 0 or 1"),
    ]
    for name in IDS:
        token = getattr(config, name)
        known = token is None or token < t.vocab_size
        rules.append((known, f"{name} is {token}, but vocab_size is {t.vocab_size}"))
    for holds, sentence in rules:
        _ask(holds, source, sentence)
    if v is not None:
        at, turned = f"{source}: vision_config", 4 * v.num_heads
        same = v.out_hidden_size == t.hidden_size
        _ask(same, at, "out_hidden_size must equal text_config.hidden_size")
        whole = turned and v.hidden_size % turned == 0
        _ask(whole, at, "hidden_size must be a multiple of 4 * num_heads")
        square = (v.num_position_embeddings**0.5).is_integer()
        _ask(square, at, "num_position_embeddings must be a square")


def unparse(config: Any) -> dict:
    """Config -> config.json content, in the released files' form."""
    text = dataclasses.asdict(config.text)
    rope = text.pop("rope")
    if rope["rope_type"] == "default":
        rope = {k: v for k, v in rope.items() if k not in YARN}
    rope["mrope_section"] = list(rope["mrope_section"])
    ends = list(text["eos_token_id"])
    if len(ends) < 2:  # as released files do
        text["eos_token_id"] = ends[0] if ends else None
    absent = [key for key in (*MOE_KEYS, "intermediate_size") if not text[key]]
    absent += [] if config.is_moe else ["router_aux_loss_coef"]
    text = {k: v for k, v in text.items() if v is not None and k not in absent}
    text["layer_types"] = list(text["layer_types"])
    text["rope_parameters"] = rope | {"mrope_interleaved": True}
    text |= {key: COMPUTED[key][0] for key in WRITTEN}
    kind, base = config.model_type, config.model_type.removesuffix("_text")
    form = "Qwen3_5Moe" if config.is_moe else "Qwen3_5"
    tied = {"tie_word_embeddings": config.tie_word_embeddings}
    if kind != base:
        names = {"model_type": kind, "architectures": [form + "ForCausalLM"]}
        return text | names | tied
    out = {"architectures": [form + "ForConditionalGeneration"], "model_type": base}
    out |= {"text_config": text | {"model_type": base + "_text"}} | tied
    if config.vision:
        out |= {name: getattr(config, name) for name in IDS}
        tower = dataclasses.asdict(config.vision) | {"model_type": base}
        computed = {key: VISION_COMPUTED[key][0] for key in VISION_WRITTEN}
        out["vision_config"] = tower | computed
    return out
