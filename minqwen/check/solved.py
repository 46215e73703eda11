"""What a reader has solved, and what he guessed, kept beside the notebooks."""

import json
import os
from contextlib import suppress
from pathlib import Path

from ..errors import InputError
from ..files import as_json, write_whole


def path():
    """$MINQWEN_PROGRESS, else .progress.json in the checkout's notebooks/, or here."""
    if named := os.environ.get("MINQWEN_PROGRESS"):
        return Path(named)
    notebooks = Path(__file__).resolve().parents[2] / "notebooks"
    return (notebooks if notebooks.is_dir() else Path.cwd()) / ".progress.json"


def kept():
    """{notebook: [titles solved], "guesses": {prediction: letter}}, where readable."""
    try:
        read = json.loads(path().read_text(encoding="utf-8"))
        guesses = dict(read.pop("guesses", {}))
        found = {str(nb): [str(t) for t in titles] for nb, titles in read.items()}
        return found | {"guesses": {str(k): str(v) for k, v in guesses.items()}}
    except (OSError, ValueError, AttributeError, TypeError):
        return {"guesses": {}}


def solved():
    """{notebook: [titles]}; a file that cannot be read counts as none."""
    return {nb: titles for nb, titles in kept().items() if nb != "guesses"}


def guesses():
    """{prediction: the letter first chosen}"""
    return kept()["guesses"]


def record(notebook, title):
    """Note an exercise that is solved."""
    now = kept()
    if title not in now.setdefault(notebook, []):
        now[notebook].append(title)
        _write(now)


def record_guess(prediction, letter):
    now = kept()
    now["guesses"][prediction] = letter
    _write(now)


def _write(now):
    """Keep it. A folder that cannot be written to is no reason to fail."""
    with suppress(InputError):
        write_whole(path(), as_json({k: v for k, v in now.items() if v}))


class Progress:
    """A line a notebook: `04  ■■□□□  2 of 5, next: the gated step; guessed 3, 2 right`.

    predictions   {notebook: {name: right letter}}
    """

    def __init__(self, exercises, predictions):
        self.notebooks, self.predictions = {}, predictions
        for exercise in exercises:
            self.notebooks.setdefault(exercise.notebook, []).append(exercise.title)

    def __repr__(self):
        done_so_far, lines = solved(), []
        for notebook, titles in sorted(self.notebooks.items()):
            done = [title in done_so_far.get(notebook, []) for title in titles]
            boxes = "".join("■" if d else "□" for d in done)
            line = f"{notebook:3} {boxes}  {sum(done)} of {len(done)}"
            if not all(done):
                line += f", next: {titles[done.index(False)]}"
            lines.append(line + self.guessed(notebook))
        return "\n".join(lines)

    def guessed(self, notebook):
        """What is added for a reader who has guessed in this notebook."""
        asked, chosen = self.predictions.get(notebook, {}), guesses()
        pairs = [
            (chosen[name], right) for name, right in asked.items() if name in chosen
        ]
        right = sum(guess == answer for guess, answer in pairs)
        return f"; guessed {len(pairs)} of {len(asked)}, {right} right" if pairs else ""
