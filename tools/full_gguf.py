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
from minqwen.units import human, size
from minqwen.weights.checkpoint.layout import skeleton
from minqwen.weights.gguf.header import BLOCKS, read_gguf
from minqwen.weights.gguf.names import moves
from minqwen.weights.quantised.ggml import Ggml
from tools.full_size import TOKEN, choices, run

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
    if "attn_qkv" in name:
        return "Q5_K"
    if "ffn_down" in name or "attn_v" in name:
        layer = int(name.split(".")[1])
        eighth = layers // 8
        more = layer < eighth or layer >= 7 * eighth or (layer - eighth) % 3 == 2
        return "Q6_K" if more else "Q4_K"
    return "Q4_K"


def steer(file, cfg, seed=0):
    """Norms of one, and rows that decide where TOKEN goes; each layer's experts."""
    table, t, rng = read_gguf(file).tensors, cfg.text, np.random.default_rng(seed)
    for name, entry in table.items():
        if name.endswith(("norm.weight", "ssm_a")):
            ones = np.ones(entry.shape, np.float32)
            put(entry, 0, -ones if name.endswith("ssm_a") else ones)
    row = rng.integers(0, 256, (t.hidden_size // 256, 144), np.uint8)
    row[:, :4] = np.array([1e-3, 0], np.float16).view(np.uint8)  # no least value
    put(table["token_embd.weight"], TOKEN, row)
    parts = {"": torch.from_numpy(row.reshape(1, -1))}
    values = Ggml("Q4_K").widen(parts, t.hidden_size)[0].numpy()
    chosen = choices(cfg, seed)
    for layer, experts in enumerate(chosen):
        for expert in experts:
            entry = table[f"blk.{layer}.ffn_gate_inp.weight"]
            put(entry, expert, values * np.float32(t.hidden_size**-0.5))
    return chosen


def put(entry, number, row):
    """Write one row of a stored tensor."""
    with open(entry.file, "r+b") as f:
        f.seek(entry.start + number * row.nbytes)
        f.write(row.tobytes())


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
        chosen, files = steer(file, cfg), [*Path(folder).iterdir()]
        seen = sum(f.stat().st_size for f in files)
        taken = sum(f.stat().st_blocks * 512 for f in files)
        print(f"{len(files)} files of {human(seen)}, {human(taken)} on disk; made in "
              f"{time.perf_counter() - begun:.1f} s", flush=True)  # fmt: skip
        table, each = read_gguf(file).tensors, len(chosen[0])
        experts = [e for name, e in table.items() if "_exps." in name]
        wanted = each * sum(e.nbytes // e.shape[0] for e in experts)
        run(file, options, chosen, wanted)


if __name__ == "__main__":
    main()
