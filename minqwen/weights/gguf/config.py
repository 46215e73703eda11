"""From the keys of a GGUF file to a Config, as strictly as from a config.json.

Keys that ask for another computation are refused by name; those that change nothing are
ignored. Source: the keys that conversion/qwen.py of llama.cpp and convert_qwen3next.go
of Ollama write, and that their models read.
"""

import numpy as np

from ...errors import MOST, InputError, number, show
from ...model.ranges import DEEPEST, bounded
from ...model.shapes import FULL, LINEAR
from .files import TOWER

ARCHITECTURES = {"qwen35": "qwen3_5_text", "qwen35moe": "qwen3_5_moe_text"}
NUMBERS = {
    "hidden_size": "embedding_length", "num_attention_heads": "attention.head_count",
    "num_key_value_heads": "attention.head_count_kv", "head_dim":
    "attention.key_length", "linear_num_key_heads": "ssm.group_count",
    "linear_num_value_heads": "ssm.time_step_rank", "linear_key_head_dim":
    "ssm.state_size", "linear_conv_kernel_dim": "ssm.conv_kernel", "rms_norm_eps":
    "attention.layer_norm_rms_epsilon", "max_position_embeddings": "context_length",
}  # fmt: skip
DENSE = {"intermediate_size": "feed_forward_length"}
MOE = {
    "num_experts": "expert_count", "num_experts_per_tok": "expert_used_count",
    "moe_intermediate_size": "expert_feed_forward_length",
    "shared_expert_intermediate_size": "expert_shared_feed_forward_length",
}  # fmt: skip
SCALINGS = ("none", "", "default", "linear", "yarn")
YARN = {
    "factor": "rope.scaling.factor",
    "original_max_position_embeddings": "rope.scaling.original_context_length",
}
BETAS = {f"beta_{end}": f"rope.scaling.yarn_beta_{end}" for end in ("fast", "slow")}
# With other values than 1 or true these ask for another computation; the first may also
# be 0, for unset. A gating function of 1 is softmax.
ONE = """
    expert_gating_func expert_weights_scale expert_group_count expert_group_used_count
    expert_shared_count moe_every_n_layers interleave_moe_layer_step logit_scale
    residual_scale embedding_scale
""".split()
TRUE = """
    expert_weights_norm norm_top_k_prob attention.causal rope.mrope_interleaved
    mrope_interleaved rope.scaling.attn_factor rope.scaling.yarn_attn_factor
    rope.scaling.yarn_ext_factor
""".split()
# Any other key that begins like this asks for another computation unless it is 0.
TURNING = """
    rope. attention. ssm. expert moe_ altup. swiglu_clamp attn_logit_softcapping
    final_logit_softcapping router_logit_softcapping leading_dense_block_count
    n_deepstack_layers pooling_type use_parallel_residual swin_norm token_shift_count
    rescale_every_n_layers activation_sparsity_scale embedding_length_per_layer_input
""".split()
# But these say nothing about the computation.
IDLE = """
    attention.layer_norm_epsilon attention.group_norm_epsilon
    attention.group_norm_groups rope.scaling.finetuned feed_forward_length
""".split()
PER_LAYER = ("attention.head_count", "attention.head_count_kv", "feed_forward_length")
SECTIONS = ("rope.dimension_sections", "rope.mrope_section", "mrope_sections")
TOKENS = {  # Ollama has keys for these, llama.cpp only the tokens
    "image_token_id": "<|image_pad|>", "video_token_id": "<|video_pad|>",
    "vision_start_token_id": "<|vision_start|>",
    "vision_end_token_id": "<|vision_end|>",
}  # fmt: skip


class Settings:
    """The keys of the file's architecture, read strictly: none is guessed.

    `tiled`: value heads lie in the order of the heads they repeat (see names.py).
    """

    def __init__(self, gguf):
        self.gguf, self.arch = gguf, gguf.keys.get("general.architecture")
        kind = show(gguf.keys.get("general.type", "model"))
        if kind != "model" or show(self.arch) == TOWER:
            raise InputError(
                f"{gguf.name}: general.type is {kind}, general.architecture "
                f"{show(self.arch)}: an addition to a model, as an mmproj is; give the "
                "model's own file, which finds a tower beside it."
            )
        if not isinstance(self.arch, str) or self.arch not in ARCHITECTURES:
            raise InputError(
                f"{gguf.name}: general.architecture is {show(self.arch)}; this is not "
                f"a Qwen3.5 (expected {' or '.join(ARCHITECTURES)})."
            )
        own = [key for key in gguf.keys if key.startswith(self.arch + ".")]
        self.left = {key.partition(".")[2]: gguf.keys[key] for key in own}

    def fault(self, key, value, wanted):
        return self.gguf.fault(f"{self.arch}.{key}", value, wanted)

    def need(self, key):
        """A key's value, taken out of those that are left."""
        if key not in self.left:
            raise InputError(
                f"{self.gguf.name}: {self.arch}.{key} is missing; convert the model "
                "again with a current llama.cpp."
            )
        return self.left.pop(key)

    def number(self, key, ours):
        """The value of a key that config.json calls `ours`."""
        value = self.left.get(key)
        if key in PER_LAYER and isinstance(value, np.ndarray):
            self.given[key] = values = self.list(key)
            some = {value for value in values if value}
            if len(some) != 1 or len(values) not in self.depths:
                raise self.fault(key, values, "one number, or for each layer it or 0")
            self.left[key] = some.pop()
        return bounded(ours, self.need(key), f"{self.gguf.name}: {self.arch}.{key}")

    def count(self, key, low=1, high=DEEPEST):
        value = self.need(key)
        return number(value, f"{self.gguf.name}: {self.arch}.{key}", int, low, high)

    def list(self, key):
        values = self.need(key)
        if not isinstance(values, np.ndarray) or values.dtype.kind not in "iub":
            raise self.fault(key, values, "a list of whole numbers")
        return values.tolist()

    def text(self):
        """What a config.json would say of the language model, with all unread keys.

        Those of a vision tower go to `vision` instead.
        """
        count, draft = self.blocks()
        self.given = {}  # lists with a value for each layer
        moe = self.arch == "qwen35moe"
        table = NUMBERS | (MOE if moe else DENSE)
        text = {ours: self.number(key, ours) for ours, key in table.items()}
        heads = text["linear_num_value_heads"]
        inner = self.count("ssm.inner_size", heads, heads * 2**14)
        if inner % heads:
            raise self.fault("ssm.inner_size", inner, f"a multiple of {heads} heads")
        embedding = self.gguf.tensors.get("token_embd.weight")
        if embedding is None:
            raise InputError(f"{self.gguf.name} holds no token_embd.weight.")
        vocab, head_dim = embedding.shape[0], text["head_dim"]
        self.tiled = self.left.pop("ssm.v_head_reordered", True)
        if not isinstance(self.tiled, bool):
            raise self.fault("ssm.v_head_reordered", self.tiled, "true or false")
        text |= {
            "model_type": ARCHITECTURES[self.arch],
            "num_hidden_layers": count,
            "mtp_num_hidden_layers": draft,
            "linear_value_head_dim": inner // heads,
            "vocab_size": vocab,
            "eos_token_id": self.ends(),
            "tie_word_embeddings": "output.weight" not in self.gguf.tensors,
            "rope_parameters": self.rope(head_dim),
            "layer_types": self.layers(count, draft),
        }
        fixed = dict.fromkeys(ONE, (1.0, 0.0)) | dict.fromkeys(TRUE, (1.0,))
        fixed |= {} if moe else dict.fromkeys(MOE.values(), (0,))
        fixed |= {"attention.value_length": (head_dim,), "vocab_size": (vocab,)}
        scale = head_dim**-0.5
        self.fix(fixed | {"attention.scale": (scale, np.float32(scale), 0.0)})
        self.refuse()
        seen = [k for k in self.left if k.startswith("vision.") or k in TOKENS]
        self.vision = {key: self.left.pop(key) for key in seen}
        return {f"{self.arch}.{k}": v for k, v in self.left.items()} | text

    def blocks(self):
        """(layers, draft heads), as the keys say and the tensors confirm."""
        names = [name.split(".") for name in self.gguf.tensors]
        held = {int(n[1]) for n in names if n[0] == "blk" and n[1].isdecimal()}
        heads = {n[1] for n in names if n[0] == "blk" and n[2:3] == ["nextn"]}
        self.left.setdefault("nextn_predict_layers", len(heads))
        said = self.count("nextn_predict_layers", 0, 1)
        count = self.count("block_count", said + 1, MOST) - said
        draft = int(str(count) in heads)
        if count + draft > len(held):  # before so many are built
            wanted = f"the {len(held)} it holds"
            raise self.fault("block_count", count + said, wanted)
        self.headless, self.depths = said > draft, (count + said, count)
        return count, draft

    def ends(self):
        """The ids that end an answer, as config.json has them."""
        keys = self.gguf.keys
        ids = [keys.get("tokenizer.ggml.eos_token_id")]
        more = keys.get("tokenizer.ggml.eos_token_ids")
        ids += more.tolist() if isinstance(more, np.ndarray) else []
        ids = list(dict.fromkeys(i for i in ids if type(i) is int))
        return ids if len(ids) > 1 else ids[0] if ids else None

    def layers(self, count, draft):
        """layer_types: from a list of layers, from an interval, or from the tensors."""
        key, heads = "attention.recurrent_layers", "attention.head_count_kv"
        every, linear = "full_attention_interval", None
        if key in self.left:
            linear = self.list(key)
            if len(linear) != self.depths[0] or any(linear[count:]):
                wanted = f"{count} layers and {draft} for drafting, which is not"
                raise self.fault(key, linear, wanted + " recurrent")
        if not all(self.given.get(heads, [1])):
            found = [not value for value in self.given[heads][:count]]
            if linear and found != list(map(bool, linear[:count])):
                raise self.fault(heads, self.given[heads], f"0 where {key} is true")
            linear = found
        if linear is None and every in self.left:
            interval = self.count(every)
            linear = [(i + 1) % interval for i in range(count)]
        elif linear is None:
            held = self.gguf.tensors
            linear = [f"blk.{i}.attn_q.weight" not in held for i in range(count)]
        self.left.pop(every, None)
        return [LINEAR if yes else FULL for yes in linear[:count]]

    def rope(self, head_dim):
        """rope_parameters: the rotated share of a head, the axes, YaRN if asked."""
        given = [key for key in SECTIONS if key in self.left] or SECTIONS[:1]
        lists = [self.list(key) for key in given]
        # There may be a fourth axis, of length 0.
        lists = [x[:3] if len(x) == 4 and x[3] == 0 else x for x in lists]
        rotated = self.count("rope.dimension_count", 1, head_dim)
        for key, sections in zip(given, lists, strict=True):
            right = len(sections) == 3 and sum(sections) == rotated / 2
            if not right or min(sections) < 0 or sections != lists[0]:
                wanted = f"three counts summing to {rotated / 2:g}"
                raise self.fault(key, sections, wanted + ", alike wherever they stand")
        rope = {
            "rope_theta": self.number("rope.freq_base", "rope_theta"),
            "partial_rotary_factor": rotated / head_dim,
            "mrope_section": lists[0],
        }
        kind = self.left.pop("rope.scaling.type", "none")
        if not isinstance(kind, str) or kind not in SCALINGS:
            raise self.fault("rope.scaling.type", kind, "none or yarn")
        if kind == "yarn":
            rope |= {ours: self.number(key, ours) for ours, key in YARN.items()}
            for ours, key in BETAS.items():
                rope |= {ours: self.number(key, ours)} if key in self.left else {}
        else:
            self.fix({"rope.scaling.factor": (1.0, 0.0)})
            for key in (*YARN.values(), *BETAS.values()):
                self.left.pop(key, None)
        return rope | {"rope_type": "yarn" if kind == "yarn" else "default"}

    def fix(self, allowed):
        """InputError for a key with a value that is not among `allowed`'s."""
        for key, values in allowed.items():
            value = self.left.pop(key, values[0])
            if isinstance(value, np.ndarray | list) or value not in values:
                raise self.fault(key, value, show(values[0]))

    def refuse(self):
        """InputError for a key that asks for another computation."""
        for key in IDLE:
            self.left.pop(key, None)
        for key in [key for key in self.left if key.startswith(tuple(TURNING))]:
            value = self.left.pop(key)
            if isinstance(value, str | list) or not np.size(value) or np.any(value):
                wanted = "no such key, which may turn it into another computation"
                raise self.fault(key, value, wanted)
