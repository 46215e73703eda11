"""Makes again what is made from other files, in order, and only what has changed.

    python -m tools.remake [TARGET ...]            what is out of date; default: all
    python -m tools.remake --dry-run [TARGET ...]  what would run
    python -m tools.remake --touch [TARGET ...]    declare it up to date as it is
    python -m tools.remake --list                  what stands on what, and how it is

A target is up to date when its files exist and what it is made from is as it was the
last time. assets/remade.json, written after each target, remembers that by hashes, so
an interrupted run goes on. Whoever edits a notebook runs it: its cells do not count.
"""

import argparse
import hashlib
import json
import shlex
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path
from typing import NamedTuple

from minqwen.errors import InputError
from minqwen.files import as_json, read_whole, write_whole

ROOT = Path(__file__).resolve().parent.parent
RECORD = "assets/remade.json"

PROCESSOR = (  # NOTE: not card.json, which the card writes
    "assets/tiny/*config.json", "assets/tiny/tokenizer.json", "assets/tiny/*.jinja",
)  # fmt: skip
CHECKPOINT = ("assets/tiny/*.safetensors", *PROCESSOR)
PICTURE = "assets/seven.png"  # drawn once; nothing makes it again
NOTE, SEEN, FILM = (
    f"assets/{name}.safetensors" for name in ("note", "picture", "film")
)
EXPERIMENTS = "assets/tiny/experiments/*.json"  # but for two, trained when asked
CARD = "python -m tools.card"
CORPUS = "minqwen/train/corpus/**/*.py"
MEASURES = ("minqwen/train/abilities.py", "minqwen/train/cases.py")
SHARED = "minqwen/widgets/shared/*.mjs"
POSTER = "notebooks/poster/*.py"
CONFIG = (
    "minqwen/model/family.py",
    "minqwen/model/members.py",
    "minqwen/model/shapes.py",
    "minqwen/plan/budget.py",
)


class Target(NamedTuple):
    name: str
    command: str  # begins with python; run in the repository's root
    outputs: tuple  # files
    inputs: tuple  # patterns of files


def notebook(name, *inputs):
    number = name.split("_")[0]
    run = f"python -m tools.notebooks run {number}"
    return Target(number, run, (f"notebooks/{name}.ipynb",), inputs)


# Each after what it is made from.
TARGETS = (
    Target(
        "card", CARD, ("assets/tiny/card.json",),
        (*CHECKPOINT, *MEASURES, CORPUS,
         "minqwen/train/card.py", "minqwen/train/*.txt"),
    ),
    Target(
        "damage", "python -m tools.experiment damage",
        ("assets/tiny/experiments/damage.json",),
        (*CHECKPOINT, *MEASURES, CORPUS, "tools/experiment.py"),
    ),
    Target(
        "causes", "python -m tools.experiment causes",
        ("assets/tiny/experiments/causes.json",),
        (*CHECKPOINT, MEASURES[0], CORPUS, "tools/causes.py", "minqwen/analyse/*.py"),
    ),
    Target(
        "card's page", f"{CARD} --page", ("assets/tiny/README.md",),
        ("assets/tiny/card.json", EXPERIMENTS,
         "minqwen/train/page.py", "minqwen/train/parts.py"),
    ),
    Target(
        "quantised", "python -m tools.quant_error --page", ("docs/quantisation.md",),
        (*CHECKPOINT, "tools/quant_error.py", CORPUS),
    ),
    Target(
        "tasks", "python -m tools.quant_tasks --page", ("docs/quantisation.md",),
        (*CHECKPOINT, *MEASURES, "tools/quant_tasks.py", CORPUS),
    ),
    Target(
        "traces", "python -m tools.sample_trace", (NOTE, SEEN, FILM),
        (*CHECKPOINT, PICTURE, "tools/sample_trace.py", "minqwen/cli/tour.py"),
    ),
    Target(
        "routing", "python tools/explorer_pictures.py",
        ("assets/routing_token.png", "assets/routing_expert.png"),
        (SEEN, "tools/explorer_pictures.py", "minqwen/widgets/routing/*.mjs", SHARED),
    ),
    Target(
        "state", "python tools/state_picture.py", ("assets/state.png",),
        (NOTE, "tools/state_picture.py", "minqwen/widgets/state/*.mjs", SHARED),
    ),
    Target(
        "live", "python tools/live_picture.py", ("assets/live.png",),
        (*CHECKPOINT, PICTURE, "tools/live_picture.py", "minqwen/widgets/explorer.mjs",
         "minqwen/widgets/live/*.mjs", "minqwen/widgets/routing/*.mjs", SHARED),
    ),
    Target(
        "poster", "python -m tools.poster_picture", ("assets/poster.png",),
        (POSTER, "tools/poster_picture.py", "notebooks/course.py", *CONFIG),
    ),
    notebook("00_the_name", "assets/tiny/config.json", POSTER),
    notebook("01_text", *PROCESSOR, PICTURE),
    notebook("04_the_delta_rule", NOTE),
    notebook("05b_a_trained_layer", *CHECKPOINT, EXPERIMENTS),
    notebook("07_experts", *CHECKPOINT, "notebooks/five_files.json"),
    notebook("08_sixty_layers", *CHECKPOINT),
    notebook("10_pictures_and_films", *CHECKPOINT, PICTURE, "notebooks/fused.json"),
    notebook("11_two_tokens_at_once", *CHECKPOINT),
)  # fmt: skip


def digest(root, pattern):
    """One hash for the names and contents of all files of a pattern; "" for none."""
    paths = sorted(path for path in root.glob(pattern) if path.is_file())
    whole = hashlib.sha256()
    for path in paths:
        content = hashlib.sha256(read_whole(path)).hexdigest()
        whole.update(f"{path.relative_to(root).as_posix()} {content}\n".encode())
    return whole.hexdigest()[:16] if paths else ""


def contents(root, target):
    return {pattern: digest(root, pattern) for pattern in target.inputs}


def read_record(root):
    path = root / RECORD
    try:
        return json.loads(read_whole(path)) if path.exists() else {}
    except ValueError as error:
        raise InputError(f"{RECORD} is not JSON ({error}); restore it.") from None


def needs(target, other):
    """Is `target` made from something that `other` makes?"""
    return any(fnmatch(file, p) for file in other.outputs for p in target.inputs)


def reasons(root, target, record):
    """Why it is out of date, in words; [] when it is not."""
    known = record.get(target.name, {})
    found = contents(root, target)
    missing = [pattern for pattern in found if not found[pattern]]
    missing += [file for file in target.outputs if not (root / file).exists()]
    changed = [pattern for pattern in found if found[pattern] != known.get(pattern)]
    changed = [f"{name} changed" for name in changed if name not in missing]
    return [f"{name} is missing" for name in missing] + changed


def outlook(root, targets):
    """Each with why it is out of date, or will be once what it stands on is made."""
    record, found = read_record(root), {}
    for target in targets:
        below = [t.name for t in targets if needs(target, t) and found.get(t.name)]
        found[target.name] = reasons(root, target, record)
        found[target.name] += [f"after {name}" for name in below]
        yield target, found[target.name]


def make(root, target):
    """Run the command; InputError when it fails or leaves an output as it was."""
    words = [sys.executable, *shlex.split(target.command)[1:]]
    before = [written(root / file) for file in target.outputs]
    status = subprocess.run(words, cwd=root).returncode
    pairs = zip(target.outputs, before, strict=True)
    same = [file for file, old in pairs if written(root / file) in (None, old)]
    if status or same:
        wrong = f"failed (status {status})" if status else f"did not write {same[0]}"
        raise InputError(f"{target.name}: `{target.command}` {wrong}; mend it, go on.")


def written(path):
    return path.stat().st_mtime_ns if path.exists() else None


def remake(root, targets, touch=False):
    """Make (or `touch`) what is out of date; remember each as soon as it is made."""
    for target in targets:
        record = read_record(root)
        if why := reasons(root, target, record):
            print(told(target, why), flush=True)
            found = contents(root, target)  # what the command is about to read
            if "" in found.values():
                raise InputError(f"{target.name} cannot be made: {why[0]}.")
            if not touch:
                make(root, target)
            write_whole(root / RECORD, as_json(record | {target.name: found}))


def told(target, why):
    return f"{target.name}: {target.command} ({'; '.join(why)})"


def chosen(names):
    """The targets of these names, in the table's order; all of them for none."""
    every = [target.name for target in TARGETS]
    if unknown := set(names).difference(every):
        raise InputError(f"no target is called {unknown.pop()}, but {every} are.")
    return [target for target in TARGETS if not names or target.name in names]


def main():
    parser = argparse.ArgumentParser(
        prog="python -m tools.remake", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("names", nargs="*", metavar="TARGET")
    for option in ("--list", "--dry-run", "--touch"):
        parser.add_argument(option, action="store_true")
    options = parser.parse_args()
    try:
        targets = chosen(options.names)
        if not (options.list or options.dry_run):
            return remake(ROOT, targets, options.touch)
        for target, why in outlook(ROOT, targets):
            if options.list:
                print(f"{target.name:10} {'; '.join(why) or 'up to date'}")
                print(f"  makes      {', '.join(target.outputs)}")
                print(f"  by         {target.command}")
                print(f"  from       {', '.join(target.inputs)}\n")
            elif why:
                print(told(target, why))
    except InputError as error:
        sys.exit(f"minqwen: {error}")


if __name__ == "__main__":
    main()
