"""Loading beside transformers: 1.7 GB of random weights, time and peak memory.

    python -m tools.load_speed [--repeats 3] [--threads 2]

A mixture of 512 experts in bf16, made on the spot, once with each expert in tensors of
its own, as transformers saves it, and once fused, as the released files are. Every run
is a new process that loads, then reads every weight once, so that what was only mapped
counts too; runs alternate, and ratios are taken turn by turn.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from safetensors.torch import save_file

import minqwen
from minqwen.bench import SMALL
from minqwen.model.config import Config
from minqwen.weights.checkpoint.layout import FUSED, per_expert
from tools.full_size import peak

LARGE = SMALL | dict(num_experts=512, num_experts_per_tok=10)
WAYS = {
    "one by one": ("minqwen", "transformers"),
    "fused": ("minqwen", "minqwen, experts on disk", "transformers"),
}


def make(folder, values):
    """The same random weights in two layouts: folder/"one by one", folder/"fused"."""
    cfg = Config.from_dict(values | dict(model_type="qwen3_5_moe_text"))
    with torch.device("meta"):
        model = minqwen.Qwen(cfg).to(torch.bfloat16)
    model = model.to_empty(device="cpu")
    for p in model.parameters():
        p.data.normal_(0, 0.02)
    minqwen.save(model, folder / "fused")
    tensors = {}
    for name, p in model.named_parameters():
        stored = name.replace("model.language_model.", "model.")
        if name.endswith(FUSED):
            for single, (e, low, high) in per_expert(stored, p.shape):
                tensors[single] = p.data[e, low:high].clone()
        else:
            tensors[stored] = p.data
    (folder / "one by one").mkdir()
    config = (folder / "fused" / "config.json").read_text()
    (folder / "one by one" / "config.json").write_text(config)
    save_file(tensors, folder / "one by one" / "model.safetensors", {"format": "pt"})


def once(way, folder, threads):
    """Seconds to load and to read all weights, peak bytes beyond the imports, bytes of
    weights, and seconds of CPU that both took."""
    torch.set_num_threads(threads)
    if way == "transformers":
        from transformers import Qwen3_5MoeForCausalLM as Model

        def load():
            return Model.from_pretrained(folder, dtype=torch.bfloat16)
    else:
        experts = "disk" if "disk" in way else "memory"

        def load():
            return minqwen.load(folder, dtype=torch.bfloat16, experts=experts)

    cpu, before, begun = time.process_time(), peak(), time.perf_counter()
    model = load()
    loaded = time.perf_counter()
    for p in model.parameters():
        p.data.view(torch.int16 if p.itemsize == 2 else torch.int32).max()
    read = time.perf_counter()
    size = sum(p.nbytes for p in model.parameters())
    cpu = time.process_time() - cpu
    return loaded - begun, read - loaded, peak() - before, size, cpu


def compare(folder, repeats, threads):
    for layout, ways in WAYS.items():
        runs = {way: [] for way in ways}
        for _ in range(repeats):
            for way in ways:
                command = [
                    sys.executable, "-m", "tools.load_speed", "--once", way,
                    "--threads", str(threads), "--folder", str(folder / layout),
                ]  # fmt: skip
                out = subprocess.run(command, capture_output=True, text=True)
                if out.returncode:
                    raise SystemExit(f"{way}: {out.stderr[-2000:]}")
                runs[way].append(json.loads(out.stdout.splitlines()[-1]))
        print(f"experts {layout}, {runs['minqwen'][0][3] / 1e9:.2f} GB", flush=True)
        theirs = [load + read for load, read, *_ in runs["transformers"]]
        for way, found in runs.items():
            load, read = (statistics.median(r[i] for r in found) for i in (0, 1))
            ratios = [t / (r[0] + r[1]) for t, r in zip(theirs, found, strict=True)]
            memory = max(r[2] / r[3] for r in found)
            cpu = statistics.median(r[4] for r in found)
            middle = statistics.median(ratios)
            print(
                f"  {way:<26}{load:6.2f} s to load, {read:5.2f} s to read once, "
                f"{cpu:.2f} s of CPU; peak {memory:.2f} x the weights; {middle:.1f}x "
                f"transformers ({min(ratios):.1f} to {max(ratios):.1f})",
                flush=True,
            )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--once", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.once:
        print(json.dumps(once(options.once, options.folder, options.threads)))
        return
    with tempfile.TemporaryDirectory() as folder:
        make(Path(folder), LARGE)
        compare(Path(folder), options.repeats, options.threads)


if __name__ == "__main__":
    main()
