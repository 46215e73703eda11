"""Places in the model where something is worth seeing or changing.

    tap(name, layer, **values)    in the model: say what is there, take what comes back
    listen(model, name=function)  around it: hear, and perhaps change, what is said

A listener is called with the layer's number and the values by name; a dict that it
returns replaces those values. Nobody listening, a tap costs a look into a dictionary.
A layer is counted from 0; the draft head's one is "mtp".

    name          values (shapes as in the module)       TransformerLens
    tokens        input_ids, real, pictures, cache       (the input)
    resid_pre     x [B, T, D]                            blocks.L.hook_resid_pre
    qkv *         q, k, v [B, T, H, K], rotated          blocks.L.attn.hook_rot_q ..
    rule *        q, k, v, g, beta, as the rule has them (none)
    state *       state [B, H, K, V] after the call      (none)
    head_out      x [B, T, H, V], ahead of the gate      blocks.L.attn.hook_z
    attn_out      x [B, T, D], of either mixer           blocks.L.hook_attn_out
    router        weights, ids [N, top_k], logits [N, E] blocks.L.mlp.hook_expert_*
    shared_gate   logit [N, 1]                           (none)
    mlp_out       x [B, T, D]                            blocks.L.hook_mlp_out
    resid_post    x [B, T, D]                            blocks.L.hook_resid_post
    final_norm    x [B, T, D]                            ln_final.hook_normalized

* In full layers alone (qkv) or delta layers alone (rule, state). A state is seen again
only through a cache: to change it after every token, feed tokens one by one. g stays
finite: -inf makes NaN of the chunked form.

Forms of the whole model (forms.py) have no layers to listen to, so they are not taken
while somebody does. PyTorch's own hooks on modules are called by the modules alone: who
uses them asks for kernels="torch".
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from types import MappingProxyType
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn

from ..errors import InputError

NAMES = """
    tokens resid_pre qkv rule state head_out attn_out router shared_gate mlp_out
    resid_post final_norm
""".split()
NOBODY: Mapping[str, tuple] = MappingProxyType({})
_heard = ContextVar("heard", default=NOBODY)  # {name: functions}, during a call
_listeners: Any = WeakKeyDictionary()  # model -> [(last, {name: function})]


def tap(name: str, layer: int | str | None = None, **values: Any) -> Any:
    """Say `values`; returns the one, or all in order, as the listeners leave them."""
    if not torch.compiler.is_compiling():
        for function in _heard.get().get(name, ()):
            values |= function(layer, **values) or {}
    found = tuple(values.values())
    return found if len(found) > 1 else found[0]


def heard(name: str) -> bool:
    """Within a call of a model: does anyone listen to this tap?"""
    return name in _heard.get()


def listening(model: nn.Module) -> bool:
    """Does anyone listen to this model at all?"""
    return bool(_listeners.get(model) or model.listeners)


@contextmanager
def listen(
    model: nn.Module, last: bool = False, **functions: Callable
) -> Iterator[None]:
    """Within the block, each function hears its tap in calls of this model.

    Several may listen to one tap; each is given what the one before left. `last` hears
    after all others, whenever they came. InputError for a name that is no tap.
    """
    for name in functions:
        if name not in NAMES:
            raise InputError(f"there is no tap {name!r}; there are {', '.join(NAMES)}")
    mine = _listeners.setdefault(model, [])
    mine.append((last, functions))
    try:
        yield
    finally:
        mine.remove((last, functions))


@contextmanager
def hearing(model: nn.Module) -> Iterator[None]:
    """Within the block, taps speak to this model's listeners: its own ones first."""
    found: dict[str, tuple] = {}
    others = sorted(_listeners.get(model, ()), key=lambda each: each[0])
    for functions in (model.listeners, *(own for _, own in others)):
        for name, function in functions.items():
            found[name] = (*found.get(name, ()), function)
    token = _heard.set(found)
    try:
        yield
    finally:
        _heard.reset(token)
