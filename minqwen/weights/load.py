"""From a checkpoint to a model, one tensor at a time.

All tensors are accounted for before the first byte of any is read: what is missing,
unexpected, of another shape or of a dtype that we will not guess about is told in
one error. Then each is read straight into the memory where it will stay.
"""

import os
import re
import warnings
from functools import partial
from pathlib import Path

import torch

from ..errors import InputError, number, show
from ..files import read_json, read_whole
from ..model.config import Config
from ..model.family import end_ids
from ..model.forms import chosen, known, using
from ..model.qwen import Qwen
from .checkpoint import reading
from .checkpoint.hub import resolve
from .checkpoint.index import open_checkpoint
from .checkpoint.layout import DTYPES, Lean, main_dtype, skeleton, slice_of
from .checkpoint.match import base, match_tensors
from .checkpoint.memory import populate
from .disk.paged import put_back, take_out
from .gguf.load import load_gguf
from .quantised.codecs import read_choice
from .quantised.modules import pack, places
from .quantised.requantise import requantise
from .quantised.settings import OWN, Scheme, read_scheme


def load(
    path_or_hub_id: str | Path,
    device: torch.device | str | None = "cpu",
    dtype: torch.dtype | None = torch.float32,
    experts: str = "memory",
    quantize: str | None = None,
    kernels: str = "auto",
    revision: str | None = None,
    expert_cache: int | None = None,
) -> Qwen:
    """A Qwen in eval mode with the weights of a folder, a file or a hub repository.

    The file is .safetensors, with config.json beside it, or .gguf (see gguf/load.py).
    device None takes a GPU if there is one; dtype None keeps the one most of the file
    has. `A_log` and the gated norms stay fp32. A file without any `mtp.*` (transformers
    drops them) gives a model without that head, and a config without a vision tower
    leaves the tower of a file that has one: both are said in a warning. Peak memory is
    the model's own and BUFFER. Raises InputError, before reading any weight, that names
    every tensor that does not fit config.json.

    experts "disk" leaves the routed experts in the files until a token chooses them:
    the same logits, in the memory that the rest takes and `expert_cache` bytes. None
    maps the files where all experts fit, or else takes half of the free memory.

    plain.py has the loop that this comes down to. Added here: an error names all that
    does not fit, before a weight is read; an index and links are checked, infinite
    numbers and files that change meanwhile refused; what only file or config has may be
    left out, and a text model read from a file with pictures; stop ids of
    generation_config.json; reading in place and in the disk's order; other dtypes and
    devices; hub ids and GGUF; and experts, quantised or not, as told below and above.

    Quantised files stay in their form, and are widened as they are used. quantize
    "int8" or "int4" turns the large matrices of others into that form while they are
    read; "int4:int8" tells experts and the rest apart, "int4:stored" leaves the rest.
    Experts on disk are not turned into anything.
    """
    _check_experts(experts, expert_cache)
    choice = None, None
    if quantize is not None:
        choice = read_choice(quantize, OWN, "stored")
    known(show(kernels, 40))
    device = usable(device)
    computable(dtype)
    path = resolve(path_or_hub_id, revision)
    if path.suffix == ".gguf":
        if quantize:
            raise InputError(
                f"quantize={quantize!r} turns safetensors files only; load "
                f"{show(path)} without it."
            )
        model = load_gguf(path, device, dtype, experts)
        return ready(model, kernels)
    table, model, forms, plan = examine(path, dtype)
    if quantize and choice[1] is None and not model.cfg.is_moe:
        raise InputError(
            f"quantize={quantize!r} is for experts, and {show(path)} has no experts."
        )
    held = {name: Scheme(*choice).of(name) or form for name, form in forms.items()}
    taken, memory = {}, plan
    if experts == "disk":
        taken = take_out(model, path)
        memory = [step for step in plan if ".experts." not in step[1]]
    pack(model, held.get)
    with Lean():
        model.to_empty(device=device)
    changed = {name for name, form in forms.items() if held[name] != form}
    _read_all(model, table, [s for s in memory if base(s[1]) not in changed], forms)
    requantise(model, table, [s for s in memory if base(s[1]) in changed], forms)
    if taken:
        put_back(model, taken, plan, table, expert_cache, device, forms)
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
    table = open_checkpoint(path)
    cfg = Config.from_json(path if path.is_dir() else path.parent / "config.json")
    scheme = read_scheme(cfg)
    cfg = _add_ends(cfg, path if path.is_dir() else path.parent)
    cfg, table = _agree_on_parts(path, cfg, table)
    _check_depth(path, cfg, table)
    sizes = ((e.dtype, e.nbytes) for e in table.values() if e.dtype in DTYPES)
    model = skeleton(cfg, dtype or main_dtype(sizes, torch.float32))
    return table, model, *match_tensors(path, model, table, scheme)


def _add_ends(cfg, folder):
    """With the ids in generation_config.json, where releases name most of them."""
    # Kept in the Config, so that a model without its processor knows where to stop.
    file = folder / "generation_config.json"
    if not os.path.lexists(file):
        return cfg
    said = read_json(read_whole(file), file).get("eos_token_id")
    return cfg.replace(eos_token_id=end_ids(said, file, cfg.text.eos_token_id))


def _agree_on_parts(path, cfg, table):
    """Leave out, with a warning, a whole part that only file or only config has."""
    has_mtp = any(name.startswith("mtp.") for name in table)
    left = []
    if cfg.text.mtp_num_hidden_layers and not has_mtp:
        cfg = cfg.replace(mtp_num_hidden_layers=0)
        left.append("the MTP head, of which the files hold nothing, so draft needs 0")
    if has_mtp and not cfg.text.mtp_num_hidden_layers:
        table = {n: e for n, e in table.items() if not n.startswith("mtp.")}
        left.append("the files' MTP head, which config.json does not ask for")
    if cfg.vision is None and any(n.startswith("model.visual.") for n in table):
        table = {n: e for n, e in table.items() if not n.startswith("model.visual.")}
        left.append("the files' vision tower, which config.json does not ask for")
    if left:
        # stacklevel 4: the line that called load.
        warnings.warn(f"{path}: loaded without {' and '.join(left)}", stacklevel=4)
    return cfg, table


def _check_depth(path, cfg, table):
    """More layers, blocks or experts than the files hold, said before building them."""
    asked = {
        r"(?:model|model\.language_model)\.layers\.(\d{1,9})\.": (
            "num_hidden_layers", cfg.text.num_hidden_layers),
        r"model\.visual\.blocks\.(\d{1,9})\.": (
            "vision_config.depth", cfg.vision.depth if cfg.vision else 0),
        r".+\.experts\.(\d{1,9})\.": ("num_experts", cfg.text.num_experts or 0),
    }  # fmt: skip
    for pattern, (key, count) in asked.items():
        found = [re.match(pattern, name) for name in table]
        held = {int(m[1]) for m in found if m}
        if held and count > len(held):
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
        said = show(repr(experts))
        raise InputError(f"experts={said} is neither 'memory' nor 'disk'.")
    if expert_cache is not None:
        number(expert_cache, "expert_cache, a number of bytes,", int, 1)
        if experts != "disk":
            raise InputError(
                f"expert_cache={expert_cache} does not go with experts={experts!r}; it "
                "is a number of bytes for experts='disk'."
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
