"""How fast, beside what else is installed: the same weights, turn and turn about.

    minqwen bench [--size small] [--contexts 128 1024 4096] [--out FOLDER]

Machines differ, and one machine differs from minute to minute; a ratio of two runs side
by side differs least. So every contestant is a process of its own (worker.py), all run
once a round, one at a time, and what is told is the ratio in each round: its median,
least and largest. A second figure is how near decoding comes to the speed at which the
machine can read the bytes that a token needs at all.
"""

import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
from tqdm import tqdm

from ..config import FULL, Config
from ..errors import InputError
from ..model import Qwen
from ..weights import save
from .worker import PEERS

SMALL = dict(
    vocab_size=32000, hidden_size=512, num_hidden_layers=8, num_attention_heads=4,
    num_key_value_heads=1, head_dim=256, full_attention_interval=4,
    linear_num_key_heads=2, linear_num_value_heads=8, linear_key_head_dim=128,
    linear_value_head_dim=128, linear_conv_kernel_dim=4, rms_norm_eps=1e-6,
    max_position_embeddings=262144, num_experts=64, num_experts_per_tok=8,
    moe_intermediate_size=128, shared_expert_intermediate_size=128,
    rope_parameters=dict(rope_type="default", rope_theta=10_000_000,
                         partial_rotary_factor=0.25, mrope_section=[11, 11, 10],
                         mrope_interleaved=True))  # fmt: skip
LIBRARIES = ("minqwen", "torch", "numba", "transformers", "flash-linear-attention")


def bench(size, dtypes, contexts, steps, repeats, threads, out=None):
    """Run every contestant, print a table, and return all that was measured.

    size "tiny" is the embedded checkpoint, "small" a random model of 150 M parameters
    with the released ones' proportions. With `out`, writes bench.json and bench.png
    there. Raises InputError when a contestant fails, with its last words.
    """
    torch.set_num_threads(threads)
    result = {"machine": machine(threads), "size": size, "steps": steps, "runs": []}
    with tempfile.TemporaryDirectory() as folder:
        folder = checkpoint(size, folder)
        cfg = Config.from_json(folder)
        for dtype in dtypes:
            for context in contexts:
                rounds = contest(folder, dtype, context, steps, repeats, threads)
                width = getattr(torch, dtype).itemsize
                moved = bytes_moved(cfg.text, width, context + steps // 2)
                result["runs"].append(
                    {"dtype": dtype, "context": context, "moved": moved} | rounds
                )
                print(tell(result["runs"][-1], result["machine"]), flush=True)
    if out:
        from .report import write

        write(Path(out), result)
    return result


def checkpoint(size, folder):
    """A folder that every contestant can load."""
    if size == "tiny":
        return Path(__file__).parents[2] / "assets" / "tiny"
    torch.manual_seed(0)
    model = Qwen(Config.from_dict(SMALL | dict(model_type="qwen3_5_moe_text")))
    save(model.to(torch.bfloat16), folder)
    return Path(folder)


def contest(folder, dtype, context, steps, repeats, threads):
    """{"contestants": {name: {"prefill": [s], "decode": [s], "peak": bytes}}}."""
    names = [n for n in PEERS if n[:7] == "minqwen" or installed("transformers")]
    workers = {name: Worker(name, folder, dtype, threads) for name in names}
    seen = {name: {"prefill": [], "decode": [], "peak": 0} for name in names}
    try:
        for worker in workers.values():
            worker.run(context, 2)  # caches fill, loops compile: not counted
        for _ in tqdm(range(repeats), desc=f"{dtype} {context}", leave=False):
            for name, worker in workers.items():
                took = worker.run(context, steps)
                seen[name]["prefill"].append(took["prefill"])
                seen[name]["decode"].append(took["decode"])
                seen[name]["peak"] = took["peak"]
    finally:
        for worker in workers.values():
            worker.end()
    return {"contestants": seen}


class Worker:
    """A contestant's process, and the pipe to it."""

    def __init__(self, name, folder, dtype, threads):
        self.name = name
        command = [sys.executable, "-m", "minqwen.bench.worker", name]
        self.process = subprocess.Popen(
            [*command, str(folder), dtype, str(threads)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True,
        )  # fmt: skip
        self.answer()

    def run(self, context, steps):
        asked = json.dumps({"context": context, "steps": steps})
        self.process.stdin.write(asked + "\n")
        self.process.stdin.flush()
        return self.answer()

    def answer(self):
        line = self.process.stdout.readline()
        if not line:
            last = self.process.stderr.read().strip().splitlines() or ["no word"]
            raise InputError(f"bench: {self.name} stopped: {last[-1]}")
        return json.loads(line)

    def end(self):
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.stderr.close()
        self.process.wait()


# ---- what a machine and a token are


def machine(threads):
    """What the figures hold for, and how fast it reads memory."""
    found = {name: installed(name) for name in LIBRARIES}
    return {
        "processor": processor(),
        "threads": threads,
        "python": platform.python_version(),
        "versions": {name: v for name, v in found.items() if v},
        "bytes a second": bandwidth(),
    }


def installed(name):
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def processor():
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(x.split(": ")[1] for x in lines if x.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def bandwidth(size=1 << 28):
    """Bytes a second of summing up 256 MB, the best of ten."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    x = torch.ones(size // 4, device=device)
    best = 0.0
    for _ in range(10):
        begun = time.perf_counter()
        x.sum().item()
        best = max(best, size / (time.perf_counter() - begun))
    return best


def bytes_moved(t, width, context):
    """Bytes that writing one token must read or write, `width` bytes a number.

    All weights that a token passes through (one row of the embedding), keys and values
    of `context` tokens, and each recurrent state, fp32, once in and once out.
    """
    D, deltas = t.hidden_size, sum(kind != FULL for kind in t.layer_types)
    fulls = t.num_hidden_layers - deltas
    keys = t.linear_num_key_heads * t.linear_key_head_dim
    values = t.linear_num_value_heads * t.linear_value_head_dim
    delta = D * (2 * keys + 2 * values + 2 * t.linear_num_value_heads) + values * D
    heads, kv = t.num_attention_heads, t.num_key_value_heads
    attention = D * t.head_dim * (2 * heads + 2 * kv) + heads * t.head_dim * D
    if t.num_experts:
        routed = t.num_experts_per_tok * t.moe_intermediate_size
        mlp = D * (t.num_experts + 3 * (routed + t.shared_expert_intermediate_size))
    else:
        mlp = 3 * D * t.intermediate_size
    weights = deltas * delta + fulls * attention + t.num_hidden_layers * mlp
    weights += t.vocab_size * D  # the output head
    memory = fulls * 2 * kv * t.head_dim * context * width
    states = deltas * values * t.linear_key_head_dim * 4 * 2
    return weights * width + memory + states


# ---- the table


def ratios(run, part, name, rival):
    """rival's seconds over name's in each round, sorted."""
    mine, its = (run["contestants"][n][part] for n in (name, rival))
    return sorted(b / a for a, b in zip(mine, its, strict=True))


def fastest(run, part, library):
    """The contestant of a library with the smallest median, or None."""
    names = [n for n in run["contestants"] if n.startswith(library)]
    middle = {n: statistics.median(run["contestants"][n][part]) for n in names}
    return min(middle, key=middle.get, default=None)


def tell(run, machine):
    """Lines for one dtype and context.

    Tokens a second, peak memory, speed as a ratio to transformers' faster way (median,
    least, largest), and when decoding the share of what the memory could do.
    """
    lines = [f"{run['dtype']}, context {run['context']:,}"]
    for part in ("prefill", "decode"):
        count = run["context"] if part == "prefill" else 1
        rival = fastest(run, part, "transformers") or "minqwen torch"
        for name, times in run["contestants"].items():
            speed = count / statistics.median(times[part])
            text = f"  {part:8}{name:26}{speed:9,.0f} tokens/s"
            text += f"{times['peak'] / 1e9:7.2f} GB"
            low, *_, high = middle = ratios(run, part, name, rival)
            text += f"{statistics.median(middle):7.2f}x ({low:.2f} to {high:.2f})"
            if part == "decode":
                text += f"{run['moved'] * speed / machine['bytes a second']:6.0%}"
            lines.append(text)
    return "\n".join(lines)
