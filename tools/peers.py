"""Speed of a model of 150 M parameters beside llama.cpp and transformers, by turns.

    python -m tools.peers --llama PREFIX --source SOURCE [--forms fp32 bf16 Q8_0 Q4_K_M]

The weights are random, in Hugging Face's layout, and llama.cpp's own converter and
quantiser make its files of them. Rows are multiples of 256, so that K-quants keep their
types. Every contestant is a process of its own (minqwen/bench/worker.py); of one form,
all take a turn in each round. PREFIX, SOURCE: see tools/llama_parity.py; llama-bench is
expected in PREFIX/bin. llama.cpp runs as llama-bench does by default.

A line is tokens a second (the median round) and in brackets the ratio to llama.cpp of
the same form: median, least and most of the rounds. Contexts beyond 1,024 tokens are
filled in where a contestant can do so, and their reading is not timed.
"""

import argparse
import os
import statistics
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

import torch

import minqwen
from minqwen.bench import SMALL, Worker
from minqwen.bench.machine import hardware
from minqwen.bench.worker import LLAMA
from minqwen.errors import InputError
from minqwen.model.config import Config
from minqwen.weights.convert import convert
from tools.llama_parity import Llama, call

# The bench's small model with half as many experts of twice the width.
MODEL = SMALL | dict(
    num_experts=32, num_experts_per_tok=4, moe_intermediate_size=256,
    shared_expert_intermediate_size=256)  # fmt: skip
FORMS = {"fp32": 0, "bf16": 32, "Q8_0": 7, "Q4_K_M": 15}  # numbers of enum llama_ftype
NAMES = {"fp32": "float32", "bf16": "bfloat16"}
OURS = {"Q8_0": "int8", "Q4_K_M": "int4"}  # the form of ours with about as many bits
READ = 1024  # tokens
CONTEXTS = 128, READ, 4096


def make(folder, llama, forms):
    """Writes the model, and returns {form: llama.cpp's file}."""
    torch.manual_seed(0)
    model = minqwen.Qwen(Config.from_dict(MODEL)).to(torch.bfloat16)
    files = {"fp32": llama.convert(model, "--no-mtp")}
    for form in forms:
        if form in OURS:
            convert(folder / "saved", folder / OURS[form], OURS[form])
        if form != "fp32":
            files[form] = folder / f"{form}.gguf"
            call(llama.tool, files["fp32"], "quantize", str(FORMS[form]), files[form])
    return files


def contestants(form, folder, files):
    """{name in the table: (name for the worker, what it loads, dtype)}; llama first."""
    saved, dtype = folder / "saved", NAMES.get(form, "bfloat16")
    there = {f"{LLAMA} {form}": (LLAMA, files[form], dtype)}
    if form not in OURS:
        there[f"minqwen {form}"] = "minqwen", saved, dtype
        for way in ("eager", "grouped_mm"):
            name = f"transformers {way}"
            there[f"{name} {form}"] = name, saved, dtype
        return there
    there[f"minqwen {OURS[form]}"] = "minqwen", folder / OURS[form], dtype
    there[f"minqwen {form}.gguf"] = "minqwen", files[form], dtype
    return there | {"minqwen bf16": ("minqwen", saved, dtype)}


def contest(named, rounds, steps, threads):
    """{name: {"read" or context: [tokens a second in each round]}}."""
    speeds = {name: {} for name in named}
    with ExitStack() as stack:
        workers = {n: Worker(*who, threads) for n, who in named.items()}
        for worker in workers.values():
            stack.enter_context(worker.process)
        for context in CONTEXTS:
            for name, worker in workers.items():
                if not name.startswith(LLAMA):  # which warms up by itself
                    worker.run(context, 2, most=READ)
            for _ in range(rounds):
                for name, worker in workers.items():
                    took = worker.run(context, steps, most=READ)
                    speeds[name].setdefault(context, []).append(1 / took["decode"])
                    if context == READ:
                        read = speeds[name].setdefault("read", [])
                        read.append(context / took["prefill"])
    return speeds


def told(speeds):
    """A line of the table for each contestant; all are compared with the first."""
    rival = next(iter(speeds.values()))
    for name, parts in speeds.items():
        cells = []
        for part in ("read", *CONTEXTS):
            ratios = sorted(
                a / b for a, b in zip(parts[part], rival[part], strict=True)
            )
            cell = f"{statistics.median(parts[part]):.4g}"
            if parts is not rival:
                middle = statistics.median(ratios)
                cell += f" ({middle:.2f}x, {ratios[0]:.2f} to {ratios[-1]:.2f})"
            cells.append(cell)
        yield f"| {name} | " + " | ".join(cells) + " |"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--llama", type=Path, required=True, metavar="PREFIX")
    parser.add_argument("--source", type=Path, required=True, metavar="SOURCE")
    parser.add_argument("--forms", nargs="+", choices=FORMS, default=list(FORMS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=64, help="tokens to write")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    os.environ["LLAMA_BENCH"] = str(options.llama / "bin" / "llama-bench")
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        try:
            files = make(folder, Llama(options.llama, options.source, folder),
                         options.forms)  # fmt: skip
            print(hardware(options.threads))
            heads = "reading 1,024", *(f"writing at {c:,}" for c in CONTEXTS)
            print("| tokens a second | " + " | ".join(heads) + " |")
            print("|---" * 5 + "|", flush=True)
            for form in options.forms:
                named = contestants(form, folder, files)
                speeds = contest(named, options.rounds, options.steps, options.threads)
                print("\n".join(told(speeds)), flush=True)
        except InputError as error:
            sys.exit(f"peers: {error}")


if __name__ == "__main__":
    main()
