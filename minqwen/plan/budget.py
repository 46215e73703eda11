"""What fits where: bytes of every part, and the speed that moving them allows.

All are sums over the tensors that a config asks for. To write a token, every weight on
its way is read, the recurrent states are read and written, and the keys and values of
all earlier tokens are read. No engine can be faster than that.
"""

from collections import namedtuple
from dataclasses import dataclass
from functools import lru_cache

import torch

from ..errors import InputError, show
from ..model.shapes import FULL
from ..weights.checkpoint.layout import skeleton
from ..weights.quantised.codecs import FORMS as PACKED
from ..weights.quantised.modules import stored_bytes
from ..weights.quantised.settings import Scheme

# Bits per weight of those that a form applies to, scales included: Qwen's FP8 has one
# BF16 scale for 128 x 128 weights, ours and GPTQ one for each group of 128 in a row.
FORMS = {"bf16": 16, "fp8": 8 + 16 / 128**2, "int8": 8 + 16 / 128, "int4": 4 + 16 / 128}
# Forms of experts left on disk, and of the weights in memory beside them.
PAGED = (("bf16", "bf16"), ("bf16", "int8"), ("bf16", "int4"), ("fp8", "fp8"),
         ("fp8", "int8"), ("int4", "int8"), ("int4", "int4"))  # fmt: skip
PARTS = {  # the first that a tensor's name contains
    "vision tower": "model.visual.", "draft head": "mtp.",
    "routed experts": ".experts.", "delta layers": ".linear_attn.",
    "full layers": ".self_attn.", "other MLPs, routers": ".mlp.",
    "embedding": "embed_tokens", "output head": "lm_head", "norms": "norm",
}  # fmt: skip
SPARE = 0.9  # share of a memory that may be filled; the rest is for activations
BUFFERS = 300_000_000  # bytes: the interpreter, torch, and the chunks of loading


# Bytes, and bytes a second of reading them: the vendors' figures.
GPU = namedtuple("GPU", "memory speed")
GPUS = {
    "A100-40GB": GPU(40e9, 1.555e12), "A100-80GB": GPU(80e9, 2.039e12),
    "L40S-48GB": GPU(48e9, 0.864e12), "H100-80GB": GPU(80e9, 3.35e12),
    "H200-141GB": GPU(141e9, 4.8e12), "B200-180GB": GPU(180e9, 8.0e12),
    "RTX4090-24GB": GPU(24e9, 1.008e12), "RTX5090-32GB": GPU(32e9, 1.792e12),
    "MI300X-192GB": GPU(192e9, 5.3e12),
}  # fmt: skip


@lru_cache
def parameters(cfg):
    """{name: (shape, dtype)} of a model's parameters, as trained."""
    model = skeleton(cfg, torch.bfloat16)
    return {name: (p.shape, p.dtype) for name, p in model.named_parameters()}


def part_named(name):
    return next(part for part, word in PARTS.items() if word in name)


def weight_bytes(cfg, form="bf16", experts=None):
    """{part: bytes} of the weights in a form, the routed experts perhaps in another."""
    sizes = dict.fromkeys(PARTS, 0)
    forms = experts or form, form
    scheme = Scheme(*(form if form in PACKED else None for form in forms))
    for name, (shape, dtype) in parameters(cfg).items():
        dtype = torch.float32 if form == "fp32" else dtype
        sizes[part_named(name)] += stored_bytes(scheme.of(name), name, shape, dtype)
    return {part: size for part, size in sizes.items() if size}


def memory_bytes(cfg, context, batch, width=2):
    """{what: bytes} that a model keeps for `batch` texts; `width`: bytes per number."""
    t = cfg.text
    full = t.layer_types.count(FULL)
    heads = 2 * t.num_key_value_heads * t.head_dim * width  # keys and values
    states = (len(t.layer_types) - full) * batch
    matrix = t.linear_num_value_heads * t.linear_key_head_dim * t.linear_value_head_dim
    window = (t.linear_conv_kernel_dim - 1) * t.conv_dim
    sizes = {
        "keys and values": full * heads * context * batch,
        "recurrent states": states * matrix * 4,
        "convolution windows": states * window * width,
        "logits": batch * t.vocab_size * 4,
    }
    if t.mtp_num_hidden_layers:
        sizes["draft head's keys and values"] = heads * context * batch
    return sizes


def distinct(cfg, batch):
    """Experts of a layer that `batch` tokens reach, if they choose evenly."""
    t = cfg.text
    return t.num_experts * (1 - (1 - t.num_experts_per_tok / t.num_experts) ** batch)


def expert_bytes(cfg, form="bf16"):
    dim, width = cfg.text.hidden_size, cfg.text.moe_intermediate_size
    dtype = torch.float32 if form == "fp32" else torch.bfloat16
    shapes = {"gate_up_proj": (1, 2 * width, dim), "down_proj": (1, dim, width)}
    form = form if form in PACKED else None
    return sum(stored_bytes(form, kind, s, dtype) for kind, s in shapes.items())


def routed_bytes(cfg, form, batch):
    """What one step reads of the routed experts."""
    if not cfg.text.num_experts:
        return 0.0
    layers = cfg.text.num_hidden_layers
    return layers * distinct(cfg, batch) * expert_bytes(cfg, form)


def step_bytes(cfg, context, batch, form="bf16", experts=None):
    """What one step of decoding moves, one token for each of `batch` texts."""
    return sum(moved(cfg, context, batch, form, experts))


def moved(cfg, context, batch, form="bf16", experts=None):
    """Its terms: weights that every token reads, routed experts, caches."""
    # Only rows of the embedding are read; text needs neither tower nor draft head.
    idle = ("routed experts", "embedding", "vision tower", "draft head")
    weights = weight_bytes(cfg, form)
    always = sum(size for part, size in weights.items() if part not in idle)
    if cfg.tie_word_embeddings:
        always += weights["embedding"]  # read whole, backwards, as the output head
    memory = memory_bytes(cfg, context, batch, 4 if form == "fp32" else 2)
    states = memory["recurrent states"] + memory["convolution windows"]
    routed = routed_bytes(cfg, experts or form, batch)
    return always, routed, 2 * states + memory["keys and values"]


def step_seconds(cfg, context, batch, form, experts, speeds):
    """Seconds of such a step; `speeds`: {form: bytes a second} of the loops."""
    always, routed, kept = moved(cfg, context, batch, form, experts)
    plain = speeds["fp32" if form == "fp32" else "bf16"]
    return always / speeds[form] + routed / speeds[experts or form] + kept / plain


@dataclass(frozen=True)
class Choice:
    """One way to hold a model: the memory it needs, and its speed if it fits."""

    form: str  # of the weights in memory
    disk: str | None  # of routed experts on disk
    need: int  # bytes, without a cache of experts
    cache: int  # bytes for such a cache, or 0
    hits: float  # share of choices found in it, if tokens choose evenly
    speed: float  # steps a second at most; 0 where it does not fit

    @property
    def fits(self):
        return self.speed > 0


def choices(cfg, context, batch, memory, disk_speed, speeds):
    """All Choices: in memory, then with experts on disk, the exact first in both.

    Bytes a second: disk_speed, and `speeds` of reading memory, or a dict {form: speed}.
    """
    if not isinstance(speeds, dict):
        speeds = dict.fromkeys(FORMS, speeds)
    held = BUFFERS + sum(memory_bytes(cfg, context, batch).values())
    room, found = SPARE * memory, []
    for form in FORMS:
        need = held + sum(weight_bytes(cfg, form).values())
        speed = 1 / step_seconds(cfg, context, batch, form, None, speeds)
        found.append(Choice(form, None, need, 0, 0.0, speed if need <= room else 0.0))
    if not cfg.is_moe:
        return found
    layers = cfg.text.num_hidden_layers
    experts = layers * cfg.text.num_experts
    drafting = cfg.text.mtp_num_hidden_layers * cfg.text.num_experts  # on disk as well
    for disk, form in PAGED:
        weights, one = weight_bytes(cfg, form, disk), expert_bytes(cfg, disk)
        on_disk = weights["routed experts"] + drafting * one
        need = held + sum(weights.values()) - on_disk
        cache = min(int((room - need) // one), experts)
        # A cache smaller than one step's experts has dropped each before it is needed.
        hits = cache / experts if cache >= layers * distinct(cfg, batch) else 0.0
        read = (1 - hits) * routed_bytes(cfg, disk, batch)
        seconds = step_seconds(cfg, context, batch, form, disk, speeds)
        speed = 1 / (read / disk_speed + seconds) if cache > 0 else 0.0
        found.append(Choice(form, disk, need, max(0, cache) * one, hits, speed))
    return found


# Suffix of the released repository -> the forms of its weights and of its experts.
RELEASED = {
    "": ("bf16", "bf16"), "-FP8": ("fp8", "fp8"), "-GPTQ-Int4": ("bf16", "int4"),
}  # fmt: skip


def per_gpu(cfg, release, count, context, batch):
    """Bytes on each of `count` GPUs: split evenly, but no key/value head is divided."""
    weights = weight_bytes(cfg, *RELEASED[release])
    if release == "-GPTQ-Int4" and "draft head" in weights:
        weights["draft head"] = weight_bytes(cfg)["draft head"]  # left in bf16
    memory = memory_bytes(cfg, context, batch)
    kept = memory.pop("keys and values") / min(count, cfg.text.num_key_value_heads)
    return (sum(weights.values()) + sum(memory.values())) / count + kept + BUFFERS


def gpus(text):
    """ "8xH100-80GB" -> (8, GPU)."""
    count, _, name = text.partition("x")
    known = {n.lower(): gpu for n, gpu in GPUS.items()}
    few = count.isdecimal() and len(count) < 6 and int(count)
    if not few or name.lower() not in known:
        raise InputError(
            f"{show(text)!r} is not a number of GPUs, an x, and one of "
            f"{', '.join(GPUS)}; for example 8xH100-80GB"
        )
    return few, known[name.lower()]
