"""What tests of loading share: refusals, and memory measured in another process."""

import subprocess
import sys

import pytest

import minqwen
from minqwen.errors import InputError

PEAK = """
import sys
import torch
import minqwen

def peak():
    status = open("/proc/self/status").read()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024
"""


def refused(path, *words):
    """`load` raises one InputError: a single line that holds all the words."""
    with pytest.raises(InputError) as caught:
        minqwen.load(path)
    message = str(caught.value)
    assert "\n" not in message and len(message) < 2000
    for word in words:
        assert word in message, message
    return message


def measured(code, *args):
    """The whole numbers that `code`, which may call peak(), prints in a new process."""
    if sys.platform != "linux":
        pytest.skip("reads /proc")
    command = [sys.executable, "-c", PEAK + code, *args]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return map(int, done.stdout.split())
