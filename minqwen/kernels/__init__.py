"""Fast forms of what the model part defines, and the one place that chooses.

    torch    anywhere, with gradients: the reference forms themselves
    numba    on a CPU, when no gradient is wanted and numba is installed

Left alone ("auto"), `pick`, `reader` and `decoder` take the fast form where there is
enough to do: numba compiles for half a minute the first time on a machine (and keeps
the result on disk), which a short answer should not wait for. MINQWEN_KERNELS,
`load(..., kernels=)` or `using` force a kind.
"""

import importlib.util
import os
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache, partial

import torch

from ..errors import InputError

KINDS = ("auto", "torch", "numba")
ENOUGH = 256  # tokens to read or to write, from which on "auto" compiles
PATIENCE = 64  # tokens of an answer that "auto" writes first: it may end soon
_forced = ContextVar("kernels", default=None)


@contextmanager
def using(kind):
    """Within the block this kind is taken; "auto" leaves it to the block outside."""
    token = _forced.set(known(kind) if kind != "auto" else _forced.get())
    try:
        yield
    finally:
        _forced.reset(token)


def known(kind):
    """The kind itself; InputError where there is none of that name, or no library."""
    if kind not in KINDS:
        raise InputError(f"kernels={kind!r} is not one of {', '.join(KINDS)}")
    if kind == "numba" and not installed("numba"):
        raise InputError("kernels='numba' needs numba: pip install 'minqwen[cpu]'")
    return kind


@cache
def installed(library):
    return importlib.util.find_spec(library) is not None


def wanted():
    """The kind that was asked for: by a block, by MINQWEN_KERNELS, or "auto"."""
    return _forced.get() or known(os.environ.get("MINQWEN_KERNELS", "auto"))


def available():
    """What `minqwen info` says of this machine's kernels."""
    if wanted() != "auto":
        return f"{wanted()} (MINQWEN_KERNELS)"
    if installed("numba"):
        return f"torch; numba for {ENOUGH} tokens and more on a CPU"
    return "torch (pip install 'minqwen[cpu]' for faster ones on a CPU)"


def kind_for(x, tokens):
    """The kind of kernels for a call on tensor x over so many tokens, never "auto"."""
    kind = wanted()
    if kind == "auto":
        worth = tokens >= ENOUGH and installed("numba")
        kind = "numba" if worth else "torch"
    fit = x.device.type == "cpu" and not torch.is_grad_enabled()
    return kind if fit else "torch"


def pick(name, x):
    """The form of `delta_rule` or `causal_conv` for a first argument x [B, T, ...].

    Every form has the signature and the meaning of the torch ones, which is where to
    read what it does: `delta.delta_recurrent`, `deltanet.causal_conv`.
    """
    from .. import delta, deltanet

    if kind_for(x, x.shape[1]) == "numba":
        from . import cpu

        return getattr(cpu, name)
    if name == "causal_conv":
        return deltanet.causal_conv
    if x.shape[1] == 1:
        return delta.delta_recurrent
    # Chunks no longer than a key is wide: else their own products cost most.
    return partial(delta.delta_chunked, chunk=min(64, x.shape[-1]))


def decoder(model, cache, tokens):
    """What reads a generation's tokens one by one: f(ids [B, 1], cache) -> logits.

    The model itself, or on a CPU, for a single row without padding and `tokens` enough,
    a form of it without torch between two layers (decode.py): at once where it was
    asked for, else when the answer has proved long.
    """

    def plain(ids, cache):
        return model(ids, cache=cache, last_only=True)

    if not loops_for(model, cache, tokens):
        return plain
    from .decode import Decoder

    fast, begun = Decoder(model), cache.length
    with using(model.kernels):
        if wanted() != "auto":
            return fast
    return lambda ids, cache: (fast if cache.length >= begun + PATIENCE else plain)(
        ids, cache
    )


def reader(model, inputs, cache):
    """What reads a whole prompt: f(ids [1, T], cache) -> the last token's logits.

    None where the model itself should, a piece at a time: for a batch, a picture,
    padding, few tokens, on a GPU, or with gradients.
    """
    ids, mask = inputs["input_ids"], inputs.get("attention_mask")
    text = set(inputs) <= {"input_ids", "attention_mask"}
    if not text or not (mask is None or mask.all()):
        return None
    if ids.shape[0] > 1 or not loops_for(model, cache, ids.shape[1]):
        return None
    from .read import Reader

    return Reader(model)


def loops_for(model, cache, tokens):
    """Do the whole-model forms of numba apply to a call over so many tokens?"""
    weight = model.model.language_model.embed_tokens.weight
    single = cache.batch == 1 and cache.real is None
    with using(model.kernels):
        if not single or kind_for(weight, tokens) != "numba":
            return False
    from .decode import suits

    return suits(model)
