"""Packed experts that do not fit in memory: ways to decode, under one real limit.

    python -m tools.disk_speed [--limit SIZE] [--cache SIZE] [--tokens 48]

Makes a mixture whose experts are int4, 3.4 GB of them, eight of 256 a token in each of
8 layers, and reads the same random tokens with it in processes whose memory, cached
files included, a control group holds to the limit, half of the files unless told
otherwise: with experts="disk", compiled and not, and with the files simply mapped; then
without a limit. The files are pushed out of the page cache before each. Needs Linux,
and a user who may make control groups. Ratios say more than seconds.

Weights are random. Routing is skewed as the small model's is (assets/tiny, on Python):
the quarter of a layer's experts that is chosen most gets 0.40 of its choices, because
all tokens share a direction to which routers answer by the popularity of each expert.
What follows what is left to chance, which a trained model's choices are not.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

import minqwen
from minqwen.bench import SMALL
from minqwen.bench.measure import disk_speed
from minqwen.kernels.cpu.decode import Decoder
from minqwen.model.config import Config
from minqwen.model.moe import Experts
from minqwen.plan.budget import expert_bytes
from minqwen.units import human, size
from minqwen.weights import open_checkpoint
from minqwen.weights.quantised.modules import Packed
from tools.full_size import make, peak

SLOW = SMALL | dict(
    hidden_size=2048, num_experts=256, moe_intermediate_size=512,
    shared_expert_intermediate_size=512,
)  # fmt: skip
WAYS = COMPILED, TORCH, MAPPED = "disk, compiled", "disk, torch", "mapped"
SHARED, QUIET = 0.7, 0.1  # of a token's length what all share; what layers add to it
SKEW = 0.18  # spread of popularity, beside 1 of what differs from token to token
PATIENCE = 60  # seconds of decoding after which a slow way need not go on
GROUPS = Path("/sys/fs/cgroup")


def fill(folder, values):
    """The checkpoint, tensor by tensor, so that making it takes little memory."""
    cfg = Config.from_dict(values | dict(model_type="qwen3_5_moe_text"))
    make(folder, cfg, shards=4, form="int4:bf16")
    rng, D = np.random.default_rng(0), cfg.text.hidden_size
    common = rng.standard_normal(D).astype(np.float32)
    common *= SHARED * D**0.5 / np.linalg.norm(common)
    for name, entry in open_checkpoint(folder).items():
        if entry.dtype == "U8":
            data = codes(rng, entry.shape)
        else:
            w = rng.standard_normal(entry.shape, np.float32) * entry.shape[-1] ** -0.5
            if "embed_tokens" in name:
                w = w * (D * (1 - SHARED**2)) ** 0.5 + common
            elif name.endswith("mlp.gate.weight"):
                w *= (1 - SHARED**2) ** -0.5
                w -= np.outer(w @ common, common) / (common @ common)
                likes = SKEW * rng.standard_normal((len(w), 1), np.float32)
                w += likes * common / (common @ common)
            elif name.endswith(
                ("o_proj.weight", "out_proj.weight", "down_proj.weight")
            ):
                w *= QUIET
            elif "norm" in name and "linear_attn" not in name:
                w *= 0
            w = torch.from_numpy(w)
            data = w if entry.dtype == "F32" else w.bfloat16()
            data = data.reshape(-1).view(torch.uint8).numpy()
        with open(entry.file, "r+b") as f:
            f.seek(entry.start)
            f.write(data.tobytes())
            f.flush()
            os.fsync(f.fileno())


def codes(rng, shape):
    """Rows of int4 with numbers QUIET times those that leave lengths as they are."""
    data = rng.integers(0, 256, shape, np.uint8)
    groups = shape[-1] // 66  # of 128 columns: two bytes of scale, 64 of codes
    scale = torch.tensor([QUIET * (128 * groups) ** -0.5 / 4.6]).bfloat16()
    data[..., : 2 * groups] = np.tile(scale.view(torch.uint8).numpy(), groups)
    return data


def forget(folder):
    """Push the checkpoint out of the page cache, so that reading it means the disk."""
    for file in folder.glob("*.safetensors"):
        with open(file, "rb") as f:
            os.posix_fadvise(f.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


# ---- one way, in a process of its own ----


def once(way, folder, options):
    """{"seconds" a token, "tokens", "load", "peak", and what paging counted}."""
    torch.set_num_threads(options.threads)
    begun = time.perf_counter()
    cache_bytes = 2**24 if way == MAPPED else options.cache
    model = minqwen.load(folder, dtype=None, experts="disk", expert_cache=cache_bytes)
    pages = next(m.pages for m in model.modules() if hasattr(m, "pages"))
    if way == MAPPED:
        map_experts(model, open_checkpoint(folder))
    loaded = time.perf_counter()
    cache, rng = model.new_cache(1, options.tokens + 1), np.random.default_rng(1)
    step = (lambda t, cache: model(t, cache=cache)) if way == TORCH else Decoder(model)
    tokens = rng.integers(0, model.cfg.text.vocab_size, options.tokens + 1)
    spent, hits = [], pages.stats
    for token in tokens:
        begin = time.perf_counter()
        step(torch.tensor([[token]]), cache)
        spent.append(time.perf_counter() - begin)
        if len(spent) == 1:  # the first compiles, perhaps
            before = hits - type(hits)()
        elif sum(spent[1:]) > PATIENCE:
            break
    seconds, count = sum(spent[1:]), len(spent) - 1
    found = dict(
        seconds=seconds / count, tokens=count, peak=peak(), load=loaded - begun
    )
    if way != MAPPED:
        new, one = hits - before, int(expert_bytes(model.cfg, "int4"))
        found |= dict(read=new.bytes_read, predicted=new.misses * one,
                      hits=new.hits / (new.hits + new.misses),
                      reading=new.read_seconds, waiting=new.wait_seconds / seconds,
            )  # fmt: skip
    print(json.dumps(found))


def map_experts(model, table):
    """Put the files themselves, mapped, in the place of what is read from them."""
    for name, module in model.named_modules():
        for kind in (
            ("gate_up_proj", "down_proj") if isinstance(module, Experts) else ()
        ):
            entry = table[f"{name}.{kind}".replace("model.language_model.", "model.")]
            with torch.device("meta"):
                stored = getattr(module, kind)
                weight = Packed("int4", kind, stored.shape, stored.dtype)
            file, count = str(entry.file), entry.start + entry.nbytes
            raw = torch.from_file(file, size=count, dtype=torch.uint8)[entry.start :]
            weight.part = raw.view(entry.shape)
            setattr(module, kind, weight)


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
    files = [*folder.glob("*.safetensors")]
    total = sum(file.stat().st_size for file in files)
    limit = options.limit or total // 2
    options.cache = options.cache or limit // 2
    print(f"files {human(total)}, limit {human(limit)}, cache {human(options.cache)}")
    base = None
    for way, most in [*((w, limit) for w in WAYS), (MAPPED, None)]:
        disk = disk_speed(files[0])
        found = measure(way, folder, options, most)
        label = way if most else f"{way}, no limit"
        if isinstance(found, str):
            print(f"{label:<20}{found}", flush=True)
            continue
        base = base or found["seconds"]
        print(
            f"{label:<20}{1 / found['seconds']:8.3f} tokens/s of {found['tokens']}, "
            f"{found['seconds'] / base:6.2f} x the first's time; loaded in "
            f"{found['load']:.1f} s, peak {human(found['peak'])}",
            flush=True,
        )
        if "read" in found:
            read, wanted = found["read"], found["predicted"]
            speed = read / found["reading"]
            print(
                f"{'':<20}{found['hits']:.1%} of choices in the cache; read "
                f"{human(read / found['tokens'])} a token at {human(speed)}/s, "
                f"{speed / disk:.0%} of the {human(disk)}/s measured just before; "
                f"waiting {found['waiting']:.0%} of the time",
                flush=True,
            )
            assert read == wanted


@torch.inference_mode()
def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--limit", type=size, help="half of the files if left out")
    parser.add_argument("--cache", type=size, help="half of the limit if left out")
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--folder", type=Path, help="where to keep the 3.4 GB")
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
