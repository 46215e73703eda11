"""The cell with which every notebook begins: it finds the course, or fetches it.

`python -m tools.address` puts it behind each title, with the address of pyproject.toml,
and links to Colab, Kaggle and Binder into the title: none while there is no address.
"""

import re
from urllib.parse import quote

import nbformat

from .execute import tidy, write

TAG = "elsewhere"
CELL = """\
# At home this does nothing. On Colab or Kaggle it fetches the course and installs it.
import subprocess
import sys
from importlib import invalidate_caches, metadata, util
from pathlib import Path

ADDRESS = ""
clone, home = Path("minqwen-course").resolve(), util.find_spec("course")
if not home and not ADDRESS:
    raise ModuleNotFoundError("Open this notebook inside a clone, beside course.py.")
elif not home:
    print("Fetching and installing the course: a minute or two.")
    get = ["git", "clone", "-q", "--depth", "1", ADDRESS, str(clone)]
    pip = [sys.executable, "-m", "pip", "install", "-qe", f"{clone}[course]"]
    for command in [pip] if clone.exists() else [get, pip]:
        if subprocess.run(command).returncode:
            raise RuntimeError("That failed. On Kaggle, switch the internet on first.")
    sys.path[:0] = [str(clone / "notebooks"), str(clone)]
    invalidate_caches()
    for name in {"numpy", "torch"} & set(sys.modules):
        here, now = sys.modules[name].__version__, metadata.version(name)
        if here.split("+")[0] != now.split("+")[0]:
            raise RuntimeError(f"{name} is new now: restart the kernel, begin again.")
elif not util.find_spec("minqwen"):
    raise ModuleNotFoundError("Install minqwen in this kernel, or start with: make lab")
"""
LINKS = re.compile(r"^Open it in \[Colab\].*\n\n", flags=re.M)


def source(address):
    """The cell's code, which is the same in every notebook."""
    return CELL.rstrip().replace('ADDRESS = ""', f'ADDRESS = "{address}"')


def links(address, name):
    """A line with links that open a notebook elsewhere; they exist for GitHub alone."""
    place, file = address.partition("//github.com/")[2], f"notebooks/{name}"
    if not place:
        return ""
    kaggle = f"https://kaggle.com/kernels/welcome?src={address}/blob/HEAD/{file}"
    colab = f"https://colab.research.google.com/github/{place}/blob/HEAD/{file}"
    binder = f"https://mybinder.org/v2/gh/{place}/HEAD?labpath={quote(file, safe='')}"
    return f"Open it in [Colab]({colab}), [Kaggle]({kaggle}) or [Binder]({binder}).\n\n"


def put(notebook, address, name):
    """Put cell and links into a notebook, in place of those that it has."""
    title, *rest = notebook.cells
    title.source = re.sub(
        r"^\*Reading ",
        lambda cost: links(address, name) + cost[0],
        LINKS.sub("", title.source), count=1, flags=re.M,
    )  # fmt: skip
    first = rest[0] if TAG in rest[0].metadata.get("tags", []) else None
    if first is None:
        first = nbformat.v4.new_code_cell(metadata={"tags": [TAG]})
        notebook.cells.insert(1, first)
    first.source = source(address)


def apply(address, folder):
    """Every notebook of a folder; says which of them must be run again."""
    for path in sorted(folder.glob("[0-9][0-9]*_*.ipynb")):
        notebook = nbformat.read(path, as_version=4)
        before = [cell.source for cell in notebook.cells]
        put(notebook, address, path.name)
        after = [cell.source for cell in notebook.cells]
        if before != after:
            write(tidy(notebook), path)
        if len(before) != len(after):
            print(f"{path.name}: begins with another cell; now `run` it")
