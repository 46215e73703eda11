"""What figures are valid for: processor, versions, and the speed of its memory."""

import platform
import time
from importlib.metadata import PackageNotFoundError, version

import torch

from ..plan.doctor import cpu

LIBRARIES = ("minqwen", "torch", "numba", "triton", "transformers",
             "flash-linear-attention")  # fmt: skip


def hardware(threads):
    return {
        "processor": processor(),
        "threads": threads,
        "python": platform.python_version(),
        "versions": {name: v for name in LIBRARIES if (v := version_of(name))},
    }


def version_of(name):
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def processor():
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return cpu()[0]


def bandwidth(size=1 << 29, times=5):
    """Bytes a second that all threads read: the best of a few sums of 512 MB."""
    # Too much for any cache, and reading is what takes the time.
    device = "cuda" if torch.cuda.is_available() else "cpu"
    x = torch.ones(size // 4, device=device)
    best = float("inf")
    for _ in range(times):
        begun = time.perf_counter()
        x.sum().item()
        best = min(best, time.perf_counter() - begun)
    return size / best
