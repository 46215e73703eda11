"""What `quantization_config`, or a file beside it, says about quantised weights.

Our own method, `minqwen`, names the forms of the routed experts and of the rest, and
the tensors must agree. Other libraries' configs count only for what the tensors
themselves do not show (see found.py).
"""

import warnings
from dataclasses import dataclass

from ...errors import InputError, show
from ...files import read_json, read_whole
from .codecs import SIDE, quantisable

KEY = "quantization_config"
BESIDE = {"hf_quant_config.json": "modelopt", "quantize_config.json": "gptq"}
FP8 = {
    "quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic",
    "weight_block_size": [SIDE, SIDE],
}  # fmt: skip
OWN = ("int8", "int4")
PARTS = "experts", "rest"
READ = {  # methods, and what at least one tensor must then be
    "fp8": "F8_E4M3", "modelopt": "quantised", "compressed-tensors": "quantised",
    "gptq": "GPTQ",
}  # fmt: skip
UNREAD = {
    "awq": "AWQ's 4 bits, ", "bitsandbytes": "bitsandbytes' own, ",
    "quark": "AMD's Quark, ", "mlx": "Apple's MLX, ", "auto-round": "AutoRound's own, ",
}  # fmt: skip
PLAIN = "modules_to_not_convert", "ignored_layers", "ignore", "exclude_modules"
SIZES = "group_size", "weight_block_size", "block_structure"
BITS = "bits", "num_bits"
ASIDE = "input_activations", "output_activations", "kv_cache_scheme"  # not weights
PACKS = 2, 4, 8  # bits of a code, of which an int32 holds a whole number
DEEP = 6  # levels of nested objects that are searched
VERSIONS = None, "gptq", "gptq_v2"
# Other values would give another matrix than is stored. None: the key may be missing.
LIMITS = {
    "fp8": {"fmt": (None, "e4m3"), "expert_dtype": (None, "fp8")},
    "gptq": {"checkpoint_format": VERSIONS, "format": VERSIONS},
    "compressed-tensors": {
        "transform_config": (None, {}), "sparsity_config": {"format": (None, "dense")},
    },
    "minqwen": {"group_size": (SIDE,)} | dict.fromkeys(PARTS, (*OWN, "bf16")),
}  # fmt: skip


@dataclass(frozen=True)
class Scheme:
    """Forms of the experts and of the rest (None: as trained), and a config's hints."""

    experts: str | None = None
    rest: str | None = None
    plain: frozenset = frozenset()  # modules said to be left as trained
    method: str | None = None  # one of READ
    blocks: tuple | None = None  # rows and columns that share one FP8 scale
    sides: tuple = ()  # every size given for groups or blocks
    bits: tuple = (4,)  # every number of bits given for codes packed into int32
    short: int = 0  # how much GPTQ's stored zero points are too small by
    symmetric: bool = False  # zero points are all in the middle
    ordered: bool = False  # GPTQ's columns are grouped by activation (`desc_act`)

    def of(self, name):
        """The form of a parameter, None if it is stored as trained."""
        if not quantisable(name):
            return None
        return self.experts if ".experts." in name else self.rest

    def config(self, unconverted):
        """The `quantization_config` that says this, or None; see `read_scheme`."""
        if "fp8" in (self.experts, self.rest):
            return FP8 | {"modules_to_not_convert": unconverted}
        if self.experts or self.rest:
            forms = {"experts": self.experts or "bf16", "rest": self.rest or "bf16"}
            return {"quant_method": "minqwen", "group_size": SIDE} | forms
        return None


def said_of(cfg, folder=None):
    """The quantisation object in a Config's unknown keys or a file beside, or None."""
    said = cfg.extra.get(KEY, cfg.extra.get("compression_config"))
    source = "config.json"
    for name in BESIDE if said is None and folder else ():
        if (folder / name).exists():
            found, source = read_json(read_whole(folder / name), name), name
            said = found.get("quantization", found)
            break
    if not isinstance(said, dict | None):
        raise InputError(f"{source}: {KEY} is {show(said)}; expected an object.")
    if source in BESIDE:
        said = {"quant_method": BESIDE[source]} | (said or {})
    return said


def method_of(said):
    """The method's name, from `quant_method` or the keys that only it has."""
    if said.get("quant_method") is None:
        if said.get("load_in_4bit") or said.get("load_in_8bit"):
            return "bitsandbytes"
        if {"bits", "group_size"} <= said.keys():
            return "mlx"
    return said.get("quant_method")


def read_scheme(cfg, folder=None):
    """The Scheme of a checkpoint; InputError for a method that is not read here."""
    said = said_of(cfg, folder)
    if said is None:
        return Scheme()
    method = method_of(said)
    if method not in (*READ, "minqwen"):
        raise InputError(
            f"config.json: quant_method is {show(method)}, "
            f"{UNREAD.get(show(method), '')}which is not read here; take the model in "
            "bf16 or FP8, by GPTQ, compressed-tensors or modelopt, or as a .gguf file."
        )
    _check(said, LIMITS.get(method, {}))
    if method == "minqwen":
        return Scheme(*(said[p] if said[p] in OWN else None for p in PARTS))
    key = next((key for key in PLAIN if said.get(key)), PLAIN[0])
    plain = said.get(key) or []
    if not isinstance(plain, list) or not all(isinstance(name, str) for name in plain):
        raise InputError(f"config.json: {KEY}.{key} must be a list of names.")
    blocks = said.get("weight_block_size") if method == "fp8" else None
    if blocks is not None and len([*told({SIZES[1]: blocks}, SIZES)]) != 2:
        raise InputError(
            f"config.json: {KEY}.weight_block_size is {show(blocks)}; expected two "
            "whole numbers over 0."
        )
    bits = tuple(b for b in dict.fromkeys(told(said, BITS)) if b in PACKS)
    version = said.get("checkpoint_format") or said.get("format")
    return Scheme(
        "fp8", "fp8", frozenset(plain), method, blocks and tuple(blocks),
        sides=tuple(dict.fromkeys(told(said, SIZES))), bits=bits or (4,),
        short=int(method == "gptq" and version != "gptq_v2"),
        symmetric=said.get("sym") is True, ordered=bool(said.get("desc_act")),
    )  # fmt: skip


def told(said, keys, deep=DEEP):
    """The positive whole numbers that are given for weights under any of `keys`."""
    for key, value in said.items():
        for one in value if isinstance(value, list) else [value]:
            if key in keys and type(one) is int and 0 < one < 2**31:
                yield one
            if isinstance(one, dict) and key not in ASIDE and deep:
                yield from told(one, keys, deep - 1)


def _check(said, limits):
    """InputError unless every value is one that `limits` allows."""
    for key, known in limits.items():
        value = said.get(key)
        if isinstance(known, dict):
            _check(value if isinstance(value, dict) else {}, known)
        elif value not in known:
            listed = " or ".join(repr(one) for one in known if one is not None)
            found = f"config.json: {KEY}.{key} is {show(value)}"
            raise InputError(f"{found}; only {listed} is supported.")


def stored_form(scheme, name, source, table):
    """The form in which the files hold a parameter that begins in tensor `source`."""
    form, first = scheme.of(name), table.get(source)
    if form != "fp8":
        return form
    if first is not None and first.dtype != "F8_E4M3":
        return None  # files may convert fewer than they could
    scales = table.get(source + "_scale_inv")
    return "fp8 f32" if scales is not None and scales.dtype == "F32" else "fp8"


def check_scheme(path, scheme, forms, kinds):
    """InputError, or a warning, where config.json contradicts the tensors.

    By modules' stored names: forms that stay packed, or None, and the Foreigns' kinds.
    """
    packed = {name for name, form in forms.items() if form}
    found = {*kinds.values()} | ({"FP8"} if packed else set())
    names = {"F8_E4M3": "FP8" in found, "GPTQ": "GPTQ" in found, "quantised": found}
    if scheme.method and not names[READ[scheme.method]]:
        raise InputError(
            f"{show(path)}: config.json's {KEY} says that weights are {scheme.method}, "
            f"but none is {READ[scheme.method]}; is it from another checkpoint?"
        )
    for name in sorted(scheme.plain & packed):
        raise InputError(
            f"{show(path)}: {show(name)} is F8_E4M3, but config.json names it in "
            "modules_to_not_convert; is it from another checkpoint?"
        )
    plain = {bare(name) for name in scheme.plain}
    if against := sorted(name for name in kinds if bare(name) in plain):
        warnings.warn(
            f"{path}: config.json says that {show(against[0])} and {len(against) - 1} "
            "more are not quantised, but they are, and are read so",
            stacklevel=5,
        )


def bare(name):
    """A module's name without the prefixes that only some models use."""
    while name.startswith(("model.", "language_model.")):
        name = name.partition(".")[2]
    return name
