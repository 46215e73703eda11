"""The 397B model at its full size, on a laptop: one token through all 60 layers.

    python -m tools.full_size [--quantize int8] [--cache 256MiB] [--threads 2]

Makes the whole checkpoint, 94 shards with the released names, 806.8 GB that take a few
MB of disk: the files are sparse, all weights zero but one embedding row and, in every
router, the rows of ten experts, so that it is known which the token must visit. Loads
it with experts on disk and the rest in memory, reads one token, and says what that
took. Times of the disk are not real ones, since holes in a file are read from nowhere;
every byte is read, copied and multiplied all the same. The rest, of the language model
alone, is 18.3 GiB in bf16, and becomes int8 or int4 while it is read with --quantize.
"""

import argparse
import json
import random
import tempfile
import time
import warnings
from pathlib import Path

import torch

import minqwen
from minqwen.model.config import Config
from minqwen.plan.budget import expert_bytes
from minqwen.units import human, size
from minqwen.weights.checkpoint.header import lay_out
from minqwen.weights.checkpoint.layout import LABELS, skeleton
from minqwen.weights.checkpoint.shards import slots
from minqwen.weights.convert import read_target
from minqwen.weights.quantised.settings import KEY

SHARDS = 94
TOKEN = 7
SHARD = "model.safetensors-{:05d}-of-{:05d}.safetensors"  # the released files' own form
EMBEDDING = "model.language_model.embed_tokens.weight"
ROUTER = "model.language_model.layers.{}.mlp.gate.weight"


def make(folder, cfg, shards=SHARDS, form="bf16"):
    """Write config.json, index and sparse shards; {tensor: (file, first byte)}.

    `form` is what `minqwen convert --quantize` takes.
    """
    folder.mkdir(parents=True, exist_ok=True)
    scheme = read_target(form)
    found = slots(skeleton(cfg, torch.bfloat16), scheme)
    tensors = {s.stored: (s.shape, s.dtype, s.nbytes) for s in found}
    total = sum(count for *_, count in tensors.values())
    parts, at = [[] for _ in range(shards)], 0
    for name, (_, _, count) in tensors.items():
        parts[int((at + count / 2) * shards / total)].append(name)
        at += count
    places = {}
    own = {n: (LABELS[dtype], shape) for n, (shape, dtype, _) in tensors.items()}
    for number, names in enumerate(parts, 1):
        file = folder / SHARD.format(number, shards)
        raw, first = lay_out({name: own[name] for name in names}, {})
        with open(file, "wb") as f:
            f.write(raw)
            f.truncate(len(raw) + sum(tensors[n][2] for n in names))
        places |= {name: (file, at) for name, at in first.items()}
    index = {
        "metadata": {"total_size": total},
        "weight_map": {name: file.name for name, (file, _) in places.items()},
    }
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    said = scheme.config([])
    extra = {KEY: said} if said else {}
    (folder / "config.json").write_text(json.dumps(cfg.to_dict() | extra))
    return places


def steer(places, cfg, seed=0):
    """Fill the rows that decide where TOKEN goes; returns each layer's experts."""
    t, draw = cfg.text, random.Random(seed)
    row = torch.randn(t.hidden_size, generator=torch.Generator().manual_seed(seed))
    put(places[EMBEDDING], TOKEN, row)
    chosen = []
    for layer in range(t.num_hidden_layers):
        chosen.append(sorted(draw.sample(range(t.num_experts), t.num_experts_per_tok)))
        for expert in chosen[-1]:
            put(places[ROUTER.format(layer)], expert, row * t.hidden_size**-0.5)
    return chosen


def put(place, number, row):
    """Write one row of a bf16 matrix that lies at `place`."""
    file, start = place
    values = row.bfloat16()
    with open(file, "r+b") as f:
        f.seek(start + number * values.nbytes)
        f.write(values.view(torch.uint8).numpy().tobytes())


def peak():
    """Most memory this process ever held, in bytes (Linux)."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


@torch.inference_mode()
def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cache", type=size, default=2**28)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--quantize", choices=("int8", "int4"))
    parser.add_argument("--folder", type=Path, help="where the files go, and stay")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as temporary:
        folder, cfg = options.folder or Path(temporary), Config.named("397B-A17B")
        begun = time.perf_counter()
        chosen = steer(make(folder, cfg), cfg)
        files = list(folder.glob("*.safetensors"))
        seen = sum(file.stat().st_size for file in files)
        taken = sum(file.stat().st_blocks * 512 for file in files)
        print(f"{len(files)} shards of {human(seen)}, {human(taken)} on disk; made in "
              f"{time.perf_counter() - begun:.1f} s", flush=True)  # fmt: skip
        run(folder, options, chosen)


def run(folder, options, chosen):
    # a text model's config on the same files
    text = Config.named("397B-A17B").replace(mtp_num_hidden_layers=0).to_dict()
    (folder / "config.json").write_text(json.dumps(text["text_config"]))
    warnings.simplefilter("ignore")  # that tower and draft head are left out
    begun = time.perf_counter()
    model = minqwen.load(
        folder, dtype=torch.bfloat16, experts="disk", expert_cache=options.cache,
        quantize=options.quantize,
    )  # fmt: skip
    took = time.perf_counter() - begun
    print(f"loaded in {took:.1f} s, all but experts in {options.quantize or 'bf16'}; "
          f"peak memory {peak() / 2**30:.2f} GiB", flush=True)  # fmt: skip
    visited, spent = [], {}
    for block in model.model.language_model.layers:
        block.mlp.gate.register_forward_hook(
            lambda _, __, out: visited.append(sorted(out[1].flatten().tolist()))
        )
        time_of(block.mlp, "mlp and experts", spent)
        mixer = getattr(block, "linear_attn", None) or block.self_attn
        time_of(mixer, block.kind.replace("_", " "), spent)
    time_of(model.lm_head, "output head", spent)
    stats = next(m.pages.stats for m in model.modules() if hasattr(m, "pages"))
    begun = time.perf_counter()
    logits = model(torch.tensor([[TOKEN]]), last_only=True)
    took = time.perf_counter() - begun
    assert visited == chosen and logits.isfinite().all()
    wanted = len(chosen) * len(chosen[0]) * expert_bytes(model.cfg)
    print(f"one token through {len(chosen)} layers in {took:.1f} s")
    print(f"  experts read     {stats.misses}, as chosen: {human(stats.bytes_read)}, "
          f"predicted {human(wanted)}")  # fmt: skip
    spent["mlp and experts"] -= stats.expert_seconds
    spent["waiting for experts"] = stats.wait_seconds
    spent["computing experts"] = stats.expert_seconds - stats.wait_seconds
    spent["the rest"] = took - sum(spent.values())
    for what, seconds in sorted(spent.items(), key=lambda item: -item[1]):
        label = "shared experts, routers" if what == "mlp and experts" else what
        print(f"  {label:<24}{seconds:8.2f} s {seconds / took:6.1%}")
    print(f"peak memory {peak() / 2**30:.2f} GiB")


def time_of(module, name, spent):
    """Add the seconds of every call of a module to spent[name]."""
    started = []
    module.register_forward_pre_hook(lambda *_: started.append(time.perf_counter()))

    def stop(*_):
        spent[name] = spent.get(name, 0) + time.perf_counter() - started.pop()

    module.register_forward_hook(stop)


if __name__ == "__main__":
    main()
