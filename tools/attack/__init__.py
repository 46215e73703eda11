"""What strangers may bring, made on purpose, and whether the package holds.

    python -m tools.attack                            all of it,
    four minutes on one core
    python -m tools.attack --only traces --count 50   some of one category

A category is a module whose `cases(folder)` lists what is tried. A case holds if it
ends as it says: in the right result, or in one InputError of one sentence that names
what was changed; in time, without gigabytes, and with nothing written on the way.
Cases run one after another in a child with limits, and the next child goes on behind
one that hangs or dies.
"""

import os
import resource
import select
import signal
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from minqwen.errors import InputError

ROOT = Path(__file__).resolve().parents[2]
TINY = ROOT / "assets" / "tiny"
sys.path.append(str(ROOT / "tests"))  # small models and GGUF files are made there
CATEGORIES = (
    "configs", "weights", "gguf", "settings", "traces", "fuzzed", "calls", "commands"
)  # fmt: skip
LONGEST = 1500  # characters of a sentence; one may list ten tensors that do not fit
SECONDS, MEMORY = 60, 3 << 30  # of a case

# JSON values that are no number, and then those that are no whole number from 0 on.
NO_NUMBERS = {
    "a text": "4", "an empty text": "", "true": True, "a list": [4],
    "an empty list": [],
    "an object": {"a": 4}, "NaN": float("nan"), "infinity": float("inf"),
    "minus infinity": -float("inf"), "10**400": 10**400, "2**63": 2**63,
}  # fmt: skip
NO_COUNTS = NO_NUMBERS | {"a half": 4.5, "a float": 4.0, "-1": -1, "-2**63": -(2**63)}
# What is of another kind than nearly every argument and field.
ODD = (None, "", 5.5, True, [], [5], {}, {"a": 1}, "\x1b[2J\nminqwen: ok")
# Names that would steer a terminal, fill it, or leave a folder.
NAMES = {
    "an escape": "\x1b[2J\nminqwen: ok", "a megabyte": "A" * 10**6, "none": "",
    "half a pair": "\ud800", "right to left": "\u202etxt", "a parent": "../x",
}  # fmt: skip
PATHS = ("gone/x/y", "", ".", "\0", "A" * 9999, "/dev/zero", "/proc/x", "\x1b[2J/x")
DEEP = []
for _ in range(100_000):
    DEEP = [DEEP]


@dataclass
class Case:
    """Something tried: `run` must raise an InputError that has all `words`, or return.

    `expect` is "refused", "accepted", or "either", as for what chance has made. What
    `run` may leave in the folder that it runs in is in `writes`.
    """

    name: str
    run: Callable[[], Any]
    words: tuple = ()
    expect: str = "refused"
    writes: tuple = ()


def fault_of(case):
    """How a case fails to hold, in a line; None if it holds."""
    said = None
    with TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            case.run()
        except InputError as error:
            said = str(error)
        except BaseException as error:
            frames = traceback.extract_tb(error.__traceback__)
            own = [f for f in frames if f"{os.sep}minqwen{os.sep}" in f.filename]
            at = f"{Path(own[-1].filename).name}:{own[-1].lineno}" if own else "nowhere"
            return f"{type(error).__name__} at {at}: {str(error)[:200]}"
        finally:
            left = set(os.listdir("."))
            os.chdir(ROOT)
    if left - (set(case.writes) if said is None else set()):
        return f"left {sorted(left)} behind"
    if said is None:
        return "accepted" if case.expect == "refused" else None
    if case.expect == "accepted":
        return f"refused: {said[:200]}"
    if not said.isprintable() or len(said) > LONGEST:
        return f"no sentence, but {len(said)} characters: {ascii(said[:100])}"
    missing = [word for word in case.words if word not in said]
    return f"does not name {missing[0]}: {said[:200]}" if missing else None


def judge(cases, seconds=SECONDS, memory=MEMORY):
    """The faults of cases, {place: line}; those that hold are not in it."""
    faults, at = {}, 0
    while at < len(cases):
        child, pipe = start(cases[at:], memory)
        for fault in answers(pipe, len(cases) - at, seconds):
            if fault:
                faults[at] = fault
            at += 1
        os.close(pipe)
        os.killpg(child, signal.SIGKILL)  # with what it may have started
        os.waitpid(child, 0)
    return faults


def start(cases, memory):
    """A child that tries cases, and the pipe on which it says how each went."""
    pipe, end = os.pipe()
    child = os.fork()
    if child:
        os.close(end)
        return child, pipe
    os.setpgid(0, 0)
    for stream in (1, 2):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * os.sysconf("SC_PAGESIZE") + memory
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for case in cases:
        line = " ".join((fault_of(case) or "").split())
        os.write(end, line.encode(errors="replace")[:2000] + b"\n")
    os._exit(0)


def answers(pipe, count, seconds):
    """A line for each case as it ends, empty if it holds; fewer than `count`, if one
    takes too long or ends the child."""
    text = b""
    while count:
        ready = select.select([pipe], [], [], seconds)[0]
        more = os.read(pipe, 65536) if ready else b""
        if not more:
            yield "the process died" if ready else f"still running after {seconds} s"
            return
        *whole, text = (text + more).split(b"\n")
        yield from (line.decode(errors="replace") for line in whole)
        count -= len(whole)
