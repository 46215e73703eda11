"""Other places: systems whose Python lacks something, and notebooks that lie alone."""

import ast
import os
import re
import subprocess
import sys
import sysconfig
import venv

import nbformat
import pytest
from test_packaging import copied
from test_project import ROOT, constraints

from tools import address, first_cell
from tools.execute import NOTEBOOKS, tidy

GITHUB = "https://github.com/someone/minqwen"

# What Python has on Linux and not on Windows, where nothing here was ever run.
BARE = """
import os, sys
import torch, tokenizers, huggingface_hub, PIL, tqdm, jinja2, webbrowser, tempfile
for name in "fcntl resource termios pwd grp readline tty pty".split():
    sys.modules[name] = None
for name in "preadv pread readv sysconf fork getuid O_NONBLOCK O_NOFOLLOW".split():
    delattr(os, name)
"""
USED = """
import minqwen, minqwen.check, minqwen.analyse, minqwen.widgets, minqwen.cli.talk
import minqwen.weights.convert
from minqwen.cli.commands import main
made = sys.argv.pop()
sys.argv = ["minqwen", "tour"]
assert main() == 0
minqwen.weights.convert.convert("assets/tiny", made, "int8")
"""


@pytest.mark.slow
def test_what_a_reader_uses_needs_nothing_that_windows_lacks(tmp_path):
    command = [sys.executable, "-c", BARE + USED, str(tmp_path / "made")]
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "This is the digit 7." in done.stdout
    assert (tmp_path / "made" / "config.json").is_file()


# ---- the cell with which every notebook begins


def start(folder, place="", python=sys.executable, flags=(), **env):
    """The first cell, run in a folder as a kernel would."""
    command = [python, *flags, "-c", first_cell.source(place)]
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | env
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)


def test_the_cell_is_short_and_plain_python():
    lines = first_cell.source(GITHUB).splitlines()
    assert len(lines) <= 25 and max(map(len, lines)) <= 88
    ast.parse("\n".join(lines))
    assert f'ADDRESS = "{GITHUB}"' in lines


def test_beside_course_py_the_cell_does_nothing(tmp_path):
    done = start(NOTEBOOKS, GITHUB, PYTHONPATH=str(ROOT))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    (tmp_path / "course.py").touch()
    (tmp_path / "minqwen.py").write_text("raise ImportError")  # only looked for
    assert start(tmp_path).returncode == 0


def test_the_cell_says_what_to_do(tmp_path):
    assert "Open this notebook inside a clone, beside" in start(tmp_path).stderr
    gone = start(tmp_path, (tmp_path / "gone").as_uri())
    assert "That failed. On Kaggle, switch the internet on" in gone.stderr
    assert not (tmp_path / "minqwen-course").exists()  # a second run begins again
    (tmp_path / "course.py").touch()
    bare = start(tmp_path, flags=["-S"])  # without any installed package
    assert "Install minqwen in this kernel, or start with: make lab" in bare.stderr


@pytest.fixture
def copy(tmp_path):
    """Some notebooks and the files that have the address, away from the repository."""
    names = ["pyproject.toml", "README.md", "CITATION.cff"]
    for path in sorted(NOTEBOOKS.glob("0[04]*.ipynb")) + sorted(NOTEBOOKS.glob("13*")):
        names.append(path.relative_to(ROOT))
    return copied(tmp_path, names)


def told(folder, place):
    """The notebooks after `python -m tools.address` with this address."""
    file = folder / "pyproject.toml"
    text = re.sub(
        '^address = ".*"', f'address = "{place}"', file.read_text(), flags=re.M
    )
    file.write_text(text)
    address.write(folder)
    paths = sorted((folder / "notebooks").glob("*.ipynb"))
    return {path: nbformat.read(path, as_version=4) for path in paths}


def test_every_notebook_gets_the_cell_once_and_links_while_there_is_an_address(copy):
    for place in ("", GITHUB, GITHUB, "https://example.org/minqwen"):
        for path, notebook in told(copy, place).items():
            title, first, after, *_ = notebook.cells
            assert first.source == first_cell.source(place)
            assert first.metadata == {
                "tags": ["elsewhere"], "jupyter": {"source_hidden": True},
                "cellView": "form",
            }  # fmt: skip
            assert "elsewhere" not in after.metadata.get("tags", [])
            assert notebook == tidy(nbformat.from_dict(notebook))
            form = r"(?s)# \d\d \xb7 .+?\n\n\*\*.+?\?\*\*\n.+\n\n\*Reading "
            assert re.match(form, title.source)
            found = re.findall(r"\]\((.+?)\)", title.source)
            assert len(found) == (3 if place == GITHUB else 0)
            assert all("someone/minqwen" in link for link in found)
            assert all(path.name in link for link in found)


def test_binder_installs_the_course_without_cuda():
    told = (ROOT / ".binder" / "requirements.txt").read_text().splitlines()
    assert {"-c ../constraints.txt", "-e .[course]"} <= set(told)
    assert "--index-url https://download.pytorch.org/whl/cpu" in told
    assert "torch" in constraints()


RUN = """
import sys, nbformat
from nbclient import NotebookClient
notebook = nbformat.read(sys.argv[1], as_version=4)
NotebookClient(notebook, timeout=180, kernel_name="python3").execute()
"""


@pytest.mark.slow
def test_a_notebook_alone_fetches_the_course_and_runs(tmp_path):
    """In a new environment, which borrows all libraries of this one but minqwen."""
    venv.create(tmp_path / "new", with_pip=False)
    python = tmp_path / "new" / "bin" / "python"
    (site,) = tmp_path.glob("new/lib/python*/site-packages")
    # Folders that a .pth file adds are not searched for further ones: no minqwen.
    (site / "borrowed.pth").write_text(sysconfig.get_path("purelib"))
    git = ["git", "-c", "safe.directory=*", "clone", "-q", str(ROOT), "origin"]
    subprocess.run(git, cwd=tmp_path, check=True)
    alone = tmp_path / "alone"
    alone.mkdir()
    notebook = nbformat.read(next(NOTEBOOKS.glob("04*")), as_version=4)
    first_cell.put(notebook, (tmp_path / "origin").as_uri(), "04.ipynb")
    nbformat.write(notebook, alone / "04.ipynb")
    assert start(alone, python=python).returncode == 1
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    env |= {"PIP_NO_INDEX": "1", "PIP_NO_BUILD_ISOLATION": "0"}  # 0: it is off
    done = subprocess.run([python, "-c", RUN, "04.ipynb"], cwd=alone, env=env,
                          capture_output=True, text=True)  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    where = [python, "-c", "import minqwen; print(minqwen.__file__)"]
    found = subprocess.check_output(where, cwd=tmp_path, env=env, text=True)
    assert found.strip() == str(alone / "minqwen-course/minqwen/__init__.py")


def test_every_notebook_begins_with_the_cell_of_this_address():
    """If not: python -m tools.address, then run the notebooks it names."""
    place = address.read()
    for path in sorted(NOTEBOOKS.glob("[0-9][0-9]*_*.ipynb")):
        title, first, *_ = nbformat.read(path, as_version=4).cells
        assert first.metadata.get("tags") == ["elsewhere"], path.name
        assert first.source == first_cell.source(place), path.name
        assert first.outputs == [], path.name  # at home it says nothing
        links = re.findall(r"^Open it in .*\n\n", title.source, flags=re.M)
        expected = first_cell.links(place, path.name)
        assert links == [expected] * bool(expected), path.name
