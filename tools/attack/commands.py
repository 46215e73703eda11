"""Command lines: options of wrong values, and files that are none of their kind."""

import dataclasses
import os
import shutil
import sys
import traceback
from functools import partial

import minqwen.bench.growth
import minqwen.cli.commands
import minqwen.train.loop  # noqa: F401  (once, and not again in each child)
from minqwen import Config, cli, save
from minqwen.errors import InputError, show
from minqwen.model.family import IDS

from . import PATHS, ROOT, TINY, Case
from .configs import small

NUMBERS = ("x", "", "nan", "1e999", "9" * 400, "0x1", "\x1b[2J")
SIZES = ("x", "", "-1", "0", "1XB", "nan", "9" * 400, "5GB/", "\x1b")
TRACE = ROOT / "assets" / "note.safetensors"


def run(*words):
    """`minqwen WORDS` in a child; InputError with its one line, if it ends in one."""
    told = os.memfd_create("stderr")
    child = os.fork()
    if not child:
        code = 70
        try:
            os.dup2(told, 2)
            sys.stdin, sys.stdout = open(os.devnull), open(os.devnull, "w")
            sys.stderr = open(2, "w", errors="replace", closefd=False)
            sys.argv = ["minqwen", *map(str, words)]
            code = cli.main()
        except SystemExit as error:
            code = error.code
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code or 0)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    said = os.pread(told, 1 << 20, 0).decode(errors="replace")
    os.close(told)
    if code == 0:
        return
    *before, line = said.rstrip("\n").split("\n")
    if code not in (1, 2) or before or not line.startswith("minqwen: "):
        raise AssertionError(f"exit code {code}: {said[-300:]}")
    raise InputError(line)


def cases(folder):
    model = folder / "model"
    made = small(vocab_size=2048, mtp_num_hidden_layers=1)
    ids = {name: getattr(Config.from_json(TINY), name) for name in IDS}
    made.cfg = dataclasses.replace(made.cfg, **ids)
    save(made, model)
    for file in TINY.iterdir():  # its text, and weights that are quick to read
        if file.suffix in (".json", ".jinja") and file.name != "config.json":
            shutil.copy(file, model)
    (folder / "file").write_text("words")
    (folder / "broken").mkdir()
    for file in model.iterdir():
        half = file.read_bytes()[: file.stat().st_size // 2]
        (folder / "broken" / file.name).write_bytes(half)

    def case(line, *names, **options):
        title = " ".join(show(word, 40).replace(str(folder), "...") for word in line)
        return Case(title, partial(run, *line), names, **options)

    found = [case(line, *names) for line, names in wrong(model, folder)]
    answer = [model, "--prompt", "What is it?", "--max-new-tokens", 2]
    for words in (
        ["info", "0.8B"], ["info", model], ["plan", "27B", "--gpus", "8xH100-80GB"],
        ["generate", *answer, "--json"], ["generate", *answer, "--draft", 1],
        ["generate", *answer, "--stop", "\x1b[2J"], ["trace", *answer, "-o", "x"],
        ["explore", TRACE, "--html", "x"], ["convert", model, "x", "--quantize",
                                            "int8"],
    ):  # fmt: skip
        found.append(case(words, expect="accepted", writes=("x",)))
    return found


def wrong(model, folder):
    """(words, what the line must name) of command lines that are refused."""
    file, broken = folder / "file", folder / "broken"
    yield from (([], ()), (["fly"], ("fly",)), ([""], ()), (["\x1b[2J"], ()))
    yield ["generate", model], ("--prompt",)
    ask = ["generate", model, "--prompt", "x"]
    for prompt, word in (
        ("<|image_pad|>", "image_pad"),
        ("\udcff", "x"),
        ("x " * 9999, "tok"),
    ):
        yield [*ask[:3], prompt], (word,)
    for option in ("max-new-tokens", "temperature", "top-k", "top-p", "min-p",
                   "presence-penalty", "seed", "draft"):  # fmt: skip
        for value in (*NUMBERS, "-101"):
            yield [*ask, f"--{option}={value}"], (option,)
    yield from options(ask, {
        "device": ("abacus", "meta", "cuda:99", "", "\x1b[2J"), "dtype": ("int8", ""),
        "experts": ("gpu", ""), "expert-cache": (*SIZES, "5GB"), "stop": ("",),
        "quantize": ("int3", "", "int8:x", "\x1b"), "image": (*PATHS, file),
        "video": (*PATHS, file), "tokenizer": (*PATHS[:4], file, broken),
        "wings": ("2",),
    })  # fmt: skip
    for path in (*PATHS[:3], *PATHS[4:], file, broken, "x.gguf", "a/../../b"):
        for words in (["info"], ["plan"], ["generate", "--prompt=x"], ["chat"],
                      ["convert", "--quantize=int8"], ["trace", "--prompt=x", "-o",
                                                       "x"],
                      ["explore", "--html=x.html"]):  # fmt: skip
            if path or words[0] != "explore":
                out = ["out"] * (words[0] == "convert")
                yield [words[0], path, *out, *words[1:]], ()
    yield from options(["plan", "0.8B"], {
        "context": (*NUMBERS, "0"), "batch": (*NUMBERS, "0"),
        "memory": SIZES[:3] + SIZES[4:],  # without 0, which is a machine too
        "memory-speed": SIZES, "disk-speed": SIZES,
        "gpus": ("x", "0xH100-80GB", "8x", "8xABACUS", "9" * 400 + "xH100-80GB",
                 "\x1b"),
    })  # fmt: skip
    for out in ("", ".", "gone/x", "/dev/null", file / "x", "/proc/x", "A" * 300):
        yield ["trace", *ask[1:], "--max-new-tokens=2", "-o", out], ()
        yield ["explore", TRACE, "--html", out or "."], ()
    yield from options(["trace", *ask[1:], "-o", "x"],
                       {"state": ("x", "3", "3.", "9.0", "0.99", "0.0.0",
                                  "")})  # fmt: skip
    convert = ["convert", model, "out", "--quantize=int8"]
    yield from options(convert, {"quantize": ("int3", "", "int8:int3", "fp8:int8",
                                              "\x1b"),
                                 "shard-size": SIZES})  # fmt: skip
    for out in (model, file, "/dev/null", "/proc/x", "", "A" * 300):
        yield ["convert", model, out, "--quantize=int8"], ()
    for words in (["--other", TRACE], ["--live", folder], ["--live", TRACE], [file],
                  [TRACE, "--other", "gone"]):  # fmt: skip
        yield ["explore", *words, "--html", "x"], ()
    yield from options(["train", "--out=out"], {
        "steps": ("0", "x"), "threads": ("9",), "seed": ("-1",), "out": (file,),
        "from": ("gone", folder), "recipe": ("gone", file, "/dev/zero")})  # fmt: skip
    yield from options(["bench"], {
        "size": ("huge",), "dtypes": ("int8",), "contexts": ("0",), "steps": ("0",),
        "repeats": ("x",), "threads": ("0", "9999"), "memory": ("x",), "out": (file,),
    })  # fmt: skip


def options(words, wrong):
    for option, values in wrong.items():
        for value in values:
            yield [*words, f"--{option}={value}"], ()
