"""The code in README.md and docs/ runs as it stands, and prints what is said there."""

import re
from pathlib import Path

import pytest
import torch

import minqwen
import minqwen.weights.load  # so that the forms that it registers stay in the table
from minqwen.model import forms
from minqwen.model.taps import listen

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted(path.relative_to(ROOT).as_posix() for path in ROOT.glob("docs/*.md"))
PRINTS = re.compile(r"^ *print\(.*\)  # (.+)$", re.MULTILINE)


def blocks(name):
    """The Python blocks of a page, from ```python to ```."""
    return re.findall(r"^```python\n(.*?)^```", (ROOT / name).read_text(), re.M | re.S)


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with the repository's assets, for what a page reads and writes.

    Forms that a page registers are gone again after it.
    """
    (tmp_path / "assets").symlink_to(ROOT / "assets")
    monkeypatch.chdir(tmp_path)
    table = {name: dict(kinds) for name, kinds in forms._table.items()}
    monkeypatch.setattr(forms, "_kinds", dict(forms._kinds))
    yield tmp_path
    for name, kinds in forms._table.items():
        kinds.clear()
        kinds.update(table.get(name, {}))


def known():
    """What a page takes for granted: the README's example, or for one that feeds
    tokens alone, some text's."""
    names = {"torch": torch, "listen": listen, "minqwen": minqwen}
    exec(blocks("README.md")[0], names)
    text = names["processor"].chat([{"role": "user", "content": "Who are you?"}])
    return names | {"ids": text["input_ids"]}


def test_the_readme_runs_from_top_to_bottom_and_prints_what_it_says(here, capsys):
    code = "\n".join(blocks("README.md"))
    told = PRINTS.findall(code)
    assert len(told) == 1
    exec(code, {})
    assert capsys.readouterr().out.splitlines() == told


@pytest.mark.slow
@pytest.mark.parametrize("name", [page for page in PAGES if blocks(page)])
def test_a_page_runs(name, here):
    names = known()
    for block in blocks(name):
        exec(block, names)


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 110
