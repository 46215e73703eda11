"""What is said of quantised weights: `quantization_config`, or a file beside it.

`minqwen`, our own, says the forms of the routed experts and of the rest, and tensors
have to agree. Of other libraries' only what no tensor tells is believed (found.py).
"""

import warnings
from dataclasses import dataclass, field

from ...errors import InputError, show
from ...files import read_json, read_whole
from .codecs import SIDE, quantisable
from .foreign import PACKS

KEY = "quantization_config"
BESIDE = {"hf_quant_config.json": "modelopt", "quantize_config.json": "gptq"}
FP8 = {
    "quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic",
    "weight_block_size": [SIDE, SIDE],
}  # fmt: skip
OWN = ("int8", "int4")
READ = {  # and what some tensor has to be then
    "fp8": "F8_E4M3", "modelopt": "quantised", "compressed-tensors": "quantised",
    "gptq": "GPTQ",
}  # fmt: skip
UNREAD = {
    "awq": "AWQ's 4 bits, ", "bitsandbytes": "bitsandbytes' own, ",
    "quark": "AMD's Quark, ", "mlx": "Apple's MLX, ", "auto-round": "AutoRound's own, ",
}  # fmt: skip
PLAIN = "modules_to_not_convert", "ignored_layers", "ignore", "exclude_modules"
SIZES = "group_size", "weight_block_size", "block_structure"
ASIDE = "input_activations", "output_activations", "kv_cache_scheme"
DEEP = 6  # objects in objects


@dataclass(frozen=True)
class Scheme:
    """Forms of the experts and of the rest, None as trained; `plain`: not converted."""

    experts: str | None = None
    rest: str | None = None
    plain: frozenset = frozenset()
    method: str | None = None  # of READ, or None
    said: dict = field(default_factory=dict, hash=False)
    blocks: tuple | None = None  # rows and columns a scale of FP8 is for
    sides: tuple = ()  # whatever sizes are told of groups and blocks
    bits: tuple = (4,)  # and of codes in words
    short: int = 0  # by how much GPTQ's zeros are too small

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
    """What is said of quantisation, or None: by a Config's unknown keys, or a file."""
    said = cfg.extra.get(KEY, cfg.extra.get("compression_config"))
    source = "config.json"
    for name, method in BESIDE.items() if said is None and folder else ():
        if (folder / name).exists():
            said, source = read_json(read_whole(folder / name), name), name
            said = {"quant_method": method} | said.get("quantization", said)
            break
    if not isinstance(said, dict | None):
        raise InputError(f"{source}: {KEY} is {show(said)}; expected an object.")
    return said


def method_of(said):
    """The method's name, as `quant_method` or as other keys tell it."""
    method = said.get("quant_method")
    if method is None and (said.get("load_in_4bit") or said.get("load_in_8bit")):
        return "bitsandbytes"
    if method is None and {"bits", "group_size"} <= said.keys():
        return "mlx"
    return method


def read_scheme(cfg, folder=None):
    """The Scheme of a checkpoint; InputError for a method that nobody here reads."""
    said = said_of(cfg, folder)
    if said is None:
        return Scheme()
    method = method_of(said)
    if method == "minqwen":
        return _read_own(said)
    if not isinstance(method, str) or method not in READ:
        form = UNREAD.get(method, "") if isinstance(method, str) else ""
        raise InputError(
            f"config.json: quant_method is {show(method)}, {form}which is not read "
            "here; take the model in bf16 or FP8, by GPTQ, compressed-tensors or "
            "modelopt, or as a .gguf file."
        )
    _refuse_more(said, method)
    plain = next((said[key] for key in PLAIN if said.get(key)), [])
    if not isinstance(plain, list) or not all(isinstance(name, str) for name in plain):
        key = next(key for key in PLAIN if said.get(key))
        raise InputError(f"config.json: {KEY}.{key} must be a list of names.")
    blocks = said.get("weight_block_size") if method == "fp8" else None
    if blocks is not None and len([*told({SIZES[1]: blocks}, SIZES)]) != 2:
        raise InputError(
            f"config.json: {KEY}.weight_block_size is {show(blocks)}; expected two "
            "whole numbers over 0."
        )
    sides = tuple(dict.fromkeys(told(said, SIZES)))
    bits = dict.fromkeys(told(said, ("bits", "num_bits")))
    bits = tuple(b for b in bits if b in PACKS) or (4,)
    form = said.get("checkpoint_format") or said.get("format")
    return Scheme(
        "fp8", "fp8", frozenset(plain), method, said, blocks and tuple(blocks), sides,
        bits, int(method == "gptq" and form != "gptq_v2"),
    )  # fmt: skip


def told(said, keys, deep=DEEP):
    """The whole numbers that are said of weights under one of `keys`."""
    for key, value in said.items():
        for one in value if isinstance(value, list) else [value]:
            if key in keys and type(one) is int and 0 < one < 2**31:
                yield one
            if isinstance(one, dict) and key not in ASIDE and deep:
                yield from told(one, keys, deep - 1)


def _refuse_more(said, method):
    """InputError for what would have another matrix computed than is stored."""
    if method == "fp8":
        _expect(said, "fmt", None, "e4m3")
        _expect(said, "expert_dtype", None, "fp8")
    elif method == "gptq":
        _expect(said, "checkpoint_format", None, "gptq", "gptq_v2")
        _expect(said, "format", None, "gptq", "gptq_v2")
    elif method == "compressed-tensors":
        _expect(said, "transform_config", None, {})
        sparse = said.get("sparsity_config") or {}
        _expect(sparse if isinstance(sparse, dict) else {}, "format", None, "dense")


def _expect(said, key, *known):
    """InputError unless a value is known; None is, where the key may be missing."""
    if said.get(key) not in known:
        listed = " or ".join(repr(value) for value in known if value is not None)
        raise InputError(
            f"config.json: {KEY}.{key} is {show(said.get(key))}; only {listed} is "
            "supported."
        )


def _read_own(said):
    _expect(said, "group_size", SIDE)
    for part in ("experts", "rest"):
        _expect(said, part, *OWN, "bf16")
    return Scheme(*(said[p] if said[p] in OWN else None for p in ("experts", "rest")))


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
    """InputError where config.json tells of a form that no tensor, or a wrong one, has.

    forms: {stored name of a module: its form or None}; kinds: {that of a Foreign: its
    kind}.
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
    """A module's name without what some models put before it and others do not."""
    while name.startswith(("model.", "language_model.")):
        name = name.partition(".")[2]
    return name
