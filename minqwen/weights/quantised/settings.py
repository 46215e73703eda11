"""What config.json says of quantised weights, its `quantization_config`.

Two kinds are read: `fp8` of the released FP8 files, and `minqwen`, our own, which says
the forms of the routed experts and of the rest. It is believed only as far as the
tensors agree.
"""

from dataclasses import dataclass

from ...errors import InputError, show
from .codecs import SIDE, quantisable

KEY = "quantization_config"
FP8 = {
    "quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic",
    "weight_block_size": [SIDE, SIDE],
}  # fmt: skip
OWN = ("int8", "int4")


@dataclass(frozen=True)
class Scheme:
    """Forms of the experts and of the rest, None as trained; `plain`: not converted."""

    experts: str | None = None
    rest: str | None = None
    plain: frozenset = frozenset()

    def of(self, name):
        """The form of a parameter, None if it is stored as trained."""
        if not quantisable(name):
            return None
        return self.experts if ".experts." in name else self.rest

    def __str__(self):
        forms = self.experts or "as trained", self.rest or "as trained"
        if forms[0] == forms[1]:
            return "no" if forms[0] == "as trained" else f"{forms[0]}, weights alone"
        return f"experts {forms[0]}, the rest {forms[1]}, weights alone"

    def config(self, unconverted):
        """The `quantization_config` that says this, or None; see `read_scheme`."""
        if "fp8" in (self.experts, self.rest):
            return FP8 | {"modules_to_not_convert": unconverted}
        if self.experts or self.rest:
            forms = {"experts": self.experts or "bf16", "rest": self.rest or "bf16"}
            return {"quant_method": "minqwen", "group_size": SIDE} | forms
        return None


def read_scheme(cfg):
    """The Scheme in a Config's unknown keys; InputError for one nobody here reads."""
    said = cfg.extra.get(KEY)
    if said is None:
        return Scheme()
    if not isinstance(said, dict):
        raise InputError(f"config.json: {KEY} is {show(said)}; expected an object.")
    method = said.get("quant_method")
    if method == "fp8":
        return _read_fp8(said)
    if method != "minqwen":
        raise InputError(
            f"config.json: quant_method is {show(method)}, which is not read here; "
            "take the bf16 or the FP8 release, or what minqwen convert wrote."
        )
    _expect(said, "group_size", SIDE)
    for part in ("experts", "rest"):
        if said.get(part) not in (*OWN, "bf16"):
            raise InputError(
                f"config.json: {KEY}.{part} is {show(said.get(part))}; expected "
                f"{', '.join(OWN)} or bf16."
            )
    return Scheme(*(said[p] if said[p] in OWN else None for p in ("experts", "rest")))


def _read_fp8(said):
    for key, value in FP8.items():
        _expect(said, key, value)
    plain = said.get("modules_to_not_convert") or []
    if not isinstance(plain, list) or not all(isinstance(name, str) for name in plain):
        raise InputError(
            f"config.json: {KEY}.modules_to_not_convert must be a list of names."
        )
    return Scheme("fp8", "fp8", frozenset(plain))


def _expect(said, key, value):
    if said.get(key) != value:
        raise InputError(
            f"config.json: {KEY}.{key} is {show(said.get(key))}; only {value!r} is "
            "supported."
        )


def stored_form(scheme, name, source, table):
    """The form in which the files hold a parameter that begins in tensor `source`."""
    form, first = scheme.of(name), table.get(source)
    if form != "fp8":
        return form
    if first is not None and first.dtype != "F8_E4M3":
        return None  # files may convert fewer than they could
    scales = table.get(source + "_scale_inv")
    return "fp8 f32" if scales is not None and scales.dtype == "F32" else "fp8"


def check_scheme(path, scheme, forms):
    """InputError where config.json tells of a form that no tensor, or a wrong one, has.

    forms: {stored name of a module: its form or None}.
    """
    if scheme.rest == "fp8" and not any(forms.values()):
        raise InputError(
            f"{show(path)}: config.json says that weights are fp8, but none is "
            "F8_E4M3; is it from another checkpoint?"
        )
    for name in sorted(scheme.plain & {n for n, form in forms.items() if form}):
        raise InputError(
            f"{show(path)}: {show(name)} is F8_E4M3, but config.json names it in "
            "modules_to_not_convert; is it from another checkpoint?"
        )
