"""Experts that do not fit in memory: four ways to decode, under one real limit.

    python -m tools.disk_speed [--limit 2GiB] [--cache 1GiB] [--tokens 32]

Makes a random mixture of 4.3 GB, ten experts of 160 a token in each of 8 layers, and
decodes with it in processes whose memory, cached files included, a control group holds
to the limit: with experts="disk", with experts="memory" (which the limit kills; it runs
again without), with the files simply mapped, and with transformers' disk offload where
accelerate is installed. The files are pushed out of the page cache before each. Needs
Linux, and a user who may make control groups. Ratios say more than seconds.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import OrderedDict
from pathlib import Path

import torch

import minqwen
from minqwen.model.config import Config
from minqwen.plan.budget import expert_bytes
from minqwen.units import human, size
from minqwen.weights import open_checkpoint
from minqwen.weights.disk import paged
from tools.full_size import make, peak
from tools.load_speed import LARGE

SLOW = LARGE | dict(
    hidden_size=1024, num_experts=160, moe_intermediate_size=512,
    shared_expert_intermediate_size=512,
)  # fmt: skip
DISK, MEMORY, MAPPED, OTHER = "disk", "memory", "mapped", "transformers"
PATIENCE = 60  # seconds of decoding after which a slow way need not go on
GROUPS = Path("/sys/fs/cgroup")


@torch.no_grad()
def fill(folder, values):
    """A random checkpoint, tensor by tensor, so that making it takes little memory."""
    cfg = Config.from_dict(values | dict(model_type="qwen3_5_moe_text"))
    make(folder, cfg, shards=4)
    for entry in open_checkpoint(folder).values():
        tensor = torch.randn(entry.shape) * entry.shape[-1] ** -0.5
        tensor = tensor if entry.dtype == "F32" else tensor.bfloat16()
        with open(entry.file, "r+b") as f:
            f.seek(entry.start)
            f.write(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
            f.flush()
            os.fsync(f.fileno())


def forget(folder):
    """Push the checkpoint out of the page cache, so that reading it means the disk."""
    for file in folder.glob("*.safetensors"):
        with open(file, "rb") as f:
            os.posix_fadvise(f.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


# ---- one way, in a process of its own ----


def once(way, folder, options):
    """{"seconds" a token, "tokens", "load", "peak", and what paging counted}."""
    torch.set_num_threads(options.threads)
    begun, chosen = time.perf_counter(), []
    start = theirs if way == OTHER else ours
    step, stats, model = start(way, folder, options, chosen)
    loaded = time.perf_counter()
    token = step(torch.tensor([[5]]))
    spent, before = [], stats and stats - type(stats)()
    first = len(chosen)
    while len(spent) < options.tokens and sum(spent) < PATIENCE:
        start = time.perf_counter()
        token = step(token)
        spent.append(time.perf_counter() - start)
    found = dict(seconds=sum(spent) / len(spent), tokens=len(spent), peak=peak(),
                 load=loaded - begun)  # fmt: skip
    if way == DISK:
        new, one = stats - before, expert_bytes(model.cfg)
        misses = simulate(chosen, options.cache // int(one), first)
        found |= dict(read=new.bytes_read, predicted=misses * one,
                      hits=new.hits / (new.hits + new.misses),
                      reading=new.read_seconds / sum(spent))  # fmt: skip
    print(json.dumps(found))


def ours(way, folder, options, chosen):
    if way == MAPPED:  # as if everything fitted
        paged.available = lambda: 10**15
    extra = dict(expert_cache=options.cache) if way == DISK else {}
    experts = MEMORY if way == MEMORY else DISK
    model = minqwen.load(folder, dtype=None, experts=experts, **extra)
    for layer, block in enumerate(model.model.language_model.layers):

        def note(gate, x, out, layer=layer):
            chosen.append([(layer, e) for e in sorted(out[1].flatten().tolist())])

        block.mlp.gate.register_forward_hook(note)
    cache = model.new_cache(1, options.tokens + 2)
    shared = [m.pages for m in model.modules() if hasattr(m, "pages")]

    def step(token):
        return model(token, cache=cache)[:, -1:].argmax(-1)

    return step, shared[0].stats if shared else None, model


def theirs(way, folder, options, chosen):
    """transformers and accelerate: layers on disk, brought in as they are needed."""
    from transformers import Qwen3_5MoeForCausalLM

    config = Config.from_json(folder).text
    places = {f"model.layers.{i}": "disk" for i in range(config.num_hidden_layers)}
    places |= dict.fromkeys(["model.embed_tokens", "model.norm", "model.rotary_emb",
                             "lm_head"], "cpu")  # fmt: skip
    model = Qwen3_5MoeForCausalLM.from_pretrained(
        folder, dtype=torch.bfloat16, device_map=places, offload_folder=folder / "off"
    )
    state = {}

    def step(token):
        out = model(token, past_key_values=state.get("past"), use_cache=True)
        state["past"] = out.past_key_values
        return out.logits[:, -1:].argmax(-1)

    return step, None, model


def simulate(chosen, room, first):
    """Misses from the `first` call on of a cache that forgets the longest unused."""
    held, misses = OrderedDict(), 0
    for call, keys in enumerate(chosen):
        for key in keys:
            if key in held:
                held.move_to_end(key)
        for key in keys:
            if key not in held:
                misses += call >= first
                if len(held) == room:
                    held.popitem(last=False)
                held[key] = True
    return misses


# ---- limits ----


class Limit:
    """A control group of this run's own; `None` bytes is no limit."""

    def __init__(self, limit):
        self.group = None
        if limit is None:
            return
        first = GROUPS / "memory"
        old = first.is_dir()
        self.group = (first if old else GROUPS) / f"minqwen-{os.getpid()}"
        try:
            self.group.mkdir()
            name = "memory.limit_in_bytes" if old else "memory.max"
            (self.group / name).write_text(str(limit))
        except OSError as err:
            raise SystemExit(f"no memory can be limited: {err}; try as root") from None

    def enter(self):
        if self.group:
            (self.group / "cgroup.procs").write_text(str(os.getpid()))

    def remove(self):
        if self.group:
            self.group.rmdir()


def measure(way, folder, options, limit):
    """What `once` printed, or a word for why it did not."""
    forget(folder)
    held = Limit(limit)
    command = [sys.executable, "-m", "tools.disk_speed", "--once", way,
               "--folder", str(folder), "--cache", str(options.cache),
               "--tokens", str(options.tokens), "--threads", str(options.threads),
               ]  # fmt: skip
    try:
        done = subprocess.run(command, capture_output=True, text=True,
                              preexec_fn=held.enter)  # fmt: skip
    finally:
        held.remove()
    if done.returncode == -9:
        return "killed: out of memory"
    if done.returncode:
        return "failed: " + done.stderr.strip().splitlines()[-1][:100]
    return json.loads(done.stdout.splitlines()[-1])


def compare(folder, options):
    limit = options.limit
    runs = [
        ('experts="disk"', DISK, limit), ("files mapped", MAPPED, limit),
        ("transformers, on disk", OTHER, limit), ('experts="memory"', MEMORY, limit),
        ('experts="memory", no limit', MEMORY, None),
        ("files mapped, no limit", MAPPED, None),
    ]  # fmt: skip
    base = None
    for label, way, limit in runs:
        found = measure(way, folder, options, limit)
        if isinstance(found, str):
            print(f"{label:<28}{found}", flush=True)
            continue
        base = base or found["seconds"]
        print(
            f"{label:<28}{1 / found['seconds']:8.3f} tokens/s of {found['tokens']}, "
            f"{found['seconds'] / base:6.2f} x the first's time; loaded in "
            f"{found['load']:.1f} s, peak {human(found['peak'])}",
            flush=True,
        )
        if way == DISK:
            read, wanted = found["read"], found["predicted"]
            print(
                f"{'':<28}{found['hits']:.1%} of choices in the cache; read "
                f"{human(read / found['tokens'])} a token, predicted "
                f"{human(wanted / found['tokens'])}, in "
                f"{found['reading']:.0%} of the time",
                flush=True,
            )
            assert read == wanted


@torch.inference_mode()
def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--limit", type=size, default=2 * 2**30)
    parser.add_argument("--cache", type=size, default=2**30)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--folder", type=Path, help="where to keep the 4.3 GB")
    parser.add_argument("--once", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.once:
        once(options.once, options.folder, options)
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        if not (folder / "config.json").exists():
            fill(folder, SLOW)
        compare(folder, options)


if __name__ == "__main__":
    main()
