"""Which exercises a reader has solved, kept beside the notebooks."""

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


def solved():
    """{notebook: [titles]}; a file that cannot be read counts as none."""
    try:
        kept = json.loads(path().read_text(encoding="utf-8"))
        return {str(nb): [str(t) for t in titles] for nb, titles in kept.items()}
    except (OSError, ValueError, AttributeError, TypeError):
        return {}


def record(notebook, title):
    """Note one more. A folder that cannot be written to is no reason to fail."""
    kept = solved()
    if title in kept.get(notebook, []):
        return
    kept.setdefault(notebook, []).append(title)
    with suppress(InputError):
        write_whole(path(), as_json(kept))


class Progress:
    """A line a notebook: `04  ■■□□□  2 of 5, next: the gated step`."""

    def __init__(self, exercises):
        self.notebooks = {}
        for exercise in exercises:
            self.notebooks.setdefault(exercise.notebook, []).append(exercise.title)

    def __repr__(self):
        kept, lines = solved(), []
        for notebook, titles in sorted(self.notebooks.items()):
            done = [title in kept.get(notebook, []) for title in titles]
            boxes = "".join("■" if d else "□" for d in done)
            line = f"{notebook:3} {boxes}  {sum(done)} of {len(done)}"
            if not all(done):
                line += f", next: {titles[done.index(False)]}"
            lines.append(line)
        return "\n".join(lines)
