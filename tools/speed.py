"""Speed beside transformers in one process: the same weights, turn and turn about.

    python tools/speed.py [--dtype float32 bfloat16] [--repeats 5] [--threads 2]

The model is random, 150 M parameters, with the released ones' proportions: three
DeltaNet layers to one of attention, four value heads a key head, 64 experts of which
each token takes 8. Prefill reads 1,024 tokens; decode then writes 64, one by one.
"""

import argparse
import statistics
import tempfile
import time

import torch

import minqwen
from minqwen.config import Config

MINI = dict(
    vocab_size=32000, hidden_size=512, num_hidden_layers=8, num_attention_heads=4,
    num_key_value_heads=1, head_dim=256, full_attention_interval=4,
    linear_num_key_heads=2, linear_num_value_heads=8, linear_key_head_dim=128,
    linear_value_head_dim=128, linear_conv_kernel_dim=4, rms_norm_eps=1e-6,
    max_position_embeddings=32768, num_experts=64, num_experts_per_tok=8,
    moe_intermediate_size=128, shared_expert_intermediate_size=128,
    rope_parameters=dict(rope_type="default", rope_theta=10_000_000,
                         partial_rotary_factor=0.25, mrope_section=[11, 11, 10],
                         mrope_interleaved=True))  # fmt: skip
EXPERTS = ("eager", "grouped_mm")  # transformers' ways of running them on a CPU


def ours(model, ids, steps):
    """Seconds of prefill and of each decoded token."""
    cache = model.new_cache(1, ids.shape[1] + steps)
    begun = time.perf_counter()
    token = model(ids, cache=cache, last_only=True)[:, -1:].argmax(-1)
    read = time.perf_counter()
    for _ in range(steps):
        token = model(token, cache=cache)[:, -1:].argmax(-1)
    return read - begun, (time.perf_counter() - read) / steps


def theirs(model, ids, steps):
    begun = time.perf_counter()
    out = model(ids, use_cache=True, logits_to_keep=1)
    read = time.perf_counter()
    for _ in range(steps):
        token = out.logits[:, -1:].argmax(-1)
        out = model(token, past_key_values=out.past_key_values, use_cache=True)
    return read - begun, (time.perf_counter() - read) / steps


@torch.inference_mode()
def compare(folder, dtype, repeats, tokens=1024, steps=64):
    """{who: [(prefill, decode) seconds]}, each round running everyone once."""
    from transformers import Qwen3_5MoeForCausalLM

    ids = torch.randint(0, MINI["vocab_size"], (1, tokens))
    runs = {"minqwen": (ours, minqwen.load(folder, dtype=dtype))}
    for way in EXPERTS:
        model = Qwen3_5MoeForCausalLM.from_pretrained(folder, dtype=dtype).eval()
        model.set_experts_implementation(way)
        runs[f"transformers {way}"] = theirs, model
    for run, model in runs.values():
        run(model, ids, 4)  # warm up
    times = {who: [] for who in runs}
    for _ in range(repeats):
        for who, (run, model) in runs.items():
            times[who].append(run(model, ids, steps))
    return times


def report(times, dtype, tokens=1024):
    """Tokens a second, and ratios to transformers' faster way, pair by pair."""
    for part, name in enumerate(("prefill", "decode")):
        count = tokens if name == "prefill" else 1
        middle = {w: statistics.median(t[part] for t in ts) for w, ts in times.items()}
        rival = min((w for w in times if w != "minqwen"), key=middle.get)
        pairs = zip(times[rival], times["minqwen"], strict=True)
        ratios = sorted(a[part] / b[part] for a, b in pairs)
        speeds = ", ".join(f"{w} {count / s:.0f}" for w, s in middle.items())
        print(f"{dtype} {name}: {speeds} tokens/s; "
              f"{statistics.median(ratios):.2f}x the faster of transformers "
              f"({ratios[0]:.2f} to {ratios[-1]:.2f})", flush=True)  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dtype", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    cfg = Config.from_dict(MINI | dict(model_type="qwen3_5_moe_text"))
    with tempfile.TemporaryDirectory() as folder:
        minqwen.save(minqwen.Qwen(cfg), folder)
        for name in options.dtype:
            times = compare(folder, getattr(torch, name), options.repeats)
            report(times, name)


if __name__ == "__main__":
    main()
