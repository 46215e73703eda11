"""`minqwen doctor`: what is installed, what will run here, and what mends the rest.

Imports nothing at first that might be missing or broken, torch included: it is asked
exactly then.
"""

import importlib
import os
import platform
import re
import shutil
import sys
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from ..errors import show

NEEDED = re.compile(r'([\w-]+)(?:[>=]=([\d.]+))?(?:;.*extra == "(\w+)")?')
MODULE = {"pillow": "PIL"}  # where it is not the package's own name
# The extras that a model may want, and for what.
WANTED = {
    "cpu": "compiled loops, several times faster on a CPU",
    "gguf": "quantised weights in .gguf files",
    "gpu": "kernels on an NVIDIA GPU",
    "video": "video files",
}
FEATURES = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "asimd", "bf16", "i8mm")
WIDTH = 17  # of the left column


def main():
    """Print the report; returns 0, or 1 where something is needed and not there."""
    faults, hints = [], []
    lines = [("python", f"{platform.python_version()}, {platform.platform()}")]
    lines += libraries(faults, hints)
    for part in (processor, gpu, kernels, disk):
        try:
            lines += part(faults, hints)
        except Exception as error:  # each part asks libraries that may be broken
            lines.append((part.__name__, f"cannot be told: {show(error)}"))
    print("\n".join(f"{label:<{WIDTH}}{text}".rstrip() for label, text in lines))
    for title, found in ("to mend:", faults), ("would help:", hints):
        print(*([title] if found else []), *(f"  {each}" for each in found), sep="\n",
              end="\n" if found else "")  # fmt: skip
    print(
        "something that is needed is missing"
        if faults
        else "all that is needed is here"
    )
    return int(bool(faults))


def libraries(faults, hints):
    """Each library by name: its version, and what to do where that will not do."""
    try:
        listed = requires("minqwen") or []
    except PackageNotFoundError:
        listed = []
        hints.append(f"minqwen is not installed itself: {pip('-e .')}")
    for requirement in listed:
        name, low, extra = NEEDED.match(requirement).groups()
        if extra and extra not in WANTED:
            continue
        said, fine = state(name, low)
        idle = extra == "gpu" and not nvidia()
        use = (
            WANTED.get(extra) if not fine else "no NVIDIA GPU for it" if idle else None
        )
        yield name, f"{said} ({use})" if use else said
        if not fine and not idle:
            how = "--force-reinstall" if "imported" in said else "--upgrade"
            what = f"'minqwen[{extra}]'" if extra else f"'{name}>={low}'"
            (hints if extra else faults).append(
                f"{name} {said}: {pip(f'{how} {what}')}"
            )
    with suppress(PackageNotFoundError):
        yield "transformers", f"{version('transformers')} (to compare with; not needed)"


def state(name, low):
    """What is to be said of a library, and whether it will do."""
    try:
        found = version(name)
    except PackageNotFoundError:
        return "is missing", False
    if numbers(found) < numbers(low or "0"):
        return f"{found} is older than {low}", False
    try:
        importlib.import_module(MODULE.get(name, name))
    except Exception as error:
        return f"{found} cannot be imported ({show(error)})", False
    return found, True


def numbers(text):
    found = [int(part) for part in re.findall(r"\d+", text.split("+")[0])]
    return (found + [0, 0])[:3]


def pip(what):
    return f"{sys.executable} -m pip install {what}"


def nvidia():
    """Is there an NVIDIA GPU, whatever torch says?"""
    return bool(shutil.which("nvidia-smi")) or Path("/proc/driver/nvidia").exists()


def processor(faults, hints):
    told = Path("/proc/cpuinfo")
    told = told.read_text() if told.exists() else ""
    name = re.search(r"model name\s*: (.*)", told)
    name = name[1] if name else platform.processor() or platform.machine()
    has = ", ".join(each for each in FEATURES if re.search(rf"\b{each}\b", told))
    yield "processor", f"{name}, {os.cpu_count()} cores{has and f'; {has}'}"
    from ..units import human
    from ..weights.checkpoint.memory import available

    yield "memory", f"{human(available())} free"


def gpu(faults, hints):
    import torch

    from ..units import human

    if torch.cuda.is_available():
        for i in range(torch.cuda.device_count()):
            card = torch.cuda.get_device_properties(i)
            old = "" if card.major >= 8 else "; our kernels need 8.0, so torch's run"
            yield (
                "gpu",
                (
                    f"{card.name}, {human(card.total_memory)}, compute capability "
                    f"{card.major}.{card.minor}{old}"
                ),
            )
        return
    if not nvidia():
        yield "gpu", "none that is used here"
        return
    built = torch.version.cuda and f"for CUDA {torch.version.cuda}" or "without CUDA"
    yield "gpu", f"an NVIDIA GPU, which this torch, built {built}, does not see"
    faults.append(
        "torch does not see the GPU: update its driver if `nvidia-smi` fails, else "
        + pip("--force-reinstall torch")
    )


def kernels(faults, hints):
    from ..model.forms import available_kinds

    yield "kernels", available_kinds()


def disk(faults, hints):
    from huggingface_hub.constants import HF_HUB_CACHE, HF_HUB_OFFLINE

    from ..units import human

    place = Path(HF_HUB_CACHE)
    there = next(each for each in (place, *place.parents) if each.exists())
    free = human(shutil.disk_usage(there).free)
    yield "downloads", f"{free} free for {place}"
    if HF_HUB_OFFLINE:
        hints.append("HF_HUB_OFFLINE is set, so nothing is downloaded: unset it")
