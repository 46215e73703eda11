"""Memories as they are: taken out of a cache, kept in a file, started from."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError, number, show
from ..files import Reader, write_whole
from ..model.cache import Cache, DeltaState
from ..model.qwen import Qwen
from ..model.shapes import LINEAR
from ..model.taps import listen
from ..weights.checkpoint.header import lay_out, read_header
from .routers import Cause

NAME = "layers.{}.state"


def states(cache: Cache) -> dict[int, Tensor]:
    """What the delta layers remember now: {layer: [B, H, K, V]}, fp32, copies."""
    return {
        i: memory.state.clone()
        for i, memory in enumerate(cache.layers)
        if isinstance(memory, DeltaState)
    }


def started(model: Qwen, given: Mapping[int, Tensor]) -> Cause:
    """A block in which sequences start from `given`, {layer: [H, K, V]}, not from zero.

    A tuned initial state (arXiv 2604.01168) is one such; gradients reach it. Every
    sequence whose cache is empty starts so, with all its rows; [1, H, K, V], one row of
    `states`, will do too. Nothing else of an earlier text is there: no attention and no
    convolution window. InputError for layers without memory, for shapes, and, when the
    model is called, for a call without a cache.
    """
    text, found = model.cfg.text, {}
    H, K = text.linear_num_value_heads, text.linear_key_head_dim
    shape = (H, K, text.linear_value_head_dim)
    if model.ranks > 1:
        raise InputError("one of several processes has some of the heads alone")
    if not isinstance(given, Mapping):
        raise InputError("states are given by layer, {layer: [H, K, V]}")
    for layer, state in given.items():
        number(layer, "states: layer", int, 0, text.num_hidden_layers - 1)
        if text.layer_types[layer] != LINEAR:
            raise InputError(f"states: layer {layer} has full attention, and no state")
        state = torch.as_tensor(state)
        if state.ndim == 4 and len(state) == 1:
            state = state[0]
        if state.shape != shape or not state.isfinite().all():
            raise InputError(
                f"states: layer {layer} is {list(state.shape)}; expected "
                f"{list(shape)}, all finite"
            )
        found[layer] = state.float()

    def begin(layer, input_ids, cache, **_):
        if cache is None:
            raise InputError(
                "a state can be started from only with a cache; call the model with "
                "cache=model.new_cache(rows, tokens)"
            )
        if cache.length == 0:
            for i, state in found.items():
                rows = state.to(input_ids.device).repeat(cache.batch, 1, 1, 1)
                cache.layers[i].state = rows

    return listen(model, tokens=begin)


def save_states(path: str | Path, given: Mapping[int, Tensor]) -> None:
    """Write {layer: [H, K, V]} as a safetensors file of fp32, layers.L.state."""
    arrays = {
        NAME.format(i): state.detach().float().cpu().contiguous().numpy()
        for i, state in given.items()
    }
    labels = {name: ("F32", array.shape) for name, array in sorted(arrays.items())}
    header, places = lay_out(labels, {})
    write_whole(path, header + b"".join(arrays[name].tobytes() for name in places))


def load_states(path: str | Path) -> dict[int, Tensor]:
    """What `save_states` wrote; InputError for another kind of file."""
    found = {}
    with Reader(path) as file:
        for name, entry in read_header(file)[1].items():
            layer = name.removeprefix("layers.").removesuffix(".state")
            known = layer.isdecimal() and len(layer) < 5 and entry.dtype == "F32"
            if not known or name != NAME.format(layer):
                raise InputError(
                    f"{show(path)}: {show(name)} ({entry.dtype}) is no state; expected "
                    "layers.L.state in F32, as save_states writes it"
                )
            data = np.frombuffer(file.read(entry.nbytes, entry.start), "<f4")
            found[int(layer)] = torch.from_numpy(data.reshape(entry.shape).copy())
    return dict(sorted(found.items()))
