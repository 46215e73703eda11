"""Loading as a loop over names: what `load` comes down to where all is as it should be.

To see how it is done; to load, use `load`. Left to it are quantised and GGUF files, a
part that only files or config.json have, generation_config.json, other dtypes and
devices, and a sentence for whatever is wrong with a file.
"""

import json
from pathlib import Path

import torch

from ..errors import InputError
from ..model.config import Config
from ..model.qwen import Qwen

DTYPES = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}


def read_file(path):
    """(name, tensor) for all that a safetensors file holds, one at a time.

    Eight bytes tell how long the header is, which is JSON: name -> dtype, shape, first
    and last byte, counted from the header's end. Then come the numbers, end to end.
    """
    with open(path, "rb") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
        header.pop("__metadata__", None)
        for name, said in header.items():
            start, end = said["data_offsets"]
            file.seek(8 + size + start)
            data, dtype = bytearray(file.read(end - start)), DTYPES[said["dtype"]]
            yield name, torch.frombuffer(data, dtype=dtype).view(said["shape"])


def homes(model):
    """{stored name: the memory it fills}, a parameter or one expert's rows of it."""
    found = {}
    for name, p in model.named_parameters():
        if not model.cfg.vision:  # files of text alone leave a level of names out
            name = name.replace("model.language_model.", "model.")
        found[name] = p
        if ".experts." in name:  # or stored one by one, as the draft head's are
            prefix, _, kind = name.rpartition(".")
            parts = kind.removesuffix("_proj").split("_")  # gate and up, or down
            for e, matrix in enumerate(p):
                for part, rows in zip(parts, matrix.chunk(len(parts)), strict=True):
                    found[f"{prefix}.{e}.{part}_proj.weight"] = rows
    return found


@torch.no_grad()
def load_plain(folder):
    """A Qwen in fp32, with the numbers of all safetensors files in a folder."""
    with torch.device("meta"):  # names and shapes; nothing is drawn, nothing takes room
        model = Qwen(Config.from_json(folder))
    home, left = homes(model.to_empty(device="cpu")), model.num_parameters()["total"]
    for shard in sorted(Path(folder).glob("*.safetensors")):
        for name, tensor in read_file(shard):
            if name not in home or home[name].shape != tensor.shape:
                raise InputError(f"no place for {name!r}; minqwen.load says why")
            home[name].copy_(tensor)
            left -= tensor.numel()
    if left:  # else some of the model would be whatever was in memory
        raise InputError(f"{left:,} numbers are missing; minqwen.load says which")
    return model.eval()
