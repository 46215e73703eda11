"""Weights that stay in a form of codecs.py, and are widened when they are used.

A piece at a time, in a buffer of bounded size: the results are those of widening the
whole matrix first, without its memory. Where `round_activations` was asked for, what
enters a product with whole numbers is rounded before.
"""

import math
from functools import partial

import torch
import torch.nn.functional as F

from ...errors import InputError, show
from ...model import moe
from ...model.forms import Embedding, Linear, Stored, register
from ...model.moe import Experts
from . import ggml
from .codecs import FORMS, rounded, take

BUFFER = 64 << 20  # bytes of float32 widened at once
WHOLE = "int8", "int4", *ggml.BLOCKS  # forms of whole numbers
for form in FORMS:
    for operation in ("linear", "embed", "experts"):
        register(operation, form, f"{__name__}:{operation}")


class Packed(Stored):
    """A parameter in a form: a buffer for each suffix; `kind`: its name in a module.

    `columns`, unless None: where the stored columns lie in the parameter (int64 [C]).
    """

    rounded = False  # is what it is multiplied with?

    def __init__(self, form, kind, shape, dtype):
        super().__init__(form, shape, dtype)
        self.kind = kind
        for suffix, (size, stored) in parts_of(form, kind, shape).items():
            buffer = torch.empty(size, dtype=stored)
            self.register_buffer("part" + suffix, buffer, persistent=False)
        self.register_buffer("columns", None, persistent=False)

    def parts(self, index=None):
        """{suffix: tensor} of the parameter, or of some of its experts."""
        found = {s: self.get_buffer("part" + s) for s in FORMS[self.form].suffixes}
        return found if index is None else {s: t[index] for s, t in found.items()}

    def widened(self, index=None):
        """The parameter's numbers, or those of some of its experts."""
        parts = self.parts(index)
        wide = widen(self.form, parts, self.kind, self.shape[-1], self.dtype)
        return wide if self.columns is None else wide[..., self.columns.argsort()]

    def entering(self, x):
        """x as the parameter is multiplied with it."""
        x = x if self.columns is None else x[..., self.columns]
        return rounded(x) if self.rounded else x

    def bad_scales(self, expert):
        """What is wrong with one expert's scales, as a phrase, or None."""
        parts = self.parts(expert)
        scales = {s: t for s, t in parts.items() if s or len(parts) == 1}
        return FORMS[self.form].fault(scales, self.shape[-1])

    def _apply(self, fn, recurse=True):
        """Moves apply to the buffers, casts only to the dtype that is computed in."""
        for name, buffer in self._buffers.items():
            if buffer is not None:
                self._buffers[name] = fn(buffer.view(torch.uint8)).view(buffer.dtype)
        self.dtype = fn(torch.empty(0, dtype=self.dtype)).dtype
        return self


def parts_of(form, name, shape, dtype=None):
    """{suffix: (shape, dtype)} of what is stored; form None: itself, in `dtype`."""
    # gate_up_proj [E, 2 I, D] is two matrices an expert, whose blocks do not mix.
    if form is None:
        return {"": (shape, dtype)}
    if not name.endswith("gate_up_proj"):
        return FORMS[form].stored(shape)
    E, rows, width = shape
    halves = FORMS[form].stored((E, 2, rows // 2, width))
    return {
        suffix: ((E, size[1] * size[2], size[3]), dtype)
        for suffix, (size, dtype) in halves.items()
    }


def stored_bytes(form, name, shape, dtype):
    """How many bytes a parameter takes in a form; None: as trained."""
    parts = parts_of(form, name, shape, dtype).values()
    return sum(math.prod(size) * kind.itemsize for size, kind in parts)


def widen(form, parts, kind, width, dtype):
    """The numbers that `parts` of a parameter `kind` stand for, in dtype."""
    if kind == "gate_up_proj":
        parts = {s: t.unflatten(1, (2, -1)) for s, t in parts.items()}
    wide = FORMS[form].widen(parts, width).to(dtype)
    return wide.flatten(1, 2) if kind == "gate_up_proj" else wide


def linear(x, weight):
    """`forms.linear` for a Packed weight, some of its rows at a time."""
    rows, width = weight.shape
    x = weight.entering(x)
    step = max(1, BUFFER // 4 // width // 128) * 128
    parts, out = weight.parts(), []
    for low in range(0, rows, step):
        piece = take(parts, low, min(low + step, rows), rows)
        out.append(F.linear(x, widen(weight.form, piece, "", width, weight.dtype)))
    return out[0] if len(out) == 1 else torch.cat(out, -1)


def embed(ids, weight):
    """`forms.embed` for a Packed weight."""
    rows = weight.parts(ids)
    return widen(weight.form, rows, "", weight.shape[-1], weight.dtype)


def experts(x, weights, ids, gate_up_proj, down_proj):
    """`moe.experts` for Packed experts, of which only those chosen are widened."""
    if down_proj.rounded:
        return rounded_experts(x, weights, ids, gate_up_proj, down_proj)
    one = 4 * sum(p.shape[1] * p.shape[2] for p in (gate_up_proj, down_proj))
    some = partial(widened_experts, gate_up_proj, down_proj)
    return in_waves(some, max(1, BUFFER // one), x, weights, ids)


def rounded_experts(x, weights, ids, gate_up_proj, down_proj):
    """The same, one at a time, with what enters either product rounded."""
    out = torch.zeros_like(x)
    for e in ids.unique().tolist():
        n, k = (ids == e).nonzero(as_tuple=True)
        both = F.linear(rounded(x[n]), gate_up_proj.widened([e])[0])
        gate, up = both.chunk(2, dim=-1)
        h = F.linear(rounded(F.silu(gate) * up), down_proj.widened([e])[0])
        out.index_add_(0, n, h * weights[n, k, None])
    return out


def widened_experts(gate_up_proj, down_proj, x, weights, ids, chosen):
    place = ids.new_zeros(len(down_proj))
    place[chosen] = torch.arange(len(chosen), device=ids.device)
    matrices = gate_up_proj.widened(chosen), down_proj.widened(chosen)
    return moe.experts(x, weights, place[ids], *matrices)


def in_waves(some, room, x, weights, ids):
    """`moe.experts` by calls of some(x, weights, ids, chosen), each for <= room."""
    chosen = ids.unique().tolist()
    if len(chosen) <= room:
        return some(x, weights, ids, chosen)
    flat = ids.flatten()
    each = x.new_empty(len(flat), x.shape[1])  # [N * top_k, D]
    for low in range(0, len(chosen), room):
        wave = chosen[low : low + room]
        mine = torch.isin(flat, torch.tensor(wave, device=ids.device)).nonzero()
        rows = mine[:, 0] // ids.shape[1]
        alone = weights.new_ones(len(rows), 1)
        each[mine[:, 0]] = some(x[rows], alone, flat[mine], wave)
    return (each.view(*ids.shape, -1) * weights[..., None]).sum(1)


def pack(model, form_of):
    """Replace parameters by Packed ones, on meta, where form_of(name) is a form."""
    with torch.device("meta"):
        for prefix, module in list(model.named_modules()):
            if not isinstance(module, Experts | Linear | Embedding):
                continue
            for kind, p in list(module.named_parameters(recurse=False)):
                if form := form_of(f"{prefix}.{kind}"):
                    Packed(form, kind, p.shape, p.dtype).take_place(module, kind)


def unrounded(path):
    """The InputError for a checkpoint without a matrix of whole numbers."""
    return InputError(
        f"activations='int8' is for weights in {', '.join(WHOLE)}, of which "
        f"{show(path)} has none; leave it out, or quantize a safetensors file."
    )


def round_activations(model):
    """Round what is multiplied with its matrices of whole numbers to 8 bits."""
    for module in model.modules():
        slots = getattr(getattr(module, "pages", None), "slots", {})  # of disk/
        for m in (module, *slots.values()):
            if isinstance(m, Packed) and m.form in WHOLE:
                m.rounded = True


def places(model):
    """{name: tensor}: parameters, and the stored parts of those that are Packed."""
    found = dict(model.named_parameters())
    for name, module in model.named_modules():
        if isinstance(module, Packed):
            found |= {name + suffix: part for suffix, part in module.parts().items()}
    return found
