"""The command line: minqwen tour | info | plan | generate | chat | train.

Answers go to stdout, everything else to stderr. Exit codes: 0, 1 for a failure, 2 for
bad use, 130 for Ctrl-C, 141 when whoever reads the output stops; an error is one line.
"""

import argparse
import json
import os
import sys
import warnings
from dataclasses import replace

import torch

from .advice import advise
from .errors import InputError
from .generate import generate
from .info import describe
from .terminal import complain, follow, say, summary
from .text import Processor
from .tour import tour
from .units import rate, size
from .weights import load
from .weights.report import Meter

DTYPES = ("float32", "bfloat16", "float16", "stored")
SAMPLING = ("temperature", "top_k", "top_p", "min_p", "presence_penalty", "seed")


def main(argv=None):
    """Run one command; returns the exit code (bad use raises SystemExit(2))."""
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a terminal may lack a character
            stream.reconfigure(errors="replace")
    options = parser().parse_args(argv)
    try:
        with warnings.catch_warnings():
            warnings.showwarning = lambda message, *_: complain(message)
            options.run(options)
            sys.stdout.flush()
    except BrokenPipeError:  # whoever read our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except KeyboardInterrupt:
        say()
        return 130
    except (InputError, OSError, MemoryError) as error:
        complain(error)
        return 1
    except RuntimeError as error:  # torch's way to say that memory is full
        if "alloc" not in str(error) and not isinstance(error, torch.OutOfMemoryError):
            raise
        complain(MemoryError())
        return 1
    return 0


# ---- what may be asked ----


class Parser(argparse.ArgumentParser):
    def error(self, message):
        """One line instead of argparse's usage and message."""
        complain(f"{message} (see {self.prog} --help)")
        sys.exit(2)


def number(kind, low, high=float("inf"), over=False):
    """An argparse type: an int or float from low (or over it) to high."""

    def parse(text):
        try:
            value = kind(text)
        except ValueError:
            value = None
        if value is None or not low <= value <= high or over and value == low:
            what = "a whole number" if kind is int else "a number"
            bounds = f"{'over' if over else 'from'} {low}"
            bounds += "" if high == float("inf") else f" to {high}"
            raise argparse.ArgumentTypeError(f"{text!r} is not {what} {bounds}")
        return value

    return parse


def parser():
    main = Parser("minqwen", description="Qwen3.5, exact and small enough to read.")
    commands = main.add_subparsers(metavar="COMMAND", required=True)

    def command(name, run, text):
        sub = commands.add_parser(name, help=text, description=text)
        sub.set_defaults(run=run)
        return sub

    command("tour", run_tour, "see the small model read, look and answer")
    sub = command("info", run_info, "what a checkpoint, or a size by name, is made of")
    sub.add_argument("path", help="folder, file, hub id, or a name such as 397B-A17B")
    sub = command("plan", run_plan, "what fits where, and how fast it can be")
    sub.add_argument("path", help="folder, file, hub id, or a name such as 397B-A17B")
    sub.add_argument("--context", type=number(int, 1), metavar="N",
                     help="tokens of a text (default: all positions)")  # fmt: skip
    sub.add_argument("--batch", type=number(int, 1), default=1, metavar="N")
    sub.add_argument("--memory", type=size, metavar="SIZE",
                     help="of the machine (default: 24GiB)")  # fmt: skip
    sub.add_argument("--memory-speed", type=rate, default=5e10, metavar="RATE",
                     help="default: 50GB/s")  # fmt: skip
    sub.add_argument("--disk-speed", type=rate, default=5e9, metavar="RATE",
                     help="default: 5GB/s")  # fmt: skip
    sub.add_argument("--gpus", metavar="NxGPU", help="such as 8xH100-80GB")
    sub = command("generate", run_generate, "answer one prompt")
    answer_options(sub)
    sub.add_argument("--prompt", required=True, help="what to answer")
    sub.add_argument("--image", action="append", default=[], metavar="FILE",
                     help="a picture before the prompt; repeatable")  # fmt: skip
    sub.add_argument("--video", action="append", default=[], metavar="FILE",
                     help="a film before the prompt; repeatable")  # fmt: skip
    sub.add_argument("--json", action="store_true", help="print one JSON object")
    answer_options(command("chat", run_chat, "talk, line by line, from stdin"))
    sub = command("train", run_train, "train the small model from nothing")
    sub.add_argument("--out", required=True, metavar="FOLDER", help="where to save it")
    sub.add_argument("--steps", type=number(int, 1), metavar="N",
                     help="batches to learn from")  # fmt: skip
    sub.add_argument("--threads", type=number(int, 1, 1024), default=2, metavar="N",
                     help="of the CPU (default: 2)")  # fmt: skip
    sub.add_argument("--seed", type=number(int, 0, 2**31), default=0)
    sub.add_argument("--resume", action="store_true", help="go on where it stopped")
    return main


def answer_options(sub):
    """What `generate` and `chat` share."""
    add = sub.add_argument
    add("path", help="checkpoint: a folder, a .safetensors file or a hub id")
    add("--max-new-tokens", type=number(int, 1), default=512, metavar="N")
    add("--temperature", type=number(float, 0, 100), default=0.0, metavar="X",
        help="0 (default) takes the likeliest token; 1 samples as trained")  # fmt: skip
    add("--top-k", type=number(int, 0), default=0, metavar="N", help="0 is off")
    add("--top-p", type=number(float, 0, 1, over=True), default=1.0, metavar="X")
    add("--min-p", type=number(float, 0, 1), default=0.0, metavar="X")
    add("--presence-penalty", type=number(float, -100, 100), default=0.0, metavar="X")
    add("--seed", type=number(int, 0, 2**63 - 1), default=0, metavar="N")
    add("--stop", action="append", default=[], metavar="TEXT",
        help="end the answer before this text; repeatable")  # fmt: skip
    add("--thinking", action="store_true", help="think first (shown on stderr)")
    add("--draft", type=number(int, 0, 16), default=0, metavar="N",
        help="guess N tokens ahead: same text, fewer forwards")  # fmt: skip
    add("--dtype", choices=DTYPES, default="float32", help="default: float32")
    add("--device", help="default: a GPU if there is one, or else cpu")
    add("--experts", choices=("memory", "disk"), default="memory",
        help="disk: leave them in the files until a token chooses them")  # fmt: skip
    add("--expert-cache", type=size, metavar="SIZE",
        help="memory for those read (default: half of what is free)")  # fmt: skip
    add("--quantize", choices=("int8", "int4"), help="weights in fewer bits")
    add("--stats", action="store_true", help="say what reading experts took")


# ---- commands ----


def run_tour(options):
    tour()


def run_info(options):
    print(describe(options.path))


def run_plan(options):
    print(advise(
        options.path, options.context, options.batch, options.memory,
        options.disk_speed, options.memory_speed, options.gpus,
    ))  # fmt: skip


def run_train(options):
    from .train import Recipe, run  # the corpus comes with it

    recipe = Recipe(seed=options.seed)
    if options.steps:
        recipe = replace(recipe, steps=options.steps)
    run(options.out, recipe, resume=options.resume, threads=options.threads)


def run_generate(options):
    processor = Processor.load(options.path)
    content = [{"type": "image", "image": path} for path in options.image]
    content += [{"type": "video", "video": path} for path in options.video]
    content.append({"type": "text", "text": options.prompt})
    messages = [{"role": "user", "content": content}]
    inputs = processor.chat(messages, thinking=options.thinking)  # before the weights:
    model = load_model(options)  # a mistake in the prompt should not wait for them
    answer = reply(model, processor, inputs, options, show=not options.json)
    if options.json:
        print(json.dumps(answer))


def run_chat(options):
    processor = Processor.load(options.path)
    model = load_model(options)
    say("[/image FILE shows a picture with the next line; /quit or Ctrl-D ends]")
    messages, pictures = [], []
    for line in lines():
        word, _, rest = line.strip().partition(" ")
        if word == "/quit":
            break
        if word == "/image":
            pictures += existing(rest.strip())
        elif line.strip():
            content = [*pictures, {"type": "text", "text": line.strip()}]
            asked = [*messages, {"role": "user", "content": content}]
            try:
                inputs = processor.chat(asked, thinking=options.thinking)
                answer = reply(model, processor, inputs, options)
                told = {"role": "assistant", "content": answer["text"]}
                messages = [*asked, told]
            except (InputError, OSError) as error:
                if isinstance(error, BrokenPipeError):
                    raise
                complain(error)  # and go on as if it had not been asked
            pictures = []


def lines():
    """Lines from stdin, with a prompt and line editing where a person types them."""
    if not sys.stdin.isatty():
        yield from sys.stdin
        return
    import readline  # noqa: F401  (gives input() its history)

    while True:
        print("> ", end="", file=sys.stderr, flush=True)
        try:
            yield input()
        except EOFError:
            return


def existing(path):
    """The picture as a content item, in a list; empty, with a complaint, if absent."""
    path = os.path.expanduser(path)  # no shell does it here
    if os.path.isfile(path):
        return [{"type": "image", "image": path}]
    complain(f"/image {path}: no such file")
    return []


# ---- answering ----


def load_model(options):
    dtype = None if options.dtype == "stored" else getattr(torch, options.dtype)
    return load(
        options.path, device=options.device, dtype=dtype,
        experts=options.experts, expert_cache=options.expert_cache,
        quantize=options.quantize,
    )  # fmt: skip


def reply(model, processor, inputs, options, show=True):
    """Answer, printing as it is written; returns text, thinking and counts."""
    chosen = {name: getattr(options, name) for name in SAMPLING}
    steps = generate(
        model, inputs, options.max_new_tokens, **chosen, stop=options.stop,
        draft=options.draft, processor=processor,
    )  # fmt: skip
    meter = Meter(model) if options.stats else None
    answer = follow(meter.watch(steps) if meter else steps, show)
    answer["prompt_tokens"] = inputs["input_ids"].shape[1]
    say(f"[{summary(answer, options.max_new_tokens)}]")
    if meter:
        answer["experts"] = meter.report(answer)
        say("\n".join(f"[{line}]" for line in meter.lines(answer)))
    return answer
