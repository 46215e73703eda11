"""What every test shares."""

import os
import signal
import sys
import zlib

import pytest
import torch

# Without a GPU, Triton's kernels run in its interpreter. It is asked when a kernel is
# defined, and some of Triton's own are when it is first imported.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

# A shell that starts the tests in the background has Ctrl-C ignored, and so have all
# that they start, unless it is heard here.
signal.signal(signal.SIGINT, signal.default_int_handler)

# With fla installed transformers computes in fla's kernels, not in the plain torch we
# compare with, and some releases crash without a GPU. Hidden before it is looked for;
# a test that wants fla runs a process of its own.
sys.modules["fla"] = None


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    """The same random numbers alone as in company, and in whichever process."""
    torch.manual_seed(zlib.crc32(item.nodeid.encode()))


@pytest.fixture
def run(capsys, monkeypatch, tmp_path):
    """Run a command in this process: exit code, stdout, stderr."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))  # nothing measured
    from minqwen.cli import commands as cli

    def run(*args):
        try:
            code = cli.main([str(arg) for arg in args])
        except SystemExit as stop:
            code = stop.code
        return code, *capsys.readouterr()

    return run
