"""Fast forms of what the model part defines, and the one place that chooses.

    torch    anywhere, with gradients: the reference forms themselves
    numba    on a CPU, when no gradient is wanted and numba is installed
    triton   on an NVIDIA GPU: our kernels, in gpu/
    fla      on an NVIDIA GPU, only if asked for: the rule of flash-linear-attention

Left alone ("auto"), `pick`, `reader` and `decoder` take the fast form where there is
enough to do: numba compiles for half a minute the first time on a machine (and keeps
the result on disk), which a short answer should not wait for. MINQWEN_KERNELS,
`load(..., kernels=)` or `using` force a kind. An optional library that is missing, or
that is installed where it has no GPU to run on, is never a reason to fail, unless it
was asked for by name.
"""

import importlib.util
import os
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache, partial

import torch

from ..errors import InputError

KINDS = ("auto", "torch", "numba", "triton", "fla")
ENOUGH = 256  # tokens to read or to write, from which on "auto" compiles
PATIENCE = 64  # tokens of an answer that "auto" writes first: it may end soon
RECORDED = 8  # tokens of an answer for which recording a CUDA graph is worth while
ON_GPU = {
    "triton": ("triton", "'minqwen[gpu]'"),
    "fla": ("fla", "flash-linear-attention"),
}
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
    if kind in ON_GPU:
        library, extra = ON_GPU[kind]
        if not installed(library):
            raise InputError(f"kernels={kind!r} needs {kind}: pip install {extra}")
        if not (suited("cuda") or interpreted(kind)):
            raise InputError(
                f"kernels={kind!r} needs an NVIDIA GPU of compute capability 8.0 or "
                "more; 'auto' takes what this machine can run"
            )
    return kind


@cache
def installed(library):
    return importlib.util.find_spec(library) is not None


@cache
def suited(device):
    """Is this a device that the kernels of ON_GPU are written for?"""
    device = torch.device(device)
    return (
        device.type == "cuda"
        and torch.version.cuda is not None
        and torch.cuda.is_available()
        and torch.cuda.get_device_capability(device) >= (8, 0)
    )


def interpreted(kind):
    """Triton's interpreter runs its kernels anywhere, a thousand times slower."""
    return kind == "triton" and os.environ.get("TRITON_INTERPRET") == "1"


def wanted():
    """The kind that was asked for: by a block, by MINQWEN_KERNELS, or "auto"."""
    return _forced.get() or known(os.environ.get("MINQWEN_KERNELS", "auto"))


def available():
    """What `minqwen info` says of this machine's kernels."""
    if wanted() != "auto":
        return f"{wanted()} (MINQWEN_KERNELS)"
    if suited("cuda") and installed("triton"):
        return "triton on the GPU"
    if installed("numba"):
        return f"torch; numba for {ENOUGH} tokens and more on a CPU"
    return "torch (pip install 'minqwen[cpu]' for faster ones on a CPU)"


def kind_for(x, tokens):
    """The kind of kernels for a call on tensor x over so many tokens, never "auto"."""
    kind = wanted()
    if kind == "auto" and x.device.type == "cuda":
        kind = "triton" if installed("triton") and suited(x.device) else "torch"
    elif kind == "auto":
        worth = tokens >= ENOUGH and installed("numba")
        kind = "numba" if worth else "torch"
    if kind == "numba":
        fit = x.device.type == "cpu" and not torch.is_grad_enabled()
    elif kind in ON_GPU:
        if x.device.type == "cpu" and not interpreted(kind):
            raise InputError(
                f"kernels={kind!r} cannot work on a model in the CPU's memory; "
                "load it with device='cuda'"
            )
        fit = x.device.type != "meta" and x.dtype != torch.float64
    else:
        fit = True
    return kind if fit else "torch"


def pick(name, x):
    """The form of `delta_rule` or `causal_conv` for a first argument x [B, T, ...].

    Every form has the signature and the meaning of the torch ones, which is where to
    read what it does: `delta.delta_recurrent`, `deltanet.causal_conv`.
    """
    from .. import delta, deltanet

    kind = kind_for(x, x.shape[1])
    if kind == "numba":
        from . import cpu

        return getattr(cpu, name)
    # Of our convolutions only torch's has a gradient, and fla's has other arguments.
    if kind == "triton" and (name == "delta_rule" or not torch.is_grad_enabled()):
        from . import gpu

        return getattr(gpu, name)
    if kind == "fla" and name == "delta_rule":
        from .fla import delta_rule

        return delta_rule
    if name == "causal_conv":
        return deltanet.causal_conv
    if x.shape[1] == 1:
        return delta.delta_recurrent
    # Chunks no longer than a key is wide: else their own products cost most.
    return partial(delta.delta_chunked, chunk=min(64, x.shape[-1]))


def dress(model):
    """Let a model's norms, routers, experts and delta layers run in gpu/ where it can.

    Their own forward stays what runs with gradients, under another kind, or elsewhere.
    """
    weight = model.model.language_model.embed_tokens.weight
    with using(model.kernels):
        if kind_for(weight, ENOUGH) == "triton":
            from .gpu.layers import dress

            dress(model)


def decoder(model, cache, tokens):
    """What reads a generation's tokens one by one: f(ids [B, 1], cache) -> logits.

    The model itself, or for a single row without padding a form of it without Python
    between two layers: on a GPU a recorded graph (graph.py); on a CPU, for `tokens`
    enough, compiled loops (decode.py), at once where they were asked for, else when the
    answer has proved long.
    """

    def plain(ids, cache):
        return model(ids, cache=cache, last_only=True)

    weight = model.model.language_model.embed_tokens.weight
    single = cache.batch == 1 and cache.real is None
    with using(model.kernels):
        kind = kind_for(weight, tokens)
    if single and kind == "triton" and weight.is_cuda and tokens >= RECORDED:
        from . import graph

        return graph.Decoder(model) if graph.suits(model) else plain
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
