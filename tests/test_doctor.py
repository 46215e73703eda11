"""What `minqwen doctor` says of an installation, whole or not."""

import os
import subprocess
import sys
from importlib.metadata import requires, version

import pytest

from minqwen.plan import doctor

BROKEN = 'raise ImportError("libmade_up.so: cannot open shared object file")'


def test_here_all_that_is_needed_is_there(run):
    code, out, _ = run("doctor")
    lines = dict(line.split(maxsplit=1) for line in out.splitlines() if "  " in line)
    assert code == 0 and out.endswith("all that is needed is here\n")
    needed = [r for r in requires("minqwen") if "extra" not in r]
    for name in (doctor.NEEDED.match(each)[1] for each in needed):
        assert lines[name] == version(name)
    assert lines["numba"] == version("numba") and "torch" in lines["kernels"]
    assert "free for" in lines["downloads"] and "cores" in lines["processor"]


def test_what_is_missing_old_or_broken_comes_with_its_command(
    tmp_path, monkeypatch, capsys
):
    (tmp_path / "made_up.py").write_text(BROKEN)
    info = tmp_path / "made_up-1.5.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: made-up\nVersion: 1.5\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(doctor.MODULE, "made-up", "made_up")
    listed = ["torch>=2.11", "numpy>=99", "made-up>=1.2", "nowhere>=3",
              'absent>=1; extra == "cpu"', 'ignored>=1; extra == "test"',
              'triton>=3.6; sys_platform == "linux" and extra == "gpu"']  # fmt: skip
    monkeypatch.setattr(doctor, "requires", lambda name: listed)
    monkeypatch.setattr(doctor, "nvidia", lambda: False)
    assert doctor.main() == 1
    out = capsys.readouterr().out
    mend, help_ = out.split("to mend:\n")[1].split("would help:\n")
    own = f"{sys.executable} -m pip install"
    assert f"older than 99: {own} --upgrade 'numpy>=99'\n" in mend
    assert "made-up 1.5 cannot be imported (libmade_up.so" in mend
    assert f"{own} --force-reinstall 'made-up>=1.2'\n" in mend
    assert f"nowhere is missing: {own} --upgrade 'nowhere>=3'\n" in mend
    assert f"absent is missing: {own} --upgrade 'minqwen[cpu]'\n" in help_
    assert "ignored" not in out and "no NVIDIA GPU for it" in out
    assert out.endswith("something that is needed is missing\n")


@pytest.mark.parametrize(
    "found, low, older",
    [("2.9.1", "2.11", True), ("2.13.0+cpu", "2.11", False), ("3", "3.0", False),
     ("2.11.0rc1", "2.11", False), ("0.22.2", "0.22.2", False)],
)  # fmt: skip
def test_versions_are_compared_as_numbers(found, low, older):
    assert (doctor.numbers(found) < doctor.numbers(low)) == older


def test_a_gpu_that_torch_does_not_see_is_a_fault(monkeypatch):
    import torch

    if torch.cuda.is_available():
        pytest.skip("torch sees the GPU here")
    monkeypatch.setattr(doctor, "nvidia", lambda: True)
    faults = []
    (line,) = doctor.gpu(faults, [])
    assert "does not see" in line[1] and "--force-reinstall torch" in faults[0]


@pytest.mark.slow
def test_it_answers_where_torch_is_broken(tmp_path):
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text(BROKEN)
    path = os.pathsep.join([str(tmp_path), *sys.path])

    def command(*words):
        done = subprocess.run(
            [sys.executable, "-m", "minqwen", *words], capture_output=True, text=True,
            env=os.environ | {"PYTHONPATH": path},
        )  # fmt: skip
        return done.returncode, done.stdout, done.stderr

    code, out, err = command("doctor")
    assert (code, err) == (1, "") and "--force-reinstall 'torch>=2.11'" in out
    assert "libmade_up.so" in out and "processor" in out
    code, out, err = command("info", "397B-A17B")
    assert (code, out) == (1, "") and err.count("\n") == 1
    assert "libmade_up.so" in err and "`minqwen doctor` says" in err
