"""The notebooks: one text with the package, stored as they run, fit to be read."""

import ast
import os
import re
import subprocess
import sys

import nbformat
import pytest
import torch

from tools import notebooks, percent, tie
from tools.execute import (
    NOTEBOOKS,
    ROOT,
    SANITIZE,
    differences,
    environment,
    execute,
    pixel_error,
    tidy,
)

PATHS = notebooks.stored()
LINUX = {"13": "triton"}  # what a notebook needs that is for Linux only
TAGS = {"predict", "guess", "answer", "stub", "solution", "figure", "volatile",
        "nbval-ignore-output", "elsewhere"}  # fmt: skip
each = pytest.mark.parametrize("path", PATHS, ids=notebooks.number)


def read(path):
    return nbformat.read(path, as_version=4)


def code_cells(path):
    return [cell for cell in read(path).cells if cell.cell_type == "code"]


def markdown(path):
    return [c.source for c in read(path).cells if c.cell_type == "markdown"]


def tags(cell):
    return cell.metadata.get("tags", [])


def said(cell):
    """All text that a cell puts out."""
    texts = [o.get("text", "") + o.get("data", {}).get("text/plain", "")
             for o in cell.outputs]  # fmt: skip
    return "\n".join(texts)


# ---- one text with the package


def test_tied_cells_equal_the_package():
    complaints = notebooks.check()
    assert not complaints, "\n".join(complaints)


def test_every_public_name_of_the_model_part_has_a_notebook():
    owner = tie.owned()
    names = {
        f"{m}.{n}" for m in [*tie.MODEL_PART, *tie.AROUND_IT] for n in tie.public(m)
    }
    names |= {name for name in owner if name.split(".")[0] in tie.IN_PART}
    excused = {name for name in names if name.split(".")[0] in tie.NOT_TAUGHT}
    assert set(owner) | excused == names


def test_a_number_may_carry_a_letter(tmp_path, monkeypatch):
    names = ["05_gates.ipynb", "05b_more.ipynb", "06_chunks.ipynb", "draft.ipynb"]
    for name in names:
        (tmp_path / name).touch()
    monkeypatch.setattr(notebooks, "NOTEBOOKS", tmp_path)
    assert [*map(notebooks.number, notebooks.stored())] == ["05", "05b", "06"]
    assert [p.name for p in notebooks.find(["05b"])] == ["05b_more.ipynb"]


def test_numbers_may_follow_an_option(monkeypatch):
    asked = []
    monkeypatch.setattr(notebooks, "run", lambda paths, _: asked.append(paths) or [])
    monkeypatch.setattr(sys, "argv", "notebooks run --check 04 05b".split())
    with pytest.raises(SystemExit):
        notebooks.main()
    assert [notebooks.number(path) for path in asked[0]] == ["04", "05b"]


def test_one_changed_character_is_found_and_named():
    path = next(p for p in PATHS if p.name.startswith("04"))
    notebook = read(path)
    number, cell, _ = next(tie.tied_cells(notebook))
    cell.source = cell.source.replace("(v - read)", "(v + read)")
    [complaint], _ = tie.compare(notebook, path.name)
    assert (
        f"{path.name}, cell {number}: differs from minqwen/model/delta.py" in complaint
    )
    assert "'error = beta[..., None] * (v + read)'" in complaint
    cell.source = cell.source.replace("# [B, H, V]", "# [B, V]")  # comments count
    tie.compare(notebook, path.name, sync=True)
    assert tie.compare(notebook, path.name)[0] == []


def test_a_class_may_go_on_in_another_cell():
    stubs = [
        "# minqwen/model/norm.py\nclass RMSNorm:\n    def __init__(): ...",
        "# minqwen/model/norm.py\nclass RMSNorm(RMSNorm):\n    def forward(): ...",
    ]
    cells = [{"cell_type": "code", "source": stub} for stub in stubs]
    complaints, taught = tie.compare({"cells": cells}, "x", sync=True)
    pairs = [("norm.RMSNorm", m) for m in (None, "__init__", "forward")]
    assert complaints == [] and taught == pairs
    scope = {}
    exec(
        "import torch; from torch import Tensor, nn\n"
        "from minqwen.model.norm import rms_norm",
        scope,
    )
    for cell in cells:
        exec(cell["source"], scope)
    import torch

    from minqwen.model.norm import RMSNorm

    x = torch.randn(2, 8)
    assert torch.equal(scope["RMSNorm"](8)(x), RMSNorm(8)(x))


@pytest.fixture
def shell(monkeypatch, tmp_path):
    """A kernel's shell in the notebooks' folder; what cells switch is put back."""
    gradients, threads = torch.is_grad_enabled(), torch.get_num_threads()
    monkeypatch.chdir(NOTEBOOKS)
    monkeypatch.syspath_prepend(str(NOTEBOOKS))
    monkeypatch.setenv("MPLBACKEND", "agg")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    import course
    from IPython.core.interactiveshell import InteractiveShell
    from traitlets.config import Config

    shell = InteractiveShell(config=Config(HistoryManager=Config(enabled=False)))
    course.keep_whole(shell)
    yield shell
    torch.set_grad_enabled(gradients)
    torch.set_num_threads(threads)


@pytest.mark.parametrize("name", ["01", "05", "08"])
def test_a_first_cell_may_be_run_again(name, shell):
    """A class that goes on in later cells stays whole when it is begun again."""
    [path] = notebooks.find([name])
    imports = next(c for c in code_cells(path) if "elsewhere" not in tags(c))
    cells = [cell.source for _, cell, _ in tie.tied_cells(read(path))]
    for source in [imports.source, *cells]:
        shell.run_cell(source).raise_error()

    begun = {}  # class -> its first cell, where another goes on
    for source in cells:
        for node in tie.Source(source).order:
            if isinstance(node, tie.ast.ClassDef) and not tie.continues(node):
                begun[node.name] = source
            elif tie.continues(node):
                begun[node.name, "more"] = begun[node.name]
    again = [key[0] for key in begun if isinstance(key, tuple)]
    assert again
    for one in again:
        before = set(dir(shell.user_ns[one]))
        shell.run_cell(begun[one]).raise_error()
        assert before == set(dir(shell.user_ns[one])), one


def test_a_continued_class_says_what_comes_first(shell, capsys):
    more = "class Pair(Pair):  # continued\n    def two(self):\n        return 2"
    shell.run_cell(more)
    assert "Pair begins in an earlier cell: run that" in capsys.readouterr().out
    shell.run_cell("class Pair:\n    def one(self):\n        return 1")
    assert not capsys.readouterr().out
    shell.run_cell(more)
    shell.run_cell(more.replace("return 2", "return 3"))  # the last one counts
    shell.run_cell("class Pair:\n    def one(self):\n        return 4")
    assert "Pair goes on in later cells, which were run" in capsys.readouterr().out
    shell.run_cell("p = Pair()\nassert (p.one(), p.two()) == (4, 3)").raise_error()
    assert not shell.run_cell("class Pair(:").success  # no sentence of ours on this


def test_what_was_synced_once_stays_as_it_is():
    stub = "# minqwen/model/taps.py\nNAMES = ...\nNOBODY = ...\n_heard = ..."
    cell = {"cell_type": "code", "source": stub}
    tie.compare({"cells": [cell]}, "x", sync=True)
    assert "\nNOBODY: Mapping" in cell["source"]  # an assignment with a type
    assert tie.compare({"cells": [cell]}, "x")[0] == []


def test_what_is_missing_doubled_or_misplaced_is_reported():
    both = [("delta.delta_step", None), ("delta.delta_recurrent", None)]
    assert tie.coverage({"04": both}) == []
    assert tie.coverage({"04": both[:1]}) == [
        "delta.delta_recurrent should be taught in 04 and is not"
    ]
    assert tie.coverage({"04": both, "05": both[:1]})[0].startswith(
        "delta.delta_step is taught more than once"
    )
    unknown = {
        "cell_type": "code",
        "source": "# minqwen/model/delta.py\ndef nonsense(): ...",
    }
    [complaint], _ = tie.compare({"cells": [unknown]}, "x")
    assert "does not define 'nonsense'" in complaint


# ---- fit to be read


@each
def test_form(path):
    first, *_, last = markdown(path)
    assert re.match(rf"# {notebooks.number(path)} · .+\n\n\*\*.+\?\*\*\n", first)
    cost = r"\*Reading (\d+) minutes · running \d+ seconds · memory \d+ MB\*"
    told, counted = (
        int(re.search(cost, first)[1]),
        notebooks.reading_minutes(read(path)),
    )
    assert counted / 1.2 <= told <= counted * 1.2, f"reading takes {counted} minutes"
    assert "**You will build**" in first
    text = "\n".join(markdown(path))
    assert "**You can now**" in text and "**Next:**" in last
    assert 2 <= len(re.findall(r"^- .*\n?.*\]\(https://", last, flags=re.M)) <= 4


@each
def test_exercises(path):
    cells = read(path).cells
    stubs = [i for i, cell in enumerate(cells) if "stub" in tags(cell)]
    solutions = [i for i, cell in enumerate(cells) if "solution" in tags(cell)]
    assert 3 <= len(stubs) <= 5 and solutions == [i + 1 for i in stubs]
    for number, i in enumerate(stubs, 1):
        task, stub, solution = cells[i - 1 : i + 2]
        assert f"### Exercise {number}: " in task.source
        assert notebooks.EXERCISE.search(task.source)
        [check] = re.findall(r"^(check\.\w+)\(my_\w+\)$", stub.source, flags=re.M)
        assert f"\n{check}(solution_" in solution.source
        assert said(stub).startswith("… not finished yet")
        assert said(solution).startswith("✓")
        assert solution.metadata["jupyter"] == {"source_hidden": True}
        name = re.search(r"^def (solution_\w+)", solution.source, flags=re.M)[1]
        later = [c.source for c in cells[i + 2 :] if c.cell_type == "code"]
        assert any(name in source for source in later), f"{name} is not used again"


@each
def test_cells(path):
    for number, cell in enumerate(read(path).cells):
        where = f"cell {number}"
        assert set(tags(cell)) <= TAGS, where
        assert set(cell.metadata) <= {"tags", "jupyter", "cellView"}, where
        if cell.cell_type != "code":
            continue
        lines = cell.source.splitlines()
        tied = bool(tie.HEADER.match(lines[0]))
        body = ast.parse(cell.source).body
        assert len(lines) <= 45 + tied or (tied and len(body) == 1), where
        assert not [line for line in lines if len(line) > 88], where
        assert not re.search(r"^\s*[%!]", cell.source, flags=re.M), f"{where}: magic"
        for node in ast.walk(ast.parse(cell.source)):  # what was expected, in words
            assert not isinstance(node, ast.Assert) or node.msg or tied, where
        for output in cell.outputs:
            assert output.output_type != "error", where
            assert output.get("name") != "stderr", where
            if "image/png" in output.get("data", {}):
                assert "figure" in tags(cell), where
                picture = output.metadata["image/png"]
                assert len(picture["alt"]) > 40 and picture["width"] <= 800, where


@each
def test_stored_file(path):
    data = path.read_bytes()
    assert len(data) < 300_000
    notebook = read(path)
    counts = [cell.execution_count for cell in code_cells(path)]
    assert counts == list(range(1, len(counts) + 1))
    assert notebook.metadata == tidy(read(path)).metadata
    assert [c.id for c in notebook.cells] == [c.id for c in tidy(read(path)).cells]
    for cell in notebook.cells:
        shown = cell.source + said(cell) if cell.cell_type == "code" else cell.source
        assert not re.search(r"0x[0-9a-f]{6,}", shown), cell.id
    assert "application/vnd.jupyter.widget-view" not in data.decode()


@each
def test_numbers_in_prose_are_known_to_a_cell(path):
    """Numbers of two digits or more, or with a point; years and links excepted."""
    known = "\n".join(c.source + "\n" + said(c) for c in code_cells(path))
    known = set(re.findall(r"\d+(?:\.\d+)?", known.replace(",", "").replace("_", "")))
    unknown = []
    for text in markdown(path):
        heads = r"\[[^]]*\]\([^)]*\)|^\*Reading.*$|\*\*(?:Difficulty )?[●○].*?\*\*"
        text = re.sub(heads, "", text, flags=re.M)
        text = re.sub(r"(?<=\d),(?=\d{3})", "", text)
        for number in re.findall(r"(?<![\w.])\d+(?:\.\d+)?(?![\w])", text):
            notebook_or_year = re.fullmatch(r"[01]\d|(19|20)\d\d", number)
            if len(number) > 1 and not notebook_or_year and number not in known:
                unknown.append(number)
    assert not unknown


# ---- stored as they run


def skip_without_its_library(path):
    if library := LINUX.get(notebooks.number(path)):
        pytest.importorskip(library, reason=f"{library} is for Linux")


@pytest.mark.slow
@each
def test_runs_again_to_the_same_outputs_and_figures(path):
    skip_without_its_library(path)
    fresh, seconds, peak = execute(path)
    print(f"{path.name}: {seconds:.0f} s, {peak / 1e6:.0f} MB")
    complaints = differences(read(path), fresh, path.name)
    assert not complaints, "\n".join(complaints)
    assert peak < 1.5e9


@pytest.mark.slow
@each
def test_nbval(path, tmp_path):
    skip_without_its_library(path)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    command += ["--nbval"]
    command += ["--nbval-current-env", "--nbval-cell-timeout", "180"]
    command += ["--nbval-sanitize-with", str(SANITIZE), "-c", os.devnull]
    command += ["--rootdir", str(NOTEBOOKS), str(path)]
    done = subprocess.run(
        command,
        cwd=NOTEBOOKS,
        env=environment(tmp_path),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert f"{len(code_cells(path))} passed" in done.stdout


def test_a_changed_output_or_figure_is_found():
    path = next(p for p in PATHS if p.name.startswith("04"))
    stored, fresh = read(path), read(path)
    assert differences(stored, fresh, "x") == []
    cells = [c for c in fresh.cells if c.cell_type == "code"]
    printed = next(c for c in cells if c.outputs and c.outputs[0].get("text"))
    printed.outputs[0]["text"] += "1"
    pictures = [c for c in cells for o in c.outputs if "image/png" in o.get("data", {})]
    first, second = (c.outputs[0]["data"] for c in pictures[:2])
    assert pixel_error(first["image/png"], second["image/png"]) > 1
    first["image/png"] = second["image/png"]
    found = "\n".join(differences(stored, fresh, "x"))
    assert "is stored" in found and "figure differs" in found


def test_a_last_bit_that_differs_from_machine_to_machine_is_no_difference():
    """Of an answer that is right, exact or close; not of another verdict."""
    path = next(p for p in PATHS if p.name.startswith("06"))
    stored, fresh = read(path), read(path)
    cells = [c for c in fresh.cells if c.cell_type == "code" and c.outputs]
    said = [o.data for c in cells for o in c.outputs if "✓ exact" in str(o.get("data"))]
    for data in said:
        name = data["text/plain"].split()[2]
        data["text/plain"] = f"✓ close: {name} is right within rounding (1e-07)"
    assert len(said) > 2 and differences(stored, fresh, "x") == []
    said[0]["text/plain"] = f"✗ {name}: forgets the decay"
    assert differences(stored, fresh, "x") != []


def test_no_python_code_reaches_a_network_while_notebooks_run(tmp_path):
    code = (
        "import socket, urllib.request\n"
        "for reach in (lambda: urllib.request.urlopen('http://127.0.0.1:9'),\n"
        "              lambda: socket.socket().connect(('127.0.0.1', 9)),\n"
        "              lambda: socket.getaddrinfo('example.org', 80)):\n"
        "    try: reach()\n"
        "    except OSError as e: assert 'without a network' in str(e), e\n"
        "    else: raise AssertionError\n"
    )
    env = environment(tmp_path)
    subprocess.run([sys.executable, "-c", code], env=env, check=True)


def test_notebooks_run_on_the_package_beside_them(tmp_path):
    """And not on another checkout that is installed."""
    found = subprocess.check_output(
        [sys.executable, "-c", "import minqwen; print(minqwen.__file__)"],
        env=environment(tmp_path), cwd=tmp_path, text=True,
    )  # fmt: skip
    assert found.strip() == str(ROOT / "minqwen" / "__init__.py")


def test_text_and_back():
    path = PATHS[0]
    notebook = read(path)
    back = percent.to_notebook(percent.to_text(notebook))
    assert [c.source for c in back.cells] == [c.source for c in notebook.cells]
    assert [c.id for c in tidy(back).cells] == [c.id for c in notebook.cells]
    assert [c.metadata for c in back.cells] == [c.metadata for c in notebook.cells]


def test_a_slider_draws_anew(monkeypatch):
    monkeypatch.syspath_prepend(str(NOTEBOOKS))
    monkeypatch.setenv("MPLBACKEND", "agg")
    import course

    def draw(n):
        fig, ax = course.figure(2, 1)
        ax.plot([0, n])
        return fig, f'a line to "{n}"'

    view, (_, width, height, text) = course.panel(draw, {"n": (3, 0, 9, 1)})
    slider, picture = view.children
    assert (width, height, text) == (200, 100, 'a line to "3"')
    before = picture.value
    assert 'alt="a line to &quot;3&quot;"' in before and "<p>a line to" in before
    slider.value = 5
    assert picture.value != before and "&quot;5&quot;" in picture.value


def test_progress_of_a_reader_is_left_alone():
    """What the tools run must not count as solved by the reader."""
    kept = NOTEBOOKS / ".progress.json"
    ignored = (ROOT / ".gitignore").read_text().split("\n")
    assert ".progress.json" in ignored
    assert environment("x")["MINQWEN_PROGRESS"] != str(kept)
