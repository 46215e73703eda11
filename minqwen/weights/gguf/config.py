"""From the keys of a GGUF file to a Config, as strictly as from a config.json.

Source: the keys that conversion/qwen.py of llama.cpp writes and qwen35*.cpp reads.
"""

import numpy as np

from ...errors import MOST, InputError, number, show
from ...model.config import Config
from ...model.ranges import DEEPEST, bounded
from ...model.shapes import FULL, LINEAR

ARCHITECTURES = {"qwen35": "qwen3_5_text", "qwen35moe": "qwen3_5_moe_text"}
NUMBERS = {
    "hidden_size": "embedding_length",
    "num_attention_heads": "attention.head_count",
    "num_key_value_heads": "attention.head_count_kv",
    "head_dim": "attention.key_length",
    "linear_num_key_heads": "ssm.group_count",
    "linear_num_value_heads": "ssm.time_step_rank",
    "linear_key_head_dim": "ssm.state_size",
    "linear_conv_kernel_dim": "ssm.conv_kernel",
    "rms_norm_eps": "attention.layer_norm_rms_epsilon",
    "max_position_embeddings": "context_length",
}
DENSE = {"intermediate_size": "feed_forward_length"}
MOE = {
    "num_experts": "expert_count",
    "num_experts_per_tok": "expert_used_count",
    "moe_intermediate_size": "expert_feed_forward_length",
    "shared_expert_intermediate_size": "expert_shared_feed_forward_length",
}
YARN = {
    "factor": "rope.scaling.factor",
    "original_max_position_embeddings": "rope.scaling.original_context_length",
}
BETAS = {
    "beta_fast": "rope.scaling.yarn_beta_fast",
    "beta_slow": "rope.scaling.yarn_beta_slow",
}
# Keys whose other values would be another computation, and the ones we do.
FIXED = {
    "expert_gating_func": 1,  # softmax
    "expert_weights_scale": 1.0,
    "expert_weights_norm": True,
    "attention.causal": True,
    "rope.scaling.attn_factor": 1.0,
    "rope.scaling.yarn_ext_factor": 1.0,
    "rope.scaling.yarn_attn_factor": 1.0,
}


class Settings:
    """The keys of the file's architecture, strictly read: none is guessed."""

    def __init__(self, gguf):
        self.gguf, self.arch = gguf, gguf.keys.get("general.architecture")
        if not isinstance(self.arch, str) or self.arch not in ARCHITECTURES:
            raise InputError(
                f"{gguf.name}: general.architecture is {show(self.arch)}; this is not "
                f"a Qwen3.5 (expected {' or '.join(ARCHITECTURES)})."
            )
        prefix = self.arch + "."
        self.left = {
            key.removeprefix(prefix): value
            for key, value in gguf.keys.items()
            if key.startswith(prefix)
        }

    def fault(self, key, value, wanted):
        return InputError(
            f"{self.gguf.name}: {self.arch}.{key} is {show(value)}; expected {wanted}."
        )

    def need(self, key):
        """A key's value, which nobody else will ask for."""
        if key not in self.left:
            raise InputError(
                f"{self.gguf.name}: {self.arch}.{key} is missing; convert the model "
                "again with a current llama.cpp."
            )
        return self.left.pop(key)

    def number(self, key, ours):
        """The value of a key that says what config.json says as `ours`."""
        value = self.need(key)
        return bounded(ours, value, f"{self.gguf.name}: {self.arch}.{key}")

    def count(self, key, low=1, high=DEEPEST):
        value = self.need(key)
        return number(value, f"{self.gguf.name}: {self.arch}.{key}", int, low, high)

    def list(self, key):
        values = self.need(key)
        if not isinstance(values, np.ndarray) or values.dtype.kind not in "iub":
            raise self.fault(key, values, "a list of whole numbers")
        return values.tolist()

    def config(self):
        """The Config; keys that nobody reads are kept in its `extra`."""
        self.left.setdefault("nextn_predict_layers", 0)
        draft = self.count("nextn_predict_layers", 0, 1)
        count = self.count("block_count", draft + 1, MOST) - draft
        blocks = {n.split(".")[1] for n in self.gguf.tensors if n.startswith("blk.")}
        if count + draft > len(blocks):  # said before so many are built
            wanted = f"the {len(blocks)} it holds"
            raise self.fault("block_count", count + draft, wanted)
        table = NUMBERS | (MOE if self.arch == "qwen35moe" else DENSE)
        text = {ours: self.number(key, ours) for ours, key in table.items()}
        heads = text["linear_num_value_heads"]
        inner = self.count("ssm.inner_size", heads, heads * 2**14)
        if inner % heads:
            raise self.fault("ssm.inner_size", inner, f"a multiple of {heads} heads")
        embedding = self.gguf.tensors.get("token_embd.weight")
        if embedding is None:
            raise InputError(f"{self.gguf.name} holds no token_embd.weight.")
        vocab, head_dim = embedding.shape[0], text["head_dim"]
        eos = self.gguf.keys.get("tokenizer.ggml.eos_token_id")
        text |= {
            "model_type": ARCHITECTURES[self.arch],
            "num_hidden_layers": count,
            "mtp_num_hidden_layers": draft,
            "linear_value_head_dim": inner // heads,
            "vocab_size": vocab,
            "eos_token_id": eos if isinstance(eos, int) else None,
            "tie_word_embeddings": "output.weight" not in self.gguf.tensors,
            "rope_parameters": self.rope(head_dim),
        } | self.layers(count, draft)
        self.refuse(FIXED | {"attention.value_length": head_dim, "vocab_size": vocab})
        extra = {f"{self.arch}.{key}": value for key, value in self.left.items()}
        return Config.from_dict(extra | text, source=self.gguf.name)

    def layers(self, count, draft):
        """Which layers are full attention: told for each, or every so many."""
        if "attention.recurrent_layers" not in self.left:
            return {"full_attention_interval": self.count("full_attention_interval")}
        self.left.pop("full_attention_interval", None)
        linear = self.list("attention.recurrent_layers")
        if len(linear) != count + draft or any(linear[count:]):
            wanted = f"{count} layers and {draft} for drafting, which is not recurrent"
            raise self.fault("attention.recurrent_layers", linear, wanted)
        return {"layer_types": [LINEAR if yes else FULL for yes in linear[:count]]}

    def rope(self, head_dim):
        """rope_parameters: the rotated share of a head, the axes, YaRN if asked."""
        sections = self.list("rope.dimension_sections")
        if len(sections) == 4 and sections[3] == 0:  # a fourth axis, which none has
            sections = sections[:3]
        rotated = self.count("rope.dimension_count", 1, head_dim)
        if len(sections) != 3 or sum(sections) != rotated / 2 or min(sections) < 0:
            wanted = f"three counts summing to {rotated / 2:g}"
            raise self.fault("rope.dimension_sections", sections, wanted)
        rope = {
            "rope_theta": self.number("rope.freq_base", "rope_theta"),
            "partial_rotary_factor": rotated / head_dim,
            "mrope_section": sections,
        }
        kind = self.left.pop("rope.scaling.type", "none")
        if not isinstance(kind, str) or kind not in ("none", "yarn"):
            raise self.fault("rope.scaling.type", kind, "none or yarn")
        if kind == "yarn":
            rope |= {ours: self.number(key, ours) for ours, key in YARN.items()}
            for ours, key in BETAS.items():
                rope |= {ours: self.number(key, ours)} if key in self.left else {}
        return rope | {"rope_type": kind.replace("none", "default")}

    def refuse(self, fixed):
        """InputError for a key that asks for what we do not compute."""
        for key, want in fixed.items():
            value = self.left.pop(key, want)
            if isinstance(value, np.ndarray | list) or value != want:
                raise self.fault(key, value, want)
        for key, value in self.left.items():
            if key.startswith("rope."):
                raise self.fault(key, value, "no such key, which would turn angles")
