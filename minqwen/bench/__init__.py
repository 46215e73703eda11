"""How fast minqwen is beside other libraries that are installed, by taking turns.

    minqwen bench [--size small] [--contexts 128 1024 4096] [--out FOLDER]

Machines differ, and one machine differs from minute to minute; the ratio of two runs
side by side varies least. So every contestant is a process of its own (worker.py), each
runs once a round, one at a time, and the table gives the median, least and largest
ratio of all rounds. A second figure is how near decoding comes to reading the bytes
that a token needs (`budget.step_bytes`) at the speed of the machine's memory, which is
measured in every round too. `minqwen bench --growth` is growth.py.
"""

import json
import statistics
import subprocess
import sys
import tempfile
from contextlib import ExitStack, contextmanager
from pathlib import Path

import torch
from tqdm import tqdm

from ..errors import InputError
from ..files import ASSETS
from ..model.config import Config
from ..model.qwen import Qwen
from ..plan.budget import step_bytes
from ..weights import save
from . import report
from .machine import bandwidth, hardware, version_of
from .worker import LLAMA, PEERS, READ, llama_bench

# What models of every released size share.
FAMILY = dict(
    head_dim=256, linear_key_head_dim=128, linear_value_head_dim=128,
    linear_conv_kernel_dim=4, rms_norm_eps=1e-6, max_position_embeddings=262144,
    rope_parameters=dict(rope_type="default", rope_theta=10_000_000,
                         partial_rotary_factor=0.25, mrope_section=[11, 11, 10],
                         mrope_interleaved=True))  # fmt: skip
SMALL = FAMILY | dict(
    model_type="qwen3_5_moe_text", vocab_size=32000, hidden_size=512,
    num_hidden_layers=8, num_attention_heads=4, num_key_value_heads=1,
    full_attention_interval=4, linear_num_key_heads=2, linear_num_value_heads=8,
    num_experts=64, num_experts_per_tok=8, moe_intermediate_size=128,
    shared_expert_intermediate_size=128)  # fmt: skip
SLICE = 4  # layers of a released size: three with delta memories, one with attention
FORM_OF = {"float32": "fp32", "bfloat16": "bf16"}


def bench(size, dtypes, contexts, steps, repeats, threads, out=None, gguf=()):
    """Run every contestant, print a table, and return all that was measured.

    size "tiny" is the embedded checkpoint, "small" a random model of 150 M parameters
    with the released ones' proportions, and a released size is its first four layers
    at true width, random, on a GPU. gguf: files for llama.cpp, one for each dtype. With
    `out`, writes bench.json and bench.png there. Raises InputError when a contestant
    fails, with its last words.
    """
    torch.set_num_threads(threads)
    files = dict(zip(dtypes, llama_files(gguf, dtypes), strict=True))
    result = {"machine": hardware(threads), "size": size, "steps": steps, "runs": []}
    with tempfile.TemporaryDirectory() as folder:
        folder = checkpoint(size, folder)
        cfg = Config.from_json(folder)
        for dtype in dtypes:
            with contestants(peers(folder, files[dtype]), dtype, threads) as workers:
                for context in sorted(contexts):
                    run = contest(workers, context, steps, repeats)
                    moved = step_bytes(cfg, context + steps // 2, 1, FORM_OF[dtype])
                    run |= {"dtype": dtype, "moved": moved}
                    result["runs"].append(run)
                    print(tell(run), flush=True)
    if out:
        report.keep_result(out, "bench", result, report.draw_speeds)
    return result


def llama_files(gguf, dtypes):
    """A GGUF for each dtype, or None; InputError where llama.cpp cannot be run."""
    if not gguf:
        return [None] * len(dtypes)
    if len(gguf) != len(dtypes):
        raise InputError(
            f"--gguf takes one file for each of {' '.join(dtypes)}, not {len(gguf)}"
        )
    if missing := [path for path in gguf if not Path(path).is_file()]:
        raise InputError(f"--gguf {missing[0]}: no such file")
    if not llama_bench():
        raise InputError(
            "--gguf needs llama-bench on the PATH, or its place in LLAMA_BENCH"
        )
    return list(gguf)


def checkpoint(size, folder):
    """A folder that every contestant can load; with a config alone they make weights.

    Raises InputError for a size that needs a GPU where there is none.
    """
    if size == "tiny":
        return ASSETS / "tiny"
    folder = Path(folder)
    if size == "small":
        torch.manual_seed(0)
        model = Qwen(Config.from_dict(SMALL))
        save(model.to(torch.bfloat16), folder)
        return folder
    if not torch.cuda.is_available():
        raise InputError(
            f"--size {size} makes {SLICE} layers at true width on a CUDA GPU, and "
            "torch sees none; use --size small"
        )
    text = Config.named(size).to_dict()["text_config"]
    text |= {"num_hidden_layers": SLICE, "mtp_num_hidden_layers": 0}
    text["layer_types"] = text["layer_types"][:SLICE]
    (folder / "config.json").write_text(json.dumps(text))
    return folder


def peers(folder, gguf):
    """{name: what it loads}: ours, and those of the others that are installed."""
    names = [n for n in PEERS if n.startswith("minqwen") or version_of("transformers")]
    return dict.fromkeys(names, folder) | ({LLAMA: gguf} if gguf else {})


@contextmanager
def contestants(sources, dtype, threads):
    """{name: Worker}, ended when the block is."""
    workers = {}
    with ExitStack() as stack:
        for name, source in sources.items():
            workers[name] = Worker(name, source, dtype, threads)
            stack.enter_context(workers[name].process)
        yield workers


def contest(workers, context, steps, repeats):
    """What was measured, by name and by round: seconds, bytes, and bytes a second.

    {"context", "read": False where it was filled in, "bytes a second": [of reading
    memory], "contestants": {name: {"prefill": [s], "decode": [s], "peak": bytes}}}.
    """
    read = context <= READ
    workers = {n: w for n, w in workers.items() if read or n != LLAMA}
    seen = {name: {"prefill": [], "decode": [], "peak": 0} for name in workers}
    for worker in workers.values():
        worker.run(context, 2)  # fills caches and compiles loops: not counted
    speeds = []
    for _ in tqdm(range(repeats), desc=f"{context}", leave=False):
        speeds.append(bandwidth())
        for name, worker in workers.items():
            took = worker.run(context, steps)
            seen[name]["prefill"].append(took["prefill"])
            seen[name]["decode"].append(took["decode"])
            seen[name]["peak"] = took["peak"]
    found = {"context": context, "read": read, "bytes a second": speeds}
    return found | {"contestants": seen}


class Worker:
    """A contestant's process, and the pipe to it."""

    def __init__(self, name, source, dtype, threads):
        self.name = name
        command = [sys.executable, "-m", "minqwen.bench.worker", name]
        self.process = subprocess.Popen(
            [*command, str(source), dtype, str(threads)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True,
        )  # fmt: skip
        self.answer()

    def run(self, context, steps, **more):
        asked = json.dumps({"context": context, "steps": steps} | more)
        self.process.stdin.write(asked + "\n")
        self.process.stdin.flush()
        return self.answer()

    def answer(self):
        line = self.process.stdout.readline()
        if not line:
            last = self.process.stderr.read().strip().splitlines() or ["no word"]
            raise InputError(f"bench: {self.name} stopped: {last[-1]}")
        return json.loads(line)


def ratios(run, part, name, rival):
    """rival's seconds over name's in each round, sorted."""
    mine, its = (run["contestants"][n][part] for n in (name, rival))
    return sorted(b / a for a, b in zip(mine, its, strict=True))


def fastest(run, part, library):
    """The contestant of a library with the smallest median, or None."""
    names = [n for n in run["contestants"] if n.startswith(library)]
    middle = {n: statistics.median(run["contestants"][n][part]) for n in names}
    return min(middle, key=middle.get, default=None)


def shares(run, name):
    """The share of the memory's speed that decoding reached, in each round."""
    took = run["contestants"][name]["decode"]
    pairs = zip(took, run["bytes a second"], strict=True)
    return sorted(run["moved"] / seconds / speed for seconds, speed in pairs)


def tell(run):
    """Lines for one dtype and context; ratios are to the faster of transformers'."""
    lines = [f"{run['dtype']}, context {run['context']:,}"]
    if not run["read"]:
        lines[0] += " (filled in at random, not read)"
    for part in ("prefill", "decode") if run["read"] else ("decode",):
        rival = fastest(run, part, "transformers") or "minqwen torch"
        for name, times in run["contestants"].items():
            speed = report.tokens_a_second(run, part, name)
            text = f"  {part:8}{name:26}{speed:9,.0f} tokens/s"
            text += f"{times['peak'] / 1e9:7.2f} GB"
            times = ratios(run, part, name, rival)
            text += f"{statistics.median(times):7.2f}x"
            text += f" ({times[0]:.2f} to {times[-1]:.2f})"
            if part == "decode":
                text += f"{statistics.median(shares(run, name)):6.0%}"
            lines.append(text)
    return "\n".join(lines)
