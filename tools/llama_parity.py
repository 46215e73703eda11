"""The same weights in llama.cpp: an outside truth in C, for logits and for GGUF files.

    python -m tools.llama_parity --llama PREFIX --source SOURCE [--threads 1]

SOURCE is llama.cpp's source tree, with its converter; PREFIX is where `cmake --install`
put its build, with include/ and lib/. A C++ compiler makes tools/llama_driver.cpp.
Random models, saved in the Hugging Face layout, go through llama.cpp's own converter,
and then:

    read     the largest difference between the weights saved and those that we read
             out of the converter's file (norms as 1 + w, rates as exp(A_log))
    prompt, writing, draft
             the largest between llama.cpp's logits and ours, over the largest logit:
             of a prompt read at once, of tokens read one by one after it, and of the
             MTP head, which transformers does not have
    text     whether both cut the same text into the same ids
    Q8_0 ... the largest between llama.cpp's dequantised weights and those we read
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch

import minqwen
from minqwen.errors import InputError
from minqwen.model.config import Config
from minqwen.weights.gguf.header import read_gguf
from tools.layer_group import fill

ROOT = Path(__file__).resolve().parent.parent
FLOAT32 = 0  # of enum llama_ftype, as are these
KINDS = {"Q8_0": 7, "Q4_K_S": 14, "Q4_K_M": 15, "Q6_K": 18}
TEXT = "def f(x):\n    return x ** 2  # naïve, 12345, देवनागरी <think>\n\n</think>"
ROPE = dict(rope_type="default", rope_theta=1e7, partial_rotary_factor=0.25,
            mrope_section=[3, 3, 2], mrope_interleaved=True)  # fmt: skip
YARN = ROPE | dict(rope_type="yarn", factor=4.0, original_max_position_embeddings=64)
# The converter asks which tokenizer this is by a checksum that only known ones have,
# and is told.
CONVERT = """
import sys, runpy
sys.path[:0] = [sys.argv[1], sys.argv[1] + "/gguf-py"]
from conversion import base
base.TextModel.get_vocab_base_pre = lambda self, tokenizer: "qwen35"
sys.argv = ["convert_hf_to_gguf.py", *sys.argv[2:]]
runpy.run_path(sys.path[0] + "/convert_hf_to_gguf.py", run_name="__main__")
"""


def config(moe, ratio=2, **changes):
    """256 wide, so that rows hold whole K blocks; `ratio` value heads a key head."""
    text = dict(
        model_type="qwen3_5_moe_text" if moe else "qwen3_5_text", vocab_size=2048,
        hidden_size=256, num_hidden_layers=8, num_attention_heads=4,
        num_key_value_heads=2, head_dim=64, full_attention_interval=4,
        linear_num_key_heads=8 // ratio, linear_num_value_heads=8,
        linear_key_head_dim=32, linear_value_head_dim=32, linear_conv_kernel_dim=4,
        rms_norm_eps=1e-6, max_position_embeddings=256, eos_token_id=2038,
        mtp_num_hidden_layers=1, rope_parameters=ROPE, tie_word_embeddings=False,
    )  # fmt: skip
    if moe:
        text |= dict(num_experts=16, num_experts_per_tok=4, moe_intermediate_size=256,
                     shared_expert_intermediate_size=256)  # fmt: skip
    else:
        text["intermediate_size"] = 512
    return Config.from_dict(text | changes)


CASES = {
    "dense 1:1": config(False, 1),
    "dense 1:2, tied": config(False, 2, tie_word_embeddings=True),
    "dense 1:2, yarn": config(False, 2, rope_parameters=YARN),
    "moe 1:2": config(True, 2),
    "moe 1:4": config(True, 4),
}


def used(name, p):
    """What the model computes with: all that two files of it must agree on."""
    if name.endswith("A_log"):
        return p.exp()
    return p + 1 if "norm" in name and "linear_attn.norm" not in name else p


def difference(model, other):
    theirs = dict(other.named_parameters())
    return max(
        (used(name, p) - used(name, theirs[name])).abs().max().item()
        for name, p in model.named_parameters()
    )


def far(ours, theirs):
    """The largest difference of two logits over the largest logit."""
    return ((ours - theirs).abs().max() / theirs.abs().max()).item()


@torch.inference_mode()
def ours(model, ids, prefill):
    """Logits [T, vocab] of a prompt read at once and the rest one by one."""
    cache = model.new_cache(1, len(ids))
    steps = [ids[:prefill], *ids[prefill:].split(1)]
    return torch.cat([model(step[None], cache=cache)[0] for step in steps])


class Llama:
    """llama.cpp as commands. InputError says which part of it is missing."""

    def __init__(self, prefix, source, folder):
        self.source, self.folder = source, folder
        for path, what in (
            (source / "convert_hf_to_gguf.py", "llama.cpp's source tree as --source"),
            (prefix / "include" / "llama.h", "an installed llama.cpp as --llama"),
        ):
            if not path.exists():
                raise InputError(f"{path} is missing; give {what}.")
        self.tool = folder / "llama_driver"
        lib = prefix / "lib"
        call(
            "c++", "-O1", "-std=c++17", f"-I{prefix / 'include'}",
            ROOT / "tools" / "llama_driver.cpp", f"-L{lib}", "-lllama", "-lggml",
            "-lggml-base", f"-Wl,-rpath,{lib.resolve()}", "-o", self.tool,
        )  # fmt: skip

    def convert(self, model, *options):
        """The model by way of our folder and llama.cpp's converter: a .gguf file."""
        saved, file = self.folder / "saved", self.folder / "converted.gguf"
        minqwen.save(model, saved)
        minqwen.Processor.load(ROOT / "assets" / "tiny").save(saved)
        (saved / "generation_config.json").unlink(missing_ok=True)
        call(sys.executable, "-c", CONVERT, self.source, saved, "--outfile", file,
             "--outtype", "f32", *options)  # fmt: skip
        return file

    def quantize(self, file, kind):
        """(quantised file, the same put back into fp32 by llama.cpp)."""
        small, whole = self.folder / f"{kind}.gguf", self.folder / f"{kind}-whole.gguf"
        call(self.tool, file, "quantize", str(KINDS[kind]), small)
        if kind[:4] not in {e.dtype for e in read_gguf(small).tensors.values()}:
            raise InputError(f"llama.cpp made no {kind[:4]} of this model; widen it.")
        call(self.tool, small, "quantize", str(FLOAT32), whole)
        return small, whole

    def logits(self, file, ids, prefill):
        return self._run(file, str(prefill), ids)

    def drafts(self, file, hidden, next_ids):
        return self._run(file, "draft", next_ids, input=hidden.numpy().tobytes())

    def _run(self, file, mode, ids, **options):
        raw = call(self.tool, file, mode, *map(str, ids.tolist()), **options)
        return torch.frombuffer(bytearray(raw), dtype=torch.float32).view(len(ids), -1)

    def ids(self, file, text):
        raw = call(self.tool, file, "text", input=text.encode())
        return np.frombuffer(raw, np.int32).tolist()


def call(*command, **options):
    try:
        done = subprocess.run(command, capture_output=True, **options)
    except FileNotFoundError:
        raise InputError(f"{command[0]} is missing; install it first.") from None
    if done.returncode:
        last = done.stderr.decode(errors="replace").strip().splitlines()[-1:]
        raise InputError(f"{Path(command[0]).name} failed: {' '.join(last)}")
    return done.stdout


def measure(name, cfg, llama, prefill=80, written=20):
    """One line of the table as a dict; raises if shapes or names do not agree."""
    model = fill(minqwen.Qwen(cfg)).eval()
    file = llama.convert(model)
    back = minqwen.load(file)
    ids = torch.randint(0, cfg.text.vocab_size, (prefill + written,),
                        generator=torch.Generator().manual_seed(1))  # fmt: skip
    theirs, own = llama.logits(file, ids, prefill), ours(model, ids, prefill)
    with torch.inference_mode():
        hidden = model.hidden(ids[None, :-1])
        draft = model.draft(hidden, ids[None, 1:])[0][0]
    row = {
        "model": name,
        "read": difference(model, back),
        "prompt": far(own[:prefill], theirs[:prefill]),
        "writing": far(own[prefill:], theirs[prefill:]),
        "draft": far(draft, llama.drafts(file, hidden[0], ids[1:])),
        "text": minqwen.Processor.load(file).encode(TEXT) == llama.ids(file, TEXT),
    }
    for kind in KINDS:
        small, whole = llama.quantize(file, kind)
        row[kind] = difference(minqwen.load(small), minqwen.load(whole))
    return row


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--llama", type=Path, required=True, metavar="PREFIX")
    parser.add_argument("--source", type=Path, required=True, metavar="SOURCE")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", action="store_true", help="print one object a model")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        try:
            llama = Llama(options.llama, options.source, Path(folder))
            for name, cfg in CASES.items():
                row = measure(name, cfg, llama)
                print(json.dumps(row) if options.json else told(row), flush=True)
        except InputError as error:
            sys.exit(f"llama_parity: {error}")


def told(row):
    cells = [v if isinstance(v, str) else f"{k} {v:.2g}" for k, v in row.items()]
    return ", ".join(cells)


if __name__ == "__main__":
    main()
