"""Make what is handed out of the course, from the notebooks as they are stored.

python -m tools.editions student OUT    no outputs, no solutions, guesses first
python -m tools.editions teacher OUT    everything, with what to say, and guide.html
python -m tools.editions bank           docs/exercises.md
"""

import shutil
import sys
from pathlib import Path

from minqwen.errors import InputError
from tools.execute import NOTEBOOKS

from . import bank, student, teacher

EDITIONS = {"student": student, "teacher": teacher}
MARK = ".edition"  # written last
LEFT_OUT = shutil.ignore_patterns("*.ipynb", "README.md", "teaching", ".*", "__*__")


def publish(kind, out):
    """Make it under another name, then put it in an untouched older one's place."""
    if out.exists() and not (out / MARK).is_file():
        raise InputError(f"{out} is no edition of the course; name a new folder.")
    for path in out.glob("*.ipynb"):
        if path.stat().st_mtime > (out / MARK).stat().st_mtime:
            raise InputError(f"{path} has been worked in; name a new folder.")
    new = out.with_name(f"{out.name}.new")
    shutil.rmtree(new, ignore_errors=True)
    shutil.copytree(NOTEBOOKS, new, ignore=LEFT_OUT)  # what the notebooks read
    EDITIONS[kind].fill(new)
    (new / MARK).touch()
    shutil.rmtree(out, ignore_errors=True)
    new.rename(out)


if __name__ == "__main__":
    kind, out = [*sys.argv[1:], "", ""][:2]
    if kind == "bank":
        bank.PAGE.write_text(bank.page(), encoding="utf-8")
    elif kind not in EDITIONS or not out:
        sys.exit(__doc__)
    else:
        try:
            publish(kind, Path(out))
        except InputError as error:
            sys.exit(f"minqwen: {error}")
