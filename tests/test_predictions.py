"""Predictions: every one is asked, answered for each option, and kept."""

import json
import re

import pytest
from test_notebooks import PATHS, code_cells, each, markdown, read, said, tags

from minqwen import check
from minqwen.errors import InputError
from tools.execute import GUESS, tidy
from tools.notebooks import number

ASKED = check.guesses.predictions()


@pytest.fixture(autouse=True)
def kept(tmp_path, monkeypatch):
    path = tmp_path / "progress.json"
    monkeypatch.setenv("MINQWEN_PROGRESS", str(path))
    return path


def guesses(cells):
    """(the cell with the question, the prediction's name) for each guess."""
    pairs = zip(cells, cells[1:], strict=False)
    return [(a, GUESS.fullmatch(b.source)[1]) for a, b in pairs if "guess" in tags(b)]


@each
def test_every_question_is_followed_by_its_guess_and_an_answer(path):
    cells = read(path).cells
    asked = guesses(cells)
    mine = [name for name, one in ASKED.items() if one.notebook == number(path)]
    assert [name for _, name in asked] == mine
    assert all("predict" in tags(question) for question, _ in asked)
    assert sum("predict" in tags(cell) for cell in cells) == len(mine)
    for i, cell in enumerate(cells):
        if "guess" in tags(cell):
            assert "answer" in tags(cells[i + 1]) and cells[i + 1].outputs, cell.source
            assert cells[i + 1].metadata["jupyter"]["outputs_hidden"] is True


@each
def test_every_option_is_told_something(path):
    for question, name in guesses(read(path).cells):
        options = re.findall(r"^- ([A-D]): ", question.source, flags=re.M)
        one = ASKED[name]
        assert 2 <= len(options) and options == list(one.told), name
        assert one.right in options
        for letter, sentence in one.told.items():
            assert len(sentence) > 30 and sentence.endswith("."), (name, letter)


@each
def test_numbers_in_what_is_told_are_the_notebooks(path):
    shown = "\n".join(markdown(path) + [c.source + said(c) for c in code_cells(path)])
    known = set(re.findall(r"\d+(?:\.\d+)?", shown.replace(",", "").replace("_", "")))
    for one in ASKED.values():
        if one.notebook == number(path):
            told = " ".join(one.told.values()).replace(",", "")
            assert set(re.findall(r"\d+\.\d+|\d{2,}", told)) <= known, one.name


def test_no_letter_is_the_one_to_guess():
    rights = [one.right for one in ASKED.values()]
    assert all(rights.count(letter) < len(rights) / 2 for letter in "ABC")


def test_a_prediction_is_asked_by_buttons_and_told_once_it_is_made(kept):
    one = ASKED["overlap"]
    shown = one.widget()
    assert [b.description for b in shown.buttons] == ["A", "B", "C"]
    assert shown.reply.value == '<p role="status"></p>'
    wrong, right = (shown.buttons["ABC".index(letter)] for letter in ("A", one.right))
    wrong.click()
    assert "✗ A: " in shown.reply.value and "<code>k2</code>" in shown.reply.value
    right.click()  # the others can be read too; the first one counts
    assert f"✓ {one.right}: " in shown.reply.value
    assert json.loads(kept.read_text()) == {"guesses": {"overlap": "A"}}
    assert "✗ A: " in one.widget().reply.value  # when the cell is run another day


def test_a_prediction_without_widgets_is_text(kept):
    asked = check.predict("overlap")
    line = 'Your guess: check.predict("overlap", "A"), or "B", or "C".'
    assert repr(asked) == line
    assert asked._repr_mimebundle_()["text/plain"] == line
    assert not kept.exists()
    verdict = check.predict("overlap", asked.right)
    assert verdict and repr(verdict) == f"✓ {asked.right}: {asked.told[asked.right]}"
    with pytest.raises(InputError, match="no option D; choose A or B or C"):
        check.predict("overlap", "D")
    with pytest.raises(InputError, match="no prediction is called 'overlaps'"):
        check.predict("overlaps")


def test_guesses_and_exercises_are_kept_side_by_side(kept):
    check.solved.record("04", "a corrected write")
    check.predict("overlap", "A")
    check.solved.record("04", "the gated step")
    line = repr(check.progress("04"))
    asked = sum(one.notebook == "04" for one in ASKED.values())
    assert line.startswith("04  ■□■□□  2 of 5, next: how strong a write")
    assert line.endswith(f"; guessed 1 of {asked}, 0 right")
    kept.write_text('{"guesses": 7}')
    assert check.solved.guesses() == {} == check.solved.solved()


def test_tags_of_a_guess_are_set_and_taken_away_again():
    path = next(p for p in PATHS if number(p) == "04")
    notebook = read(path)
    cell = next(c for c in notebook.cells if "guess" in tags(c))
    cell.source = "2 + 2"
    after = notebook.cells[notebook.cells.index(cell) + 1]
    tidy(notebook)
    assert not tags(cell) and "answer" not in tags(after)
