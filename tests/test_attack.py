"""What strangers may bring: some of every category that `python -m tools.attack` tries.

That command tries all of it; docs/limits.md has its table.
"""

import subprocess
import sys
from pathlib import Path

from tools.attack import Case, judge

ROOT = Path(__file__).resolve().parent.parent
LEAST = {
    "configs": 300, "weights": 130, "gguf": 500, "settings": 200, "traces": 200,
    "fuzzed": 3000, "calls": 100, "commands": 80,
}  # fmt: skip


def test_some_of_every_category_hold():
    """In a process of its own: threads of other tests would not outlive a fork."""
    done = subprocess.run(
        [sys.executable, "-m", "tools.attack", "--count", "20"],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [line.split() for line in done.stdout.splitlines()[1:]]
    assert {row[0] for row in rows} == LEAST.keys()
    for name, made, tried, held, _ in rows:
        assert int(made) >= LEAST[name] and int(tried) == int(held) >= 20


def test_what_does_not_hold_is_told():
    def endless():
        while True:
            pass

    cases = {
        "accepted": Case("in silence", lambda: None),
        "ZeroDivisionError": Case("another kind", lambda: 1 / 0),
        "still running": Case("for ever", endless),
        "": Case("right", lambda: None, expect="accepted"),
        "left ['x']": Case("behind", lambda: open("x", "w").close(), expect="accepted"),
        "MemoryError": Case("too much", lambda: bytearray(1 << 40)),
    }
    faults = judge([*cases.values()], seconds=5)
    assert len(faults) == 5
    for place, told in enumerate(cases):
        assert told in faults.get(place, "")
