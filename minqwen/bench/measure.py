"""What this machine gives a model: its disk and its memory, read as they will be read.

    minqwen plan 35B-A3B --measure

The disk by the reads that fetch experts: whole, large ones, several under way, from a
file that the system does not hold in memory. Small reads mis-rate a disk many times.
Memory by the loops that decode, for each form of weights: what widens int4 as it goes
is far from what the memory itself could give. Both take some seconds, except that
numba compiles the first time on a machine. The figures are kept, for --stats.
"""

import json
import os
import random
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import NamedTemporaryFile

import torch

from ..engine.generate import decoder
from ..errors import InputError, show
from ..files import Reader, as_json, telling, write_whole
from ..model import forms
from ..model.config import Config
from ..model.qwen import Qwen
from ..plan.budget import FORMS, step_bytes
from ..units import human
from ..weights.checkpoint.memory import available
from ..weights.disk.pages import AT_ONCE, THREADS
from ..weights.quantised.codecs import FORMS as PACKED
from ..weights.quantised.modules import pack
from ..weights.quantised.settings import Scheme
from .machine import processor
from .worker import now, step_seconds

PATIENCE = 3.0  # seconds that one of the measurements may take
TRIED = 1 << 30  # bytes of a file that is made to be read
F_NOCACHE = 48  # macOS's way to read past its cache
# Pairs of layers, wide enough that a step is loops and not the calls between them.
MEASURED = dict(
    model_type="qwen3_5_text", vocab_size=4096, hidden_size=1024,
    num_attention_heads=8, num_key_value_heads=2, head_dim=256,
    linear_num_key_heads=16, linear_num_value_heads=32, linear_key_head_dim=128,
    linear_value_head_dim=128, linear_conv_kernel_dim=4, rms_norm_eps=1e-6,
    max_position_embeddings=4096, intermediate_size=8192, tie_word_embeddings=False,
    rope_parameters=dict(rope_type="default", rope_theta=10_000_000,
                         partial_rotary_factor=0.25, mrope_section=[11, 11, 10],
                         mrope_interleaved=True))  # fmt: skip


def measure(place):
    """{"disk": bytes a second, "loops": {form: that}, ...}; kept.

    "memory" is what is free where the loops ran, "what" was read, by which "processor".

    `place`: a checkpoint's folder or file, or any folder on the disk that counts;
    where there is none of that name, the folder we are in.
    """
    with readable(place) as (path, what):
        disk = disk_speed(path)
    loops = {form: loop_speed(form) for form in ("fp32", *FORMS)}
    cuda = torch.cuda.is_available()
    free = torch.cuda.mem_get_info()[0] if cuda else available()
    found = {"disk": disk, "loops": loops, "what": what, "memory": free}
    found["processor"] = processor()
    with suppress(InputError, OSError):  # a home that cannot be written is no obstacle
        keeper().parent.mkdir(parents=True, exist_ok=True)
        write_whole(keeper(), as_json(found))
    return found


def keeper():
    caches = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    return caches / "minqwen" / "measured.json"


def kept():
    """What `measure` found last on this machine, or None."""
    with suppress(OSError, ValueError, TypeError, KeyError):
        found = json.loads(keeper().read_text())
        if found["processor"] == processor() and found["disk"] > 0:
            loops = {form: float(speed) for form, speed in found["loops"].items()}
            return found | {"loops": loops}
    return None


@contextmanager
def readable(place):
    """A large file on the disk of `place`, and what it is: there, or made and gone."""
    place = Path(place) if os.path.exists(place) else Path()
    with telling(place, "read"):
        files = [place] if place.is_file() else [*place.glob("*.safetensors")]
        files = files or [*place.glob("*.gguf")]
        largest = max(files, key=lambda f: f.stat().st_size, default=None)
        if largest and largest.stat().st_size >= 64 * AT_ONCE:
            yield largest, f"reading {show(largest.name)}"
            return
    folder = place if place.is_dir() else place.parent
    with telling(folder, "written to, to measure its disk"):
        with NamedTemporaryFile(dir=folder, prefix=".minqwen-") as file:
            begun, piece = time.perf_counter(), os.urandom(AT_ONCE)
            while file.tell() < TRIED and time.perf_counter() < begun + PATIENCE:
                file.write(piece)
            file.flush()
            os.fsync(file.fileno())
            yield Path(file.name), f"reading a file of {human(file.tell())} made there"


def disk_speed(path):
    """Bytes a second of reads as experts are read, out of a file nobody holds."""
    with Reader(path) as file, ThreadPoolExecutor(THREADS) as threads:
        size = file.stat().st_size
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        else:
            import fcntl

            fcntl.fcntl(file.fileno(), F_NOCACHE, 1)
        places = [*range(0, size - AT_ONCE + 1, AT_ONCE)]
        random.Random(0).shuffle(places)
        begun = time.perf_counter()

        def read(at):
            if time.perf_counter() > begun + PATIENCE:
                return 0
            file.fill(bytearray(AT_ONCE), at)
            return AT_ONCE

        count = sum(threads.map(read, places))
        return count / (time.perf_counter() - begun)


@torch.inference_mode()
def loop_speed(form):
    """Bytes a second of weights in a form that decoding gets through here."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    pairs = 1 if form in PACKED else 3  # those that are widened take long
    layers = ["linear_attention", "full_attention"] * pairs
    text = MEASURED | {"num_hidden_layers": len(layers), "layer_types": layers}
    model = made(Config.from_dict(text), form).to(device)
    plain = form not in PACKED and device == "cpu" and forms.runs("numba")
    model.kernels = "numba" if plain else "auto"
    token = torch.ones(1, 1, dtype=torch.int64, device=device)
    cache = model.new_cache(1, 512)
    model(token.expand(1, 2), cache=cache)
    read = decoder(model, cache, 500)
    step = lambda ids: read(ids, cache)  # noqa: E731
    step_seconds(step, token, 1)  # compiles, or records
    begun, times = now(device), []
    while not times or len(times) < 400 and now(device) < begun + PATIENCE / 4:
        times.append(step_seconds(step, token, 1))
    return step_bytes(model.cfg, 64, 1, form) / min(times)


def made(cfg, form):
    """A model whose bytes are all alike: small positive numbers in every form."""
    dtype = torch.float32 if form == "fp32" else torch.bfloat16
    with torch.device("meta"):
        model = Qwen(cfg).to(dtype).eval()
    if form in PACKED:
        pack(model, Scheme(form, form).of)
    model = model.to_empty(device="cpu")
    for tensor in (*model.parameters(), *model.buffers()):
        tensor.view(torch.uint8).fill_(60)  # 0.01 as float32 and bfloat16, 1.5 as e4m3
    return model
