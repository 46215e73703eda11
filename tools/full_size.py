"""The 397B model at its full size, on a laptop: one token through all 60 layers.

    python -m tools.full_size [--quantize int8] [--cache 256MiB] [--threads 2]

Makes the whole checkpoint, 94 shards with the released names, 806.8 GB that take a few
MB of disk: the files are sparse, all weights zero but one embedding row and, in every
router, the rows of ten experts, so that it is known which the token must visit. Loads
it with experts on disk and the rest in memory, sends the token through it twice, since
the first time compiles, and says what the second took. Times of the disk are not real
ones, since holes in a file are read from nowhere; every byte is read, copied and
multiplied all the same. The rest, of the language model alone, is 18.3 GiB in bf16, and
becomes int8 or int4 while it is read with --quantize.
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
from minqwen.kernels.cpu.decode import Decoder
from minqwen.model.config import Config
from minqwen.plan.budget import expert_bytes
from minqwen.units import human, size
from minqwen.weights.checkpoint.header import lay_out
from minqwen.weights.checkpoint.layout import LABELS, skeleton
from minqwen.weights.checkpoint.shards import slots
from minqwen.weights.convert import read_target
from minqwen.weights.disk.pages import Stats
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
    t, chosen = cfg.text, choices(cfg, seed)
    row = torch.randn(t.hidden_size, generator=torch.Generator().manual_seed(seed))
    put(places[EMBEDDING], TOKEN, row.bfloat16())
    direction = (row * t.hidden_size**-0.5).bfloat16()
    for layer, experts in enumerate(chosen):
        for expert in experts:
            put(places[ROUTER.format(layer)], expert, direction)
    return chosen


def choices(cfg, seed):
    """Each layer's experts, as many as a token visits."""
    t, draw = cfg.text, random.Random(seed)
    some = range(t.num_experts)
    return [
        sorted(draw.sample(some, t.num_experts_per_tok))
        for _ in range(t.num_hidden_layers)
    ]


def put(place, number, row):
    """Write one row, a tensor as it is stored, of the matrix that lies at `place`."""
    file, start = place
    with open(file, "r+b") as f:
        f.seek(start + number * row.nbytes)
        f.write(row.view(torch.uint8).numpy().tobytes())


def tell(files, begun):
    """Say how large the files look, and what of them is there."""
    seen = sum(file.stat().st_size for file in files)
    taken = sum(file.stat().st_blocks * 512 for file in files)
    print(f"{len(files)} files of {human(seen)}, {human(taken)} on disk; made in "
          f"{time.perf_counter() - begun:.1f} s", flush=True)  # fmt: skip


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
        tell(list(folder.glob("*.safetensors")), begun)
        # a text model's config on the same files
        text = cfg.replace(mtp_num_hidden_layers=0).to_dict()["text_config"]
        (folder / "config.json").write_text(json.dumps(text))
        warnings.simplefilter("ignore")  # that tower and draft head are left out
        wanted = sum(map(len, chosen)) * expert_bytes(cfg)
        run(folder, options, chosen, wanted, options.quantize)


def run(path, options, chosen, wanted, quantize=None):
    """Load, read the token, and say what that took.

    chosen, wanted: where it must go, and the bytes of all these experts.
    """
    begun = time.perf_counter()
    model = minqwen.load(
        path, dtype=torch.bfloat16, experts="disk", expert_cache=options.cache,
        quantize=quantize,
    )  # fmt: skip
    took = time.perf_counter() - begun
    print(f"loaded all but experts in {took:.1f} s; peak memory "
          f"{peak() / 2**30:.2f} GiB", flush=True)  # fmt: skip
    decoder, visited, spent = Decoder(model), [], {}
    held = {m.pages for m in model.modules() if hasattr(m, "pages")}
    for pages in held:
        note(pages.places, visited)
    blocks = model.model.language_model.layers
    decoder.layers = [
        (before, timed(mix, block.kind.replace("_", " "), spent), between,
         timed(think, "experts and routers", spent))
        for (before, mix, between, think), block in zip(
            decoder.layers, blocks, strict=True)
    ]  # fmt: skip
    decoder.logits = timed(decoder.logits, "output head", spent)
    stats = next(iter(held)).stats  # of all
    for what in "first, compiling", "second":
        visited.clear(), spent.clear()
        before, begun = stats - Stats(), time.perf_counter()
        logits = decoder(torch.tensor([[TOKEN]]), model.new_cache(1, 1))
        took = time.perf_counter() - begun
        assert visited == chosen and logits.isfinite().all()
        print(f"the {what}: a token through {len(chosen)} layers in {took:.1f} s",
              flush=True)  # fmt: skip
    new = stats - before
    print(f"  experts read     {new.misses}, as chosen: {human(new.bytes_read)}, "
          f"predicted {human(wanted)}")  # fmt: skip
    spent["experts and routers"] -= new.wait_seconds
    spent["waiting for experts"] = new.wait_seconds
    spent["the rest"] = took - sum(spent.values())
    for label, seconds in sorted(spent.items(), key=lambda item: -item[1]):
        print(f"  {label:<24}{seconds:8.2f} s {seconds / took:6.1%}")
    print(f"peak memory {peak() / 2**30:.2f} GiB")


def note(places, visited):
    """Add to `visited` the experts of every layer that places are asked for."""
    reserve = places.reserve

    def noted(experts):
        visited.append(sorted(e for _, e in experts))
        return reserve(experts)

    places.reserve = noted


def timed(function, name, spent):
    """The function, which adds the seconds of every call to spent[name]."""

    def call(*args):
        begun = time.perf_counter()
        result = function(*args)
        spent[name] = spent.get(name, 0) + time.perf_counter() - begun
        return result

    return call


if __name__ == "__main__":
    main()
