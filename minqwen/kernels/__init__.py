"""Fast forms of the model part's operations, and which of them a machine can run.

    torch    anywhere, with gradients: the reference forms themselves
    numba    on a CPU, when no gradient is wanted and numba is installed
    triton   on an NVIDIA GPU: our kernels, in gpu/
    fla      on an NVIDIA GPU, only if asked for: the rule of flash-linear-attention
    train    on a CPU, fp32, only if asked for: what the trainer takes, with gradients

This file puts them into the table of forms.py by name; each is imported when it is
first taken. Left alone ("auto"), a fast form is taken where there is enough to do:
numba compiles for half a minute the first time on a machine (and keeps the result on
disk), which a short answer should not wait for, unless the model is so large, or
packed, that even that takes longer without. An optional library that is missing, or
that is installed where it has no GPU to run on, is never a reason to fail, unless it
was asked for by name.
"""

import importlib.util
import os
from functools import cache, partial

import torch

from ..errors import InputError
from ..model.forms import Stored, register, register_kind
from ..model.taps import heard

ENOUGH = 256  # tokens to read or to write, from which on "auto" compiles
MUCH = 1 << 35  # weights to multiply with, from which on it does so for fewer tokens
UNPACKING = 10  # what a packed one counts for: torch takes 5 to 23 times as long
PATIENCE = 64  # tokens of an answer that "auto" writes first: it may end soon
RECORDED = 8  # tokens of an answer for which recording a CUDA graph is worth while
WIDE = 256  # no head of attention is wider in the compiled loops
NARROW = 32  # no head of the delta rule is wider in those for training
GROUPED = ("int8", "int4", "fp8", "fp8 f32")  # what Triton multiplies as it lies
GGML = ("Q8_0", "Q4_K", "Q5_K", "Q6_K")  # llama.cpp's forms
PACKED = (*GROUPED, *GGML)  # what the compiled loops multiply
ON_GPU = {
    "triton": ("triton", "'minqwen[gpu]'"),
    "fla": ("fla", "flash-linear-attention"),
}


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


def check_numba():
    if not installed("numba"):
        raise InputError("kernels='numba' needs numba: pip install 'minqwen[cpu]'")


def check_gpu(kind):
    library, extra = ON_GPU[kind]
    if not installed(library):
        raise InputError(f"kernels={kind!r} needs {kind}: pip install {extra}")
    if not (suited("cuda") or interpreted(kind)):
        raise InputError(
            f"kernels={kind!r} needs an NVIDIA GPU of compute capability 8.0 or "
            "more; 'auto' takes what this machine can run"
        )


def on_cpu(x, *_, **__):
    return x.device.type == "cpu" and not torch.is_grad_enabled()


def long_on_cpu(x, *_, **__):
    return x.shape[1] >= ENOUGH and on_cpu(x) and installed("numba")


def learning_on_gpu(kind, x, *_, **__):
    """A call with or without gradients that a kernel for the GPU can take."""
    if x.device.type == "cpu" and not interpreted(kind):
        raise InputError(
            f"kernels={kind!r} cannot work on a model in the CPU's memory; "
            "load it with device='cuda'"
        )
    return x.device.type != "meta" and x.dtype != torch.float64


def on_gpu(kind, x, *_, **__):
    return learning_on_gpu(kind, x) and not torch.is_grad_enabled()


def weighing_on_gpu(x, *args):
    """A product with a weight, which takes x as it is, unrounded."""
    return on_gpu("triton", x) and not getattr(args[-1], "rounded", False)


def here(x, *_, **__):
    """Is x where "auto" takes Triton?"""
    return x.device.type == "cuda" and installed("triton") and suited(x.device)


def learning_on_cpu(*values, **_):
    """fp32 tensors in the CPU's memory. Without numba the torch forms train as well."""
    kinds = {(x.dtype, x.device.type) for x in values if torch.is_tensor(x)}
    return kinds == {(torch.float32, "cpu")} and installed("numba")


def learning_rows(qkv, x, mixer, window=None, state=None):
    """Rows from their first token on, to whose rule and state nobody listens."""
    fresh = window is None and state is None
    unheard = not (heard("rule") or heard("state"))
    narrow = max(mixer.head_k_dim, mixer.head_v_dim) <= NARROW
    return fresh and unheard and narrow and learning_on_cpu(qkv, x, mixer.conv1d.weight)


def single(model, cache):
    """One row without padding, of a model whose weights Triton multiplies."""
    known = all(m.form in GROUPED and not m.rounded for m in stored(model))
    return alone(cache) and known


def alone(cache):
    return cache.batch == 1 and cache.real is None


def stored(model):
    """Its weights that are no plain tensors."""
    return (m for m in model.modules() if isinstance(m, Stored))


def whole_on_cpu(model, cache, tokens):
    """On a CPU, fp32 or bf16, as trained or in a form that the loops multiply.

    Its experts may be on disk, if they are in such a form there.
    """
    kinds = {(p.device.type, p.dtype) for p in model.parameters()}
    fit = kinds <= {("cpu", torch.float32), ("cpu", torch.bfloat16)}
    narrow = model.cfg.text.head_dim <= WIDE
    held = (getattr(m, "held", m) for m in stored(model))
    known = all(m.form in PACKED for m in held if isinstance(m, Stored))
    return fit and narrow and known and not torch.is_grad_enabled() and alone(cache)


def heavy(model, tokens):
    """Would so few tokens already take in torch about as long as compiling does?"""
    held = (getattr(m, "held", m) for m in stored(model))
    packed = any(getattr(m, "form", None) in PACKED for m in held)
    weights = model.num_parameters()["active"] * (UNPACKING if packed else 1)
    return tokens * weights >= MUCH


def long_whole_on_cpu(model, cache, tokens):
    here = model.device.type == "cpu" and installed("numba")
    return here and (tokens >= ENOUGH or heavy(model, tokens))


def whole_on_gpu(model, cache, tokens):
    return model.device.type == "cuda" and tokens >= RECORDED and single(model, cache)


register_kind("numba", check_numba, f"for {ENOUGH} tokens and more on a CPU")
register_kind("triton", partial(check_gpu, "triton"), "on a GPU")
register_kind("fla", partial(check_gpu, "fla"))
register_kind("train")

for name in ("causal_conv", "delta_rule"):
    register(name, "numba", f"{__name__}.cpu:{name}", fits=on_cpu, auto=long_on_cpu)
register("step", "numba", f"{__name__}.cpu.decode:step",
         fits=whole_on_cpu, auto=long_whole_on_cpu)  # fmt: skip
register("read", "numba", f"{__name__}.cpu.read:read",
         fits=whole_on_cpu, auto=long_whole_on_cpu)  # fmt: skip
for name in "rms_norm gated_rms_norm causal_conv route".split():
    register(name, "triton", f"{__name__}.gpu:{name}",
             fits=partial(on_gpu, "triton"), auto=here)  # fmt: skip
for name, takes in ("experts", (None, *GROUPED)), ("linear", GROUPED):
    register(name, "triton", f"{__name__}.gpu:{name}", takes=takes,
             fits=weighing_on_gpu, auto=here)  # fmt: skip
for name in ("delta_rule", "remember"):  # these two have gradients
    register(name, "triton", f"{__name__}.gpu:{name}",
             fits=partial(learning_on_gpu, "triton"), auto=here)  # fmt: skip
register("step", "triton", f"{__name__}.gpu.graph:step", fits=whole_on_gpu, auto=here)
register("delta_rule", "fla", f"{__name__}.fla:delta_rule",
         fits=partial(learning_on_gpu, "fla"))  # fmt: skip
register("remember", "train", f"{__name__}.train:remember", fits=learning_rows)
for name in ("rms_norm", "gated_rms_norm"):
    register(name, "train", f"{__name__}.train:{name}", fits=learning_on_cpu)
