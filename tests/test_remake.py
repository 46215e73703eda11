"""What is made from other files: the table is right, and only what changed is made."""

import json
import re
import shutil
import subprocess
import sys
import warnings
from fnmatch import fnmatch

import nbformat
import pytest

from minqwen.errors import InputError
from minqwen.train.cases import CASES
from tools import quant_error, quant_tasks, remake
from tools.remake import RECORD, ROOT, TARGETS, Target

# ---- the table of the repository


def test_all_that_the_table_names_is_there():
    for target in TARGETS:
        assert all((ROOT / file).is_file() for file in target.outputs), target.name
        assert all(remake.contents(ROOT, target).values()), target.name
        words = target.command.split()
        module = f"{words[2].replace('.', '/')}.py" if words[1] == "-m" else words[1]
        package = ROOT / module.removesuffix(".py") / "__main__.py"
        assert (ROOT / module).is_file() or package.is_file(), target.command
    assert len({target.name for target in TARGETS}) == len(TARGETS)


def test_each_comes_after_what_it_is_made_from():
    for n, target in enumerate(TARGETS):
        assert not any(remake.needs(target, later) for later in TARGETS[n:]), target


def test_what_is_in_assets_is_made_by_a_target_or_trained_or_drawn():
    made = {file for target in TARGETS for file in target.outputs}
    sources = (*remake.CHECKPOINT, remake.PICTURE, RECORD, remake.EXPERIMENTS)
    for path in (ROOT / "assets").rglob("*"):
        name = path.relative_to(ROOT).as_posix()
        known = name in made or any(fnmatch(name, pattern) for pattern in sources)
        assert known or path.is_dir() or path.suffix == ".tmp", name


def test_notebooks_that_open_an_asset_are_in_the_table_and_no_others():
    told = {
        file: target.inputs
        for target in TARGETS
        for file in target.outputs
        if file.endswith(".ipynb")
    }
    opened = {}
    for path in (ROOT / "notebooks").glob("*.ipynb"):
        cells = nbformat.read(path, as_version=4).cells
        code = "\n".join(cell.source for cell in cells if cell.cell_type == "code")
        parts = re.findall(r'\bassets((?: / "[^"]+")+)', code)
        if found := {"assets/" + "/".join(part.split('"')[1::2]) for part in parts}:
            opened[path.relative_to(ROOT).as_posix()] = found
    assert opened.keys() == told.keys()
    for name, found in opened.items():
        assets = [pattern for pattern in told[name] if pattern.startswith("assets/")]
        for place in found:  # a file, or the folder of the patterns
            assert any(p.startswith(f"{place}/") or fnmatch(place, p) for p in assets)
        for pattern in assets:
            assert any(pattern.startswith(place) for place in found), (name, pattern)


def test_the_record_knows_every_target():
    """One that is out of date is no fault of whoever changed its tool: a warning."""
    record = json.loads((ROOT / RECORD).read_text())
    assert record.keys() == {target.name for target in TARGETS}
    for target, why in remake.outlook(ROOT, TARGETS):
        if why:
            warnings.warn(f"{target.name} is out of date: {why}", stacklevel=1)


def test_the_page_has_the_tables_that_its_tools_would_replace():
    text = quant_error.PAGE.read_text()
    heads = [quant_error.HEAD, quant_tasks.HEAD.split("{}")[0]]
    found = [[], []]
    for head, rows in zip(heads, found, strict=True):
        (old,) = re.findall(rf"^{re.escape(head)}.*\n(?:\|.*\n)+", text, re.M)
        assert quant_error.in_page(text, head, old) == text
        assert quant_error.in_page(text, head, "") == text.replace(old, "")
        rows += [line.split(" | ")[0][2:] for line in old.splitlines()[2:]]
    assert found[0] == [quant_error.FORMS[form] for form in quant_error.SHOWN]
    assert found[1] == [f"{case.task}: {case.what}" for case in CASES]
    written = {
        ("fp8", 0.00085, 0.98156, 8.26e6): "| fp8 | 0.00085 | 98.2 % | 8.3 MB |\n",
        ("bf16", 0, 1, 13.47e6): "| bf16 | 0 | 100 % | 13.5 MB |\n",
    }
    assert {row: quant_error.row(*row) for row in written} == written


# ---- small commands in a folder of their own

STEP = """
import os, pathlib, signal, sys
made, *sources = map(pathlib.Path, sys.argv[1:])
if pathlib.Path("fail").exists():
    sys.exit(3)
if pathlib.Path(f"kill {made}").exists():
    os.kill(os.getppid(), signal.SIGKILL)
    sys.exit("killed")
if not pathlib.Path("idle").exists():
    made.write_text("+".join(path.read_text() for path in sources))
with open("log", "a") as log:
    print(made, file=log)
"""


def step(made, *sources):
    command = f"python step.py {made} {' '.join(sources)}"
    return Target(made, command, (made,), sources)


STEPS = (
    step("trace", "weights", "words"),
    step("picture", "trace"),
    step("card", "weights"),
    step("text", "words"),
)


@pytest.fixture
def house(tmp_path):
    """A folder in which everything has been made."""
    (tmp_path / "assets").mkdir()
    (tmp_path / "step.py").write_text(STEP)
    (tmp_path / "weights").write_text("w")
    (tmp_path / "words").write_text("v")
    remake.remake(tmp_path, STEPS)
    assert log(tmp_path) == ["trace", "picture", "card", "text"]
    return tmp_path


def log(house):
    """What has been made since it was last asked."""
    path = house / "log"
    made = path.read_text().split() if path.exists() else []
    path.unlink(missing_ok=True)
    return made


def stale(house):
    return {target.name: why for target, why in remake.outlook(house, STEPS) if why}


def test_what_is_up_to_date_is_left_alone(house):
    before = (house / RECORD).read_bytes()
    (house / "weights").touch()  # a new date, the same content
    remake.remake(house, STEPS)
    assert stale(house) == {} and log(house) == []
    assert (house / RECORD).read_bytes() == before


@pytest.mark.parametrize(
    "source, above",
    {
        "weights": ["trace", "picture", "card"],
        "words": ["trace", "picture", "text"],
        "trace": ["trace", "picture"],  # lost
        "picture": ["picture"],
    }.items(),
)
def test_a_change_makes_exactly_what_stands_on_it(house, source, above):
    path = house / source
    path.write_text("other") if source in ("weights", "words") else path.unlink()
    assert list(stale(house)) == above
    remake.remake(house, STEPS)
    found = log(house)
    if source == "trace":  # it came out as it was, and so the picture is still true
        assert found == ["trace"]
    else:
        assert found == above
    assert stale(house) == {}
    assert (house / "picture").read_text() == (house / "trace").read_text()


def test_a_file_more_and_a_changed_trace_are_seen(house):
    (house / "trace").write_text("another")
    assert stale(house) == {"picture": ["trace changed"]}
    steps = [Target("all", "python step.py all words", ("all",), ("w*",))]
    remake.remake(house, steps)
    (house / "wheels").write_text("")
    [(_, why)] = remake.outlook(house, steps)
    assert why == ["w* changed"]


def test_a_failure_is_one_sentence_and_is_not_remembered(house):
    before = (house / RECORD).read_bytes()
    (house / "words").write_text("other")
    for obstacle, wrong in (("fail", "failed .status 3."), ("idle", "did not write")):
        (house / obstacle).touch()
        with pytest.raises(InputError, match=rf"^trace: `{STEPS[0].command}` {wrong}"):
            remake.remake(house, STEPS)
        (house / obstacle).unlink()
    assert (house / RECORD).read_bytes() == before
    (house / "weights").unlink()
    with pytest.raises(InputError, match="^trace cannot be made: weights is missing"):
        remake.remake(house, STEPS)
    (house / RECORD).write_text("<<<<<<< ours")
    with pytest.raises(InputError, match="remade.json is not JSON"):
        remake.remake(house, STEPS)


@pytest.mark.slow
def test_a_killed_run_goes_on_where_it_stopped(house):
    (house / "weights").write_text("other")
    (house / "kill picture").touch()
    code = (
        "import pathlib, sys; from tools import remake; from tests.test_remake "
        f"import STEPS; remake.remake(pathlib.Path({str(house)!r}), STEPS)"
    )
    killed = subprocess.run([sys.executable, "-c", code], cwd=ROOT)
    assert killed.returncode == -9 and log(house) == ["trace"]
    assert list(stale(house)) == ["picture", "card"]
    (house / "kill picture").unlink()
    remake.remake(house, STEPS)
    assert log(house) == ["picture", "card"] and stale(house) == {}


# ---- the command line


@pytest.fixture
def run(tmp_path):
    """The tool in a copy of what it reads, so that the record is no one's but ours."""
    files = [f for t in TARGETS for f in t.outputs]
    files += [p for t in TARGETS for pattern in t.inputs for p in ROOT.glob(pattern)]
    for path in {ROOT / file for file in (*files, RECORD, "tools/remake.py")}:
        copy = tmp_path / path.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, copy)

    def run(*words):
        command = [sys.executable, "tools/remake.py", *words]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)

    return run


def test_the_command_line_tells_and_touches(run, tmp_path):
    assert run("--touch").returncode == 0
    assert run("--dry-run").stdout == "" and run().stdout == ""
    (tmp_path / "assets" / "tiny" / "config.json").write_text("{}")
    listed = run("--list").stdout
    assert re.findall(r"^(\w+) .*up to date$", listed, re.M) == ["poster"]
    assert "\nrouting    after traces\n" in listed
    assert re.search(r"^card .*assets/tiny/\*config.json changed", listed, re.M)
    planned = run("--dry-run", "01", "state", "00").stdout.splitlines()
    assert [line.split(":")[0] for line in planned] == ["00", "01"]
    assert planned[0].startswith("00: python -m tools.notebooks run 00 (assets/tiny/")
    run("--touch", "00")
    assert "00:" not in run("--dry-run").stdout
    wrong = run("seven")
    assert wrong.returncode == 1 and wrong.stderr.startswith("minqwen: no target is")
    assert wrong.stderr.count("\n") == 1
