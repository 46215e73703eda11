"""Modules whose matrices stay in a form of forms.py and are widened when they are used.

A piece at a time, in a buffer of bounded size: the numbers are those of the whole
matrix widened first, without its memory. Each keeps the parameter's name, on the meta
device: shape and dtype that it computes in, without memory.
"""

import torch
import torch.nn.functional as F
from torch import nn

from ..moe import Experts
from .forms import FORMS, quantisable, take

BUFFER = 64 << 20  # bytes of float32 widened at once
PACKED = "_packed"  # buffers are the parameter's name, this, and the form's suffix


class Packed(nn.Module):
    """Parameters `kinds` {name: shape} in a form, as buffers."""

    def __init__(self, form, kinds, dtype):
        super().__init__()
        self.form, self.kinds = form, kinds
        for kind, shape in kinds.items():
            meta = torch.empty(shape, dtype=dtype, device="meta")
            self.register_parameter(kind, nn.Parameter(meta, requires_grad=False))
            for suffix, (size, stored) in parts_of(form, kind, shape).items():
                buffer = torch.empty(size, dtype=stored)
                self.register_buffer(kind + PACKED + suffix, buffer, persistent=False)

    def parts(self, kind, index=None):
        """{suffix: tensor} of a parameter, or of some of its experts."""
        found = {s: getattr(self, kind + PACKED + s) for s in FORMS[self.form].suffixes}
        return found if index is None else {s: t[index] for s, t in found.items()}

    def _apply(self, fn, recurse=True):
        """Moves reach what is stored, casts only the dtype that is computed in."""
        for name, buffer in self._buffers.items():
            self._buffers[name] = fn(buffer.view(torch.uint8)).view(buffer.dtype)
        for name, p in self._parameters.items():
            dtype = fn(torch.empty(0, dtype=p.dtype)).dtype
            meta = torch.empty_like(p, dtype=dtype, device="meta")
            self._parameters[name] = nn.Parameter(meta, requires_grad=False)
        return self


def parts_of(form, name, shape):
    """{suffix: (shape, dtype)} of a parameter's buffers.

    gate_up_proj [E, 2 I, D] is two matrices an expert, whose blocks do not mix.
    """
    if not name.endswith("gate_up_proj"):
        return FORMS[form].stored(shape)
    E, rows, width = shape
    halves = FORMS[form].stored((E, 2, rows // 2, width))
    return {
        suffix: ((E, size[1] * size[2], size[3]), dtype)
        for suffix, (size, dtype) in halves.items()
    }


def widen(form, parts, kind, width, dtype):
    """What `parts` of a parameter `kind` stand for, in dtype."""
    if kind == "gate_up_proj":
        parts = {s: t.unflatten(1, (2, -1)) for s, t in parts.items()}
    wide = FORMS[form].widen(parts, width).to(dtype)
    return wide.flatten(1, 2) if kind == "gate_up_proj" else wide


class PackedLinear(Packed):
    """nn.Linear without bias."""

    def __init__(self, form, out_features, in_features, dtype):
        super().__init__(form, {"weight": (out_features, in_features)}, dtype)

    def forward(self, x):
        rows, width = self.weight.shape
        step = max(1, BUFFER // 4 // width // 128) * 128
        parts, out = self.parts("weight"), []
        for low in range(0, rows, step):
            piece = take(parts, low, min(low + step, rows), rows)
            weight = widen(self.form, piece, "weight", width, self.weight.dtype)
            out.append(F.linear(x, weight))
        return out[0] if len(out) == 1 else torch.cat(out, -1)


class PackedExperts(Packed):
    """moe.Experts, of which only those chosen are widened, some at a time."""

    def __init__(self, form, shapes, dtype):
        super().__init__(form, shapes, dtype)
        one = 4 * sum(shape[1] * shape[2] for shape in shapes.values())
        self.room = max(1, BUFFER // one)

    def forward(self, x, weights, ids):
        """x [N, D]; weights, ids [N, top_k] -> sum_k weights_k expert_k(x) [N, D]."""
        return in_waves(self._some, self.room, x, weights, ids)

    def _some(self, x, weights, ids, chosen):
        place = ids.new_zeros(len(self.down_proj))
        place[chosen] = torch.arange(len(chosen), device=ids.device)
        return self.widened(chosen)(x, weights, place[ids])

    def widened(self, chosen):
        """An Experts of these experts alone."""
        with torch.device("meta"):
            wide = Experts(1, 0, 1)
        for kind, shape in self.kinds.items():
            dtype = getattr(self, kind).dtype
            parts = self.parts(kind, chosen)
            w = widen(self.form, parts, kind, shape[-1], dtype)
            setattr(wide, kind, nn.Parameter(w, requires_grad=False))
        return wide

    def bad_scales(self, expert):
        """What is wrong with one expert's scales, as a phrase, or None."""
        for kind, shape in self.kinds.items():
            parts = self.parts(kind, expert)
            scales = {s: t for s, t in parts.items() if s or len(parts) == 1}
            fault = FORMS[self.form].fault(scales, shape[-1])
            if fault:
                return fault
        return None


def in_waves(some, room, x, weights, ids):
    """`Experts`, by calls of some(x, weights, ids, chosen) for `room` at most."""
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


def pack_modules(model, form_of):
    """Put Packed modules in the place of those whose form_of(parameter's name) is one.

    The model is on the meta device and stays there.
    """
    with torch.device("meta"):
        for name, module in list(model.named_modules()):
            if isinstance(module, Experts):
                form = form_of(name + ".gate_up_proj")
                shapes = {kind: p.shape for kind, p in module.named_parameters()}
                dtype = module.down_proj.dtype
                new = form and PackedExperts(form, shapes, dtype)
            elif isinstance(module, nn.Linear) and quantisable(name + ".weight"):
                form, weight = form_of(name + ".weight"), module.weight
                new = form and PackedLinear(form, *weight.shape, weight.dtype)
            else:
                continue
            if new:
                model.set_submodule(name, new)


def places(model):
    """{name: tensor}: parameters, and the stored parts of those that are packed."""
    found = dict(model.named_parameters())
    for prefix, module in model.named_modules():
        if isinstance(module, Packed):
            for kind in module.kinds:
                for suffix, part in module.parts(kind).items():
                    found[f"{prefix}.{kind}{suffix}"] = part
    return found
