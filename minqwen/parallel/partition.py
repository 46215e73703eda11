"""What one of several ranks holds of a model: which heads, experts, columns, words.

Tensor parallel: each rank holds some heads of every mixer and some of the hidden
units of every MLP. The matrices that make them are cut by rows, the one that brings
them back to D by columns, so what each rank gets is a part of a sum:

    W_down h = sum over ranks of W_down[:, own] h[own]

one `all_reduce` after each mixer and one after each MLP. Expert parallel: each rank
holds some of the routed experts, whose part of the sum is zero where a token chose
others. The vocabulary is cut by words, in the embedding and in the output head.

Every rank holds all of the norms, the router, the shared expert's gate and the vision
tower, which are small, and a key head that its own query heads share with others'.
397B in bfloat16 on 16 GPUs, two nodes of 8 H100 with 80 GB each: `num_bytes` says
51.6 GB each, 826 GB in all for a checkpoint of 807 GB.
"""

import math
from dataclasses import dataclass
from functools import cached_property

from ..errors import InputError
from ..model.config import Config

# What ranks must divide, and whether one may also stand on several of them.
DIVIDED = {
    "num_attention_heads": False, "num_key_value_heads": True,
    "linear_num_key_heads": True, "linear_num_value_heads": False,
    "intermediate_size": False, "shared_expert_intermediate_size": False,
    "num_experts": False,
}  # fmt: skip


@dataclass(frozen=True)
class Share:
    """The part of rank `rank` of `ranks`; InputError if they cannot divide the model.

    A cut is (axis, ranges): the ranges of the whole parameter's axis that lie, one
    after the other, in the rank's own; None where the rank holds all of it.
    """

    cfg: Config
    rank: int
    ranks: int

    def __post_init__(self):
        found = undivided(self.cfg, self.ranks)
        if found:
            most = max(getattr(self.cfg.text, name) or 0 for name in DIVIDED)
            fit = [n for n in range(1, most + 1) if not undivided(self.cfg, n)]
            raise InputError(
                f"{self.ranks} processes cannot share this model: {found} is "
                f"{getattr(self.cfg.text, found)}, which {self.ranks} does not divide; "
                f"start one of {', '.join(map(str, fit))} (--nproc-per-node)."
            )

    def own(self, count):
        """The rank's range of `count` heads or experts; or the one it shares."""
        each = max(1, count // self.ranks)
        first = self.rank * count // self.ranks
        return range(first, first + each)

    @property
    def words(self):
        """Its range of the vocabulary, of which the last rank may have fewer."""
        count = self.cfg.text.vocab_size
        each = -(-count // self.ranks)
        first = min(count, self.rank * each)
        return range(first, min(count, first + each))

    def config(self):
        """The rank's own sizes; words and experts are counted as of the whole."""
        t = self.cfg.text
        sizes = {name: len(self.own(getattr(t, name)))
                 for name in DIVIDED if getattr(t, name)}  # fmt: skip
        sizes.pop("num_experts", None)
        return self.cfg.replace(**sizes)

    @cached_property
    def cuts(self):
        """The last two parts of a parameter's name (.weight aside) -> its cut."""
        t, own = self.cfg.text, self.own
        heads, groups = own(t.num_attention_heads), own(t.num_key_value_heads)
        keys = span(own(t.linear_num_key_heads), t.linear_key_head_dim)
        values = span(own(t.linear_num_value_heads), t.linear_value_head_dim)
        past = t.linear_num_key_heads * t.linear_key_head_dim
        qkv = 0, [keys, (past + keys[0], past + keys[1]),
                  (2 * past + values[0], 2 * past + values[1])]  # fmt: skip
        each = 0, [span(own(t.linear_num_value_heads), 1)]
        words = 0, [span(self.words, 1)]
        found = {
            "self_attn.q_proj": (0, [span(heads, 2 * t.head_dim)]),  # query and gate
            "self_attn.k_proj": (0, [span(groups, t.head_dim)]),
            "self_attn.v_proj": (0, [span(groups, t.head_dim)]),
            "self_attn.o_proj": (1, [span(heads, t.head_dim)]),
            "linear_attn.in_proj_qkv": qkv, "linear_attn.conv1d": qkv,
            "linear_attn.in_proj_z": (0, [values]),
            "linear_attn.in_proj_a": each, "linear_attn.in_proj_b": each,
            "linear_attn.A_log": each, "linear_attn.dt_bias": each,
            "linear_attn.out_proj": (1, [values]),
            "language_model.embed_tokens": words, "lm_head": words,
        }  # fmt: skip
        for mlp, width in (
            ("mlp", t.intermediate_size),
            ("shared_expert", t.shared_expert_intermediate_size),
        ):
            for name in ("gate_proj", "up_proj", "down_proj") if width else ():
                axis = int(name == "down_proj")
                found[f"{mlp}.{name}"] = axis, [span(own(width), 1)]
        for name in ("gate_up_proj", "down_proj") if t.num_experts else ():
            found["experts." + name] = 0, [span(own(t.num_experts), 1)]
        return found

    def cut(self, name):
        """(axis, [(low, high), ...]) of a parameter, or None for all of it."""
        return self.cuts.get(".".join(name.removesuffix(".weight").split(".")[-2:]))

    def shape(self, name, shape):
        """The shape of the rank's own part of a parameter."""
        shape, cut = list(shape), self.cut(name)
        if cut:
            shape[cut[0]] = sum(high - low for low, high in cut[1])
        return tuple(shape)

    def num_bytes(self, parameters):
        """Of the rank's part, given {name: (shape, dtype)} of the whole model."""
        return sum(
            math.prod(self.shape(name, shape)) * dtype.itemsize
            for name, (shape, dtype) in parameters.items()
        )


def span(own, width):
    """A range of heads as the range of their rows or columns."""
    return own.start * width, own.stop * width


def undivided(cfg, ranks):
    """The first size that so many ranks cannot divide, or None."""
    for name, shared in DIVIDED.items():
        count = getattr(cfg.text, name)
        if count and count % ranks and not (shared and ranks % count == 0):
            return name
    return None
