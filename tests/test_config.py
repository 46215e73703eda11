"""The eight sizes, counted from our own module tree; what a bad config.json gets."""

import copy
import json

import pytest
import torch
from tiny_models import small_config

from minqwen.errors import InputError
from minqwen.model.config import Config
from minqwen.model.qwen import Qwen
from minqwen.weights import expected_tensors

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
}
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
