"""What a notebook and its teaching file hold, for those who make something of them."""

import re
import tomllib
from types import SimpleNamespace

import nbformat

from tools.execute import NOTEBOOKS
from tools.notebooks import number, stored

TASK = re.compile(
    r"(?s)### Exercise (?P<number>\d+): (?P<title>[^\n]+)\n"
    r"\*\*Difficulty (?P<difficulty>[●○]{3}) · importance (?P<importance>[●○]{3}) · "
    r"(?P<minutes>\d+) minutes\.\*\*\s*(?P<text>.+?)(?=\n\n|\n- |\n\||\Z)"
)
OUTWARD = re.compile(r"\[([^\]]+)\]\(\.\./[^)]*\)")
CHECK = re.compile(r"^check\.(\w+)\((\w+)\)$", re.M)
WHOLE = re.compile(r"```.*?```|\$\$.*?\$\$|<details>.*?</details>", re.S)


def lessons():
    """place ("04"), path, title, cells, taught, and tasks by their stubs, of each."""
    for path in stored():
        file = NOTEBOOKS / "teaching" / f"{number(path)}.toml"
        taught = tomllib.loads(file.read_text("utf-8"))
        cells, tasks = nbformat.read(path, as_version=4).cells, {}
        for at, cell in enumerate(cells):
            if cell.cell_type == "markdown":  # an edition has only its own folder
                cell.source = OUTWARD.sub(r"\1", cell.source)
            if tagged(cell, "stub"):
                found = TASK.search(cells[at - 1].source).groupdict()
                found |= {"name": CHECK.search(cell.source)[1], "path": path}
                notes = taught["exercise"][found["name"]]
                tasks[at] = SimpleNamespace(taught=notes, **found)
        yield SimpleNamespace(
            place=number(path), path=path, cells=cells, taught=taught, tasks=tasks,
            title=cells[0].source.split("\n")[0].removeprefix("# "),
        )  # fmt: skip


def tagged(cell, tag):
    return tag in cell.metadata.get("tags", [])


def blocks(text):
    """Markdown in pieces at its blank lines; formulas, code and folds stay whole."""
    kept = WHOLE.sub(lambda part: re.sub(r"\n(?=\s*\n)", "\n\0", part[0]), text)
    return [part.replace("\0", "") for part in re.split(r"\n[ \t]*\n", kept)]
