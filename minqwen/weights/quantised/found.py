"""Finds the matrices of a checkpoint that another library quantised.

Each is recognised by the tensors stored beside it, not by the lists in a config, which
name modules with other models' prefixes, as patterns, or not at all. Scales of
activations are no part of a weight and are ignored.
"""

import math
import re
from dataclasses import replace

from ...errors import show
from .codecs import SIDE, quantisable
from .foreign import FLOATS, KINDS, TURNED, Foreign, damaged, span
from .modules import parts_of
from .settings import PACKS

BESIDE = re.compile(
    r"(.+\.(?:weight|gate_up_proj|down_proj))"
    r"(_packed|_scale|_scale_inv|_scale_2|_global_scale|_zero_point|_shape|_g_idx)"
    r"|(.+\.)(qweight|qzeros|scales|g_idx)"
)
IDLE = re.compile(r".+[._](input|activation)_(global_)?(scale|zero_point)(_inv)?")
EXPERT = re.compile(r"(.+\.experts)\.\d+\.\w+\.weight")
GROUP = {"NVFP4": 16, "MXFP4": 32}  # columns that share a scale
CODES = {"", "_packed", "qweight"}


def gather(table, scheme):
    """The table with a Foreign, named as its `weight`, for each such matrix.

    FP8 in blocks of 128 stays as it is, its scales renamed as in the release. Raises
    InputError for a form that is not read here, or parts that do not fit together.
    """
    if not scheme.method:
        for name in table:
            if name.endswith((".qweight", "weight_packed")):
                fault = "is packed, and no quantization_config says how"
                raise damaged(table[name], name, fault)
        return table
    out, matrices = split(table)
    keep = {name for name, parts in matrices.items() if released(name, parts, scheme)}
    plain = {name for name, entry in out.items() if entry.dtype in FLOATS}
    # An expert stays packed only if all experts of its layer do.
    mixed = {experts_of(name) for name in (plain | matrices.keys()) - keep} - {None}
    for name, parts in matrices.items():
        if not parts.keys() & CODES:  # the loader says what is missing
            out |= {entry.name: entry for entry in parts.values()}
        elif name in keep and experts_of(name) not in mixed:
            out[name + "_scale_inv"] = parts["_scale"]
        else:
            out[name] = foreign(name, parts, scheme)
    return out


def split(table):
    """Entries that stand alone, and {matrix: {suffix: Entry}} of those that do not."""
    out, matrices = {}, {}
    for name, entry in table.items():
        if found := BESIDE.fullmatch(name):
            suffix = (found[2] or found[4]).removesuffix("_inv")
            parts = matrices.setdefault(found[1] or found[3] + "weight", {})
            if suffix in parts:  # `_scale` and `_scale_inv`: the loader refuses one
                out[name] = entry
            else:
                parts[suffix] = replace(entry, name=name)
        elif not IDLE.fullmatch(name):
            out[name] = entry
            if entry.dtype not in (*FLOATS, "F8_E4M3") and name.endswith("weight"):
                matrices.setdefault(name, {})
    for name in matrices.keys() & out.keys():
        matrices[name][""] = replace(out[name], name=name)
    return out, matrices


def experts_of(name):
    found = EXPERT.fullmatch(name)
    return found and found[1]


def released(name, parts, scheme):
    """Is it stored as in the released FP8 files, or does config.json say so?"""
    if {*parts} != {"", "_scale"} or not quantisable(name):
        return False
    codes, scales = parts[""], parts["_scale"]
    if scheme.blocks not in (None, (SIDE, SIDE)):
        return False
    if scheme.blocks and len(codes.shape) == 2:
        return scales.dtype in FLOATS  # the loader refuses what does not fit
    if len(codes.shape) < 2 or codes.dtype != "F8_E4M3":
        return False
    size, _ = parts_of("fp8", name, codes.shape)["_scale_inv"]
    return scales.shape == tuple(size) and scales.dtype in ("F32", "BF16")


def foreign(name, parts, scheme):
    """The Foreign that these parts make up; InputError if they do not fit together."""
    first, held = next(iter(parts.values())), {s: e.dtype for s, e in parts.items()}
    kinds = (
        kind for kind, dtypes in KINDS
        if held.keys() <= dtypes.keys()
        and all(held.get(suffix) in allowed for suffix, allowed in dtypes.items())
    )  # fmt: skip
    if not (kind := next(kinds, None)):
        stored = (f"{e.name.rpartition('.')[2]} {e.dtype}" for e in parts.values())
        stored = f"is made of {show(', '.join(stored))}, which is no form read here"
        raise damaged(first, name, stored)
    turn, bits = 1, 0
    if kind == "GPTQ":
        turn, parts = -1, {TURNED[suffix]: entry for suffix, entry in parts.items()}
        if scheme.ordered and "_g_idx" not in parts:
            index = name.removesuffix("weight") + "g_idx"
            raise damaged(first, index, "is missing, though config.json says desc_act")
    sizes = {suffix: entry.shape[::turn] for suffix, entry in parts.items()}
    if kind in ("INT4", "GPTQ"):
        shape, wanted, bits = of_words(sizes, scheme)
    else:
        shape, wanted = of_bytes(kind, sizes, scheme)
    for suffix, entry in parts.items():
        want = wanted.get(suffix, sizes[suffix])
        if want != sizes[suffix]:
            told = show([*(scheme.blocks or scheme.sides)])
            told = f" by the sizes in config.json, {told}" if scheme.sides else ""
            fault = f"is {list(entry.shape)}, expected {list(want[::turn])}{told}"
            raise damaged(entry, entry.name, fault)
    return Foreign(name, kind, parts, shape, bits, scheme)


def of_bytes(kind, sizes, scheme):
    """The matrix's shape, and the shapes that its other parts must have."""
    shape = sizes.get("_packed", sizes.get(""))
    if not 2 <= len(shape) <= 3:
        return shape, {}
    if kind not in GROUP:
        return shape, {s: of_scales(shape, n, scheme) for s, n in sizes.items() if s}
    *lead, width = shape
    wanted = {"_scale": (*lead, -(-2 * width // GROUP[kind]))}
    for one in {"_scale_2", "_global_scale"} & sizes.keys():
        if math.prod(sizes[one]) != 1 and sizes[one] != tuple(lead[:-1]):
            wanted[one] = (1,)
    return (*lead, 2 * width), wanted


def of_scales(shape, found, scheme):
    """The shape that scales must have: `found` itself, if it fits."""
    *experts, rows, width = shape
    if scheme.blocks:
        sides = zip((rows, width), scheme.blocks, strict=True)
        return (*experts, *(-(-size // side) for size, side in sides))
    each = found[1:] if experts and found[:1] == shape[:1] else found
    n, m = (*each, 1, 1)[:2]
    both = span(rows, n, scheme.sides) and span(width, m, scheme.sides)
    return found if both and len(each) < 3 else (*experts, rows, 1)


def of_words(sizes, scheme):
    """The same, and the bits of a code, for int32 words; GPTQ's sizes come reversed."""
    if wrong := [s for s in ("_packed", "_scale") if len(sizes[s]) != 2]:
        return (), dict.fromkeys(wrong, (1, 1)), 0
    (rows, words), (_, count) = sizes["_packed"], sizes["_scale"]

    def fits(bits):
        width = 32 * words // bits
        return count in (-(-width // side) for side in scheme.sides)

    # Words do not show their bits: `_g_idx` tells, or the sizes in config.json.
    index = [b for b in PACKS if (32 * words // b,) == sizes.get("_g_idx")]
    bits = (index or [*filter(fits, scheme.bits)] or scheme.bits)[0]
    width, zeros = 32 * words // bits, -(-rows * bits // 32)
    count = count if span(width, count, scheme.sides) else 1
    wanted = {"_scale": (rows, count), "_zero_point": (zeros, count),
              "_g_idx": (width,), "_shape": (2,)}  # fmt: skip
    return (rows, width), wanted, bits
