"""Which form of an operation runs: one table, and one variable that chooses.

An operation is a function of the model part, marked `@operation`. What is written there
is its reference form, in torch, to be read and trusted. Around the model part others
are registered by name: faster ones, and ones for weights that are no plain tensors.

    rms_norm  gated_rms_norm  causal_conv  delta_rule  remember
    attend  route  experts  linear  embed

and, taken only when nobody listens (taps.py), two forms of the whole model:

    step    the next token of one row:   form(model, cache, tokens)(ids [1, 1], cache)
    read    a whole prompt of one row:   form(model, cache, tokens)(ids [1, T], cache)

Kinds of forms: "torch" is the reference; others are in kernels/. `using`, a model's
`kernels`, or MINQWEN_KERNELS choose one; "auto" takes, call by call, the first that
says it is worth while. Where the kind that was asked for has no form of an operation,
or none that fits the call, the reference runs.
"""

import importlib
import os
from collections.abc import Callable
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import wraps

import torch
import torch.nn.functional as F
from torch import nn

from ..errors import InputError
from .taps import listening

_kinds = {"auto": (None, ""), "torch": (None, "")}  # kind -> (check, when): see below
_table: dict[str, dict] = {}  # operation -> {kind: Form}
_chosen = ContextVar("kernels", default=None)


@dataclass
class Form:
    """One way to compute an operation; every way has the reference's signature.

    function: itself, or "module:name", imported when it is first taken. fits(*args):
    can it take a call that begins with these? auto(*args): should it, unasked?
    """

    function: Callable | str
    fits: Callable = lambda *args: True
    auto: Callable = lambda *args: False

    def load(self):
        if isinstance(self.function, str):
            module, name = self.function.split(":")
            self.function = getattr(importlib.import_module(module), name)
        return self.function


class Stored(nn.Module):
    """A weight that is no plain tensor: packed, on disk, or partly another process's.

    Stands where the parameter would. `form` is the name of the forms of `linear`,
    `embed` or `experts` that take it; `shape` and `dtype` are those it stands for.
    """

    def __init__(self, form, shape, dtype):
        super().__init__()
        self.form, self.shape, self.dtype = form, torch.Size(shape), dtype

    def __len__(self):
        return self.shape[0]

    def take_place(self, owner, name):
        """Become `owner.name`, a parameter until now."""
        delattr(owner, name)
        setattr(owner, name, self)


def operation(reference):
    """Let other forms of a function run in its place, as the table and `using` say."""
    forms = _table.setdefault(reference.__name__, {})

    @wraps(reference)
    def run(x, *args, **kwargs):
        form = None if torch.compiler.is_compiling() else _choose(forms, x, *args)
        return (form or reference)(x, *args, **kwargs)

    run.reference = reference
    return run


def register(name, kind, function, **conditions):
    """Put a Form of an operation, or of the whole model, into the table."""
    _table.setdefault(name, {})[kind] = Form(function, **conditions)


def register_kind(kind, check=None, when=""):
    """Let a kind be asked for; check() raises InputError where it cannot run.

    `when` says for people when "auto" takes it; empty if it never does.
    """
    _kinds[kind] = check, when


def chosen(name, *args):
    """The form that a call with these first arguments takes; None for the reference."""
    return _choose(_table[name], *args)


def _choose(forms, *args):
    if isinstance(args[-1], Stored):
        return forms[args[-1].form].load()
    kind = wanted()
    if kind == "auto":
        kind = next((k for k, form in forms.items() if form.auto(*args)), None)
    form = forms.get(kind)
    return form.load() if form and form.fits(*args) else None


def whole(name, model, cache, tokens):
    """The form "step" or "read" of a model for so many tokens, or None: itself."""
    if listening(model):
        return None
    with using(model.kernels):
        form = chosen(name, model, cache, tokens)
        return form and form(model, cache, tokens)


@contextmanager
def using(kind):
    """Within the block this kind is taken; "auto" leaves it to the block outside."""
    token = _chosen.set(known(kind) if kind != "auto" else wanted())
    try:
        yield
    finally:
        _chosen.reset(token)


def wanted():
    """The kind that was asked for: by a block, by MINQWEN_KERNELS, or "auto"."""
    return _chosen.get() or known(os.environ.get("MINQWEN_KERNELS", "auto"))


def known(kind):
    """The kind itself; InputError where there is none of that name, or no library."""
    if kind not in _kinds:
        raise InputError(f"kernels={kind!r} is not one of {', '.join(_kinds)}")
    check, _ = _kinds[kind]
    if check:
        check()
    return kind


def runs(kind):
    """Can this machine run a kind?"""
    try:
        return bool(known(kind))
    except InputError:
        return False


def available():
    """What `minqwen info` says of the kinds that may be taken here."""
    if wanted() != "auto":
        return f"{wanted()} (MINQWEN_KERNELS)"
    found = [f"{k} {when}" for k, (_, when) in _kinds.items() if when and runs(k)]
    return "; ".join(["torch", *found])


# ---- the two simplest operations ----


@operation
def linear(x, weight):
    """x [..., in] times weight [out, in] transposed: [..., out]."""
    return F.linear(x, weight)


@operation
def embed(ids, weight):
    """The rows `ids` [...] of weight [vocab, D]: [..., D]."""
    return F.embedding(ids, weight)


class Linear(nn.Linear):
    """nn.Linear without a bias, whose weight may be Stored."""

    def __init__(self, in_features, out_features):
        super().__init__(in_features, out_features, bias=False)

    def forward(self, x):
        return linear(x, self.weight)


class Embedding(nn.Embedding):
    """nn.Embedding, whose weight may be Stored."""

    def forward(self, ids):
        return embed(ids, self.weight)


# What is registered from around the model part, by name: nothing here depends on it.
importlib.import_module("minqwen.kernels")
