"""What a model remembers: a KV store that grows, and states that do not."""

import copy

import torch

from ..errors import InputError
from .shapes import FULL


class KV:
    """Keys and values of one full-attention layer, allocated once.

    k, v [B, Hkv, max_len, K]; the first `length` tokens are filled.
    """

    def __init__(self, batch, heads, max_len, head_dim, dtype, device):
        self.k = torch.zeros(
            batch, heads, max_len, head_dim, dtype=dtype, device=device
        )
        self.v = torch.zeros_like(self.k)
        self.length = 0

    def append(self, k, v):
        """Store k, v [B, Hkv, T, K]; return all so far, [B, Hkv, S, K]."""
        end = self.length + k.shape[2]
        self.k[:, :, self.length : end] = k.detach()
        self.v[:, :, self.length : end] = v.detach()
        self.length = end
        return self.k[:, :, :end], self.v[:, :, :end]


class DeltaState:
    """Memory of one DeltaNet layer: the same size after one token or a million.

    conv [B, W - 1, conv_dim], the last inputs of the convolution, in the model's dtype;
    state [B, H, K, V], fp32.
    """

    def __init__(self, cfg, batch, dtype, device):
        W, H = cfg.linear_conv_kernel_dim, cfg.linear_num_value_heads
        shape = batch, H, cfg.linear_key_head_dim, cfg.linear_value_head_dim
        self.conv = torch.zeros(batch, W - 1, cfg.conv_dim, dtype=dtype, device=device)
        self.state = torch.zeros(shape, dtype=torch.float32, device=device)

    def keep(self, conv, state):
        """Remember these from now on."""
        self.conv, self.state = conv, state


class Cache:
    """All layers' memory, and where each row stands. Made by `Qwen.new_cache`.

    `length` counts tokens, padding included. `real` [B, length] marks padding, or is
    None while there is none. `next_position` [B] is where the next token stands, which
    after a picture is not where counting tokens would put it. No gradient passes
    through a cache.
    """

    def __init__(self, cfg, batch, max_len, dtype, device="cpu"):
        kv = (batch, cfg.num_key_value_heads, max_len, cfg.head_dim, dtype, device)
        self.layers = [
            KV(*kv) if kind == FULL else DeltaState(cfg, batch, dtype, device)
            for kind in cfg.layer_types
        ]
        self.mtp = KV(*kv) if cfg.mtp_num_hidden_layers else None
        self.batch, self.max_len, self.length = batch, max_len, 0
        self.real = None
        self.next_position = torch.zeros(batch, dtype=torch.long, device=device)
        self.marks = {}

    def expect(self, B, T):
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

    def advance(self, real, T, next_position):
        """Note T more tokens; real [B, T] bool or None. Returns [B, length] or None."""
        if real is not None or self.real is not None:
            new = self.next_position.new_ones(self.batch, T, dtype=torch.bool)
            old = self.next_position.new_ones(self.batch, self.length, dtype=torch.bool)
            self.real = torch.cat(
                [
                    old if self.real is None else self.real,
                    new if real is None else real,
                ],
                1,
            )
        self.length += T
        self.next_position = next_position
        return self.real

    def mark(self):
        """Remember this length, so that `cut` can come back to it.

        A recurrent state cannot be unwound, so it is kept: one copy of all of them.
        """
        kept = [
            (layer.conv.clone(), layer.state.clone())
            for layer in self.layers
            if isinstance(layer, DeltaState)
        ]
        drafted = self.mtp.length if self.mtp else 0
        self.marks[self.length] = kept, self.next_position.clone(), drafted

    def cut(self, length):
        """Forget everything after `length` tokens, a length that was marked (or 0)."""
        if length == 0:
            kept = None
            self.next_position = torch.zeros_like(self.next_position)
            drafted = 0
        elif length in self.marks:
            kept, position, drafted = self.marks[length]
            kept, self.next_position = iter(kept), position.clone()
        else:
            raise InputError(
                f"the cache cannot go back to length {length}: recurrent states were "
                f"marked at {sorted(self.marks) or 'none'}; call mark() there first"
            )
        for layer in self.layers:
            if isinstance(layer, KV):
                layer.length = length
            elif kept is None:
                layer.conv = torch.zeros_like(layer.conv)
                layer.state = torch.zeros_like(layer.state)
            else:
                conv, state = next(kept)
                layer.conv, layer.state = conv.clone(), state.clone()
        if self.mtp:
            self.mtp.length = drafted
        self.length = length
        self.real = self.real[:, :length] if self.real is not None and length else None
        self.marks = {n: mark for n, mark in self.marks.items() if n <= length}

    def copy(self):
        """An independent cache with the same content."""
        return copy.deepcopy(self)

    def to(self, device):
        """Move every tensor; returns self."""
        for layer in [*self.layers, *([self.mtp] if self.mtp else [])]:
            for name, value in vars(layer).items():
                if torch.is_tensor(value):
                    setattr(layer, name, value.to(device))
        self.real = None if self.real is None else self.real.to(device)
        self.next_position = self.next_position.to(device)
        for n, (kept, position, drafted) in self.marks.items():
            moved = [(conv.to(device), state.to(device)) for conv, state in kept]
            self.marks[n] = moved, position.to(device), drafted
        return self

    def num_bytes(self):
        """Bytes of KV store (as allocated) and of recurrent memory: {"kv", "state"}."""
        size = {"kv": 0, "state": 0}
        for layer in [*self.layers, *([self.mtp] if self.mtp else [])]:
            part = "kv" if isinstance(layer, KV) else "state"
            size[part] += sum(
                t.nbytes for t in vars(layer).values() if torch.is_tensor(t)
            )
        return size
