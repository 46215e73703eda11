"""How much memory this process may still take, and taking it in one go."""

import ctypes
import os
import sys
from functools import cache
from mmap import PAGESIZE
from pathlib import Path

GROUPS = Path("/sys/fs/cgroup")
MADV_POPULATE_WRITE = 23  # Linux since 5.14


def populate(tensor):
    """Give a new CPU tensor its memory now and in one go, where Linux can."""
    # Else each page interrupts the read that first writes there. Only a hint.
    if sys.platform != "linux" or tensor.device.type != "cpu":
        return
    start = -(-tensor.data_ptr() // PAGESIZE) * PAGESIZE
    length = (tensor.data_ptr() + tensor.nbytes - start) // PAGESIZE * PAGESIZE
    if length > 0:
        address, count = ctypes.c_void_p(start), ctypes.c_size_t(length)
        _libc().madvise(address, count, MADV_POPULATE_WRITE)


@cache
def _libc():
    return ctypes.CDLL(None)


def available():
    """Bytes that can be taken without pushing others out, cgroup limits included."""
    return max(0, min(_system(), *_groups()))


def _system():
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        values = dict(line.split(":", 1) for line in lines)
        return int(values["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError):  # not Linux: half of what is built in
        return installed() // 2


def installed():
    """Bytes of memory that this machine has, whoever uses them."""
    if sys.platform == "win32":
        status = _Status(dwLength=ctypes.sizeof(_Status))
        ctypes.windll.kernel32.GlobalMemoryStatusEx(ctypes.byref(status))
        return status.ullTotalPhys
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


class _Status(ctypes.Structure):
    """MEMORYSTATUSEX of Windows: the first three fields, and room for the rest."""

    _fields_ = [
        ("dwLength", ctypes.c_uint32),
        ("dwMemoryLoad", ctypes.c_uint32),
        ("ullTotalPhys", ctypes.c_uint64),
        ("rest", ctypes.c_uint64 * 6),
    ]


def _groups():
    """What each memory cgroup above this process has left, of version 1 and 2."""
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, kinds, path = line.split(":", 2)
        if not kinds:
            root, names = GROUPS, ("memory.max", "memory.current", "file")
        elif "memory" in kinds.split(","):
            root = GROUPS / "memory"
            names = "memory.limit_in_bytes", "memory.usage_in_bytes", "total_cache"
        else:
            continue
        group = root / path.lstrip("/")
        for place in [group, *group.parents]:
            if place.is_relative_to(root):
                yield from _left(place, *names)


def _left(group, limit, used, cache):
    try:
        most = int((group / limit).read_text())  # "max" is no number, nor a limit
        now = int((group / used).read_text())
        stat = dict(map(str.split, (group / "memory.stat").read_text().splitlines()))
        yield most - now + int(stat.get(cache, 0))  # cached pages are given back
    except (OSError, ValueError):
        return
