"""The kind "train": forms with gradients written by hand, for the trainer on a CPU.

Most of what a small model costs on a CPU is not products but passes over memory, some
dozens of them for one delta layer; here each is one or two (memory.py, norms.py), and
so is the way back. They need numba. Without it, or for a call that they are not made
for, the torch forms run, and the results are the same but for rounding.
"""

import torch

from ..kernels import installed
from ..model.forms import register, register_kind
from ..model.taps import heard

WIDEST = 32  # a key of the delta rule


def plain(x, *_, **__):
    """fp32 in the CPU's memory."""
    return x.dtype == torch.float32 and x.device.type == "cpu" and installed("numba")


def whole_rows(qkv, x, mixer, window=None, state=None):
    """Rows from their first token on, to whose rule and state nobody listens."""
    fresh = window is None and state is None
    unheard = not (heard("rule") or heard("state"))
    return plain(qkv) and fresh and unheard and mixer.head_k_dim <= WIDEST


register_kind("train")
register("remember", "train", f"{__package__}.memory:remember", fits=whole_rows)
register("rms_norm", "train", f"{__package__}.norms:rms_norm", fits=plain)
register("gated_rms_norm", "train", f"{__package__}.norms:gated_rms_norm", fits=plain)
