"""The numba loops under the names and signatures of the torch forms they stand for."""

import logging

import numba
import torch
from numba.core import event

from ...model.forms import Stored
from . import loops, packed, rounded

CORES = numba.config.NUMBA_NUM_THREADS
COMPILING = "numba compiles its loops: about a minute, once on this machine"


class Wait(event.Listener):
    """Says once why nothing seems to happen; loading from disk does not start it."""

    said = False

    def on_start(self, event):
        if not self.said:
            logging.getLogger(__name__).info(COMPILING)
        self.said = True

    def on_end(self, event):
        pass


WAIT = Wait()
event.register("numba:compile", WAIT)


def numbers(x):
    """A tensor, or a module's weight, as an array; of bfloat16, the bits as uint16.

    What is packed becomes a matrix of packed.py, ggml.py or rounded.py; of experts on
    disk, it is what their cache holds.
    """
    x = getattr(x, "weight", x)
    x = getattr(x, "held", x)
    if isinstance(x, Stored):
        return rounded.matrix(x)
    return packed.bits(x.detach())


def share_threads():
    """As many threads for numba's loops as torch uses; how many torch does."""
    # The first call starts numba's, and where both find one OpenMP library, that sets
    # torch's number too.
    threads = torch.get_num_threads()
    numba.set_num_threads(min(threads, CORES))
    if torch.get_num_threads() != threads:
        torch.set_num_threads(threads)
    return threads


def delta_rule(q, k, v, *, g, beta, state=None):
    """`delta.delta_recurrent`, token by token: what costs is memory, not the loop."""
    B, T, H, V = v.shape
    share_threads()
    out = torch.empty_like(v)
    state = v.new_zeros(B, H, k.shape[-1], V) if state is None else state.clone()
    q, k, v, keep, beta = (numbers(x.contiguous()) for x in (q, k, v, g.exp(), beta))
    if T == 1:
        q, k, v, keep, beta = (x[:, 0] for x in (q, k, v, keep, beta))
        loops.delta_once(q, k, v, keep, beta, state.numpy(), out[:, 0].numpy())
        return out, state
    for b in range(B):
        loops.delta_many(
            q[b], k[b], v[b], keep[b], beta[b], state[b].numpy(), out[b].numpy()
        )  # fmt: skip
    return out, state


def causal_conv(x, weight, window=None):
    """`deltanet.causal_conv` in one pass over x."""
    B, T, channels = x.shape
    W = weight.shape[-1]
    share_threads()
    if window is None:
        window = x.new_zeros(B, W - 1, channels)
    seen = torch.cat([window, x], dim=1)  # [B, W - 1 + T, channels]
    out = torch.empty_like(x)
    taps = weight[:, 0].float().T.contiguous().numpy()  # [W, channels]
    for b in range(B):
        loops.convolve(numbers(seen[b]), taps, numbers(out[b]))
    return out, seen[:, T:].clone()
