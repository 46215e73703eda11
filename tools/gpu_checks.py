"""All that only a GPU can say of the kernels, in two calls.

    python -m tools.gpu_checks tests    every kernel beside float64, there, bf16 too
    python -m tools.gpu_checks bench    times beside torch and fla, and a slice of 397B

The second prints its figures and writes them as JSON. fla takes flash-qla's kernels by
itself where that is installed: run it once without and once with, for both figures.
Kernel times are medians over Triton's `do_bench`, which clears the L2 cache between
runs. The slice is as many layers of 397B at true width, with embedding and head, as fit
(eight take 110 GB in bf16), random weights made on the device; transformers, with fla
if it is installed, takes turns with it on the same weights. `--dry-run` says what would
be done, and needs no GPU.
"""

import argparse
import dataclasses
import json
import statistics
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import torch

from minqwen.bench.machine import version_of
from minqwen.engine.generate import decoder
from minqwen.files import as_json, write_whole
from minqwen.kernels import suited
from minqwen.model.config import FULL, Config
from minqwen.model.qwen import Qwen
from minqwen.plan.budget import step_bytes

LENGTHS = [2048 << i for i in range(6)]  # 2K to 64K
GROUP = 4  # layers: three of DeltaNet and one of attention
LAYER_BYTES = 13.3e9  # of 397B in bf16, nearly all of it experts
ENDS_BYTES = 4.1e9  # embedding and head
BENCHES = ("rule", "token", "experts", "packed", "slice")
LIBRARIES = ("torch", "triton", "transformers", "flash-linear-attention", "flash-qla")


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("call", choices=("tests", "bench"))
    parser.add_argument("--only", nargs="+", choices=BENCHES, default=BENCHES)
    parser.add_argument("--out", type=Path, default=Path("gpu_checks.json"))
    parser.add_argument("--dry-run", action="store_true")
    options = parser.parse_args(arguments)
    found = {name: version_of(name) for name in LIBRARIES}
    plan = ["tests/test_gpu_*.py"] if options.call == "tests" else list(options.only)
    if options.dry_run:
        print(json.dumps({"would run": plan, "installed": found}, indent=1))
        return 0
    if not suited("cuda"):
        print("gpu_checks: needs an NVIDIA GPU of compute capability 8.0 or more; "
              "--dry-run says what it would do", file=sys.stderr)  # fmt: skip
        return 1
    if options.call == "tests":
        return run_tests()
    result = {"gpu": torch.cuda.get_device_name(), "versions": found,
              "bytes a second": bandwidth()}  # fmt: skip
    for name in plan:
        try:
            result[name] = globals()[name](result["bytes a second"])
        except Exception as error:  # what was measured before must not be lost
            result[name] = {"failed": f"{type(error).__name__}: {error}"}
        print(name, json.dumps(result[name], indent=1), flush=True)
        write_whole(options.out, as_json(result))
    return int(any("failed" in result[name] for name in plan))


def run_tests():
    files = sorted(Path(__file__).parents[1].glob("tests/test_gpu_*.py"))
    return subprocess.run([sys.executable, "-m", "pytest", "-q", *files]).returncode


def milliseconds(call, *args, **kwargs):
    from triton.testing import do_bench

    with torch.inference_mode():
        return do_bench(partial(call, *args, **kwargs), return_mode="median")


def bandwidth(size=1 << 31):
    """Bytes a second of a copy: half is read, half written."""
    x = torch.empty(size, dtype=torch.uint8, device="cuda")
    return 2e3 * size / milliseconds(x.clone)


# ---- kernels


def rule(_):
    """The chunked rule forward, 16 key and 64 value heads of 128: ms by length."""
    from minqwen.kernels import fla, gpu

    forms = {"ours": gpu.delta_rule}
    if version_of("flash-linear-attention"):
        forms["fla"] = fla.delta_rule
    found = {name: {} for name in forms}
    for T in LENGTHS:
        q, k = (torch.randn(1, T, 16, 128, device="cuda") for _ in range(2))
        q, k = (torch.nn.functional.normalize(x, dim=-1).bfloat16() for x in (q, k))
        v = torch.randn(1, T, 64, 128, device="cuda", dtype=torch.bfloat16)
        g, beta = -torch.rand(1, T, 64, device="cuda") / 10, torch.rand_like(v[..., 0])
        for name, form in forms.items():
            found[name][T] = milliseconds(form, q, k, v, g=g, beta=beta)
    return found | {"growth": growth(found["ours"])}


def growth(times):
    """How much more a token costs at the longest length than at a quarter of it."""
    longest = max(times)
    return times[longest] / times[longest // 4] / 4


def token(speed):
    """The fused step: ms, and the share of memory bandwidth, by rows."""
    from minqwen.kernels import gpu

    def new(*shape, dtype=torch.bfloat16):
        return torch.randn(*shape, device="cuda", dtype=dtype)

    found = {}
    for B in (1, 4, 16, 64):
        state = new(B, 64, 128, 128, dtype=torch.float32)
        fixed = dict(
            weight=new(12288, 1, 4), window=new(B, 3, 12288), dt_bias=new(64),
            A_log=new(64, dtype=torch.float32), state=state,
        )  # fmt: skip
        qkv, a, b = new(B, 12288), new(B, 64), new(B, 64)
        ms = milliseconds(gpu.delta_token, qkv, a, b, **fixed)
        found[B] = {"ms": ms, "share": 2 * state.nbytes / (ms / 1e3) / speed}
    return found


def experts(speed):
    """A layer's 512 experts, ten a token: ms beside torch's grouped_mm, by tokens."""
    from minqwen.kernels import gpu
    from minqwen.model.moe import Experts

    with torch.device("meta"):
        module = Experts(4096, 512, 1024).to(torch.bfloat16)
    module = module.to_empty(device="cuda").requires_grad_(False)
    for p in module.parameters():
        p.normal_(0, p.shape[-1] ** -0.5)
    found = {}
    for N in (1, 4, 8, 64, 512, 2048, 8192):
        x = torch.randn(N, 4096, device="cuda", dtype=torch.bfloat16)
        ids = torch.rand(N, 512, device="cuda").topk(10)[1]
        weights = torch.rand(N, 10, device="cuda", dtype=torch.bfloat16)
        matrices = module.gate_up_proj, module.down_proj
        mine = milliseconds(gpu.experts, x, weights, ids, *matrices)
        torchs = milliseconds(module, x, weights, ids)
        read = len(ids.unique()) * 3 * 4096 * 1024 * 2
        found[N] = {"ms": mine, "torch ms": torchs, "share": read / mine * 1e3 / speed,
                    "TFLOP/s": N * 10 * 6 * 4096 * 1024 / mine / 1e9}  # fmt: skip
    return found


def packed(speed):
    """[12288, 4096], and a layer's experts, as they lie: ms by form and rows of x."""
    from minqwen.kernels import gpu
    from minqwen.weights.quantised.modules import Packed

    def weight(form, kind, *shape):
        with torch.device("cuda"):
            found = Packed(form, kind, shape, torch.bfloat16)
        for buffer in found.buffers():
            buffer.view(torch.uint8).fill_(60)  # as codes and as scales no odd numbers
        return found

    def new(*shape):
        return torch.randn(*shape, device="cuda", dtype=torch.bfloat16)

    plain, found = new(12288, 4096), {"bf16": {}}
    for N in (rows := (1, 4, 16, 64, 512, 4096)):
        ms = milliseconds(torch.nn.functional.linear, new(N, 4096), plain)
        found["bf16"][N] = {"ms": ms, "share": plain.nbytes / ms * 1e3 / speed}
    for form in ("int8", "int4", "fp8"):
        w, found[form] = weight(form, "weight", *plain.shape), {}
        matrices = (weight(form, "gate_up_proj", 512, 2048, 4096),
                    weight(form, "down_proj", 512, 4096, 1024))  # fmt: skip
        read = sum(buffer.nbytes for buffer in w.buffers())
        for N in rows:
            x, ids = new(N, 4096), torch.rand(N, 512, device="cuda").topk(10)[1]
            ms = milliseconds(gpu.linear, x, w)
            routed = milliseconds(gpu.experts, x, new(N, 10), ids, *matrices)
            share = read / ms * 1e3 / speed
            found[form][N] = {"ms": ms, "share": share, "experts, ms": routed}
    return found


# ---- a slice of the whole


def layers_that_fit(memory):
    """Whole groups of four layers, at most eight, with a tenth of memory left over."""
    groups = int((0.9 * memory - ENDS_BYTES) // (GROUP * LAYER_BYTES))
    return max(0, min(2, groups)) * GROUP


def slice_config(layers, full=False):
    """397B cut to so many layers; with `full`, attention in every one of them."""
    big = Config.named("397B-A17B")
    kinds = (FULL,) * layers if full else big.text.layer_types[:layers]
    text = dataclasses.replace(big.text, num_hidden_layers=layers, layer_types=kinds,
                               mtp_num_hidden_layers=0)  # fmt: skip
    values = dataclasses.replace(big, text=text, vision=None,
                                 model_type="qwen3_5_moe_text")  # fmt: skip
    return Config.from_dict(values.to_dict())


def random_model(cfg):
    with torch.device("meta"):
        model = Qwen(cfg).to(torch.bfloat16)
    model = model.to_empty(device="cuda").eval().requires_grad_(False)
    for name, p in model.named_parameters():
        if p.dim() == 1:
            p.fill_(1.0 if "linear_attn.norm" in name else 0.0)
        else:
            p.normal_(0, 1 if "embed" in name else p.shape[-1] ** -0.5)
    return model


def seconds(call, *args, **kwargs):
    torch.cuda.synchronize()
    begun = time.perf_counter()
    call(*args, **kwargs)
    torch.cuda.synchronize()
    return time.perf_counter() - begun


def decode_seconds(model, context, steps=32):
    """Median seconds a token after `context` tokens, whose values do not matter."""
    cache = model.new_cache(1, context + steps + 8)
    cache.length = context
    cache.next_position += context
    for layer in cache.layers:
        if hasattr(layer, "length"):
            layer.length = context
    step = decoder(model, cache, steps)
    ids = torch.zeros(1, 1, dtype=torch.long, device="cuda")
    for _ in range(4):
        step(ids, cache)
    return statistics.median(seconds(step, ids, cache) for _ in range(steps))


@torch.inference_mode()
def slice(speed):
    """Prefill and decode of the layers that fit, beside transformers on the same."""
    layers = layers_that_fit(torch.cuda.get_device_properties(0).total_memory)
    if not layers:
        return {"failed": "not even four layers of 397B fit into this GPU's memory"}
    found, model = {"layers": layers}, random_model(slice_config(layers))
    found["decode"] = decode_table(model, speed)
    found["prefill"] = prefill_table(model)
    if version_of("transformers"):
        found["transformers"] = beside(model)
    del model
    torch.cuda.empty_cache()
    full = random_model(slice_config(layers, full=True))
    found["decode, all attention"] = decode_table(full, speed)
    return found


def decode_table(model, speed):
    found = {}
    for context in (4096, 32768, 262144 - 64):
        took = decode_seconds(model, context)
        moved = step_bytes(model.cfg, context, 1)
        found[context] = {"ms": took * 1e3, "share": moved / took / speed}
    return found


def prefill_table(model):
    found = {}
    for T in LENGTHS[:3]:
        ids = torch.randint(0, 200_000, (1, T), device="cuda")
        times = [seconds(model, ids, last_only=True) for _ in range(4)]
        found[T] = {"ms": min(times) * 1e3}
    return found


def beside(model, T=4096, steps=16, rounds=5):
    """ours over transformers', turn and turn about: seconds of both, each round."""
    from tools.layer_group import twin_of

    twin = twin_of(model)
    ids = torch.randint(0, 200_000, (1, T), device="cuda")
    found = {"prefill": [], "decode": []}
    for _ in range(rounds):
        mine = seconds(model, ids, last_only=True)
        out = twin(ids, use_cache=True, logits_to_keep=1)
        found["prefill"].append(
            [mine, seconds(twin, ids, use_cache=True, logits_to_keep=1)]
        )
        past, one = out.past_key_values, ids[:, :1]
        times = [seconds(twin, one, past_key_values=past) for _ in range(steps)]
        theirs = statistics.median(times)
        found["decode"].append([decode_seconds(model, T, steps), theirs])
    return {
        part: {"seconds": pairs, "ratio": statistics.median(b / a for a, b in pairs)}
        for part, pairs in found.items()
    }


if __name__ == "__main__":
    sys.exit(main())
