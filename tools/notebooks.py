"""Keep notebooks and package one, and write notebooks the same way every time.

    python -m tools.notebooks check              tied cells against the package
    python -m tools.notebooks sync               rewrite tied cells from the package
    python -m tools.notebooks run [NB ...]       execute and store
    python -m tools.notebooks run --check [NB]   execute and compare with what is stored
    python -m tools.notebooks text NB            print a notebook as percent text
    python -m tools.notebooks build TEXT NB      make a notebook of it, sync, run, store

NB is a number (04, 05b) or a path; none means all. See notebooks/README.md.
"""

import argparse
import re
import sys
from pathlib import Path

import nbformat

from . import percent, tie
from .execute import FOLDED, NOTEBOOKS, differences, execute, tidy, write

WORDS, LINES = 150, 15  # that a reader of a textbook takes in a minute; lines of code
EXERCISE = re.compile(
    r"\*\*(?:Difficulty )?[●○]{3} · (?:importance [●○]{3} · )?(\d+) minutes\.\*\*"
)


def reading_minutes(notebook):
    """What a title cell should say, to 5 minutes: prose, open code, and exercises."""
    minutes = 0.0
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            prose = re.sub(r"\]\(.*?\)", "]", cell.source)  # not where links lead
            minutes += len(re.findall(r"\b\w[\w'.,-]*", prose)) / WORDS
            minutes += sum(map(int, EXERCISE.findall(prose)))
        elif not FOLDED & set(cell.metadata.get("tags", [])):
            minutes += len(re.findall(r"^.*\S", cell.source, flags=re.M)) / LINES
    return 5 * round(minutes / 5)


def stored():
    return sorted(NOTEBOOKS.glob("[0-9][0-9]*_*.ipynb"))


def number(path):
    """04 of 04_the_delta_rule.ipynb; a letter may follow, as in 05b."""
    return path.name.split("_")[0]


def find(names):
    """Paths for numbers or paths; all notebooks for none."""
    paths = []
    for name in names:
        path = Path(name)
        found = [path] if path.suffix else [p for p in stored() if number(p) == name]
        if not found or not found[0].exists():
            raise SystemExit(f"minqwen: no notebook {name}; give a number such as 04")
        paths += found
    return paths or stored()


def check(sync=False):
    """All complaints about the tie."""
    complaints, taught = [], {}
    for path in stored():
        notebook = nbformat.read(path, as_version=4)
        before = [cell.source for cell in notebook.cells]
        found, taught[number(path)] = tie.compare(notebook, path.name, sync)
        complaints += found
        if before != [cell.source for cell in notebook.cells]:
            write(tidy(notebook), path)
            print(f"{path.name}: rewritten from the package; now `run` it")
    return complaints + tie.coverage(taught)


def run(paths, compare=False):
    """Execute notebooks; store them, or return complaints."""
    complaints = []
    for path in paths:
        fresh, seconds, peak = execute(path)
        costs = f"{seconds:.0f} s, {peak / 1e6:.0f} MB"
        print(f"{path.name}: reading {reading_minutes(fresh)} min, {costs}", flush=True)
        if compare:
            old = nbformat.read(path, as_version=4)
            complaints += differences(old, fresh, path.name)
        else:
            write(fresh, path)
    return complaints


def build(text, path):
    notebook = percent.to_notebook(Path(text).read_text(encoding="utf-8"))
    complaints, _ = tie.compare(notebook, path.name, sync=True)
    if complaints:
        return complaints
    write(tidy(notebook), path)
    return run([path])


def main():
    parser = argparse.ArgumentParser(
        prog="python -m tools.notebooks", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("action", choices="check sync run text build".split())
    parser.add_argument("names", nargs="*")
    parser.add_argument("--check", action="store_true")
    args = parser.parse_intermixed_args()  # options may stand before the names
    if args.action == "text":
        [path] = find(args.names)
        print(percent.to_text(nbformat.read(path, as_version=4)))
        return
    if args.action == "build":
        text, path = args.names
        complaints = build(text, Path(path))
    elif args.action == "run":
        complaints = run(find(args.names), args.check)
    else:
        complaints = check(sync=args.action == "sync")
    for complaint in complaints:
        print(complaint, file=sys.stderr)
    sys.exit(bool(complaints))


if __name__ == "__main__":
    main()
