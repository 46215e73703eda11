"""What the figures hold for: processor, versions, and how fast memory can be read."""

import platform
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

LIBRARIES = ("minqwen", "torch", "numba", "triton", "transformers",
             "flash-linear-attention")  # fmt: skip


def hardware(threads):
    found = {name: version_of(name) for name in LIBRARIES}
    return {
        "processor": processor(),
        "threads": threads,
        "python": platform.python_version(),
        "versions": {name: v for name, v in found.items() if v},
    }


def version_of(name):
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def processor():
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(x.split(": ")[1] for x in lines if x.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def bandwidth(size=1 << 29, times=5):
    """Bytes a second that all threads can read: 512 MB summed up, the best of a few."""
    # No cache holds so much, and nothing but reading takes time.
    device = "cuda" if torch.cuda.is_available() else "cpu"
    x = torch.ones(size // 4, device=device)
    best = float("inf")
    for _ in range(times):
        begun = time.perf_counter()
        x.sum().item()
        best = min(best, time.perf_counter() - begun)
    return size / best
