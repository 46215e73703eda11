"""From a checkpoint to a model, one tensor at a time.

Every tensor is accounted for before the first byte of any is read: one error lists what
is missing, unexpected, of another shape, or of a dtype that we will not guess about.
Then each is read straight into the memory where it will stay.
"""

import dataclasses
import os
import re
import warnings
from functools import partial
from pathlib import Path

import torch

from ..errors import InputError, number, show
from ..files import read_json, read_whole
from ..model.config import Config
from ..model.family import IDS, end_ids
from ..model.forms import chosen, known, using
from ..model.qwen import Qwen
from .checkpoint import reading
from .checkpoint.hub import resolve
from .checkpoint.index import open_checkpoint
from .checkpoint.layout import (
    BODY,
    DTYPES,
    Lean,
    main_dtype,
    part_of,
    released,
    skeleton,
    slice_of,
)
from .checkpoint.match import base, by_name, match_tensors
from .checkpoint.memory import populate
from .disk.paged import put_back, take_out
from .gguf.files import find_gguf
from .gguf.load import load_gguf
from .quantised.codecs import read_choice
from .quantised.foreign import Foreign
from .quantised.found import gather
from .quantised.modules import WHOLE, pack, places, round_activations, unrounded
from .quantised.requantise import requantise
from .quantised.settings import OWN, Scheme, read_scheme

HEAD, WORDS = "lm_head.weight", BODY + "embed_tokens.weight"


def load(
    path_or_hub_id: str | Path,
    device: torch.device | str | None = "cpu",
    dtype: torch.dtype | None = torch.float32,
    experts: str = "memory",
    quantize: str | None = None,
    kernels: str = "auto",
    revision: str | None = None,
    expert_cache: int | None = None,
    activations: str | None = None,
) -> Qwen:
    """A Qwen in eval mode with the weights of a folder, a file or a hub repository.

    The file is .safetensors, with config.json beside it, or .gguf (see gguf/load.py).
    device None takes a GPU if there is one; dtype None keeps the dtype of most bytes;
    `A_log` and the gated norms stay fp32. A draft head or vision tower that only the
    files or only config.json has is left out, with a warning. Peak memory is the
    model's own and BUFFER. Raises one InputError, before reading any weight, for all
    tensors that do not fit config.json. plain.py has the loop that this comes down to.

    experts "disk" leaves the routed experts in the files until a token chooses them:
    the same logits, in the memory of the rest and `expert_cache` bytes more. None maps
    the files if all experts fit in memory, and else takes half of what is free.

    Quantised files keep their form and are widened in use; those of other libraries are
    widened while they are read (see quantised/foreign.py). quantize "int8" or "int4"
    turns the large matrices of other files into that form while reading; "int4:int8"
    is for experts and the rest, "int4:stored" leaves the rest as it is. Experts on disk
    always stay as they are. activations "int8" rounds what matrices of whole numbers,
    ours and llama.cpp's, are multiplied with: faster on a CPU, a little less exact.
    """
    _check_experts(experts, expert_cache)
    choice = read_choice(quantize, OWN, "stored") if quantize is not None else ()
    known(show(kernels, 40))
    device = usable(device)
    computable(dtype)
    _check_activations(activations, device)
    path = resolve(path_or_hub_id, revision)
    if file := find_gguf(path):
        if quantize:
            raise InputError(
                f"quantize={quantize!r} turns safetensors files only; load "
                f"{show(path)} without it, or give that form to minqwen convert."
            )
        whole = activations is not None
        model = load_gguf(file, device, dtype, experts, expert_cache, whole)
        return ready(model, kernels)
    table, model, forms, plan = examine(path, dtype)
    if choice and choice[1] is None and not model.cfg.is_moe:
        raise InputError(
            f"quantize={quantize!r} is for experts, and {show(path)} has no experts."
        )
    held = {name: Scheme(*choice).of(name) or form for name, form in forms.items()}
    away = {n for n in forms if experts == "disk" and ".experts." in n}
    kinds = {forms[n] if n in away else form for n, form in held.items()}
    if activations and not kinds & {*WHOLE}:
        raise unrounded(path)
    taken, memory = {}, plan
    if experts == "disk":
        taken = take_out(model, path)
        memory = [step for step in plan if ".experts." not in step[1]]
    pack(model, held.get)
    with Lean():
        model.to_empty(device=device)
    changed = {name for name, form in forms.items() if held[name] != form}
    changed |= {base(n) for s, n, _ in plan if isinstance(table[s], Foreign)}
    _read_all(model, table, [s for s in memory if base(s[1]) not in changed], forms)
    requantise(model, table, [s for s in memory if base(s[1]) in changed], forms)
    if taken:
        put_back(model, taken, plan, table, expert_cache, device, forms)
    if activations:
        round_activations(model)
    return ready(model, kernels)


def ready(model, kernels):
    model.kernels = kernels
    with using(kernels):
        chosen("rms_norm", model.model.language_model.norm.weight)  # or an InputError
    return model.eval()


def computable(dtype):
    """InputError unless dtype, or None for the file's own, can hold a model."""
    if dtype is not None and dtype not in DTYPES.values():
        raise InputError(
            f"dtype {show(dtype)} cannot hold weights; give torch.float32, bfloat16, "
            "float16 or None for the file's own."
        )


def examine(path, dtype):
    """name -> Entry, model on the meta device, forms and plan (see `match_tensors`)."""
    folder = path if path.is_dir() else path.parent
    table, cfg = open_checkpoint(path), Config.from_json(folder / "config.json")
    scheme = read_scheme(cfg, folder)
    table = by_name(gather(table, scheme))
    cfg = _add_ends(cfg, folder)
    cfg, table, notes = agree_on_parts(cfg, table)
    cfg, table, more = _settle_head(cfg, table)
    _check_depth(path, cfg, table)
    sizes = ((e.dtype, e.nbytes) for e in table.values() if e.dtype in DTYPES)
    model = skeleton(cfg, dtype or main_dtype(sizes, torch.float32))
    forms, plan = match_tensors(path, model, table, scheme)
    if notes + more:
        # stacklevel 3: the line that called load.
        warnings.warn(f"{path}: {'; '.join(notes + more)}", stacklevel=3)
    return table, model, forms, plan


def _add_ends(cfg, folder):
    """The Config with the stop ids of generation_config.json, which has the most."""
    # A model without its processor knows where to stop, too.
    file = folder / "generation_config.json"
    if not os.path.lexists(file):
        return cfg
    said = read_json(read_whole(file), file).get("eos_token_id")
    return cfg.replace(eos_token_id=end_ids(said, file, cfg.text.eos_token_id))


def agree_on_parts(cfg, table):
    """Leave out, with a note, each part that only the files or only the config has."""
    parts, left = {n: part_of(n) for n in table if released(n)}, []
    held, asked = set(parts.values()), cfg.text.mtp_num_hidden_layers
    if asked and "mtp" not in held:
        cfg = cfg.replace(mtp_num_hidden_layers=0)
        left.append("the MTP head, of which the files hold nothing, so draft needs 0")
    if cfg.vision and "visual" not in held:
        kind = cfg.model_type.removesuffix("_text") + "_text"
        none = dict.fromkeys(IDS)
        cfg = dataclasses.replace(cfg, model_type=kind, vision=None, **none)
        left.append("the vision tower, of which the files hold nothing")
    for part, called in {"mtp": "MTP head", "visual": "vision tower"}.items():
        if part in held and not (asked if part == "mtp" else cfg.vision):
            table = {n: e for n, e in table.items() if parts.get(n) != part}
            left.append(f"the files' {called}, which config.json does not ask for")
    return cfg, table, [f"loaded without {' and '.join(left)}"] if left else []


def _settle_head(cfg, table):
    """Keep the output head that is stored though config.json ties it, if it differs."""
    head, words = table.get(HEAD), table.get(WORDS)
    if not cfg.tie_word_embeddings or head is None:
        return cfg, table, []
    rest = {name: entry for name, entry in table.items() if name != HEAD}
    if words is None:
        return cfg, rest | {WORDS: head}, []
    if reading.alike(head, words):
        return cfg, rest, []
    note = f"{HEAD} differs from the embedding that config.json ties it to, and is used"
    return dataclasses.replace(cfg, tie_word_embeddings=False), table, [note]


def _check_depth(path, cfg, table):
    """InputError for more layers, blocks or experts than the files hold."""
    # Before so many are built.
    asked = (
        (BODY + "layers", "num_hidden_layers", cfg.text.num_hidden_layers),
        ("model.visual.blocks", "vision_config.depth", cfg.vision and cfg.vision.depth),
        (r".+\.experts", "num_experts", cfg.text.num_experts),
    )
    for place, key, count in asked:
        found = [re.match(place + r"\.(\d{1,9})\.", name) for name in table]
        held = {int(m[1]) for m in found if m}
        if held and (count or 0) > len(held):
            raise InputError(
                f"{show(path)}: config.json says {key} {count}, the files hold "
                f"{len(held)}; is it from another checkpoint, or a file missing?"
            )


def _read_all(model, table, plan, forms):
    parameters, modules = places(model), dict(model.named_modules())
    buffer = torch.empty(reading.BUFFER, dtype=torch.uint8)

    def read(source, name, part, file, progress):
        entry, form = table[source], forms[base(name)]
        place = slice_of(parameters[name].data, part)
        target = place.reshape(-1)
        populate(target)
        reading.read_tensor(file, entry, source, target, buffer, progress)
        if form is None:
            reading.check_finite(entry.file, source, target)
        else:
            parts = {name.removeprefix(base(name)): place}
            width = modules[base(name)].shape[-1]
            reading.check_packed(entry.file, source, form, parts, width)

    reads = [(table[step[0]], partial(read, *step)) for step in plan]
    reading.read_in_order((e, e.start, e.nbytes, one) for e, one in reads)


def _check_experts(experts, expert_cache):
    if experts not in ("memory", "disk"):
        raise InputError(f"experts={show(repr(experts))} is not 'memory' or 'disk'.")
    if expert_cache is not None:
        number(expert_cache, "expert_cache, a number of bytes,", int, 1)
        if experts != "disk":
            raise InputError(
                f"expert_cache={expert_cache} does not go with experts={experts!r}; it "
                "is a number of bytes for experts='disk'."
            )


def _check_activations(activations, device):
    if activations not in (None, "int8"):
        said = show(repr(activations), 40)
        raise InputError(f"activations={said} is not supported; give 'int8' or None.")
    if activations and device.type != "cpu":
        raise InputError(
            f"activations='int8' is for a CPU, and the model is for {device}; leave it "
            "out, or give device='cpu'."
        )


def usable(device):
    """The device, or the best there is if None; InputError if it is not here."""
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(device)
        torch.empty(0, device=device)
    except Exception as err:  # each kind of device is refused in a way of its own
        reason = show(err).split(". ")[0].removesuffix(".")
        raise InputError(f"device {show(device)} cannot be used: {reason}.") from None
    if device.type == "meta":
        raise InputError("device meta holds no values; give cpu, or a GPU's name.")
    return device
