"""The 397B model at its full size as llama.cpp stores it: one token, 60 layers, Q4_K_M.

    python -m tools.full_gguf [--cache 256MiB] [--threads 2]

What tools/full_size.py does with the released layout, on sparse GGUF files in parts, as
people download them: matrices of the types that llama-quantize's Q4_K_M chooses, all
zeros but what decides where the token goes. Everything stays as it is stored.
"""

import argparse
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import gguf
import numpy as np
import torch

from minqwen.model.config import Config
from minqwen.units import size
from minqwen.weights.checkpoint.layout import skeleton
from minqwen.weights.gguf.header import BLOCKS, read_gguf
from minqwen.weights.gguf.names import moves
from minqwen.weights.quantised.ggml import Ggml
from tools.full_size import TOKEN, choices, put, run, tell

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))
import gguf_files  # noqa: E402  which knows the keys

PART = 50 * 10**9  # bytes of a file, as on the Hub


def make(folder, cfg, part=PART):
    """Write the parts, all zeros; returns the first."""
    shapes = {n: tuple(p.shape) for n, p in skeleton(cfg, None).named_parameters()}
    writer = gguf.GGUFWriter(None, "qwen35moe", split_max_size=part)
    gguf_files.add_keys(writer, cfg)
    for move in moves(cfg, shapes, ()):
        kind = type_of(move.source, len(move.shape), cfg.text.num_hidden_layers)
        weights, count = BLOCKS[kind]
        shape = [n for n in move.shape if n != 1]  # as the converter leaves them out
        nbytes = int(np.prod(shape)) // weights * count
        writer.add_tensor_info(move.source, shape, np.dtype("float32"), nbytes,
                               gguf.GGMLQuantizationType[kind])  # fmt: skip
    writer.write_header_to_file(folder / "397B-Q4_K_M.gguf")
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    pad = partial(writer.ggml_pad, n=writer.data_alignment)
    for file, held in zip(writer.fout, writer.tensors, strict=True):
        file.truncate(pad(file.tell()) + sum(pad(t.nbytes) for t in held.values()))
    writer.close()
    return sorted(folder.glob("*.gguf"))[0]


def type_of(name, axes, layers):
    """The type of a tensor in Q4_K_M (llama_tensor_get_type in llama-quant.cpp)."""
    if axes == 1 or "conv1d" in name or "ffn_gate_inp" in name:
        return "F32"
    if name == "output.weight":
        return "Q6_K"
    if "ffn_down" in name or "attn_v" in name or "attn_qkv" in name:
        layer, eighth = int(name.split(".")[1]), layers // 8
        if layer < eighth or layer >= 7 * layers // 8 or (layer - eighth) % 3 == 2:
            return "Q6_K"
    return "Q4_K"


def steer(file, cfg, seed=0):
    """Norms of one, and rows that decide where TOKEN goes; each layer's experts."""
    table, t, rng = read_gguf(file).tensors, cfg.text, np.random.default_rng(seed)
    for name, entry in table.items():
        if name.endswith(("norm.weight", "ssm_a")):
            ones = torch.ones(entry.shape)
            put((entry.file, entry.start), 0, -ones if "ssm_a" in name else ones)
    row = torch.from_numpy(rng.integers(0, 256, (t.hidden_size // 256, 144), np.uint8))
    row[:, :4] = torch.tensor([1e-3, 0]).half().view(torch.uint8)  # no least value
    entry = table["token_embd.weight"]
    put((entry.file, entry.start), TOKEN, row)
    values = Ggml("Q4_K").widen({"": row.flatten()}, t.hidden_size)
    chosen = choices(cfg, seed)
    for layer, experts in enumerate(chosen):
        entry = table[f"blk.{layer}.ffn_gate_inp.weight"]
        for expert in experts:
            put((entry.file, entry.start), expert, values * t.hidden_size**-0.5)
    return chosen


@torch.inference_mode()
def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cache", type=size, default=2**28)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    text = Config.named("397B-A17B").replace(mtp_num_hidden_layers=0).to_dict()
    cfg = Config.from_dict(text["text_config"])
    with tempfile.TemporaryDirectory() as folder:
        begun = time.perf_counter()
        file = make(Path(folder), cfg)
        chosen = steer(file, cfg)
        tell([*Path(folder).iterdir()], begun)
        table, each = read_gguf(file).tensors, len(chosen[0])
        experts = [e for name, e in table.items() if "_exps." in name]
        wanted = each * sum(e.nbytes // e.shape[0] for e in experts)
        run(file, options, chosen, wanted)


if __name__ == "__main__":
    main()
