"""The letters, and the numbers that make a Qwen3.5.

Letters used in every file of the model part:

    B  batch            T  tokens of this call      S  tokens seen so far, T included
    D  hidden size      H  heads                    K  key width of a head
    V  value width      E  experts                  I  width of one expert
    C  tokens a chunk   N  tokens of all rows, B*T  R  value heads per key head
"""

from dataclasses import dataclass

LINEAR, FULL = "linear_attention", "full_attention"


@dataclass(frozen=True)
class RopeConfig:
    """Rotary positions: how far and how fast a head's first dimensions turn."""

    rope_theta: float
    partial_rotary_factor: float
    mrope_section: tuple[int, ...]
    rope_type: str = "default"  # or "yarn", which needs the fields below
    factor: float = 0.0
    original_max_position_embeddings: int = 0
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
    layer_types: tuple[str, ...]
    linear_num_key_heads: int
    linear_num_value_heads: int
    linear_key_head_dim: int
    linear_value_head_dim: int
    linear_conv_kernel_dim: int
    rms_norm_eps: float
    max_position_embeddings: int
    rope: RopeConfig
    eos_token_id: tuple[
        int, ...
    ] = ()  # each ends an answer; files name none, one or several
    initializer_range: float = 0.02
    mtp_num_hidden_layers: int = 0  # transformers does not write it, nor the head
    intermediate_size: int = 0
    num_experts: int = 0
    num_experts_per_tok: int = 0
    moe_intermediate_size: int = 0
    shared_expert_intermediate_size: int = 0
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
