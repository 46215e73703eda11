"""Which matrices of a checkpoint are in another library's form: what lies beside them.

The tensors tell, one by one, and no list in a config does: such lists name modules by
prefixes of other models, as patterns, or not at all. What is there for activations is
no part of a weight, and is left aside.
"""

import math
import re
from dataclasses import replace

from ...errors import show
from .codecs import SIDE, quantisable
from .foreign import FLOATS, KINDS, PACKS, Foreign, damaged, span
from .modules import parts_of

BESIDE = re.compile(
    r"(.+\.(?:weight|gate_up_proj|down_proj))(?:(_scale)_inv|"
    r"(_packed|_scale|_scale_2|_global_scale|_zero_point|_shape|_g_idx))"
    r"|(.+\.)(qweight|qzeros|scales|g_idx)"
)
IDLE = re.compile(r".+[._](input|activation)_(global_)?(scale|zero_point)(_inv)?")
EXPERT = re.compile(r"(.+\.experts)\.\d+\.\w+\.weight")
GROUP = {"NVFP4": 16, "MXFP4": 32}  # columns a scale
CODES = {"", "_packed", "qweight"}
WORDS = {"INT4": ("_packed", "_scale"), "GPTQ": ("qweight", "scales")}


def gather(table, scheme):
    """The table with a Foreign for each such matrix, by the name of its `weight`.

    FP8 in blocks of 128 stays what it is, its scales called as in the release. Raises
    InputError for a form that is not read here, or one whose parts do not fit.
    """
    if not scheme.method:
        return not_packed(table)
    out, matrices = {}, {}
    for name, entry in table.items():
        if found := BESIDE.fullmatch(name):
            stem, suffix = found[1] or found[4] + "weight", found[found.lastindex]
            parts = matrices.setdefault(stem, {})
            if suffix in parts:  # `_scale` and `_scale_inv`: one is of something else
                out[name] = entry
            parts.setdefault(suffix, replace(entry, name=name))
        elif not IDLE.fullmatch(name):
            out[name] = entry
            if entry.dtype not in (*FLOATS, "F8_E4M3") and name.endswith("weight"):
                matrices.setdefault(name, {})
    stay, apart = {}, {  # of experts, those of which one was left as trained
        m[1] for n, e in out.items()
        if n not in matrices and e.dtype in FLOATS and (m := EXPERT.fullmatch(n))
    }  # fmt: skip
    for name, parts in matrices.items():
        if name in out:
            parts[""] = replace(out[name], name=name)
        stay[name] = released(name, parts, scheme)
        if not stay[name] and (expert := EXPERT.fullmatch(name)):
            apart.add(expert[1])
    for name, parts in matrices.items():
        expert = EXPERT.fullmatch(name)
        if not parts.keys() & CODES:  # what is missing is told later
            out |= {entry.name: entry for entry in parts.values()}
        elif stay[name] and not (expert and expert[1] in apart):
            out[name + "_scale_inv"] = parts["_scale"]
        else:
            out[name] = foreign(name, parts, scheme)
    return out


def not_packed(table):
    """The table; InputError if it has what only a config could tell the meaning of."""
    for name, entry in table.items():
        if name.endswith((".qweight", "weight_packed")):
            raise damaged(entry, name, "is packed, and no quantization_config says how")
    return table


def released(name, parts, scheme):
    """Is it laid out as the released FP8 files, or does config.json say that it is?"""
    if {*parts} != {"", "_scale"} or not quantisable(name):
        return False
    codes, scales, shape = parts[""], parts["_scale"], parts[""].shape
    if scheme.blocks and (scheme.blocks != (SIDE, SIDE) or len(shape) == 2):
        return scheme.blocks == (SIDE, SIDE) and scales.dtype in FLOATS
    fits = len(shape) > 1 and codes.dtype == "F8_E4M3"
    fits = fits and scales.shape == tuple(parts_of("fp8", name, shape)["_scale_inv"][0])
    return fits and scales.dtype in ("F32", "BF16")


def foreign(name, parts, scheme):
    """The Foreign that some parts make up; InputError if they do not."""
    held, first = {s: e.dtype for s, e in parts.items()}, next(iter(parts.values()))
    kinds = (
        kind for kind, need, may in KINDS
        if need.keys() <= held.keys() <= (need | may).keys()
        and all(dtype in (need | may)[suffix] for suffix, dtype in held.items())
    )  # fmt: skip
    if not (kind := next(kinds, None)):
        stored = (f"{e.name.rpartition('.')[2]} {e.dtype}" for e in parts.values())
        stored = f"is made of {show(', '.join(stored))}, which is no form read here"
        raise damaged(first, name, stored)
    if kind == "GPTQ" and scheme.said.get("desc_act") and "g_idx" not in parts:
        index = name.removesuffix("weight") + "g_idx"
        raise damaged(first, index, "is missing, though config.json says desc_act")
    of_kind = of_words if kind in WORDS else of_bytes
    shape, bits, wanted = of_kind(kind, {s: e.shape for s, e in parts.items()}, scheme)
    for suffix, entry in parts.items():
        want = wanted.get(suffix, entry.shape)
        if entry.shape != want:
            told = show([*(scheme.blocks or scheme.sides)])
            told = f" by the sizes in config.json, {told}" if scheme.sides else ""
            fault = f"is {list(entry.shape)}, expected {list(want)}{told}"
            raise damaged(entry, entry.name, fault)
    even = scheme.said.get("sym") is True
    return Foreign(name, kind, parts, shape, bits, scheme.sides, scheme.short, even)


def of_bytes(kind, sizes, scheme):
    """Shape of the matrix, 0, and what the shapes of its other parts have to be."""
    *lead, width = shape = sizes.get("_packed", sizes.get(""))
    if not 1 <= len(lead) <= 2:
        return shape, 0, {}
    if kind in GROUP:
        wanted = {"_scale": (*lead, -(-2 * width // GROUP[kind]))}
        for one in {"_scale_2", "_global_scale"} & sizes.keys():
            if math.prod(sizes[one]) != 1 and sizes[one] != tuple(lead[:-1]):
                wanted[one] = (1,)
        return (*lead, 2 * width), 0, wanted
    return shape, 0, {s: of_scales(shape, n, scheme) for s, n in sizes.items() if s}


def of_scales(shape, found, scheme):
    """`found` if scales of that shape can be for a matrix, or for one an expert."""
    *experts, rows, width = shape
    if scheme.blocks:
        sides = zip((rows, width), scheme.blocks, strict=True)
        return (*experts, *(-(-size // side) for size, side in sides))
    each = found[1:] if experts and found[:1] == shape[:1] else found
    n, m = (*each, 1, 1)[:2]
    both = span(rows, n, scheme.sides) and span(width, m, scheme.sides)
    return found if both and len(each) < 3 else (*experts, rows, 1)


def of_words(kind, sizes, scheme):
    """The same, and the bits of a code, of a matrix whose codes lie in words."""
    codes, scales = (sizes[s] for s in WORDS[kind])
    if len(codes) != 2 or len(scales) != 2:
        return codes, 0, {s: (1, 1) for s in WORDS[kind] if len(sizes[s]) != 2}
    turned = kind == "GPTQ"
    (words, rows), count = (codes, scales[0]) if turned else (codes[::-1], scales[1])
    index = (sizes.get("g_idx") or sizes.get("_g_idx") or (0,))[0]

    def fits(bits):  # words do not say of how many codes they are
        width = 32 * words // bits
        return count in (-(-width // side) for side in scheme.sides)

    bits = [b for b in PACKS if index and 32 * words == index * b]
    bits = (bits or [*filter(fits, scheme.bits)] or scheme.bits)[0]
    width, zeros = 32 * words // bits, -(-rows * bits // 32)
    count = count if span(width, count, scheme.sides) else 1
    if turned:
        wanted = {"scales": (count, rows), "qzeros": (count, zeros), "g_idx": (width,)}
    else:
        wanted = {"_scale": (rows, count), "_zero_point": (zeros, count),
                  "_g_idx": (width,), "_shape": (2,)}  # fmt: skip
    return (rows, width), bits, wanted
