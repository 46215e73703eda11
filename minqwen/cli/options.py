"""The command line's options, and how their values are read."""

import argparse
import sys

from ..errors import MOST, number, show
from ..terminal import complain
from ..units import rate, size

DTYPE_NAMES = ("float32", "bfloat16", "float16", "stored")


class Parser(argparse.ArgumentParser):
    def error(self, message):
        """One line instead of argparse's usage and message."""
        complain(f"{message} (see {self.prog} --help)")
        sys.exit(2)


def ranged(kind, low, high=MOST, over=False):
    """An argparse type: an int or float from low (or over it) to high."""

    def parse(text):
        try:
            return number(kind(text), "it", kind, low, high, over)
        except ValueError:  # an InputError is one
            what = "a whole number" if kind is int else "a number"
            bounds = f"{'over' if over else 'from'} {low} to {high}"
            said = f"{show(text, 40)!r} is not {what} {bounds}"
            raise argparse.ArgumentTypeError(said) from None

    return parse


def plan_options(sub):
    add = sub.add_argument
    add("path", help="folder, file, hub id, or a name such as 397B-A17B")
    add("--context", type=ranged(int, 1), metavar="N",
        help="tokens of a text (default: all positions)")  # fmt: skip
    add("--batch", type=ranged(int, 1), default=1, metavar="N")
    add("--memory", type=size, metavar="SIZE", help="of the machine (default: 24GiB)")
    add("--memory-speed", type=rate, default=5e10, metavar="RATE",
        help="default: 50GB/s")  # fmt: skip
    add("--disk-speed", type=rate, default=5e9, metavar="RATE", help="default: 5GB/s")
    add("--measure", action="store_true",
        help="measure this machine's disk and memory first, some ten seconds, and go "
        "by that: run it where the weights lie or will lie")  # fmt: skip
    add("--gpus", metavar="NxGPU", help="such as 8xH100-80GB")


def convert_options(sub):
    add = sub.add_argument
    add("path", help="checkpoint: a folder, a file or a hub id")
    add("out", metavar="FOLDER", help="where it goes; not the same folder")
    add("--quantize", default="bf16", metavar="FORM", help="bf16 (default), fp8, int8 "
        "or int4; experts and the rest apart as int4:int8 or int4:bf16")  # fmt: skip
    add("--shard-size", type=size, default=5_000_000_000, metavar="SIZE",
        help="of a file, at most (default: 5GB)")  # fmt: skip


def train_options(sub):
    add = sub.add_argument
    add("--out", required=True, metavar="FOLDER", help="where to save it")
    add("--steps", type=ranged(int, 1), metavar="N", help="batches to learn from")
    add("--threads", type=ranged(int, 1, 2), default=2, metavar="N",
        help="1 or 2 (default): each takes half a batch")  # fmt: skip
    add("--seed", type=ranged(int, 0, 2**31))
    add("--recipe", metavar="FILE", help="a recipe.toml of your own")
    add("--from", dest="begin", metavar="FOLDER", help="train the model in there "
        "further (default recipe: further.toml)")  # fmt: skip
    add("--resume", metavar="FILE", help="where a run keeps what it needs to go on "
        "after a kill, and finds it again (default: resume.pt in the "
        "folder)")  # fmt: skip


def bench_options(sub):
    add = sub.add_argument
    add("--size", choices=("tiny", "small", "35B-A3B", "397B-A17B"), default="small",
        help="small (default): 150 M random weights; tiny: assets/tiny; a released "
        "size: four of its layers at true width, on a GPU")  # fmt: skip
    add("--dtypes", nargs="+", choices=DTYPE_NAMES[:2], default=DTYPE_NAMES[:2])
    add("--contexts", nargs="+", type=ranged(int, 1), default=[128, 1024, 4096],
        metavar="T", help="tokens before writing; more than 16,384 are not read but "
        "filled in at random")  # fmt: skip
    add("--steps", type=ranged(int, 1), default=64, metavar="N", help="tokens to write")
    add("--repeats", type=ranged(int, 1), default=5, metavar="N", help="rounds")
    add("--threads", type=ranged(int, 1, 1024), default=2, metavar="N")
    add("--gguf", nargs="+", default=(), metavar="FILE",
        help="the same weights for llama.cpp, a file for each of --dtypes")  # fmt: skip
    add("--growth", action="store_true", help="instead, decode time against context: "
        "3:1 layers beside attention in every layer")  # fmt: skip
    add("--memory", type=size, default="8GiB", metavar="SIZE",
        help="with --growth, for weights and caches of a batch "
        "(default: 8GiB)")  # fmt: skip
    add("--out", metavar="FOLDER", help="write a .json and a .png there")


def prompt_options(sub):
    """What `generate` and `trace` share."""
    sub.add_argument("--prompt", required=True, help="what to answer")
    for name, what in ("--image", "picture"), ("--video", "film"):
        sub.add_argument(name, action="append", default=[], metavar="FILE",
                         help=f"a {what} before the prompt; repeatable")  # fmt: skip


def trace_options(sub):
    """What `trace` takes beside a prompt and how to answer it."""
    answer_options(sub)
    prompt_options(sub)
    sub.add_argument("-o", "--out", required=True, metavar="FILE",
                     help="the trace's file, by custom *.safetensors")  # fmt: skip
    sub.add_argument("--state", action="append", default=[], type=layer_head,
                     metavar="L.H", help="follow the memory of layer L's head H; "
                     "repeatable")  # fmt: skip
    sub.add_argument("--norms", action="store_true",
                     help="keep the size of every head's memory; slower")  # fmt: skip


def explore_options(sub):
    add = sub.add_argument
    add("trace", nargs="?", metavar="TRACE",
        help="a trace; a .npy of vLLM or a .csv of llama.cpp will do; "
        "without one the page opens files itself")  # fmt: skip
    add("--other", metavar="TRACE", help="one to compare it with")
    add("--top-k", type=ranged(int, 1), metavar="K",
        help="experts a token chose in a layer, for a .csv")  # fmt: skip
    add("--token-ids", metavar="FILE",
        help="a .npy of the token ids, for a .npy or .csv")  # fmt: skip
    add("--tokenizer", metavar="PATH",
        help="names tokens of which only ids are known")  # fmt: skip
    add("--select", metavar="WHAT", default="",
        help="what it shows first, such as layer=6,expert=9 or token=12; "
        "the page's own address says it in the same form")  # fmt: skip
    add("--labels", metavar="FILE",
        help="a label for each token, such as its task or language: a .npy, a .json "
        "list, or a .csv of one a line")  # fmt: skip
    add("--live", action="store_true",
        help="a page with a small model in it; TRACE is its folder "
        "(default: the small model that comes with minqwen)")  # fmt: skip
    add("--html", metavar="FILE", help="write one file to send, instead")
    add("--no-browser", action="store_true", help="only print the address")


def layer_head(text):
    """An argparse type: "3.0" is layer 3, head 0."""
    layer, dot, head = text.partition(".")
    if not (layer.isdecimal() and dot and head.isdecimal()):
        raise argparse.ArgumentTypeError(f"{text!r} is not LAYER.HEAD, such as 3.0")
    return int(layer), int(head)


def given(text):
    """An argparse type: any text but an empty one, which would count as no option."""
    if not text:
        raise argparse.ArgumentTypeError("nothing is given")
    return text


def answer_options(sub):
    """What `generate`, `chat` and `trace` share."""
    add = sub.add_argument
    add("path", help="checkpoint: a folder, a .safetensors or .gguf file, or a hub id")
    add("--tokenizer", type=given, metavar="PATH",
        help="where tokenizer and template are, if not with it")  # fmt: skip
    add("--max-new-tokens", type=ranged(int, 1), default=512, metavar="N")
    add("--temperature", type=ranged(float, 0, 100), default=0.0, metavar="X",
        help="0 takes the likeliest token; 1 samples as trained (default: 0; for chat, "
        "as generation_config.json says, here and below)")  # fmt: skip
    add("--top-k", type=ranged(int, 0), default=0, metavar="N", help="0 is off")
    add("--top-p", type=ranged(float, 0, 1, over=True), default=1.0, metavar="X")
    add("--min-p", type=ranged(float, 0, 1), default=0.0, metavar="X")
    add("--presence-penalty", type=ranged(float, -100, 100), default=0.0, metavar="X")
    add("--seed", type=ranged(int, 0, 2**63 - 1), default=0, metavar="N")
    add("--stop", action="append", default=[], metavar="TEXT",
        help="end the answer before this text; repeatable")  # fmt: skip
    add("--thinking", action=argparse.BooleanOptionalAction,
        help="think first, or not (default: as the model does by itself); shown on "
        "stderr")  # fmt: skip
    add("--draft", type=ranged(int, 0, 16), default=0, metavar="N",
        help="guess N tokens ahead: same text, fewer forwards")  # fmt: skip
    add("--dtype", choices=DTYPE_NAMES, default="float32", help="default: float32")
    add("--device", help="default: a GPU if there is one, or else cpu")
    add("--experts", choices=("memory", "disk"), default="memory",
        help="disk: leave them in the files until a token chooses them")  # fmt: skip
    add("--expert-cache", type=size, metavar="SIZE",
        help="memory for those read (default: half of what is free)")  # fmt: skip
    add("--quantize", metavar="FORM", help="int8 or int4 while loading; experts and "
        "the rest apart as int4:int8 or int4:stored")  # fmt: skip
    add("--activations", choices=("int8",), help="round what int8 and int4 weights are "
        "multiplied with: faster on a CPU, a little less exact")  # fmt: skip
    add("--stats", action="store_true", help="say what reading experts took, and how "
        "near it came to what `plan --measure` predicts")  # fmt: skip
