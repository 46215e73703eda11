"""Which stored tensors make up which parameter, and whether all of them are right."""

import re

from ...errors import InputError, show
from ..quantised.codecs import rows_of
from ..quantised.modules import parts_of
from ..quantised.settings import Scheme, check_scheme, stored_form
from .layout import BODY, DTYPES, FUSED, LABELS, STORED, per_expert

LISTED = 10  # faults spelled out in one error
SINGLE = re.compile(r"(.+\.experts)\.\d+\.(?:gate|up|down)_proj\.weight")
UNQUANTISED = Scheme()


def match_tensors(path, model, table, scheme=UNQUANTISED):
    """Forms of all parameters, and the steps that cover each of them exactly once.

    {parameter: form in the files}, and [(stored name, name, part)], where a form's
    scales go to the parameter's name and their suffix. Raises one InputError for all
    tensors that are missing, unexpected, mis-shaped or of another dtype. `model` may be
    on the meta device.
    """
    names = table.keys()
    bare = not any(n.startswith(BODY) for n in names) and any(
        n.startswith("model.layers.") for n in names
    )
    single = {m[1] for m in map(SINGLE.fullmatch, names) if m}
    # F16 is taken from files that know no BF16: both have two bytes, so a wrong label
    # would load as other numbers without a sign.
    half = all(entry.dtype != "BF16" for entry in table.values())
    forms, modules, plan, faults = {}, {}, [], []
    for name, p in model.named_parameters():
        stored = name.replace(BODY, "model.") if bare else name
        wanted = [(stored, None)]
        if name.endswith(FUSED) and stored not in table:
            if stored.rpartition(".")[0] in single:
                wanted = list(per_expert(stored, p.shape))
        # Both matrices of an expert are of one form.
        twin = name.replace(".down_proj", ".gate_up_proj")
        if ".experts." not in name or name == twin:
            forms[name] = stored_form(scheme, name, wanted[0][0], table)
        form = forms[name] = forms[twin] if ".experts." in name else forms[name]
        for source, part in wanted:
            modules[source.removesuffix(".weight")] = form
            for step, fault in _steps(source, name, part, p.shape, form, table, half):
                plan.append(step)
                faults += [fault] if fault else []
    for n in sorted(names - {source for source, _, _ in plan}):
        faults.append(f"unexpected {show(n)} in {show(table[n].file.name)}")
    if faults:
        raise unfit(
            path, "config.json", faults,
            "Is config.json from another checkpoint, or a file missing?",
        )  # fmt: skip
    check_scheme(path, scheme, modules)
    return forms, plan


def unfit(path, asked, faults, question):
    """An InputError that tells the first LISTED faults of tensors, and how many."""
    count = f"{len(faults)} tensors do" if len(faults) > 1 else "1 tensor does"
    more = f"; and {len(faults) - LISTED} more" if len(faults) > LISTED else ""
    listed = "; ".join(faults[:LISTED]) + more
    return InputError(f"{show(path)}: {count} not fit {asked}: {listed}. {question}")


def _steps(source, name, part, shape, form, table, half):
    """(step, fault or None) for each tensor stored of a parameter, or a part of it."""
    for suffix, (size, dtype) in parts_of(form, name, shape).items():
        place = part
        if part is not None:
            low, high = rows_of(size, *part[1:], shape[1])
            place, size = (part[0], low, high), (high - low, size[2])
        full = source + suffix
        fault = _fault(full, table.get(full), size, half, dtype)
        yield (full, name + suffix, place), fault


def base(name):
    """The parameter that a step's name, perhaps with a form's suffix, belongs to."""
    return name.removesuffix("_scale_inv")


def _fault(name, entry, shape, half, packed=None):
    """What is wrong with one stored tensor, as a phrase, or None; packed: its dtype."""
    if entry is None:
        return f"missing {show(name)}"
    where = f"{show(entry.file.name)}: {show(name)}"
    if packed and STORED.get(entry.dtype) != packed:
        return f"{where} is {entry.dtype}, expected {LABELS[packed]}"
    if not packed and entry.dtype not in DTYPES:
        why = ", as no quantization_config says otherwise" * (entry.dtype in STORED)
        return f"{where} is {entry.dtype}, expected BF16 or F32{why}"
    if entry.shape != tuple(shape):
        return f"{where} is {list(entry.shape)}, config.json asks for {list(shape)}"
    if entry.dtype == "F16" and not half:
        return f"{where} is F16 while others are BF16, expected BF16 or F32"
    return None
