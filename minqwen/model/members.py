"""The twelve members of the family by name, and what differs in its relatives.

Sizes: the released checkpoints' config.json files.
"""

import json

from ..errors import InputError, show
from .ranges import MOE_KEYS

# What all say alike.
ALIKE = json.loads("""{
    "text_config": {
        "vocab_size": 248320, "head_dim": 256, "full_attention_interval": 4,
        "linear_num_key_heads": 16, "linear_key_head_dim": 128,
        "linear_value_head_dim": 128, "linear_conv_kernel_dim": 4,
        "rms_norm_eps": 1e-6, "max_position_embeddings": 262144,
        "eos_token_id": 248044, "mtp_num_hidden_layers": 1,
        "rope_parameters": {"rope_theta": 10000000, "partial_rotary_factor": 0.25,
                            "mrope_section": [11, 11, 10]}
    },
    "vision_config": {
        "in_channels": 3, "patch_size": 16, "temporal_patch_size": 2,
        "spatial_merge_size": 2, "num_position_embeddings": 2304
    },
    "image_token_id": 248056, "video_token_id": 248057,
    "vision_start_token_id": 248053, "vision_end_token_id": 248054
}""")

# Numbers as below, then dense FFN or (E, top-k, I), tied embeddings, the tower's.
NUMBERS = """
    hidden_size num_hidden_layers num_attention_heads num_key_value_heads
    linear_num_value_heads
""".split()
TOWER = ("depth", "hidden_size", "intermediate_size", "num_heads")
_27 = (27, 1152, 4304, 16)
SIZES: dict[str, tuple] = {
    "397B-A17B": (4096, 60, 32, 2, 64, (512, 10, 1024), False, _27),
    "122B-A10B": (3072, 48, 32, 2, 64, (256, 8, 1024), False, _27),
    "35B-A3B": (2048, 40, 16, 2, 32, (256, 8, 512), False, _27),
    "27B": (5120, 64, 24, 4, 48, 17408, False, _27),
    "9B": (4096, 32, 16, 4, 32, 12288, False, _27),
    "4B": (2560, 32, 16, 4, 32, 9216, True, (24, 1024, 4096, 16)),
    "2B": (2048, 24, 8, 2, 16, 6144, True, (24, 1024, 4096, 16)),
    "0.8B": (1024, 24, 8, 2, 16, 3584, True, (12, 768, 3072, 12)),
    "Qwen3.8-2.4T-A95B": (8192, 92, 64, 4, 128, (512, 10, 2048), False, None),
}
SIZES |= {"Qwen3.6-35B-A3B": SIZES["35B-A3B"], "Qwen3.6-27B": SIZES["27B"]}
SIZES |= {"Qwen3.8-27B": SIZES["27B"]}
# model_type of others that people try, and what they compute otherwise.
PLAIN = "it attends in every layer, and has no delta rule and no gate behind attention"
RELATIVES = {
    "qwen3_next": "its delta layers keep q, k, v and z in one matrix, a key head's "
    "together, and b and a in another",
    "qwen4_exp": "it has four residual streams, attends to indexed tokens alone and "
    "looks n-grams up in tables",
    "qwen3_vl": f"{PLAIN}; its tower feeds several layers",
    "qwen2": f"{PLAIN}; q, k and v have a bias",
    **dict.fromkeys(("qwen3", "llama", "mistral", "gemma", "phi"), PLAIN),
    "kimi": "its delta layers let each channel decay by itself",
}


def member(name: object) -> str | None:
    """The key in SIZES that a name means, with or without "Qwen/" and "Qwen3.5-"."""
    short = str(name).removeprefix("Qwen/").removeprefix("Qwen3.5-")
    return short if short in SIZES else None


def repository(key: str) -> str:
    """The hub id of a key in SIZES."""
    return "Qwen/" + ("" if key.startswith("Qwen") else "Qwen3.5-") + key


def named(name: str) -> dict:
    """The config.json content of one released size."""
    key = member(name)
    if key is None:
        known = ", ".join(SIZES)
        raise InputError(f"no member is named {show(name)}; choose one of {known}")
    *numbers, ffn, tied, tower = SIZES[key]
    text = ALIKE["text_config"] | dict(zip(NUMBERS, numbers, strict=True))
    moe = isinstance(ffn, tuple)
    if moe:
        text |= dict(zip(MOE_KEYS, (*ffn, ffn[2]), strict=True))
    else:
        text["intermediate_size"] = ffn
    said = {"model_type": "qwen3_5_moe" if moe else "qwen3_5"}
    said |= {"tie_word_embeddings": tied}
    if tower is None:  # of text alone, and flat
        return text | said | {"model_type": said["model_type"] + "_text"}
    vision = ALIKE["vision_config"] | dict(zip(TOWER, tower, strict=True))
    vision["out_hidden_size"] = text["hidden_size"]
    return ALIKE | said | {"text_config": text, "vision_config": vision}


def difference(kind: str) -> str:
    """A sentence on what a config's model_type, not one of ours, says of the model."""
    known = (why for name, why in RELATIVES.items() if kind.startswith(name))
    why = next(known, "nothing is known here of its layers")
    return f"model_type is {kind!r}; this is not a Qwen3.5: {why}"
