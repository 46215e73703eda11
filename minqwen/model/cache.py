"""What a model remembers: a KV store that grows, and states that do not."""

import copy
from typing import Any, Self

import torch
from torch import Tensor

from ..errors import InputError
from .forms import Device, OptTensor
from .shapes import FULL, TextConfig


class KV:
    """Keys and values of one full-attention layer, allocated once for all tokens.

    k, v [B, Hkv, max_len, K]; the first `length` tokens are filled.
    """

    def __init__(
        self,
        batch: int,
        heads: int,
        max_len: int,
        head_dim: int,
        dtype: torch.dtype,
        device: Device,
    ) -> None:
        shape = batch, heads, max_len, head_dim
        # NOTE: no place is read before it is written, so none needs to be zero; a CPU
        # gives memory only then.
        self.k, self.v = (torch.empty(shape, dtype=dtype, device=device) for _ in "kv")
        self.length = 0

    def append(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Store k, v [B, Hkv, T, K]; return all so far, [B, Hkv, S, K]."""
        end = self.length + k.shape[2]
        self.k[:, :, self.length : end] = k.detach()
        self.v[:, :, self.length : end] = v.detach()
        self.length = end
        return self.k[:, :, :end], self.v[:, :, :end]

    def mark(self) -> int:
        return self.length

    def cut(self, mark: int | None) -> None:
        self.length = mark or 0


class DeltaState:
    """Memory of one DeltaNet layer: the same size after one token or a million.

    conv [B, W - 1, conv_dim], the last inputs of the convolution, in the model's dtype;
    state [B, H, K, V], fp32.
    """

    def __init__(
        self, cfg: TextConfig, batch: int, dtype: torch.dtype, device: Device
    ) -> None:
        W, H = cfg.linear_conv_kernel_dim, cfg.linear_num_value_heads
        shape = batch, H, cfg.linear_key_head_dim, cfg.linear_value_head_dim
        self.conv = torch.zeros(batch, W - 1, cfg.conv_dim, dtype=dtype, device=device)
        self.state = torch.zeros(shape, dtype=torch.float32, device=device)

    def keep(self, conv: Tensor, state: Tensor) -> None:
        """Remember these from now on."""
        self.conv, self.state = conv, state

    def mark(self) -> tuple[Tensor, Tensor]:
        # NOTE: a recurrent state cannot be unwound, so going back needs a copy.
        return self.conv.clone(), self.state.clone()

    def cut(self, mark: tuple[Tensor, Tensor] | None) -> None:
        if mark is None:
            mark = torch.zeros_like(self.conv), torch.zeros_like(self.state)
        self.conv, self.state = (old.clone() for old in mark)


class Cache:
    """All layers' memory, and where each row stands. Made by `Qwen.new_cache`.

    `length` counts tokens, padding included. `real` [B, length] marks padding, or is
    None while there is none. `next_position` [B] is where the next token stands, which
    after a picture is not where counting tokens would put it. No gradient passes
    through a cache.
    """

    def __init__(
        self,
        cfg: TextConfig,
        batch: int,
        max_len: int,
        dtype: torch.dtype,
        device: Device = "cpu",
    ) -> None:
        kv = (batch, cfg.num_key_value_heads, max_len, cfg.head_dim, dtype, device)
        self.layers = [
            KV(*kv) if kind == FULL else DeltaState(cfg, batch, dtype, device)
            for kind in cfg.layer_types
        ]
        self.mtp = KV(*kv) if cfg.mtp_num_hidden_layers else None
        self.batch, self.max_len, self.length = batch, max_len, 0
        self.real: OptTensor = None
        self.next_position = torch.zeros(batch, dtype=torch.long, device=device)
        self.marks: dict[int, tuple[list, Tensor]] = {}  # length: memories', positions

    def memories(self) -> list[KV | DeltaState]:
        """Those of the layers, and of the draft head if there is one."""
        return [*self.layers, *([self.mtp] if self.mtp else [])]

    def expect(self, B: int, T: int) -> None:
        """InputError, before anything is changed, if B rows of T more do not fit."""
        if B != self.batch:
            raise InputError(
                f"the cache was made for {self.batch} rows, the input has {B}; "
                "make one with new_cache(batch, max_len)"
            )
        if self.length + T > self.max_len:
            raise InputError(
                f"the cache holds {self.max_len} tokens and {self.length + T} are "
                "needed; make it with new_cache(batch, max_len) and a larger max_len"
            )
        if any(isinstance(x, KV) and x.length != self.length for x in self.layers):
            raise InputError(
                "the cache was left half-written by a call that failed; cut it back "
                "to 0 or to a length that was marked, or make a new one"
            )

    def advance(self, real: OptTensor, T: int, next_position: Tensor) -> OptTensor:
        """Note T more tokens; real [B, T] bool or None. Returns [B, length] or None."""
        if real is not None or self.real is not None:
            shape = self.batch, self.length + T
            whole = torch.ones(shape, dtype=torch.bool, device=next_position.device)
            if self.real is not None:
                whole[:, : self.length] = self.real
            if real is not None:
                whole[:, self.length :] = real
            self.real = whole
        self.length += T
        self.next_position = next_position
        return self.real

    def mark(self) -> None:
        """Remember this length, so that `cut` can come back to it."""
        kept = [memory.mark() for memory in self.memories()]
        self.marks[self.length] = kept, self.next_position.clone()

    def cut(self, length: int) -> None:
        """Forget everything after `length` tokens, a length that was marked (or 0)."""
        if length and length not in self.marks:
            raise InputError(
                f"the cache cannot go back to length {length}: recurrent states were "
                f"marked at {sorted(self.marks) or 'none'}; call mark() there first"
            )
        kept: list[Any] = [None] * len(self.memories())
        position = torch.zeros_like(self.next_position)
        if length:
            kept, position = self.marks[length]
        for memory, mark in zip(self.memories(), kept, strict=True):
            memory.cut(mark)
        self.length, self.next_position = length, position.clone()
        self.real = self.real[:, :length] if self.real is not None and length else None
        self.marks = {n: mark for n, mark in self.marks.items() if n <= length}

    def copy(self) -> Self:
        """An independent cache with the same content."""
        return copy.deepcopy(self)

    def to(self, device: Device) -> Self:
        """Move every tensor; returns self."""
        for holder in (self, *self.memories()):
            for name, value in vars(holder).items():
                setattr(holder, name, _moved(value, device))
        return self

    def num_bytes(self) -> dict[str, int]:
        """Bytes of KV store (as allocated) and of recurrent memory: {"kv", "state"}."""
        size = {"kv": 0, "state": 0}
        for layer in self.memories():
            part = "kv" if isinstance(layer, KV) else "state"
            tensors = (x for x in vars(layer).values() if isinstance(x, Tensor))
            size[part] += sum(x.nbytes for x in tensors)
        return size


def _moved(value: Any, device: Device) -> Any:
    """The same, with every tensor in it on that device."""
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, list | tuple):
        return type(value)(_moved(each, device) for each in value)
    if isinstance(value, dict):
        return {key: _moved(each, device) for key, each in value.items()}
    return value
