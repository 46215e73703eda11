"""Which matrices of a checkpoint are in another library's form: what lies beside them.

The tensors tell, one by one, and no list in a config does: such lists name modules by
prefixes of other models, as patterns, or not at all. What is there for activations is
no part of a weight, and is left aside.
"""

import math
import re

from ...errors import InputError, show
from .codecs import SIDE, quantisable
from .foreign import FLOATS, KINDS, PACKS, Foreign, called, span
from .modules import parts_of

BESIDE = re.compile(
    r"(.+\.(?:weight|gate_up_proj|down_proj))"
    r"(_packed|_scale|_scale_inv|_scale_2|_global_scale|_zero_point|_shape|_g_idx)"
)
TURNED = re.compile(r"(.+\.)(qweight|qzeros|scales|g_idx)")
IDLE = re.compile(r".+[._](input|activation)_(global_)?(scale|zero_point)(_inv)?")
EXPERT = re.compile(r"(.+\.experts)\.\d+\.\w+\.weight")
GROUP = {"NVFP4": 16, "MXFP4": 32}  # columns a scale
CODES = "", "_packed", "qweight"
WORDS = {"INT4": ("_packed", "_scale"), "GPTQ": ("qweight", "scales")}
PLAIN = (*FLOATS, "F8_E4M3")


def gather(table, scheme):
    """The table with a Foreign for each such matrix, by the name of its `weight`.

    FP8 in blocks of 128 stays what it is, its scales called as in the release. Raises
    InputError for a form that is not read here, or one whose parts do not fit.
    """
    out, beside, matrices = {}, {}, {}
    for name, entry in table.items():
        found = BESIDE.fullmatch(name) or TURNED.fullmatch(name)
        if found:
            whole = found[1] + "weight" * (found[1][-1] == ".")
            beside.setdefault(whole, {})[found[2]] = entry
        elif not IDLE.fullmatch(name):
            out[name] = entry
            if entry.dtype not in PLAIN and name.endswith(("weight", "_proj")):
                beside.setdefault(name, {})
    apart = {  # experts of which one was left as trained
        m[1] for n, e in out.items()
        if n not in beside and e.dtype in FLOATS and (m := EXPERT.fullmatch(n))
    }  # fmt: skip
    for name, parts in beside.items():
        parts = {"": out[name]} | parts if name in out else parts
        if not any(code in parts for code in CODES):  # what is missing is told later
            out |= {name + suffix: entry for suffix, entry in parts.items()}
            continue
        matrices[name] = parts
        if not released(name, parts, scheme) and (m := EXPERT.fullmatch(name)):
            apart.add(m[1])
    for name, parts in matrices.items():
        expert = EXPERT.fullmatch(name)
        if released(name, parts, scheme) and not (expert and expert[1] in apart):
            scales = parts.get("_scale", parts.get("_scale_inv"))
            out |= {name: parts[""], name + "_scale_inv": scales}
        else:
            out[name] = foreign(name, parts, scheme)
    return out


def released(name, parts, scheme):
    """Is it laid out as the released FP8 files, or does config.json say that it is?"""
    if not {*parts} <= {"", "_scale", "_scale_inv"} or len(parts) != 2:
        return False
    if "" not in parts or not quantisable(name):
        return False
    codes, scales = parts.values()
    if scheme.blocks and (scheme.blocks != (SIDE, SIDE) or len(codes.shape) == 2):
        return scheme.blocks == (SIDE, SIDE) and scales.dtype in FLOATS
    want, _ = parts_of("fp8", name, codes.shape)["_scale_inv"]
    fits = len(codes.shape) > 1 and scales.shape == tuple(want)
    return fits and codes.dtype == "F8_E4M3" and scales.dtype in ("F32", "BF16")


def foreign(name, parts, scheme):
    """The Foreign that some parts make up; InputError if they do not."""
    kind = kind_of({s.removesuffix("_inv"): e.dtype for s, e in parts.items()})
    if kind is None:
        stored = ", ".join(
            f"{called('', s)} {e.dtype}".strip() for s, e in parts.items()
        )
        raise InputError(
            f"{show(next(iter(parts.values())).file.name)}: {show(name)} is made of "
            f"{show(stored)}, which is no form that is read here; take the model in "
            "another, or copy or download it again."
        )
    if kind == "GPTQ" and scheme.said.get("desc_act") and "g_idx" not in parts:
        raise InputError(
            f"{show(parts['qweight'].file.name)}: {show(called(name, 'g_idx'))} is "
            "missing, and config.json says that there is one (desc_act); copy or "
            "download the files again."
        )
    sizes = {suffix.removesuffix("_inv"): e.shape for suffix, e in parts.items()}
    of_kind = of_words if kind in WORDS else of_bytes
    shape, bits, wanted = of_kind(kind, sizes, scheme)
    for suffix, entry in parts.items():
        want = wanted.get(suffix.removesuffix("_inv"))
        if want is not None and entry.shape != want:
            told = show([*(scheme.blocks or scheme.sides)])
            said = f" by the groups or blocks of config.json, {told}"
            raise InputError(
                f"{show(entry.file.name)}: {show(called(name, suffix))} is "
                f"{list(entry.shape)}, expected {list(want)}{said * bool(scheme.sides)}"
                "; copy or download the files again."
            )
    return Foreign(name, kind, parts, shape, bits, scheme.sides, scheme.short)


def kind_of(held):
    """The kind with parts of such dtypes, {suffix: dtype}, or None."""
    for kind, (need, may) in KINDS.items():
        known = need | may
        if need.keys() <= held.keys() <= known.keys():
            if all(dtype in known[suffix] for suffix, dtype in held.items()):
                return kind
    return None


def of_bytes(kind, sizes, scheme):
    """Shape of the matrix, 0, and what the shapes of its other parts have to be."""
    *lead, width = shape = sizes.get("_packed", sizes.get(""))
    if not 1 <= len(lead) <= 2:
        return shape, 0, {}
    if group := GROUP.get(kind.strip()):
        wanted = {"_scale": (*lead, -(-2 * width // group))}
        for one in ("_scale_2", "_global_scale"):
            if math.prod(sizes.get(one, ())) != 1 and sizes[one] != tuple(lead[:-1]):
                wanted[one] = (1,)
        return (*lead, 2 * width), 0, wanted
    return shape, 0, {s: of_scales(shape, n, scheme) for s, n in sizes.items() if s}


def of_scales(shape, found, scheme):
    """`found` if scales of that shape can be for a matrix, or for one an expert."""
    *experts, rows, width = shape
    each = found[1:] if experts and found[:1] == shape[:1] else found
    if scheme.blocks:
        sides = zip((rows, width), scheme.blocks, strict=True)
        return (*experts, *(-(-size // side) for size, side in sides))
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
    index = sizes.get("g_idx", sizes.get("_g_idx", (0,)))[0]

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
