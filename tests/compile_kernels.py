"""Compile every Triton kernel as 397B would launch it, for GPUs that are not here.

    python -m tests.compile_kernels 80 90 100

Calls the package's own functions on tensors without memory, takes note of what they
launch instead of launching it, and hands that to Triton's compiler. Prints one JSON
object for each kernel and architecture: shared memory in bytes, wgmma instructions in
the PTX, registers a thread and bytes spilled as ptxas counts them.
"""

import contextlib
import io
import json
import os
import re
import sys
import tempfile
from functools import partial

os.environ.pop("TRITON_INTERPRET", None)  # before Triton is imported

import torch  # noqa: E402
import triton  # noqa: E402
from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.compiler import ASTSource  # noqa: E402
from triton.runtime.jit import JITFunction  # noqa: E402

from minqwen.kernels import gpu  # noqa: E402
from minqwen.model.config import Config  # noqa: E402
from minqwen.weights.quantised.modules import Packed  # noqa: E402

TYPES = {torch.bfloat16: "*bf16", torch.float16: "*fp16", torch.float32: "*fp32",
         torch.int64: "*i64", torch.uint8: "*u8"}  # fmt: skip


def launches(call):
    """[(kernel, arguments by name, options)] of all launches that `call` would make."""
    found = []

    def note(self, *args, grid, warmup, **kwargs):
        arguments = dict(zip(self.arg_names, args, strict=False)) | kwargs
        options = {k: arguments.pop(k) for k in kwargs if k not in self.arg_names}
        found.append((self, arguments, options))

    run, JITFunction.run = JITFunction.run, note
    try:
        call()
    finally:
        JITFunction.run = run
    return found


def source(kernel, arguments):
    """What Triton's own launcher would compile for these arguments."""
    signature, constants, facts = {}, {}, {}
    for i, parameter in enumerate(kernel.params):
        name, value = parameter.name, arguments[parameter.name]
        if parameter.is_constexpr or value is None:
            signature[name], constants[(i,)] = "constexpr", value
        elif torch.is_tensor(value):
            signature[name] = TYPES[value.dtype]
            facts[(i,)] = [["tt.divisibility", 16]]
        else:
            signature[name] = "fp32" if isinstance(value, float) else "i32"
    return ASTSource(kernel, signature, constants, facts)


def compile_for(cc, kernel, arguments, options):
    log = io.StringIO()
    with contextlib.redirect_stdout(log):  # ptxas -v is printed
        target = GPUTarget("cuda", cc, 32)
        done = triton.compile(source(kernel, arguments), target=target, options=options)
    return {
        "kernel": kernel.__name__,
        "form": arguments.get("FORM"),
        "cc": cc,
        "shared": done.metadata.shared,
        "wgmma": done.asm["ptx"].count("wgmma.mma_async"),
        "cubin": len(done.asm["cubin"]),
        "registers": max(map(int, re.findall(r"Used (\d+) registers", log.getvalue()))),
        "spilled": sum(map(int, re.findall(r"(\d+) bytes spill", log.getvalue()))),
    }


def calls(dtype, T=4096):
    """The package's kernels at the sizes of a layer of 397B, T tokens."""
    t = Config.named("397B-A17B").text
    D, Hk, K = t.hidden_size, t.linear_num_key_heads, t.linear_key_head_dim
    H, V, E = t.linear_num_value_heads, t.linear_value_head_dim, t.num_experts

    def new(*shape, dtype=dtype):
        return torch.empty(shape, dtype=dtype, device="meta")

    def rule():
        q, k = (new(1, T, Hk, K).requires_grad_() for _ in range(2))
        g, beta = new(1, T, H, dtype=torch.float32), new(1, T, H, dtype=torch.float32)
        o, last = gpu.delta_rule(q, k, new(1, T, H, V), g=g, beta=beta)
        torch.autograd.grad((o, last), q, (o, last))

    def token():
        gpu.delta_token(
            new(1, t.conv_dim), new(1, H), new(1, H), weight=new(t.conv_dim, 1, 4),
            window=new(1, 3, t.conv_dim), A_log=new(H, dtype=torch.float32),
            dt_bias=new(H), state=new(1, H, K, V, dtype=torch.float32),
        )  # fmt: skip

    def weight(form, kind, *shape):
        with torch.device("meta"):
            return Packed(form, kind, shape, dtype) if form else new(*shape)

    def routed(N, form=None):
        width = t.moe_intermediate_size
        ids = torch.empty(N, t.num_experts_per_tok, dtype=torch.int64, device="meta")
        gpu.experts(new(N, D), new(*ids.shape), ids,
                    weight(form, "gate_up_proj", E, 2 * width, D),
                    weight(form, "down_proj", E, D, width))  # fmt: skip

    def packed(form, N):
        gpu.linear(new(1, N, D), weight(form, "weight", t.conv_dim, D))
        routed(N, form)

    return {
        "rule": rule,
        "token": token,
        "convolution": lambda: gpu.causal_conv(
            new(1, T, t.conv_dim), new(t.conv_dim, 1, 4)
        ),
        "norm": lambda: gpu.rms_norm(new(1, T, D), new(D), 1e-6),
        "gated norm": lambda: gpu.gated_rms_norm(
            new(1, T, H, V), new(1, T, H, V), new(V, dtype=torch.float32), 1e-6
        ),
        "router": lambda: gpu.route(new(T, E), t.num_experts_per_tok),
        "experts, one token": lambda: routed(1),
        "experts, many": lambda: routed(T),
    } | {
        f"{form}, {word}": partial(packed, form, N)
        for form in ("int8", "int4", "fp8")
        for word, N in (("one token", 1), ("many", T))
    }


def main(*ccs):
    triton.knobs.nvidia.dump_ptxas_log = True
    with tempfile.TemporaryDirectory() as folder:
        triton.knobs.cache.dir = folder  # an empty one, so that ptxas runs and speaks
        for dtype in (torch.bfloat16, torch.float32):
            for kernel, arguments, options in distinct(calls(dtype), dtype):
                # fp32 is for comparing: sm_80, with the least shared memory, will do.
                # Packed ones go through the same compiler three times over.
                few = 1 if dtype == torch.float32 else 2 if arguments.get("FORM") else 3
                for cc in map(int, ccs[:few]):
                    found = compile_for(cc, kernel, arguments, options)
                    found["dtype"] = str(dtype).removeprefix("torch.")
                    print(json.dumps(found), flush=True)


def distinct(calls, dtype):
    """Each kernel once, `carry` in both its modes, others in all forms of weights;

    in fp32, those with products.
    """
    if dtype == torch.float32:
        calls = {x: calls[x] for x in ("rule", "experts, many", "int8, many")}
    found = {}
    for launch in [x for call in calls.values() for x in launches(call)]:
        kernel, arguments, _ = launch
        mode = arguments.get("o") if kernel.__name__ == "carry" else None
        form = arguments.get("FORM")
        found.setdefault((kernel.__name__, mode is None, form), launch)
    return found.values()


if __name__ == "__main__":
    main(*sys.argv[1:])
