"""Beside llama.cpp, where there is one: tools/llama_parity.py says what is needed.

MINQWEN_LLAMA=PREFIX MINQWEN_LLAMA_SOURCE=SOURCE pytest tests/test_llama.py
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tools.llama_parity import CASES, KINDS, Llama, measure

ROOT = Path(__file__).resolve().parent.parent
PLACES = os.environ.get("MINQWEN_LLAMA"), os.environ.get("MINQWEN_LLAMA_SOURCE")


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    if None in PLACES:
        pytest.skip("MINQWEN_LLAMA and MINQWEN_LLAMA_SOURCE name no llama.cpp")
    prefix, source = map(Path, PLACES)
    return Llama(prefix, source, tmp_path_factory.mktemp("llama"))


@pytest.mark.parametrize("name", CASES)
def test_same_weights_logits_drafts_and_ids(llama, name):
    row = measure(name, CASES[name], llama)
    print(row)
    assert row["text"]
    for what in ("prompt", "writing", "draft"):
        assert row[what] < 5e-5, row
    for what in ("read", *KINDS):
        assert row[what] < 1e-6, row


@pytest.mark.slow
def test_what_is_missing_is_said(tmp_path):
    for folder in ("prefix/include", "source"):
        (tmp_path / folder).mkdir(parents=True)
    command = [sys.executable, "-m", "tools.llama_parity", "--llama",
               tmp_path / "prefix", "--source", tmp_path / "source"]  # fmt: skip
    for missing in ("source/convert_hf_to_gguf.py", "prefix/include/llama.h"):
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 1 and done.stdout == ""
        assert done.stderr.count("\n") == 1
        assert f"{tmp_path / missing} is missing; give" in done.stderr
        (tmp_path / missing).touch()
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert done.stderr.startswith("llama_parity: c++ ")  # missing, or cannot compile
