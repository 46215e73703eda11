"""Which stored tensors make up which parameter, and what is wrong with them."""

import re
import warnings
from collections import Counter
from dataclasses import replace

import torch

from ...errors import InputError, show
from ...files import Reader
from ..quantised.codecs import rows_of
from ..quantised.foreign import Foreign
from ..quantised.modules import parts_of
from ..quantised.settings import Scheme, check_scheme, stored_form
from .layout import DTYPES, FUSED, LABELS, STORED, per_expert, released

LISTED = 10  # faults spelled out in one error
LONGEST = 200  # letters of the names that are analysed, and how many of them are
SINGLE = re.compile(r"(.+\.experts)\.\d+\.(?:gate|up|down)_proj\.weight")
UNQUANTISED = Scheme()
# What other programs store beside the weights: buffers that follow from config.json,
# scales of a quantised KV cache, heads that judge instead of writing, second copies.
ASIDE = re.compile(
    r"(?:.+\.)?inv_freq|.+\.position_ids|.+\.(?:[qkv]|kv|attn|prob|output)_scale"
    r"|(?:.+\.)?(?!lm_head)(?:\w*_head|score|classifier)\.\w+(?:\.\w+)*"
    r"|mtp\.(?:embed_tokens|lm_head|shared_head\.head)\.weight"
)
# Words in names, and what puts them there when it wraps a model.
PEFT = ", which PEFT left: call merge_and_unload before saving"
WRAPPERS = {
    "_orig_mod": ", which torch.compile left",
    "base_": PEFT,
    "modules_to_save": PEFT,
    "module": ", which training on several GPUs left",
}


def by_name(table):
    """{released name: Entry}; names that are not the family's stay as they are."""
    found = {}
    for stored, entry in table.items():
        name = released(stored) or stored
        entry = entry if name == stored else replace(entry, name=stored)
        if name in found:
            raise InputError(
                f"{show(stored)} in {show(entry.file.name)} is {show(name)}, which the "
                "files hold by another name too; keep one of them."
            )
        found[name] = entry
    return found


def match_tensors(path, model, table, scheme=UNQUANTISED):
    """{parameter: its form in the files}, and the steps that cover each exactly once.

    A step is (released name, parameter's name, part); for scales the parameter's name
    has their suffix. Raises one InputError for all tensors that are missing,
    unexpected, mis-shaped or of another dtype, and warns of those that are left aside.
    `model` may be on the meta device.
    """
    single = {m[1] for m in map(SINGLE.fullmatch, table) if m}
    doubted = doubtful(table)
    forms, modules, kinds, plan, faults = {}, {}, {}, [], []
    for name, p in model.named_parameters():
        wanted, apart = [(name, None)], name.endswith(FUSED) and name not in table
        if apart and name.rpartition(".")[0] in single:
            wanted = list(per_expert(name, p.shape))
        # Both matrices of an expert are of one form.
        twin = name.replace(".down_proj", ".gate_up_proj")
        if ".experts." not in name or name == twin:
            forms[name] = stored_form(scheme, name, wanted[0][0], table)
        form = forms[name] = forms[twin] if ".experts." in name else forms[name]
        for source, part in wanted:
            module = source.removesuffix(".weight")
            modules[module] = form
            if isinstance(table.get(source), Foreign):
                kinds[module] = table[source].dtype
            at = source, name, part, p.shape, form
            for step, fault in _steps(*at, table, doubted):
                plan.append(step)
                faults += [fault] if fault else []
    left = sorted(table.keys() - {source for source, _, _ in plan})
    odd = [n for n in left if len(n) > LONGEST or not ASIDE.fullmatch(n)]
    if faults or odd:
        raise misfit(path, table, faults, odd)
    if left:
        more = f" and {len(left) - 1} more" if len(left) > 1 else ""
        # stacklevel 4: the line that called load.
        warnings.warn(
            f"{show(path)}: left aside, since nothing here is computed from it: "
            f"{show(left[0])}{more}", stacklevel=4,
        )  # fmt: skip
    check_scheme(path, scheme, modules, kinds)
    return forms, plan


def misfit(path, table, faults, odd):
    """An InputError for what is missing or wrong, and for unexpected names."""
    if said := renamed(odd, {fault.removeprefix("missing ") for fault in faults}):
        return InputError(f"{show(path)}: {said}")
    odd = [f"unexpected {show(n)} in {show(table[n].file.name)}" for n in odd]
    keep = max(LISTED // 2, LISTED - len(odd))  # so that some of both are told
    return unfit(
        path, "config.json", faults[:keep] + odd + faults[keep:],
        "Is config.json from another checkpoint, or a file missing?",
    )  # fmt: skip


def renamed(odd, missing):
    """A sentence on a word that most unexpected names have too much, or None."""
    extra = Counter()
    odd = [name for name in odd if len(name) <= LONGEST][:LONGEST]
    for name in odd:
        words = name.split(".")
        cuts = ((i, j) for i in range(len(words)) for j in range(i + 1, len(words)))
        for i, j in cuts:
            if released(".".join(words[:i] + words[j:])) in missing:
                extra[".".join(words[i:j]) + "."] += 1
                break
    word, count = extra.most_common(1)[0] if extra else ("", 0)
    if not count or 2 * count < min(len(missing), len(odd)):
        return None
    example = next(name for name in odd if word in name)
    why = next((why for mark, why in WRAPPERS.items() if mark in word), "")
    return (
        f"names in the files have '{show(word)}' in them, as {show(example)} does, "
        f"where this family's have nothing{why}; save the model inside of it, or write "
        "the files again with those names shortened."
    )


def unfit(path, asked, faults, question):
    """An InputError with the first LISTED faults of tensors, and their number."""
    count = f"{len(faults)} tensors do" if len(faults) > 1 else "1 tensor does"
    more = f"; and {len(faults) - LISTED} more" if len(faults) > LISTED else ""
    listed = "; ".join(faults[:LISTED]) + more
    return InputError(f"{show(path)}: {count} not fit {asked}: {listed}. {question}")


def doubtful(table):
    """Names of tensors whose label, F16 or BF16, seems to be wrong.

    Both have two bytes, so with the wrong label other numbers would load without a
    sign. But BF16 read as F16 always lies between 1/8 and 4, and F16 read as BF16 is
    next to nothing. Norms near one are believed if another F16 tensor is certain. Only
    asked where a checkpoint has both.
    """
    halves = {n: e for n, e in table.items() if e.dtype in ("F16", "BF16") and e.nbytes}
    if len({e.dtype for e in halves.values()}) < 2:
        return set()
    odd, unsure, sure = set(), set(), False
    for name, entry in halves.items():
        with Reader(entry.file) as file:
            raw = bytearray(file.read(min(entry.nbytes, 8192), entry.start))
        values = torch.frombuffer(raw, dtype=DTYPES[entry.dtype]).float().abs()
        values = values[values > 0]
        if entry.dtype == "BF16" and len(values) and values.median() < 2**-30:
            odd.add(name)
        elif entry.dtype == "F16" and len(values):
            inside = bool(((values >= 1 / 8) & (values < 4)).all())
            unsure |= {name} if inside else set()
            sure = sure or not inside
    return odd if sure else odd | unsure


def _steps(source, name, part, shape, form, table, doubted):
    """(step, fault or None) for each tensor of a parameter, or of a part of one."""
    for suffix, (size, dtype) in parts_of(form, name, shape).items():
        place = part
        if part is not None:
            low, high = rows_of(size, *part[1:], shape[1])
            place, size = (part[0], low, high), (high - low, size[2])
        full = source + suffix
        fault = _fault(full, table.get(full), size, doubted, dtype)
        yield (full, name + suffix, place), fault


def base(name):
    """A step's parameter: its name without the suffix of scales."""
    return name.removesuffix("_scale_inv")


def _fault(name, entry, shape, doubted, packed=None):
    """What is wrong with a stored tensor, or None; `packed` is a form's own dtype."""
    if entry is None:
        return f"missing {show(name)}"
    where = f"{show(entry.file.name)}: {show(entry.name or name)}"
    if packed and STORED.get(entry.dtype) != packed:
        return f"{where} is {entry.dtype}, expected {LABELS[packed]}"
    if not packed and not isinstance(entry, Foreign) and entry.dtype not in DTYPES:
        why = ", as no quantization_config says otherwise" * (entry.dtype in STORED)
        return f"{where} is {entry.dtype}, expected BF16 or F32{why}"
    if entry.shape != tuple(shape):
        return f"{where} is {list(entry.shape)}, config.json asks for {list(shape)}"
    if name in doubted and not packed:
        other = "BF16" if entry.dtype == "F16" else "F16"
        return f"{where} is {entry.dtype} by its label and {other} by its bytes"
    return None
