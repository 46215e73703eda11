"""The command line; `minqwen --help` lists the commands.

Answers go to stdout, everything else to stderr. An error is one line.
"""

import json
import os
import sys
import warnings

import torch

from ..engine.generate import generate
from ..errors import InputError
from ..files import destination
from ..parallel import part, ranks
from ..plan import doctor, predict
from ..plan.contents import describe
from ..plan.page import advise
from ..prompt.processor import Processor
from ..terminal import aloud, complain, follow, say, summary
from ..trace.record import record
from ..units import human
from ..weights import load
from ..weights.convert import convert
from ..weights.disk.report import Meter
from ..widgets.explore import explore
from .options import (
    Parser,
    answer_options,
    bench_options,
    convert_options,
    explore_options,
    plan_options,
    prompt_options,
    trace_options,
    train_options,
)
from .talk import CHOSEN, existing, lines, settle
from .tour import tour

CODES = """exit codes: 0, 1 for a failure, 2 for bad use, 130 for Ctrl-C, 141 when
whoever reads the output stops, 143 for SIGTERM"""
SAMPLING = (*CHOSEN, "seed")


def main(argv=None):
    """Run one command; returns the exit code (bad use raises SystemExit(2))."""
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a terminal may lack a character
            stream.reconfigure(errors="replace")
    try:
        with warnings.catch_warnings(), ranks.together(), aloud():
            warnings.showwarning = lambda message, *_: complain(message)
            options = parser().parse_args(argv)
            if ranks.count() > 1 and options.run is not run_generate:
                raise InputError(
                    "of all commands only generate is shared by several processes; "
                    "start this one without torchrun."
                )
            options.run(options)
            sys.stdout.flush()
    except BrokenPipeError:  # whoever read our output has seen enough
        drop_output()
        return 141
    except KeyboardInterrupt:
        say()
        return 130
    except (InputError, OSError, MemoryError) as error:
        complain(error)
        drop_output()
        return 1
    except RuntimeError as error:  # torch's way to say that memory is full
        if "alloc" not in str(error) and not isinstance(error, torch.OutOfMemoryError):
            raise
        complain(MemoryError())
        return 1
    return 0


def drop_output():
    """Flush stdout, or if that fails, let it drop the rest."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def parser():
    about = "Qwen3.5, exact and small enough to read."
    main = Parser("minqwen", description=about, epilog=CODES)
    commands = main.add_subparsers(metavar="COMMAND", required=True)

    def command(name, run, text):
        sub = commands.add_parser(name, help=text, description=text)
        sub.set_defaults(run=run)
        return sub

    command("tour", lambda _: tour(), "see the small model read, look and answer")
    sub = command("info", lambda options: print(describe(options.path)),
                  "what a checkpoint, or a size by name, is made of")  # fmt: skip
    sub.add_argument("path", help="folder, file, hub id, or a name such as 397B-A17B")
    text = "what is installed and will run here; exits with 1 if something is missing"
    command("doctor", run_doctor, text)
    plan_options(command("plan", run_plan, "what fits where, and how fast it can be"))
    sub = command("generate", run_generate, "answer one prompt")
    answer_options(sub)
    prompt_options(sub)
    sub.add_argument("--json", action="store_true", help="print one JSON object")
    sub = command("chat", run_chat, "talk, line by line, from stdin")
    answer_options(sub)
    sub.set_defaults(**dict.fromkeys(CHOSEN))  # see `settle`
    sub = command("trace", run_trace, "answer a prompt, and keep what happened")
    trace_options(sub)
    text = "look at a trace, or try a small model, in the browser"
    explore_options(command("explore", run_explore, text))
    text = "train the small model, from nothing or further"
    train_options(command("train", run_train, text))
    sub = command("convert", run_convert, "write a checkpoint in another form")
    convert_options(sub)
    bench_options(command("bench", run_bench, "speed beside what else is installed"))
    return main


def run_doctor(options):
    if doctor.main():
        raise SystemExit(1)


def run_plan(options):
    measured, memory = None, options.memory
    if options.measure:
        from ..bench.measure import measure

        say("[measuring; the first time it takes a minute, for loops are compiled]")
        measured = measure(options.path)
        memory = memory or measured["memory"]
    print(advise(
        options.path, options.context, options.batch, memory,
        options.disk_speed, options.memory_speed, options.gpus, measured,
    ))  # fmt: skip


def run_train(options):
    from ..train.loop import run
    from ..train.recipe import FURTHER, RECIPE, Recipe  # the corpus comes with it

    changes = {"steps": options.steps, "seed": options.seed}
    changes = {name: value for name, value in changes.items() if value is not None}
    default = FURTHER if options.begin else RECIPE
    recipe = Recipe.read(options.recipe or default, **changes)
    run(options.out, recipe, options.resume, options.threads, begin=options.begin)


def run_convert(options):
    size = convert(options.path, options.out, options.quantize, options.shard_size)
    say(f"[{human(size)} of weights in {options.out}, as {options.quantize}]")


def run_bench(options):
    from ..bench import bench
    from ..bench.growth import growth

    if options.out:
        os.makedirs(options.out, exist_ok=True)
        destination(os.path.join(options.out, "bench.json"), "saved to")
    if options.growth:
        growth(options.memory, options.steps, options.repeats, options.threads,
               options.out)  # fmt: skip
        return
    names = "size", "dtypes", "contexts", "steps", "repeats", "threads", "out", "gguf"
    bench(*(getattr(options, name) for name in names))


def run_generate(options):
    processor, inputs = asked(options)  # before the weights: a mistake in the prompt
    model = load_model(options)  # should not wait for them
    answer = reply(model, processor, inputs, options, show=not options.json)
    if options.json:
        print(json.dumps(answer))


def run_trace(options):
    destination(options.out, "saved to")
    processor, inputs = asked(options)
    model = load_model(options)
    with record(model, options.state, options.norms, processor) as trace:
        answer = reply(model, processor, inputs, options)
    # The last token was written but never read; a draft may have read further ones.
    prompt = answer["prompt_tokens"]
    trace = trace.first(min(trace.length, prompt + answer["tokens"] - 1))
    name = os.path.basename(options.path.rstrip("/"))
    trace.meta.update(model=name, prompt_length=prompt)
    trace.save(options.out)
    say(f"[{trace!r} saved; look at it with: minqwen explore {options.out}]")


def run_explore(options):
    named = Processor.load(options.tokenizer) if options.tokenizer else None
    reading = {name: getattr(options, name) for name in ("top_k", "token_ids")}
    explore(options.trace, options.other, options.html, not options.no_browser,
            options.live, options.select, options.labels, processor=named,
            **reading)  # fmt: skip


def run_chat(options):
    processor = Processor.load(options.tokenizer or options.path)
    settle(options, processor)
    model = load_model(options)
    say("[/image FILE shows a picture with the next line; /new begins a new chat; "
        "/quit or Ctrl-D ends]")  # fmt: skip
    messages, pictures = [], []
    for line in lines():
        word, _, rest = line.strip().partition(" ")
        if word == "/quit":
            break
        if word == "/new":
            messages, pictures = [], []
        elif word == "/image":
            pictures += existing(rest.strip())
        elif line.strip():
            content = [*pictures, {"type": "text", "text": line.strip()}]
            asked = [*messages, {"role": "user", "content": content}]
            try:
                inputs = processor.chat(asked, thinking=options.thinking)
                answer = reply(model, processor, inputs, options)
                told = {"role": "assistant", "content": answer["text"]}
                thought = {"reasoning_content": answer["thinking"]}
                messages = [*asked, told | thought]  # some templates keep it
            except (InputError, OSError) as error:
                if isinstance(error, BrokenPipeError):
                    raise
                complain(error)  # and go on as if it had not been asked
            pictures = []


def asked(options):
    """The processor, and the question of `generate` and `trace` as tensors."""
    processor = Processor.load(options.tokenizer or options.path)
    content = [{"type": "image", "image": path} for path in options.image]
    content += [{"type": "video", "video": path} for path in options.video]
    content.append({"type": "text", "text": options.prompt})
    messages = [{"role": "user", "content": content}]
    return processor, processor.chat(messages, thinking=options.thinking)


def load_model(options):
    dtype = None if options.dtype == "stored" else getattr(torch, options.dtype)
    if ranks.count() > 1:
        for option, given, shared in (
            ("--experts disk", options.experts == "disk",
             "the experts, each with its own in memory"),
            ("--quantize", options.quantize, "weights as they are stored"),
            ("--activations", options.activations, "activations as they are"),
        ):  # fmt: skip
            if given:
                raise InputError(
                    f"{option} is for one process; several share {shared}. "
                    "Leave it out, or start without torchrun."
                )
        return part.load(options.path, device=options.device, dtype=dtype)
    return load(
        options.path, device=options.device, dtype=dtype,
        experts=options.experts, expert_cache=options.expert_cache,
        quantize=options.quantize, activations=options.activations,
    )  # fmt: skip


def reply(model, processor, inputs, options, show=True):
    """Print the answer while it is written; returns text, thinking and counts."""
    chosen = {name: getattr(options, name) for name in SAMPLING}
    steps = generate(
        model, inputs, options.max_new_tokens, **chosen, stop=options.stop,
        draft=options.draft, processor=processor,
    )  # fmt: skip
    measured, meter = None, None
    if options.stats:
        from ..bench.measure import kept

        measured = kept() if ranks.count() == 1 else None
        paged = any(hasattr(m, "pages") for m in model.modules())
        meter = Meter(model) if paged or not measured else None
    answer = follow(meter.watch(steps) if meter else steps, show)
    answer["prompt_tokens"] = inputs["input_ids"].shape[1]
    say(f"[{summary(answer, options.max_new_tokens)}]")
    if meter:
        answer["experts"] = meter.report(answer)
        say("\n".join(f"[{line}]" for line in meter.lines(answer)))
    if measured and answer["tokens"] > 1:
        answer["predicted"] = predict.beside(model, answer, measured)
        say(f"[{predict.line(answer['predicted'])}]")
    return answer
