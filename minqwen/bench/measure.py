"""How fast this machine's disk and memory are, read in the way that decoding reads.

    minqwen plan 35B-A3B --measure

The disk is read as experts are fetched: large blocks, several at once, from a file that
is not in the page cache. Memory is read by the loops that decode, once for each form of
weights, because widening int4 is much slower than the memory itself. Both take some
seconds, or a minute where numba compiles for the first time. The figures are kept for
--stats.
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
from ..weights.quantised.ggml import BLOCKS
from ..weights.quantised.modules import pack
from ..weights.quantised.settings import Scheme
from . import FAMILY
from .machine import processor
from .worker import now, step_seconds

HELD = ("fp32", *FORMS, *BLOCKS)  # what weights are measured in
PATIENCE = 3.0  # seconds that one of the measurements may take
TRIED = 1 << 30  # bytes of a file that is made to be read
F_NOCACHE = 48  # macOS's way to read past its cache
# Pairs of layers, wide enough that a step's time goes into loops and not into calls.
MEASURED = FAMILY | dict(
    model_type="qwen3_5_text", vocab_size=4096, hidden_size=1024,
    num_attention_heads=8, num_key_value_heads=2, linear_num_key_heads=16,
    linear_num_value_heads=32, intermediate_size=8192,
    tie_word_embeddings=False)  # fmt: skip


def measure(place):
    """Bytes a second: {"disk": speed, "loops": {form: speed}, ...}; kept for `kept`.

    "memory" is free bytes where the loops ran, "what" was read, on which "processor".
    `place`: a checkpoint's folder or file, or any folder on the disk in question; one
    that does not exist stands for the current folder.
    """
    with readable(place) as (path, what):
        disk = disk_speed(path)
    loops = {form: loop_speed(form) for form in HELD}
    cuda = torch.cuda.is_available()
    free = torch.cuda.mem_get_info()[0] if cuda else available()
    found = {"disk": disk, "loops": loops, "what": what, "memory": free}
    found["processor"] = processor()
    with suppress(InputError, OSError):  # a home may be read-only
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
            loops = {form: float(found["loops"][form]) for form in HELD}
            return found | {"loops": loops}
    return None


@contextmanager
def readable(place):
    """A large file on the disk of `place`, perhaps temporary, and words for it."""
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
    """Bytes a second of reading a file as experts are read, past the page cache."""
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
    """Bytes a second of weights that decoding reads here, held in a form."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    layers = ["linear_attention", "full_attention"] * 3
    text = MEASURED | {"num_hidden_layers": len(layers), "layer_types": layers}
    model = made(Config.from_dict(text), form).to(device)
    compiled = device == "cpu" and forms.runs("numba")
    model.kernels = "numba" if compiled else "auto"
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
    """A model all of whose bytes are equal: small positive numbers in every form."""
    dtype = torch.float32 if form == "fp32" else torch.bfloat16
    with torch.device("meta"):
        model = Qwen(cfg).to(dtype).eval()
    if form in PACKED:
        pack(model, Scheme(form, form).of)
    model = model.to_empty(device="cpu")
    for tensor in (*model.parameters(), *model.buffers()):
        tensor.view(torch.uint8).fill_(60)  # 0.01 as float32 and bfloat16, 1.5 as e4m3
    return model
