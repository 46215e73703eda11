"""`minqwen tour`: the embedded model reads, looks, answers and shows its experts."""

import math
import os
import resource
import shutil
import sys
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter

import torch

from ..engine.generate import generate
from ..errors import InputError
from ..files import ASSETS
from ..model.shapes import FULL
from ..model.taps import listen
from ..prompt.processor import Processor
from ..terminal import follow, styled
from ..weights import load

QUESTION = "What does textwrap.dedent do?"
PICTURE = "seven.png"
PICTURE_QUESTION = "Which digit is this?"
COLUMNS = 32  # of the table of experts, so that a line fits 80


def tour(assets=ASSETS):
    """Print the tour. InputError where the small checkpoint is not beside the code."""
    begun = perf_counter()
    folder = assets / "tiny"
    if not (folder / "config.json").is_file():
        raise InputError(
            f"{folder} holds no checkpoint; install minqwen again or clone it, since "
            "both bring one (or make it with minqwen train --out assets/tiny)"
        )
    model, processor = load(folder), Processor.load(folder)
    loaded = perf_counter() - begun
    text, count = model.cfg.text, model.num_parameters()
    shape = f"{text.num_hidden_layers} layers"
    if text.num_experts:
        shape += f", {text.num_experts} experts in each"
    print(styled("A whole Qwen3.5, but small", 1), end=": ")
    print(f"{shape}, {count['total'] / 1e6:.1f} million numbers.\n")
    with watch(model) as fired:
        answer(model, processor, QUESTION)
        print(sketch(assets / PICTURE))
        answer(model, processor, PICTURE_QUESTION, assets / PICTURE)
    if text.num_experts:
        print(experts_table(fired, text))
    took = perf_counter() - begun
    print(f"{took:.1f} s in all, {loaded:.1f} s of them to load; {memory()}.")
    command = "minqwen" if shutil.which("minqwen") else os.path.relpath(sys.argv[0])
    command = command.replace(
        os.path.join("minqwen", "__main__.py"), "python -m minqwen"
    )
    if (assets.parent / "Makefile").is_file():
        first = styled("make lab", 1) + " opens the course"
    else:  # installed, and no clone
        trace = assets / "trace.safetensors"
        first = styled(f"{command} explore {trace}", 1) + " shows the experts"
    near = folder.is_relative_to(Path.cwd())
    folder = folder.relative_to(Path.cwd()) if near else folder
    print(f"Next: {first},", styled(f"{command} chat {folder}", 1), "talks on.")


def answer(model, processor, question, picture=None):
    """One question, with or without a picture, and its answer as it is written."""
    content = [{"type": "text", "text": question}]
    if picture:
        content.insert(0, {"type": "image", "image": picture})
    inputs = processor.chat([{"role": "user", "content": content}])
    print(styled("> " + question, 1), flush=True)
    follow(generate(model, inputs, max_new_tokens=96, processor=processor))
    print()


@contextmanager
def watch(model):
    """Within the block, count how often each router picks each expert: [L, E]."""
    E = model.cfg.text.num_experts or 0
    counts = torch.zeros(model.cfg.text.num_hidden_layers, E, dtype=torch.long)

    def count(layer, ids, **_):
        if layer != "mtp":
            counts[layer] += ids.cpu().flatten().bincount(minlength=E)

    with listen(model, router=count):
        yield counts


def experts_table(counts, text):
    """A line a layer of counts [L, E]: how often each fired, and which did most."""
    tokens = int(counts[0].sum()) // text.num_experts_per_tok
    share = text.num_experts_per_tok / text.num_experts
    lines = [
        f"Which of the {text.num_experts} experts fired, over {tokens} tokens "
        f"({text.num_experts_per_tok} a token; evenly: {share:.0%} each)",
        f"layer          {'expert 0 ...':<{min(text.num_experts, COLUMNS)}} most often",
    ]
    for i, count in enumerate(counts):
        kind = "full" if text.layer_types[i] == FULL else "delta"
        top = count.topk(min(3, len(count)))
        most = ", ".join(
            f"{e} ({n / tokens:.0%})"
            for e, n in zip(top.indices.tolist(), top.values.tolist(), strict=True)
        )
        lines.append(f"{i:5} {kind:8} {heat(count)} {most}")
    return "\n".join(lines) + "\n"


def heat(count):
    """A character an expert, the taller the oftener; many experts share one."""
    shades = ramp(" ▁▂▃▄▅▆▇█", " .:-=+*#@")
    each = math.ceil(len(count) / COLUMNS)
    sums = [int(part.sum()) for part in count.split(each)]
    steps = [math.ceil(n / max(sums) * (len(shades) - 1)) if n else 0 for n in sums]
    return styled("".join(shades[step] for step in steps), 36)


def sketch(path, width=28, height=14):
    """The picture in characters: a terminal's are twice as high as wide."""
    from PIL import Image

    with Image.open(path) as picture:
        grey = picture.convert("L").resize((width, height))
    values = list(grey.tobytes())
    if sorted(values)[len(values) // 2] > 127:  # a bright ground: let it be empty
        values = [255 - value for value in values]
    low, high = min(values), max(values)
    shades = ramp(" ░▒▓█", " .+#@")
    step = (high - low + 1) / len(shades)
    rows = [values[i : i + width] for i in range(0, len(values), width)]
    return "\n".join(
        "  " + "".join(shades[int((v - low) / step)] for v in r) for r in rows
    )


def ramp(fine, plain):
    """Shades from light to dark that stdout's encoding has."""
    try:
        fine.encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        return plain
    return fine


def memory():
    """The most memory this process has had, in words."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    peak *= 1 if sys.platform == "darwin" else 1024
    return f"{peak / 1e6:.0f} MB of memory at the most"
