"""Other systems: what their Python lacks, and notebooks that lie alone."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# What Python has on Linux and not on Windows, where nothing here was ever run.
BARE = """
import os, sys
import torch, tokenizers, huggingface_hub, PIL, tqdm, jinja2, webbrowser, tempfile
for name in "fcntl resource termios pwd grp posix_ipc tty pty".split():
    sys.modules[name] = None
for name in "preadv pread readv sysconf fork getuid O_NONBLOCK O_NOFOLLOW".split():
    delattr(os, name)
"""
USED = """
import minqwen, minqwen.check, minqwen.analyse, minqwen.widgets, minqwen.weights.convert
from minqwen.cli.commands import main
made = sys.argv.pop()
sys.argv = ["minqwen", "tour"]
assert main() == 0
minqwen.weights.convert.convert("assets/tiny", made, "int8")
"""


@pytest.mark.slow
def test_what_a_reader_uses_needs_nothing_that_windows_lacks(tmp_path):
    command = [sys.executable, "-c", BARE + USED, str(tmp_path / "made")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "This is the digit 7." in done.stdout
    assert (tmp_path / "made" / "config.json").is_file()
