"""How a checkpoint is quantised: by its config, by its tensors, and once loaded."""

import re
import warnings
from pathlib import Path

from ..errors import InputError, show
from ..units import human
from ..weights.gguf.files import find_gguf
from ..weights.gguf.load import examine_gguf, keep_packed
from ..weights.load import examine
from ..weights.quantised.foreign import Foreign
from ..weights.quantised.modules import WHOLE, stored_bytes
from ..weights.quantised.settings import (
    PLAIN,
    SIZES,
    Scheme,
    method_of,
    read_scheme,
    said_of,
    told,
)
from .budget import PARTS

NAMED = "quant_algo", "format", "checkpoint_format", "fmt", "bnb_4bit_quant_type"
FLOATS = "BF16", "F16", "F32"
BLOCKS = "FP8 in blocks of 128"
LABELS = {"fp8": BLOCKS, "fp8 f32": BLOCKS, None: "as trained"}
OURS = Scheme("int8", "int8")
SHOWN = 3  # names of a list


def quantisation(path, cfg, tensors):
    """(label, text) lines; `tensors`: {name: (shape, dtype's name)}."""
    here = Path(path)
    if here.exists() and (file := find_gguf(here)):
        kinds = sorted({kind for _, kind in tensors.values()} - {*FLOATS})
        yield "quantised", f"GGUF: {', '.join(kinds)}" if kinds else "no"
        if kinds:
            yield "loads", in_gguf(file, kinds)
        return
    folder = here if here.is_dir() else here.parent
    said = said_of(cfg, folder if here.exists() else None)
    if said is None and all(kind in FLOATS for _, kind in tensors.values()):
        yield "quantised", "no"
        return
    silent = "yes, but config.json is silent on it"
    yield "quantised", in_words(said) if said else silent
    said = said or {}
    lists = [said[key] for key in PLAIN if isinstance(said.get(key), list)]
    plain = [name for found in lists for name in found if isinstance(name, str)]
    if plain:
        more = f" and {len(plain) - SHOWN} more" if len(plain) > SHOWN else ""
        yield "", f"said to be left out: {show(', '.join(plain[:SHOWN]))}{more}"
    try:
        if not here.exists() or here.is_dir() and not any(here.glob("*.safetensors")):
            read_scheme(cfg, None)
            yield "loads", "yes, where the files are what config.json says"
            return
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield from in_files(*examine(here, None))
    except InputError as error:
        yield from by_part((n, k) for n, (_, k) in tensors.items() if k not in FLOATS)
        yield "loads", f"no: {error}"


def in_gguf(file, kinds):
    """What becomes of each quantised kind, and the memory of all weights."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            opened, model, plan = examine_gguf(file, None)
    except InputError as error:
        return f"no: {error}"
    packed = keep_packed(opened.table, model, plan).values()
    kept = {weight.form for weight in packed}
    size = sum(t.nbytes for t in (*model.parameters(), *model.buffers()))
    words = kept_words(kept)
    wide = ", ".join(kind for kind in kinds if kind not in kept)
    words += [f"{wide} widened to bfloat16"] if wide else []
    return f"yes: {'; '.join([*words, human(size)])} of memory"


def kept_words(kept):
    """What is said of forms that are kept, as a list of none or one."""
    choice = ", activations rounded if asked for (--activations int8)"
    choice = choice if kept & {*WHOLE} else ""
    return [f"{', '.join(sorted(kept))} kept as they are{choice}"] if kept else []


def in_words(said):
    """Method, bits and groups, as far as the config says them."""
    named = [str(said[key]) for key in NAMED if isinstance(said.get(key), str)]
    bits = dict.fromkeys(told(said, ("bits", "num_bits", "w_bit")))
    found = re.findall(r"(?:FP|INT|W|load_in_)(\d)", " ".join([*named, *said]))
    bits = [*bits] or [*dict.fromkeys(map(int, found))]
    sides = dict.fromkeys(told(said, (*SIZES, "q_group_size")))
    if said.get("quant_method") == "minqwen":
        named = [f"experts {said.get('experts')}", f"the rest {said.get('rest')}"]
    words = [show(", ".join([str(method_of(said)), *named]))]
    words += [f"{' and '.join(map(str, bits))} bits"] if bits else []
    words += [f"groups of {' and '.join(map(str, sides))}"] if sides else []
    words += ["in the order of activations"] if said.get("desc_act") else []
    return ", ".join(words)


def in_files(table, model, forms, plan):
    """Which tensors are quantised, and their forms in memory."""
    kinds = {}
    for source, name, _ in plan:
        entry = table[source]
        foreign = isinstance(entry, Foreign)
        form = forms.get(name, forms.get(name.removesuffix("_scale_inv")))
        kind = entry.dtype.replace("INT4", f"INT{entry.bits}") if foreign else None
        kinds[source] = kind or LABELS.get(form, form)
    yield from by_part((n, kind) for n, kind in kinds.items() if kind != "as trained")
    wide = {kind for s, kind in kinds.items() if isinstance(table[s], Foreign)}
    kept = {*kinds.values()} - wide - {"as trained"}
    dtype = str(model.dtype).removeprefix("torch.")
    words = kept_words(kept)
    words += [f"{', '.join(sorted(wide))} widened to {dtype}"] if wide else []
    words += [f"{human(memory(model, forms))} of memory"]
    if wide:
        held = {name: OURS.of(name) or form for name, form in forms.items()}
        words += [f"{human(memory(model, held))} with --quantize int8"]
    yield "loads", f"yes: {'; '.join(words)}"


def memory(model, forms):
    """Bytes of a model's parameters in these forms: {name: form}."""
    return sum(
        stored_bytes(forms[name], name, p.shape, p.dtype)
        for name, p in model.named_parameters()
    )


def by_part(kinds):
    """Which parts of the model are held in which form; `kinds`: (name, kind)."""
    parts = {}
    for name, kind in kinds:
        part = next((part for part, word in PARTS.items() if word in name), "others")
        parts.setdefault(kind, {})[part] = None
    for kind, found in sorted(parts.items()):
        yield "", f"{kind}: {', '.join(found)}"
    left = [p for p in PARTS if not any(p in found for found in parts.values())]
    yield "", f"as trained: {', '.join(left)}"
