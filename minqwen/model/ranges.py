"""The table of what each number of a config may be, whatever file says it."""

import dataclasses
from typing import Any

from ..errors import number
from .shapes import RopeConfig, TextConfig, VisionConfig

MOE_KEYS = """
    num_experts num_experts_per_tok moe_intermediate_size
    shared_expert_intermediate_size
""".split()
DEEPEST = 1000  # layers; checked before any list of them is built
# The least and the most of each number, and "over" where the least is too little. Those
# that are not here are whole, from 1 to WIDEST: products of all stay within an int64.
WIDEST = 2**20
RANGES: dict[str, tuple] = {
    "vocab_size": (1, 2**24),
    "max_position_embeddings": (1, 2**40),
    "original_max_position_embeddings": (0, 2**40),
    **dict.fromkeys(("head_dim", "linear_key_head_dim"), (1, 2**14)),
    **dict.fromkeys(("linear_value_head_dim", "linear_conv_kernel_dim"), (1, 2**14)),
    **dict.fromkeys((*MOE_KEYS, "intermediate_size"), (0, WIDEST)),
    "mtp_num_hidden_layers": (0, WIDEST),
    "depth": (0, DEEPEST),
    **dict.fromkeys(("in_channels", "temporal_patch_size"), (1, 2**8)),
    **dict.fromkeys(("patch_size", "spatial_merge_size"), (1, 2**10)),
    "rope_theta": (1, 2**53, "over"),
    "partial_rotary_factor": (0, 1, "over"),
    "factor": (0, WIDEST),
    **dict.fromkeys(("beta_fast", "beta_slow"), (0, WIDEST, "over")),
    **dict.fromkeys(("rms_norm_eps", "initializer_range"), (0, 1)),
    "router_aux_loss_coef": (0, WIDEST),
}
KIND_OF = {
    field.name: field.type
    for part in (VisionConfig, RopeConfig, TextConfig)
    for field in dataclasses.fields(part)
}


def in_range(part: Any, where: str) -> None:
    """InputError for a number of a RopeConfig, TextConfig or VisionConfig that is none,
    or that of no model."""
    for field in dataclasses.fields(part):
        if field.type in (int, float):
            bounded(field.name, getattr(part, field.name), f"{where}: {field.name}")


def bounded(name: str, value: Any, said: str) -> Any:
    """`value`, if a config's field `name` may be it; `said` is its name in messages."""
    low, high, *over = RANGES.get(name, (1, WIDEST))
    kind: Any = KIND_OF[name]
    return number(value, said, kind, low, high, bool(over))
