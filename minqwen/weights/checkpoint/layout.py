"""Which tensors a checkpoint of a config holds, and where each goes in the model.

The model's parameters have the names of the released files, with two exceptions.
Experts may be fused in one tensor, or three small tensors each; one release uses both
(fused in the layers, single in the MTP head). And text-only files, and files saved from
a part of the model, have other levels above `layers` or `visual`.
"""

import re
from collections import Counter

import torch
from torch.nn import init
from torch.overrides import TorchFunctionMode

from ...errors import InputError
from ...model.qwen import Qwen
from ..plain import DTYPES

# What else may be stored, though not computed in: the numbers of codecs.py.
STORED = DTYPES | {"F8_E4M3": torch.float8_e4m3fn, "U8": torch.uint8}
LABELS = {dtype: label for label, dtype in STORED.items()}
BODY = "model.language_model."
FUSED = (".experts.gate_up_proj", ".experts.down_proj")
# Levels that savers leave out or repeat, and what follows them.
LEVELS = re.compile(
    r"(?:(?:model|language_model)\.)*"
    r"(?=(?:layers\.\d|embed_tokens\.|norm\.|(visual|lm_head|mtp)\.))"
)
ABOVE = {None: BODY, "visual": "model.", "lm_head": "", "mtp": ""}


def released(name):
    """A stored tensor's name in the released files, or None if it is not the family's.

    `layers.0.x`, `model.layers.0.x` and `language_model.model.layers.0.x`, as others
    save it, are all `model.language_model.layers.0.x`.
    """
    found = LEVELS.match(name)
    return found and ABOVE[found[1]] + name[found.end() :]


def part_of(name):
    """Of a released name: "visual", "lm_head", "mtp", or None for the text model."""
    return LEVELS.match(name)[1]


class Lean(TorchFunctionMode):
    """Models on the meta device without importing torch's compiler: a second less.

    Initial values, pointless without memory, would import it, and so would `empty_like`
    of a tensor there, which is `empty` of its shape.
    """

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func in (init.normal_, init.uniform_, init.kaiming_uniform_):
            return args[0] if args else kwargs["tensor"]
        if func is torch.empty_like and args[0].is_meta:
            return torch.empty(args[0].shape, **{"dtype": args[0].dtype} | kwargs)
        return func(*args, **kwargs)


def skeleton(cfg, dtype, source="config.json"):
    """The model on the meta device: names, shapes and dtypes without memory.

    `A_log` and the gated norms stay fp32, as in the released files. InputError if no
    tensor can have such sizes.
    """
    try:
        with torch.device("meta"), Lean():
            return Qwen(cfg).to(dtype)
    except (RuntimeError, TypeError) as err:
        reason = str(err).splitlines()[0]
        raise InputError(f"{source} asks for impossible sizes ({reason}).") from None


def per_expert(name, shape):
    """A fused parameter's parts: (stored name, (expert, first row, end row)) each."""
    # gate_up_proj [E, 2 I, D] holds an expert's gate rows, then its up rows.
    experts, rows, _ = shape
    prefix, _, kind = name.rpartition(".")
    parts = [("down", 0, rows)]
    if kind == "gate_up_proj":
        parts = [("gate", 0, rows // 2), ("up", rows // 2, rows)]
    for e in range(experts):
        for part, low, high in parts:
            yield f"{prefix}.{e}.{part}_proj.weight", (e, low, high)


def slice_of(tensor, part):
    """The part of a parameter, or all of it if `part` is None."""
    return tensor if part is None else tensor[part[0], part[1] : part[2]]


def main_dtype(sizes, default=torch.bfloat16):
    """The dtype of most bytes in [(label, bytes)]; default if it is none of ours."""
    total = Counter()
    for label, size in sizes:
        total[label] += size
    return DTYPES.get(max(total, key=total.get, default=None), default)


def bytes_of(tensor):
    """The memory of a contiguous CPU tensor, as flat NumPy bytes."""
    return tensor.view(-1).view(torch.uint8).numpy()
