"""`minqwen tour`: the embedded model remembers, looks, reckons, calls a tool, and
shows which part of it did what."""

import os
import shutil
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import torch

from ..engine.generate import generate
from ..errors import InputError
from ..files import ASSETS
from ..model.taps import listen
from ..prompt.processor import Processor
from ..terminal import follow, styled
from ..weights import load
from .drawn import COLUMNS, heat, sketch
from .evidence import evidence

PICTURE = "seven.png"
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Tells the weather in a town.",
        "parameters": {
            "type": "object",
            "properties": {"town": {"type": "string"}},
            "required": ["town"],
        },
    },
}
FORECAST = "it is sunny, 21 degrees"  # what the tool returns, here from no one


@dataclass(frozen=True)
class Stop:
    """A question, and the word in what is written that is looked into."""

    name: str
    question: str
    word: str
    picture: str | None = None
    thinking: bool = False
    tools: tuple = ()


STOPS = (
    Stop("note", "The key is on the table. The lamp is in the hall. Now the key is "
         "in the box. Where is the key?", " box"),
    Stop("picture", "Which digit is this?", "7", picture=PICTURE),
    Stop("sum", "478 + 356", "14", thinking=True),
    Stop("tool", "What is the weather in Oslo?", "weather", tools=(WEATHER,)),
)  # fmt: skip


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
    fired = {}
    for stop in STOPS:
        with watch(model) as fired[stop.name]:
            show(stop, model, processor, assets)
    if text.num_experts:
        print(experts_by_task(fired, text.num_experts_per_tok))
    took = perf_counter() - begun
    print(f"{took:.1f} s in all, {loaded:.1f} s of them to load{memory()}.")
    print(what_next(assets, folder))


def show(stop, model, processor, assets):
    """One question, its answer as it is written, and which part of the model did it."""
    content = [{"type": "text", "text": stop.question}]
    if stop.picture:
        print(sketch(assets / stop.picture))
        content.insert(0, {"type": "image", "image": assets / stop.picture})
    messages = [{"role": "user", "content": content}]
    print(styled("> " + stop.question, 1), flush=True)
    inputs, answer = write(stop, messages, model, processor)
    print(styled(who_wrote(stop, model, processor, inputs, answer), 2))
    if "<tool_call>" in answer["text"]:
        print(styled(f"< {FORECAST}", 1), flush=True)
        said = {"role": "assistant", "content": answer["text"]}
        messages += [said, {"role": "tool", "content": FORECAST}]
        write(stop, messages, model, processor)
    print()


def write(stop, messages, model, processor):
    """The prompt's tensors, and what `follow` tells of the answer that it prints."""
    inputs = processor.chat(messages, stop.thinking, list(stop.tools) or None)
    steps = generate(model, inputs, max_new_tokens=120, processor=processor)
    return inputs, follow(steps)


def who_wrote(stop, model, processor, inputs, answer):
    """What most of a word's logit came from, and where that part looked."""
    prompt, ids = inputs["input_ids"][0].tolist(), answer["token_ids"]
    texts = [processor.decode([i]) for i in ids]
    at = begins(texts, stop.word)
    if at is None:
        return "  (It did not write what was expected.)"
    found = evidence(model, inputs, ids, at)
    (layer, part), share = found.best()
    word = texts[at].strip()
    line = f"  {word!r} is mostly from layer {layer}'s {part}: {share:.1f} of a logit "
    line += f"of {found.logit:.1f}"
    if layer in found.looks:
        line += looking(found.looks[layer], prompt + ids[:at], ids[at], model.cfg)
    return line + "."


def begins(texts, word):
    """The first token in whose text `word` begins; None if none has it."""
    place, read = "".join(texts).find(word), 0
    for at, text in enumerate(texts):
        read += len(text)
        if 0 <= place < read:
            return at
    return None


def looking(look, ids, token, config):
    """Which head looked most at the same token earlier on, or at the picture."""
    ids = torch.tensor(ids)
    there, what = ids == token, "the same word above"
    if (ids == config.image_token_id).any():
        there, what = ids == config.image_token_id, "the picture"
    share, head = look[:, there].sum(1).max(0)
    return f",\n  whose head {head} looked at {what} ({share:.0%})" * (share > 0.5)


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


def experts_by_task(fired, top_k):
    """A line a task of the layer whose experts differ most by task.

    fired {task: counts [L, E]}; a token counts for its `top_k` experts.
    """
    counts = torch.stack(list(fired.values())).double()  # [tasks, L, E]
    shares = counts / counts.sum(-1, keepdim=True)
    layer = int((shares - shares.mean(0)).abs().sum((0, 2)).argmax())
    E = shares.shape[-1]
    lines = [
        f"Who fired in layer {layer}: {top_k} of {E} experts for each token "
        f"(evenly: {top_k / E:.0%} of tokens)",
        f"{'':9}{'expert 0 ...':<{min(E, COLUMNS)}} most of all",
    ]
    for name, share in zip(fired, shares[:, layer], strict=True):
        best = int(share.argmax())
        drawn = heat(fired[name][layer])
        lines.append(f"{name:8} {drawn} {best} ({share[best] * top_k:.0%} of tokens)")
    return "\n".join(lines) + "\n"


def what_next(assets, folder):
    """The last line: commands that go on from here."""
    command = "minqwen" if shutil.which("minqwen") else os.path.relpath(sys.argv[0])
    command = command.replace(
        os.path.join("minqwen", "__main__.py"), "python -m minqwen"
    )
    if (assets.parent / "Makefile").is_file():
        first = styled("make lab", 1) + " opens the course"
    else:  # installed, and no clone
        trace = assets / "note.safetensors"
        first = styled(f"{command} explore {trace}", 1) + " shows the memory"
    near = folder.is_relative_to(Path.cwd())
    folder = folder.relative_to(Path.cwd()) if near else folder
    live = styled(f"{command} explore --live", 1) + " runs the model in a page"
    talk = styled(f"{command} chat {folder}", 1) + " talks on"
    return f"Next: {first}, {live}, {talk}."


def memory():
    """The most memory this process has had, in words, where the system counts it."""
    try:
        import resource
    except ImportError:  # Windows
        return ""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    peak *= 1 if sys.platform == "darwin" else 1024
    return f"; {peak / 1e6:.0f} MB of memory at the most"
