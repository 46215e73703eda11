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
or none that fits the call, the reference runs; for a Stored weight, the form that it
names.
"""

import importlib
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import wraps
from typing import Any, TypeVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import InputError
from .taps import listening

OptTensor = Tensor | None
Device = torch.device | str
Function = TypeVar("Function", bound=Callable)

# kind -> (check, when), as `register_kind` has them; operation -> {kind: Form}
_kinds: dict[str, tuple] = {"auto": (None, ""), "torch": (None, "")}
_table: dict[str, dict] = {}
_chosen: ContextVar[str | None] = ContextVar("kernels", default=None)


@dataclass
class Form:
    """One way to compute an operation; every way has the reference's signature.

    function: itself, or "module:name", imported when it is first taken. fits: can it
    take a call with these arguments? auto: should it, unasked? takes: the forms of the
    Stored weights that it is for, None among them if it is for plain ones.
    """

    function: Callable | str
    fits: Callable = lambda *args, **kwargs: True
    auto: Callable = lambda *args, **kwargs: False
    takes: Sequence[str | None] = (None,)

    def load(self) -> Callable:
        function = self.function
        if isinstance(function, str):
            module, name = function.split(":")
            self.function = function = getattr(importlib.import_module(module), name)
        return function


class Stored(nn.Module):
    """A weight that is no plain tensor: packed, on disk, or partly another process's.

    Stands where the parameter would. `form` is the name of the forms of `linear`,
    `embed` or `experts` that always take it; `shape` and `dtype` are those it stands
    for.
    """

    def __init__(self, form: str, shape: Sequence[int], dtype: torch.dtype) -> None:
        super().__init__()
        self.form, self.shape, self.dtype = form, torch.Size(shape), dtype

    def __len__(self) -> int:
        return self.shape[0]

    def take_place(self, owner: nn.Module, name: str) -> None:
        """Become `owner.name`, a parameter until now."""
        delattr(owner, name)
        setattr(owner, name, self)


def operation(reference: Function) -> Function:
    """Let other forms of a function run in its place, as the table and `using` say."""
    forms = _table.setdefault(reference.__name__, {})

    @wraps(reference)
    def run(x: Any, *args: Any, **kwargs: Any) -> Any:
        if torch.compiler.is_compiling():
            return reference(x, *args, **kwargs)
        return (_choose(forms, x, *args, **kwargs) or reference)(x, *args, **kwargs)

    return cast(Function, run)


def register(name: str, kind: str, function: Callable | str, **conditions: Any) -> None:
    """Put a Form of an operation, or of the whole model, into the table."""
    _table.setdefault(name, {})[kind] = Form(function, **conditions)


def register_kind(kind: str, check: Callable | None = None, when: str = "") -> None:
    """Let a kind be asked for; check() raises InputError where it cannot run.

    `when` says for people when "auto" takes it; empty if it never does.
    """
    _kinds[kind] = check, when


def chosen(name: str, *args: Any, **kwargs: Any) -> Callable | None:
    """The form that a call with these arguments takes; None for the reference."""
    return _choose(_table[name], *args, **kwargs)


def _choose(forms: dict[str, Form], *args: Any, **kwargs: Any) -> Callable | None:
    stored = args[-1].form if isinstance(args[-1], Stored) else None
    kind = wanted()
    if kind == "auto":
        mine = ((k, form) for k, form in forms.items() if stored in form.takes)
        kind = next((k for k, form in mine if form.auto(*args, **kwargs)), "torch")
    form = forms.get(kind)
    if form and stored in form.takes and form.fits(*args, **kwargs):
        return form.load()
    return forms[stored].load() if stored else None


def whole(name: str, model: Any, cache: Any, tokens: int) -> Callable | None:
    """The form "step" or "read" of a model for so many tokens, or None: itself."""
    if listening(model):
        return None
    with using(model.kernels):
        form = chosen(name, model, cache, tokens)
        return form and form(model, cache, tokens)


@contextmanager
def using(kind: str) -> Iterator[None]:
    """Within the block this kind is taken; "auto" leaves it to the block outside."""
    token = _chosen.set(known(kind) if kind != "auto" else wanted())
    try:
        yield
    finally:
        _chosen.reset(token)


def wanted() -> str:
    """The kind that was asked for: by a block, by MINQWEN_KERNELS, or "auto"."""
    return _chosen.get() or known(os.environ.get("MINQWEN_KERNELS", "auto"))


def known(kind: str) -> str:
    """The kind itself; InputError where there is none of that name, or no library."""
    if kind not in _kinds:
        raise InputError(f"kernels={kind!r} is not one of {', '.join(_kinds)}")
    check, _ = _kinds[kind]
    if check:
        check()
    return kind


def runs(kind: str) -> bool:
    """Can this machine run a kind?"""
    try:
        return bool(known(kind))
    except InputError:
        return False


def available_kinds() -> str:
    """What `minqwen info` says of the kinds that may be taken here."""
    if wanted() != "auto":
        return f"{wanted()} (MINQWEN_KERNELS)"
    found = [f"{k} {when}" for k, (_, when) in _kinds.items() if when and runs(k)]
    return "; ".join(["torch", *found])


@operation
def linear(x: Tensor, weight: Tensor) -> Tensor:
    """x [..., in] times weight [out, in] transposed: [..., out]."""
    return F.linear(x, weight)


@operation
def embed(ids: Tensor, weight: Tensor) -> Tensor:
    """The rows `ids` [...] of weight [vocab, D]: [..., D]."""
    return F.embedding(ids, weight)


class Linear(nn.Linear):
    """nn.Linear without a bias, whose weight may be Stored."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__(in_features, out_features, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight)


class Embedding(nn.Embedding):
    """nn.Embedding, whose weight may be Stored."""

    def forward(self, ids: Tensor) -> Tensor:
        return embed(ids, self.weight)


# What is registered from around the model part, by name: nothing here depends on it.
importlib.import_module("minqwen.kernels")
