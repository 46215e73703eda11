"""What a longer context costs: the 3:1 hybrid against attention in every layer.

    minqwen bench --growth [--memory 8GiB] [--threads 2] [--out FOLDER]

Two random models of four layers: three delta layers and one with attention, and four
with attention. They are as wide as 397B's, with 16 of its 512 experts and a small
vocabulary, so that weights and caches are in proportion. (On a CPU sixteen queries for
a key are bound by arithmetic, so time grows faster than bytes.)

In bfloat16 and one process, they take turns at the same context. Their caches are
filled in, not read: random keys and values, and the states of a short prompt. Printed
are the time a token for one text, and tokens a second for as many texts as the memory
holds. Last comes the time a token of reading with delta layers alone (the bench's small
model), which should not depend on their number.
"""

import statistics

import torch
from tqdm import tqdm

from ..engine.generate import decoder
from ..engine.prefill import prefill
from ..model import forms
from ..model.config import Config
from ..plan.budget import memory_bytes, weight_bytes
from . import SMALL, report
from .machine import hardware
from .worker import fill, now, on_device, step_seconds

CONTEXTS = 4096, 8192, 16384, 32768, 65536, 131072, 262144
READS = 4096, 8192, 16384, 32768, 65536
MOST = 32  # texts in a batch
PROMPT = 2  # tokens read before filling in, so that states are states
HYBRID, ATTENTION = "3:1 hybrid", "attention in every layer"
REDUCED = {"num_hidden_layers": 4, "num_experts": 16, "vocab_size": 32000,
        "mtp_num_hidden_layers": 0}  # fmt: skip


def growth(memory, steps, repeats, threads, out=None):
    """Measure, print tables, return it all; writes growth.json and .png to `out`."""
    torch.set_num_threads(threads)
    pair = {HYBRID: four_layers(3 * ["linear_attention"] + ["full_attention"]),
            ATTENTION: four_layers(4 * ["full_attention"])}  # fmt: skip
    result = {"machine": hardware(threads), "memory": memory, "one": [], "batch": []}
    with torch.inference_mode():
        for context in CONTEXTS:
            run = take_turns(pair, context, dict.fromkeys(pair, 1), steps, repeats)
            result["one"].append(run)
            print(tell_context(run), flush=True)
        for context in CONTEXTS:
            rows = {n: largest_batch(m.cfg, context, memory) for n, m in pair.items()}
            run = take_turns(pair, context, rows, max(2, steps // 16), repeats)
            result["batch"].append(run)
            print(tell_context(run), flush=True)
        pair.clear()
        kinds = SMALL["num_hidden_layers"] * ["linear_attention"]
        delta_layers = random_model(SMALL | {"layer_types": kinds})
        result["read"] = reading(delta_layers, repeats)
        print(tell_reading(result["read"]))
    if out:
        report.keep_result(out, "growth", result, report.draw_growth)
    return result


def four_layers(kinds):
    text = Config.named("397B-A17B").to_dict()["text_config"] | REDUCED
    return random_model(text | {"layer_types": kinds})


def random_model(text):
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = on_device(Config.from_dict(text), torch.bfloat16, device)
    if device == "cpu" and forms.runs("numba"):
        model.kernels = "numba"
    return model


def largest_batch(cfg, context, memory):
    """Texts whose caches fit beside the weights, at most MOST; 0 where not one does."""
    one = sum(memory_bytes(cfg, context, 1).values())
    return min(MOST, int((memory - sum(weight_bytes(cfg).values())) // one))


def take_turns(models, context, rows, steps, repeats):
    """{"context", "rows": {name: texts}, "seconds": {name: [of a step, by round]}}."""
    seconds = {name: [] for name in models}
    for _ in tqdm(range(repeats), desc=f"{context}", leave=False):
        for name, one in models.items():
            if rows[name]:
                seconds[name].append(step_time(one, context, rows[name], steps))
    return {"context": context, "rows": rows, "seconds": seconds}


def step_time(model, context, rows, steps):
    """Seconds of writing one token for each of `rows` texts, the first not counted."""
    cache = model.new_cache(rows, context + steps + 1)
    ids = torch.randint(0, 100, (rows, PROMPT), device=model.device)
    token = prefill(model, {"input_ids": ids}, cache)[:, -1:].argmax(-1)
    fill(cache, context)
    read = decoder(model, cache, steps)
    token = read(token, cache)[:, -1:].argmax(-1)
    return step_seconds(lambda ids: read(ids, cache), token, steps)


def reading(model, repeats):
    """{tokens: [seconds of reading them, by round]}, turn about."""
    seconds = {count: [] for count in READS}
    for _ in tqdm(range(repeats), desc="reading", leave=False):
        for count in READS:
            ids = torch.randint(0, 100, (1, count), device=model.device)
            cache = model.new_cache(1, count)
            begun = now(model.device)
            prefill(model, {"input_ids": ids}, cache)
            seconds[count].append(now(model.device) - begun)
    return seconds


def tell_context(run):
    """One context: each model's time a step and tokens a second, and their ratio."""
    middle = {n: statistics.median(s) for n, s in run["seconds"].items() if s}
    speed = {n: run["rows"][n] / s for n, s in middle.items()}
    texts = [f"context {run['context']:8,}"]
    for name, rows in run["rows"].items():
        told = f"{rows} x {middle[name] * 1e3:.1f} ms" if rows else "does not fit"
        texts.append(f"{name} {told}")
    if len(speed) == 2:
        texts.append(f"{speed[HYBRID] / speed[ATTENTION]:.2f}x")
    return "   ".join(texts)


def tell_reading(seconds):
    each = {count: statistics.median(s) / count for count, s in seconds.items()}
    lines = [f"{n:8,} tokens: {s * 1e6:.0f} us each" for n, s in each.items()]
    lines.append(f"within {max(each.values()) / min(each.values()) - 1:.0%}")
    return "\n".join(["read with delta layers alone", *lines])
