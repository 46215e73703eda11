"""One contestant in a process of its own, which runs what a pipe asks for.

    python -m minqwen.bench.worker NAME SOURCE DTYPE THREADS

SOURCE is a checkpoint's folder or a GGUF. A folder with a config alone makes random
weights, on the GPU. A line of JSON in, `{"context": T, "steps": n}`, is a run: read T
tokens (with `"most": m`, fill more than m in), then write n. The answer is `{"prefill":
seconds, "decode": seconds a token, "peak": bytes}`, prefill null where the context was
filled in and not read. While it waits it computes nothing, so that others can be timed
on the same machine.
"""

import json
import os
import resource
import shutil
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import torch

from ..engine.generate import decoder
from ..engine.prefill import prefill
from ..errors import InputError
from ..model import forms
from ..model.config import Config
from ..model.qwen import Qwen, initialise
from ..weights import load

PEERS = ("minqwen", "minqwen torch", "transformers eager", "transformers grouped_mm")
LLAMA = "llama.cpp"
READ = 16384  # tokens; longer contexts are filled in
BLOCK = 4096
PROMPT = 64  # tokens read before filling in, so that states are states


def main(name, source, dtype, threads):
    torch.set_num_threads(int(threads))
    try:
        run = contestant(name, source, dtype, int(threads))
        send({"ready": True})
        for line in sys.stdin:
            asked = json.loads(line)
            with torch.inference_mode():
                send(run(**asked) | {"peak": peak_bytes(name)})
    except torch.OutOfMemoryError:
        raise SystemExit("the GPU's memory is too small for it") from None


def send(values):
    print(json.dumps(values), flush=True)


def peak_bytes(name):
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    who = resource.RUSAGE_CHILDREN if name == LLAMA else resource.RUSAGE_SELF
    return resource.getrusage(who).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def contestant(name, source, dtype, threads):
    """run(context, steps, most) -> {"prefill": seconds or None, "decode": seconds}."""
    library, _, way = name.partition(" ")
    if library == LLAMA:
        return partial(llama, source, threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    kind = Ours if library == "minqwen" else Theirs
    player = kind(Path(source), getattr(torch, dtype), device, way)
    return partial(timed_run, player, device)


def has_weights(folder):
    return any(folder.glob("*.safetensors"))


class Ours:
    def __init__(self, folder, dtype, device, way):
        fast = "numba" if device == "cpu" and forms.runs("numba") else "auto"
        if folder.is_file() or has_weights(folder):
            self.model = load(folder, device, dtype, kernels=way or fast)
        else:
            self.model = on_device(Config.from_json(folder), dtype, device)
            self.model.kernels = way or fast
        self.vocab = self.model.cfg.text.vocab_size

    def read(self, ids, room):
        self.cache = self.model.new_cache(1, room)
        logits = prefill(self.model, {"input_ids": ids}, self.cache)
        self.decoder = decoder(self.model, self.cache, room)
        return logits

    def fill(self, context):
        fill(self.cache, context)

    def step(self, ids):
        return self.decoder(ids, self.cache)


def on_device(cfg, dtype, device):
    """A random model, made where it is to run."""
    with torch.device("meta"):
        model = Qwen(cfg).to(dtype)
    model = model.to_empty(device=device).eval()
    initialise(model)
    return model


def fill(cache, context):
    """As if `context` tokens had been read: the same states, random keys and values."""
    # They repeat after BLOCK tokens, which costs nothing to make and the same to read.
    for layer in cache.layers:
        if hasattr(layer, "length"):
            for store in (layer.k, layer.v):
                some = torch.randn_like(store[:, :, :BLOCK])
                for s in range(0, context, BLOCK):
                    store[:, :, s : min(context, s + BLOCK)] = some[:, :, : context - s]
            layer.length = context
    cache.length = context
    cache.next_position = torch.full_like(cache.next_position, context)


class Theirs:
    def __init__(self, folder, dtype, device, way):
        if device == "cpu":
            # Installed, it would be picked, and fail for want of a GPU.
            sys.modules["fla"] = None
        import transformers

        transformers.logging.set_verbosity_error()
        auto = transformers.AutoModelForCausalLM
        if has_weights(folder):
            model = auto.from_pretrained(folder, dtype=dtype).to(device)
        else:
            config = transformers.AutoConfig.from_pretrained(folder)
            with torch.device(device):
                model = auto.from_config(config, dtype=dtype)
        self.model = model.eval()
        self.model.set_experts_implementation(way)
        self.vocab = model.config.get_text_config().vocab_size

    def read(self, ids, room):
        out = self.model(ids, use_cache=True, logits_to_keep=1)
        self.cache = out.past_key_values
        return out.logits

    def fill(self, context):
        for layer in self.cache.layers:
            if getattr(layer, "keys", None) is not None:
                shape = (*layer.keys.shape[:2], context, layer.keys.shape[3])
                layer.keys = torch.randn_like(layer.keys[:, :, :1].expand(shape))
                layer.values = torch.randn_like(layer.keys)

    def step(self, ids):
        return self.model(ids, past_key_values=self.cache).logits


def timed_run(player, device, context, steps, most=READ):
    """Seconds of reading `context` random tokens and of each of `steps` greedy ones.

    More than `most` tokens are filled in, and not read.
    """
    count = context if context <= most else PROMPT
    ids = torch.randint(0, player.vocab, (1, count), device=device)
    begun = now(device)
    token = player.read(ids, context + steps)[:, -1:].argmax(-1)
    read = now(device) - begun
    if count < context:
        player.fill(context)
        read = None
    return {"prefill": read, "decode": step_seconds(player.step, token, steps)}


def now(device):
    """Seconds on a clock, when the device has done all that it was asked for."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def step_seconds(step, token, steps):
    """Seconds of each of `steps` greedy tokens; step(ids [B, 1]) -> logits."""
    begun = now(token.device)
    for _ in range(steps):
        token = step(token)[:, -1:].argmax(-1)
    return (now(token.device) - begun) / steps


def llama_bench():
    """Where llama.cpp's own timer is: $LLAMA_BENCH, or on the PATH."""
    return os.environ.get("LLAMA_BENCH") or shutil.which("llama-bench")


def llama(gguf, threads, context, steps, most=READ):
    """The same by llama-bench; its answer is nanoseconds for each test."""
    seconds = {"prefill": None}
    tests = {"prefill": (context, 0, 0), "decode": (0, steps, context)}
    if context > most:
        del tests["prefill"]
    for part, (prompt, write, depth) in tests.items():
        words = ["-m", gguf, "-t", threads, "-p", prompt, "-n", write, "-d", depth]
        words += ["-r", 1, "-o", "json"]
        done = subprocess.run(
            [llama_bench(), *map(str, words)], capture_output=True, text=True
        )
        if done.returncode:
            raise InputError(f"llama-bench: {done.stderr.strip()[-200:]}")
        [test] = json.loads(done.stdout)
        seconds[part] = test["samples_ns"][0] / 1e9
    return seconds | {"decode": seconds["decode"] / steps}


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except InputError as error:
        raise SystemExit(str(error)) from None
