"""`minqwen doctor`: what is installed, what runs here, and how to repair the rest.

Libraries that may be missing or broken, torch included, are imported inside functions:
that is when this command is needed.
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
from ..units import human

NEEDED = re.compile(r'([\w-]+)(?:[>=]=([\d.]+))?(?:;.*extra == "(\w+)")?')
MODULE = {"pillow": "PIL"}  # where it is not the package's own name
# Optional extras, and what they give.
WANTED = {
    "cpu": "compiled loops, several times faster on a CPU",
    "gguf": "quantised weights in .gguf files",
    "gpu": "kernels on an NVIDIA GPU",
    "video": "video files",
}
FEATURES = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "asimd", "bf16", "i8mm")
WIDTH = 17  # of the left column


def main():
    """Print the report; returns 0, or 1 if something needed is missing."""
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
        if found:
            print(title, *found, sep="\n  ")
    fine = "all that is needed is here"
    print("something that is needed is missing" if faults else fine)
    return int(bool(faults))


def libraries(faults, hints):
    """(name, version) of each library; notes how to repair those that do not work."""
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
        use = ("no NVIDIA GPU for it" if idle else "") if fine else WANTED.get(extra)
        yield name, f"{said} ({use})" if use else said
        if not fine and not idle:
            how = "--force-reinstall" if "imported" in said else "--upgrade"
            what = f"'minqwen[{extra}]'" if extra else f"'{name}>={low}'"
            notes = hints if extra else faults
            notes.append(f"{name} {said}: {pip(f'{how} {what}')}")
    with suppress(PackageNotFoundError):
        yield "transformers", f"{version('transformers')} (to compare with; not needed)"


def state(name, low):
    """A library's version or what is wrong with it, and whether it works."""
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
    """Whether there is an NVIDIA GPU, even one that torch does not see."""
    return bool(shutil.which("nvidia-smi")) or Path("/proc/driver/nvidia").exists()


def cpu():
    """The processor's name, and all that Linux says about it."""
    told = ""
    with suppress(OSError):
        told = Path("/proc/cpuinfo").read_text()
    name = re.search(r"model name\s*: (.*)", told)
    return name[1] if name else platform.processor() or platform.machine(), told


def processor(faults, hints):
    name, told = cpu()
    has = ", ".join(each for each in FEATURES if re.search(rf"\b{each}\b", told))
    yield "processor", f"{name}, {os.cpu_count()} cores{has and f'; {has}'}"
    from ..weights.checkpoint.memory import available

    yield "memory", f"{human(available())} free"


def gpu(faults, hints):
    import torch

    if torch.cuda.is_available():
        for i in range(torch.cuda.device_count()):
            card = torch.cuda.get_device_properties(i)
            old = "" if card.major >= 8 else "; our kernels need 8.0, so torch's run"
            of = f"{human(card.total_memory)}, compute capability"
            yield "gpu", f"{card.name}, {of} {card.major}.{card.minor}{old}"
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

    place = Path(HF_HUB_CACHE)
    there = next(each for each in (place, *place.parents) if each.exists())
    free = human(shutil.disk_usage(there).free)
    yield "downloads", f"{free} free for {place}"
    if HF_HUB_OFFLINE:
        hints.append("HF_HUB_OFFLINE is set, so nothing is downloaded: unset it")
