"""The numbers that make a Qwen3.5, read strictly from a checkpoint's config.json.

Letters used in every file of the model part:

    B  batch            T  tokens of this call      S  tokens seen so far, T included
    D  hidden size      H  heads                    K  key width of a head
    V  value width      E  experts                  I  width of one expert
    C  tokens a chunk   N  tokens of all rows, B*T  R  value heads per key head
"""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path

from .files import read_json, read_whole

LINEAR, FULL = "linear_attention", "full_attention"


@dataclass(frozen=True)
class RopeConfig:
    """Rotary positions: how far and how fast a head's first dimensions turn."""

    rope_theta: float
    partial_rotary_factor: float
    mrope_section: tuple
    rope_type: str = "default"  # or "yarn", which needs the fields below
    factor: float | None = None
    original_max_position_embeddings: int | None = None
    beta_fast: float = 32.0
    beta_slow: float = 1.0


@dataclass(frozen=True)
class TextConfig:
    """The language model. Dense models have `intermediate_size`, MoE ones experts."""

    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    layer_types: tuple
    linear_num_key_heads: int
    linear_num_value_heads: int
    linear_key_head_dim: int
    linear_value_head_dim: int
    linear_conv_kernel_dim: int
    rms_norm_eps: float
    max_position_embeddings: int
    rope: RopeConfig
    eos_token_id: tuple = ()  # each ends an answer; files name none, one or several
    initializer_range: float = 0.02
    mtp_num_hidden_layers: int = 0  # transformers does not write it, nor the head
    intermediate_size: int | None = None
    num_experts: int | None = None
    num_experts_per_tok: int | None = None
    moe_intermediate_size: int | None = None
    shared_expert_intermediate_size: int | None = None
    router_aux_loss_coef: float = 0.001

    @property
    def conv_dim(self) -> int:
        """Channels of the short convolution: q, k and v side by side."""
        keys = self.linear_num_key_heads * self.linear_key_head_dim
        return 2 * keys + self.linear_num_value_heads * self.linear_value_head_dim


@dataclass(frozen=True)
class VisionConfig:
    """The vision tower, whose outputs take the place of token embeddings."""

    depth: int
    hidden_size: int
    intermediate_size: int
    num_heads: int
    in_channels: int
    patch_size: int
    temporal_patch_size: int
    spatial_merge_size: int
    out_hidden_size: int
    num_position_embeddings: int
    initializer_range: float = 0.02


@dataclass(frozen=True)
class Config:
    """One checkpoint: text, perhaps vision, and the ids that tie the two together."""

    model_type: str
    text: TextConfig
    vision: VisionConfig | None
    tie_word_embeddings: bool
    image_token_id: int | None = None
    video_token_id: int | None = None
    vision_start_token_id: int | None = None
    vision_end_token_id: int | None = None
    extra: dict = field(default_factory=dict, compare=False)

    @property
    def is_moe(self) -> bool:
        return "moe" in self.model_type

    @classmethod
    def named(cls, name: str) -> "Config":
        """One of the eight released sizes, such as "397B-A17B" or "0.8B"."""
        from .family import named

        return cls.from_dict(named(name), source=f"Config.named({name!r})")

    @classmethod
    def from_json(cls, path) -> "Config":
        """Read config.json (the file, or the folder that holds it)."""
        path = Path(path)
        path = path / "config.json" if path.is_dir() else path
        values = read_json(read_whole(path), str(path))
        return cls.from_dict(values, source=str(path))

    @classmethod
    def from_dict(cls, values: dict, source: str = "config.json") -> "Config":
        """Build from config.json's content; InputError names what is wrong."""
        from .family import parse

        return parse(cls, values, source)

    def to_dict(self) -> dict:
        """The content of a config.json that this project and transformers both read."""
        from .family import unparse

        return unparse(self)

    def replace(self, **changes) -> "Config":
        """A copy with other text numbers; InputError if they clash."""
        from .family import check

        text = dataclasses.replace(self.text, **changes)
        changed = dataclasses.replace(self, text=text)
        check(changed, "Config.replace")
        return changed
