"""The site's sources: notebooks and links as Sphinx is given them."""

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from test_project import ROOT

from minqwen.errors import InputError
from tools.execute import GUESS, UNSEEN
from tools.site import pages
from tools.site.cells import prepared


def tagged(source, *tags, outputs=()):
    return new_code_cell(source, metadata={"tags": [*tags]}, outputs=[*outputs])


def test_a_prediction_is_answered_where_it_is_opened():
    question = (
        "**Predict.** How many?\n\n- A: one `x`\n- B: two,\n  or three\n- C: <none>"
    )
    told = dict(A="As `x`.", B="Or not.", C="Yes.", right="C")
    cells = [
        new_markdown_cell(question, metadata={"tags": ["predict"]}),
        tagged('check.predict("how_many")', "guess"),
    ]
    made = prepared(new_notebook(cells=cells), {"how_many": told}).cells
    assert [cell.cell_type for cell in made] == ["markdown", "markdown"]
    assert made[0].source.strip() == "**Predict.** How many?"
    first, second, third = made[1].source.split("\n<details")
    assert 'name="how_many"' in first and "✗ As <code>x</code>." in first
    assert "<b>A</b> one <code>x</code></summary>" in first
    assert "two,\nor three" in second and "✗ Or not." in second
    assert "&lt;none&gt;" in third and "✓ Yes." in third


def test_what_tags_say_is_folded_and_a_picture_is_named():
    picture = new_output(
        "display_data", {"image/png": "", "text/plain": "a"},
        metadata={"image/png": {"alt": "A line."}},
    )  # fmt: skip
    printed = new_output("stream", text=UNSEEN + "3\n")
    widget = new_output("execute_result", {"text/plain": "StateExplorer()"})
    cells = [
        tagged("1", "solution"), tagged("2", "answer", outputs=[printed]),
        tagged("3", "figure", "answer", outputs=[picture]),
        tagged("4", "figure", outputs=[widget]), tagged("clone", "elsewhere"),
    ]  # fmt: skip
    made = prepared(new_notebook(cells=cells), {}).cells
    tags = [cell.metadata.get("tags") for cell in made]
    assert tags[:2] == [["hide-cell"], ["hide-output"]]
    assert tags[2:] == [["hide-input", "hide-output"], ["hide-input"], None]
    assert made[1].outputs[0].text == "3\n"
    assert made[2].metadata["mystnb"]["image"] == {"alt": "A line."}
    assert "live/note.html#view=memory" in made[-1].source  # no cell to clone by


def test_every_prediction_of_the_course_finds_its_words():
    for path in sorted((ROOT / "notebooks").glob("[0-9]*.ipynb")):
        notebook = nbformat.read(path, as_version=4)
        asked = [c for c in notebook.cells if GUESS.fullmatch(c.source)]
        made = prepared(notebook, pages.told(path)).cells
        shown = sum(c.source.startswith("<details name") for c in made)
        assert shown == len(asked) and asked
        assert "check.predict(" not in "".join(c.source for c in made)


def test_links_hold_or_the_build_says_which_does_not(tmp_path, monkeypatch):
    def lead(text, name="docs/inside.md"):
        return pages.linked(text, name, sources, tmp_path)

    sources = set()
    assert lead("[a](structure.md#rooms)") == "[a](structure.md#rooms)"
    assert lead("[a](../README.md)") == "[a](../index.md)"
    assert lead("[a](../minqwen/units.py)") == "[a](../minqwen/units.py.md)"
    assert lead("![a](../assets/seven.png)") == "![a](../assets/seven.png)"
    assert lead("[a](https://x.org/y.py)") == "[a](https://x.org/y.py)"
    assert sources == {"minqwen/units.py"} and (tmp_path / "assets/seven.png").exists()
    with pytest.raises(InputError, match="docs/inside.md links to nowhere.md"):
        lead("[a](nowhere.md)")
    monkeypatch.setattr(pages.address, "read", lambda: "https://x.org/y")
    assert lead("[a](../tests)") == "[a](https://x.org/y/tree/HEAD/tests)"
