"""What a page shows at first, as one text: its form is said in shared/address.mjs."""

import re
from urllib.parse import quote, unquote

from ..errors import InputError, show

NUMBER, WORD = r"\d{1,9}", "[a-z][a-z-]{0,39}"
FORMS = {
    **dict.fromkeys(("layer", "expert", "token", "probe"), NUMBER),
    **dict.fromkeys(("view", "order", "colour", "step"), WORD),
    **dict.fromkeys(("all", "embed"), ""),
    "tokens": f"{NUMBER}-{NUMBER}", "head": r"\d{1,4}\.\d{1,4}", "find": ".{1,200}",
}  # fmt: skip


def checked(text, trace=None):
    """The address `text`, of places that `trace` has; InputError if it is none."""
    parts = [part.strip().partition("=") for part in text.split(",")]
    for key, _, value in parts:
        if key not in FORMS or not re.fullmatch(FORMS[key], value):
            raise InputError(
                f"--select: {show(f'{key}={value}')!r} is no part of an address; give "
                "such as layer=6,expert=9 or token=12 or tokens=3-20 or all"
            )
        for found in re.findall(NUMBER, value) if trace else ():
            end = places(trace).get(key, 2**31)
            if int(found) >= end:
                raise InputError(
                    f"--select: the trace has no {key} {found}; give 0 to {end - 1}"
                )
    encoded = ((key, quote(unquote(value), safe="-.")) for key, _, value in parts)
    return ",".join(f"{key}={value}".removesuffix("=") for key, value in encoded)


def places(trace):
    """How many there are of what addresses count."""
    L, E, T = len(trace.meta["layer_types"]), trace.meta["num_experts"], trace.length
    return {"layer": L, "expert": E, "token": T, "tokens": T, "probe": T}
