"""The twelve members, counted from our own module tree; what a bad config.json gets."""

import copy
import dataclasses
import json
from pathlib import Path

import pytest
import torch
from tiny_models import small_config

from minqwen.errors import InputError
from minqwen.model.config import Config
from minqwen.model.members import member, repository
from minqwen.model.qwen import Qwen
from minqwen.weights import Entry, expected_tensors
from minqwen.weights.checkpoint.layout import skeleton
from minqwen.weights.checkpoint.match import by_name, match_tensors

# name: text, with vision and MTP (10^9), payload bytes (10^9), tensors, active
RELEASED = {
    "397B-A17B": (396_346_350_336, 403.398, 806.80, 2924, 17_349_040_896),
    "122B-A10B": (122_111_526_912, 125.086, 250.17, 1949, 9_771_288_576),
    "35B-A3B": (34_660_610_688, 35.952, 71.90, 1811, 3_454_988_928),
    "27B": (26_895_998_464, 27.781, 55.56, 1199, 26_895_998_464),
    "9B": (8_953_803_264, 9.653, 19.31, 775, 8_953_803_264),
    "4B": (4_205_751_296, 4.660, 9.32, 738, 4_205_751_296),
    "2B": (1_881_825_088, 2.274, 4.548, 632, 1_881_825_088),
    "0.8B": (752_393_024, 0.873, 1.747, 488, 752_393_024),
    "Qwen3.6-35B-A3B": (34_660_610_688, 35.952, 71.90, 1811, 3_454_988_928),
    "Qwen3.6-27B": (26_895_998_464, 27.781, 55.56, 1199, 26_895_998_464),
    "Qwen3.8-27B": (26_895_998_464, 27.781, 55.56, 1199, 26_895_998_464),
    "Qwen3.8-2.4T-A95B": (
        2_419_804_697_984, 2446.183, 4892.37, 1609, 95_287_866_752),
}  # fmt: skip
WIDTH = {torch.bfloat16: 2, torch.float32: 4, "BF16": 2, "F32": 4}


@pytest.mark.parametrize("name", RELEASED)
def test_released_sizes(name):
    """Parameters, bytes and tensors of the released files, on the meta device."""
    text, total, payload, tensors, active = RELEASED[name]
    cfg = Config.named(name)
    with torch.device("meta"):
        count = Qwen(cfg).num_parameters()
    assert (count["text"], count["active"]) == (text, active)
    assert round(count["total"] / 1e9, 3) == total
    stored = expected_tensors(cfg)
    assert len(stored) == tensors
    size = sum(torch.Size(shape).numel() * WIDTH[d] for shape, d in stored.values())
    digits = 3 if payload < 5 else 2
    assert round(size / 1e9, digits) == payload


def published():
    """The 2.4T's config.json: flat, of text alone, and without mrope_section."""
    numbers = """
        attention_bias false attention_dropout 0.0 attn_output_gate true
        bos_token_id 248044 dtype "bfloat16" eos_token_id 248044 head_dim 256
        hidden_act "silu" hidden_size 8192 initializer_range 0.02
        linear_conv_kernel_dim 4 linear_key_head_dim 128 linear_num_key_heads 16
        linear_num_value_heads 128 linear_value_head_dim 128 mamba_ssm_dtype "float32"
        max_position_embeddings 262144 mlp_only_layers [] model_type
        "qwen3_5_moe_text" moe_intermediate_size 2048 mtp_num_hidden_layers 1
        mtp_use_dedicated_embeddings false num_attention_heads 64 num_experts 512
        num_experts_per_tok 10 num_hidden_layers 92 num_key_value_heads 4
        output_gate_type "swish" output_router_logits false partial_rotary_factor 0.25
        rms_norm_eps 1e-06 router_aux_loss_coef 0.001
        shared_expert_intermediate_size 2048 tie_word_embeddings false
        use_cache true vocab_size 248320
    """.split()
    values = dict(zip(numbers[::2], map(json.loads, numbers[1::2]), strict=True))
    return values | {
        "architectures": ["Qwen3_5MoeForCausalLM"],
        "layer_types": (["linear_attention"] * 3 + ["full_attention"]) * 23,
        "rope_parameters": {
            "partial_rotary_factor": 0.25, "rope_theta": 10000000,
            "rope_type": "default"},
    }  # fmt: skip


def test_the_published_2_4_t():
    """Its config.json, and 1,609 tensors whose names begin with `model.`."""
    cfg = Config.from_dict(published())
    assert cfg == Config.named("Qwen3.8-2.4T-A95B") and not cfg.extra
    model = skeleton(cfg, torch.bfloat16)
    held = {n.replace("language_model.", ""): p for n, p in model.state_dict().items()}
    assert len(held) == 1609 and "model.layers.91.mlp.experts.gate_up_proj" in held
    assert sum("gate_up_proj" in name for name in held) == 93
    assert sum(2 * p.numel() for p in held.values()) == 4_892_365_451_008
    table = {
        name: Entry(Path("x"), "BF16", tuple(p.shape), 0, 2 * p.numel())
        for name, p in held.items()
    }
    _, plan = match_tensors("x", model, by_name(table))
    assert {source for source, _, _ in plan} == set(model.state_dict())
    assert set(expected_tensors(cfg)) == set(held)
    del table["model.layers.7.mlp.gate.weight"]
    with pytest.raises(InputError, match="missing model.language_model.layers.7.mlp"):
        match_tensors("x", model, by_name(table))


def test_names_of_members():
    for name in RELEASED:
        full = name if name.startswith("Qwen") else f"Qwen3.5-{name}"
        assert Config.named(full) == Config.named(f"Qwen/{full}") == Config.named(name)
        assert repository(member(f"Qwen/{full}")) == f"Qwen/{full}"
    assert member("Qwen3.8-35B-A3B") is member("Qwen/27B-FP8") is None


def test_397b_breaks_even_at_6144_tokens():
    """Where 15 layers of bf16 KV outgrow 45 layers of fp32 state."""
    t = Config.named("397B-A17B").text
    k_and_v = 2 * t.num_key_value_heads * t.head_dim
    head = t.linear_key_head_dim * t.linear_value_head_dim
    kv = t.layer_types.count("full_attention") * k_and_v * 2  # bf16
    state = t.layer_types.count("linear_attention") * t.linear_num_value_heads * head
    state *= 4  # fp32
    assert (kv, state, state // kv, state % kv) == (30_720, 188_743_680, 6144, 0)


@pytest.mark.parametrize("name", RELEASED)
def test_written_and_read_again(name, tmp_path):
    cfg = Config.named(name)
    (tmp_path / "config.json").write_text(json.dumps(cfg.to_dict()))
    assert Config.from_json(tmp_path) == cfg
    assert Config.from_json(tmp_path / "config.json").extra == {}


@pytest.mark.parametrize("moe", [True, False])
@pytest.mark.parametrize("vision", [True, False])
def test_transformers_reads_ours_and_we_read_theirs(moe, vision, tmp_path):
    import transformers

    cfg = small_config(moe=moe, vision=vision, mtp_num_hidden_layers=0)
    (tmp_path / "config.json").write_text(json.dumps(cfg.to_dict()))
    theirs = transformers.AutoConfig.from_pretrained(tmp_path)
    theirs.save_pretrained(tmp_path / "again")
    assert Config.from_json(tmp_path / "again") == cfg


@pytest.mark.parametrize(
    "text, top, ends",
    [
        (7, None, (7,)),
        ([7, 5], None, (7, 5)),
        (None, None, ()),
        ([], [], ()),
        (7, [5, 7], (7, 5)),
        (None, 5, (5,)),
    ],
)
def test_ids_that_end_an_answer_are_a_tuple(text, top, ends):
    values = small_config().to_dict() | {"eos_token_id": top}
    values["text_config"]["eos_token_id"] = text
    cfg = Config.from_dict(values)
    assert cfg.text.eos_token_id == ends and not cfg.extra
    assert Config.from_dict(json.loads(json.dumps(cfg.to_dict()))) == cfg


def test_transformers_reads_one_end_and_several(tmp_path):
    import transformers

    for ends, theirs in (((), None), ((7,), 7), ((7, 5), [7, 5])):
        cfg = small_config(vision=False, eos_token_id=ends)
        (tmp_path / "config.json").write_text(json.dumps(cfg.to_dict()))
        read = transformers.AutoConfig.from_pretrained(tmp_path)
        assert read.eos_token_id == theirs
        read.save_pretrained(tmp_path / "again")
        assert Config.from_json(tmp_path / "again").text.eos_token_id == ends


def test_unknown_keys_are_kept():
    values = small_config().to_dict()
    values["text_config"]["new_thing"] = 3
    values["vision_config"]["other"] = 4
    values["top"] = 5
    extra = Config.from_dict(values).extra
    assert extra == {"new_thing": 3, "vision_config.other": 4, "top": 5}


SAME = {  # keys that change nothing, as transformers agrees below
    "attention_dropout": 0.1, "rope_theta": 10_000_000.0, "partial_rotary_factor": 0.25,
    "output_gate_type": "silu", "hidden_act": "swish", "use_sliding_window": False,
    "sliding_window": None, "final_logit_softcapping": None, "routed_scaling_factor": 1,
    "mlp_bias": False, "norm_topk_prob": True, "language_model_only": False,
    "rope_scaling": {"rope_type": "default"}, "mtp_loss_scaling_factor": 0.1,
    "mlp_init_scale": 0.5, "n_group": 1, "scoring_func": "softmax", "is_causal": True,
    "hidden_dropout": 0.2, "original_max_position_embeddings": 4096,
}  # fmt: skip
OTHER = {  # keys that ask for other numbers than ours
    "attention_bias": True, "mlp_bias": True, "add_qkv_bias": True, "router_bias": 1,
    "use_sliding_window": True, "sliding_window": 4096, "attention_chunk_size": 128,
    "final_logit_softcapping": 30.0, "attn_logit_softcapping": 50.0,
    "logits_soft_cap": 30, "layer_scale": 0.1, "layer_scale_init_value": 1e-6,
    "residual_multiplier": 0.2, "embedding_multiplier": 12, "logits_scaling": 8,
    "logit_scale": 0.06, "routed_scaling_factor": 2.5, "scale_emb": 12,
    "norm_topk_prob": False, "scoring_func": "sigmoid", "n_group": 8,
    "moe_router_score_function": "sigmoid", "first_k_dense_replace": 1,
    "use_qk_norm": False, "is_causal": False, "attention_sink": True,
    "use_bidirectional_attention": True, "no_rope_layers": [0, 1], "clip_qkv": 8,
    "allow_neg_eigval": True, "partial_rotary_factor": 0.5, "rope_theta": 10_000.0,
    "rope_scaling": {"rope_type": "linear", "factor": 2}, "decoder_sparse_step": 2,
    "output_gate_type": "sigmoid", "query_pre_attn_scalar": 224,
}  # fmt: skip


@pytest.mark.parametrize("key", SAME)
def test_keys_that_change_nothing(key):
    """In text_config and in a flat config, and above it where it says the same."""
    for vision in (True, False):
        cfg = small_config(vision=vision)
        values = cfg.to_dict()
        (values["text_config"] if vision else values)[key] = SAME[key]
        read = Config.from_dict(values)
        rope = dataclasses.replace(read.text.rope, original_max_position_embeddings=0)
        assert read.replace(rope=rope) == cfg


@pytest.mark.parametrize("key", OTHER)
def test_keys_that_ask_for_other_numbers(key):
    """Wherever they stand: none is passed over in silence."""
    for place in ("top", "text_config", "flat"):
        values = small_config(vision=place != "flat").to_dict()
        at = values["text_config"] if place == "text_config" else values
        at[key] = OTHER[key]
        with pytest.raises(InputError, match=key):
            Config.from_dict(values)


def test_keys_above_that_contradict_those_below():
    values = small_config().to_dict()
    text = values["text_config"]
    again = {key: text[key] for key in ("hidden_size", "rope_parameters", "head_dim")}
    again |= {"rope_theta": 10_000_000.0, "vocab_size": 5, "attention_bias": False}
    assert Config.from_dict(values | again) == small_config()
    yarn = text["rope_parameters"] | {"rope_type": "yarn", "factor": 4.0}
    for key, value in {"rope_parameters": yarn, "num_experts_per_tok": 3}.items():
        with pytest.raises(InputError, match=f"{key} is another one than in text"):
            Config.from_dict(values | {key: value})
    values["vision_config"]["rope_parameters"] = {"rope_theta": 100.0}
    with pytest.raises(InputError, match="vision_config: rope_parameters is "):
        Config.from_dict(values)


@pytest.mark.parametrize("vision", [True, False])
def test_no_sections_are_needed_for_text_alone(vision):
    """transformers shares out 11, 11, 10 then, which no text can tell from ours."""
    values = small_config(vision=vision).to_dict()
    text = values["text_config"] if vision else values
    text["head_dim"] = 256
    del text["rope_parameters"]["mrope_section"]
    if vision:
        with pytest.raises(InputError, match="mrope_section is missing"):
            Config.from_dict(values)
        values["vision_config"] = None
    assert Config.from_dict(values).text.rope.mrope_section == (11, 11, 10)
    text["rope_parameters"]["partial_rotary_factor"] = float("nan")
    with pytest.raises(InputError, match="partial_rotary_factor"):
        Config.from_dict(values)


@pytest.mark.parametrize("kind, words", [
    ("qwen3_next", "q, k, v and z in one matrix"), ("qwen4_exp", "residual streams"),
    ("qwen3_moe", "attends in every layer"), ("qwen3_vl_moe", "several layers"),
    ("qwen2", "have a bias"), ("qwen2_5_vl", "have a bias"), ("llama", "every layer"),
    ("deepseek_v3", "nothing is known"), (None, "nothing is known"),
])  # fmt: skip
def test_other_architectures_are_told_apart(kind, words):
    values = small_config().to_dict() | {"model_type": kind}
    with pytest.raises(InputError, match=f"not a Qwen3.5: .*{words}"):
        Config.from_dict(values)


BAD = {
    "model_type": ("model_type", "llama", "not a Qwen3.5"),
    "missing": ("text_config.hidden_size", None, "hidden_size is missing"),
    "no rope": ("text_config.rope_parameters", None, "rope_parameters is missing"),
    "old rope": ("text_config.rope_scaling", {"type": "yarn"}, "rope_parameters"),
    "rope type": ("text_config.rope_parameters.rope_type", "llama3", "rope_type"),
    "yarn": ("text_config.rope_parameters.rope_type", "yarn", "needs factor"),
    "sections": ("text_config.rope_parameters.mrope_section", [1, 1, 1], "summing"),
    "string": ("text_config.num_experts", "33", "expected a number"),
    "bool": ("text_config.head_dim", True, "expected a number"),
    "negative": ("text_config.hidden_size", -64, "whole number"),
    "top_k": ("text_config.num_experts_per_tok", 34, "num_experts_per_tok 34"),
    "heads": ("text_config.num_key_value_heads", 3, "num_key_value_heads"),
    "key heads": ("text_config.linear_num_key_heads", 3, "linear_num_key_heads"),
    "layers": ("text_config.layer_types", ["full_attention"], "names 1 layers"),
    "depth": ("text_config.num_hidden_layers", 10**12, "expected 1 to 1000"),
    "half a layer": ("text_config.num_hidden_layers", 4.5, "expected 1 to 1000"),
    "no experts": ("text_config.num_experts", 0, "num_experts is 0"),
    "half an expert": ("text_config.num_experts", 33.5, "whole number"),
    "factor": ("text_config.rope_parameters.factor", "4", "expected a number"),
    "mscale": ("text_config.rope_parameters.mscale", 1.0, "mscale would change"),
    "rope": ("text_config.rope_parameters", "default", "expected an object"),
    "section": ("text_config.rope_parameters.mrope_section", 4, "expected a list"),
    "layer list": ("text_config.layer_types", 4, "expected a list"),
    "tower": ("vision_config", [], "expected an object"),
    "tied": ("tie_word_embeddings", "false", "expected true or false"),
    "kind": ("text_config.layer_types", ["mamba"] * 4, "layer_types[0]"),
    "act": ("text_config.hidden_act", "gelu", "only 'silu'"),
    "bias": ("text_config.attention_bias", True, "attention_bias"),
    "gate": ("text_config.attn_output_gate", False, "attn_output_gate"),
    "deepstack": ("vision_config.deepstack_visual_indexes", [3], "deepstack"),
    "width": ("vision_config.out_hidden_size", 32, "out_hidden_size"),
    "square": ("vision_config.num_position_embeddings", 35, "square"),
    "end": ("text_config.eos_token_id", "<|im_end|>", "eos_token_id is '<|im_end|>'"),
    "ends": ("eos_token_id", [7, True], "eos_token_id is [7, True]; expected token"),
    "no end": ("text_config.eos_token_id", -1, "eos_token_id is -1; expected token"),
    "ids": ("image_token_id", None, "image_token_id is missing"),
    "id": ("image_token_id", "x", 'image_token_id is "x"; expected a number'),
    "id too": ("video_token_id", 10**400, "out of range"),
    "no id": ("vision_start_token_id", -1, "but must be a whole number"),
    "texts": ("text_config.rope_parameters.mrope_section", ["a", 3, 5], "a number"),
    "nulls": ("text_config.rope_parameters.mrope_section", [None, 3, 5], "a number"),
    "turns": ("text_config.rope_parameters.mrope_section", [9, -5, 4], "0 or more"),
    "theta": ("text_config.rope_parameters.rope_theta", 1, "must be over 1"),
    "nan": ("text_config.rope_parameters.rope_theta", float("nan"), "out of range"),
    "beta": ("text_config.rope_parameters.beta_fast", 0, "must be over 0"),
    "share": ("text_config.rope_parameters.partial_rotary_factor", 1.5, "at most 1"),
    "eps": ("text_config.rms_norm_eps", -1, "rms_norm_eps is -1, but must be 0"),
    "none chosen": ("text_config.num_experts_per_tok", 0, "1 or more"),
    "float": ("text_config.hidden_size", 64.0, "expected a whole number"),
    "wide": ("text_config.hidden_size", 2**40, "at most 1048576"),
    "patch": ("vision_config.patch_size", 10**9, "at most 1024"),
    "long kind": ("model_type", "A" * 10**6, "not a Qwen3.5"),
    "long list": ("vision_config", [1] * 10**5, "expected an object"),
    "escapes": ("text_config.rope_parameters.\x1b[2J\nok", 1, "would change"),
    "long act": ("text_config.hidden_act", "\x1b" * 10**5, "hidden_act is"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_config_is_one_sentence(case):
    key, value, words = BAD[case]
    values = copy.deepcopy(small_config().to_dict())
    *path, last = key.split(".")
    at = values
    for part in path:
        at = at[part]
    at[last] = value
    with pytest.raises(InputError) as e:
        Config.from_dict(values, source="some/config.json")
    sentence = str(e.value)
    assert words in sentence and sentence.startswith("some/config.json")
    assert sentence.isprintable() and len(sentence) < 500


@pytest.mark.parametrize("factor", [0, -4, 0.5])
def test_yarn_only_stretches(factor):
    values = small_config().to_dict()
    values["text_config"]["rope_parameters"] |= {
        "rope_type": "yarn", "factor": factor, "original_max_position_embeddings": 64,
    }  # fmt: skip
    with pytest.raises(InputError, match="factor"):
        Config.from_dict(values)


def test_replace_is_checked():
    cfg = small_config()
    assert cfg.replace(mtp_num_hidden_layers=1).text.mtp_num_hidden_layers == 1
    with pytest.raises(InputError, match="layer_types and num_hidden_layers differ"):
        cfg.replace(num_hidden_layers=2)


def test_bad_files(tmp_path):
    with pytest.raises(InputError, match="cannot be read: No such file"):
        Config.from_json(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": ')
    with pytest.raises(InputError, match="not JSON"):
        Config.from_json(tmp_path)
    (tmp_path / "config.json").write_text("[1]")
    with pytest.raises(InputError, match="JSON object"):
        Config.from_json(tmp_path)
    with pytest.raises(InputError, match="397B-A17B"):
        Config.named("398B")


def test_every_field_is_read():
    """No field of the config is there for show (fla's had one that nothing read)."""
    import dataclasses
    import re
    from pathlib import Path

    from minqwen.model import config

    folder = Path(config.__file__).parents[1]
    code = "".join(p.read_text() for p in folder.rglob("*.py") if p.stem != "family")
    for cls in (config.TextConfig, config.VisionConfig, config.RopeConfig):
        for f in dataclasses.fields(cls):
            assert re.search(rf"\.{f.name}\b", code), f"{cls.__name__}.{f.name}"
