"""What the files around the code promise each other, and the house rules."""

import ast
import importlib
import importlib.metadata
import inspect
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import nbformat
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

import minqwen
from tools import rooms
from tools.tie import MODEL_PART, tied_cells

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
CITATION = yaml.safe_load((ROOT / "CITATION.cff").read_text())
OPTIONAL = "transformers av matplotlib ipywidgets anywidget IPython fla triton".split()
OPTIONAL += "gguf pytest playwright".split()


def requirements() -> list[str]:
    """Every requirement string of pyproject.toml, extras included, each once."""
    extras = PROJECT["optional-dependencies"].values()
    return list(dict.fromkeys(sum(extras, PROJECT["dependencies"])))


def constraints() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = [line.split("==") for line in lines if line and line[0] != "#"]
    return dict(pins)


def tracked_files() -> list[Path]:
    """Files that are in git, or would be after `git add .`."""
    # The checkout may belong to another user, as in a container.
    command = ["git", "-c", "safe.directory=*", "ls-files", "-z", "--cached"]
    command += ["--others", "--exclude-standard"]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout")
    files = [ROOT / name for name in done.stdout.decode().split("\0") if name]
    return [path for path in files if path.is_file()]


# ---- one source of truth


def test_environment_equals_pyproject():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    python, pip, section = environment["dependencies"]
    assert environment["name"] == PROJECT["name"] and pip == "pip"
    assert PROJECT["requires-python"] == python.replace("python=", ">=")
    first, *listed, last = section["pip"]
    assert (first, last) == ("-c constraints.txt", "-e .")
    assert listed == requirements()


def test_every_requirement_has_one_exact_version_that_it_allows():
    pins = constraints()
    for requirement in map(Requirement, requirements()):
        if str(requirement.specifier).startswith("=="):
            assert requirement.name not in pins
        else:
            assert pins.pop(requirement.name) in requirement.specifier
    assert not pins, "pinned but not required"


def test_torch_is_pinned_and_its_range_is_wide():
    assert constraints()["torch"] == "2.13.0"
    assert "torch>=2.11" in PROJECT["dependencies"]


def test_version_agrees_everywhere():
    version = PROJECT["version"]
    assert str(CITATION["version"]) == version
    assert getattr(minqwen, "__version__", version) == version
    try:
        assert importlib.metadata.version("minqwen") == version
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("minqwen is not installed here")


def test_console_script_resolves():
    module, function = PROJECT["scripts"]["minqwen"].split(":")
    assert callable(getattr(importlib.import_module(module), function))


def test_this_python_is_supported():
    running = ".".join(map(str, sys.version_info[:3]))
    assert running in SpecifierSet(PROJECT["requires-python"])


# ---- licence and citation


def test_license_is_the_whole_apache_text():
    text = (ROOT / "LICENSE").read_text()
    assert PROJECT["license"] == CITATION["license"] == "Apache-2.0"
    assert "Apache License\n                           Version 2.0" in text
    assert "   9. Accepting Warranty" in text and "END OF TERMS AND CONDITIONS" in text
    assert len(text.splitlines()) == 201


def test_citation_names_what_we_stand_on():
    assert CITATION["cff-version"] == "1.2.0"
    assert CITATION["authors"] == [{"name": "The minqwen authors"}]
    references = CITATION["references"]
    assert all(r["title"] and r["authors"] and r["type"] for r in references)
    dois = {r["doi"] for r in references if "doi" in r}
    ids = ("2412.06464", "2406.06484", "2505.06708")
    assert dois == {f"10.48550/arXiv.{arxiv}" for arxiv in ids}
    links = {r["url"] for r in references} | {
        r["repository-code"] for r in references if "repository-code" in r
    }
    assert "https://github.com/QwenLM/Qwen3.5" in links
    assert {f"https://arxiv.org/abs/{arxiv}" for arxiv in ids} <= links


# ---- house rules


def test_no_file_names_a_place_on_one_machine():
    places = "|".join(["work", "root", "tmp", "home/[a-z]+", "Users/[A-Za-z]+"])
    absolute = re.compile(rf"(?<![\w.~]){'/'}(?:{places}){'/'}")
    found = []
    for path in tracked_files():
        data = path.read_bytes()
        # A vocabulary is learned from text, not written by us.
        if b"\0" in data or path.name == "tokenizer.json":
            continue
        for number, line in enumerate(data.decode().splitlines(), 1):
            if absolute.search(line):
                found.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()[:80]}")
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    "name",
    "README.md CONTRIBUTING.md SECURITY.md CHANGELOG.md assets/tiny/README.md "
    "notebooks/README.md notebooks/GLOSSARY.md".split()
    + sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")),
)
def test_links_lead_somewhere_and_no_blank_is_left(name):
    text = (ROOT / name).read_text()
    assert not re.search(r"@[A-Z]+@", text)
    for link in re.findall(r"\]\((?!https?:|#)([^)#]+)", text):
        assert ((ROOT / name).parent / link).exists(), link


STRUCTURE = (ROOT / "docs" / "structure.md").read_text()


def test_what_the_page_of_structure_names_is_there():
    """`file.py: name, name` names a file and what it defines; `folder/` a folder."""
    found = re.findall(r"`([\w./]+(?:\.(?:py|mjs|md)|/))(?:: ([\w, ]+))?`", STRUCTURE)
    assert len(found) > 80
    for name, defined in found:
        places = [p for p in (ROOT / "minqwen" / name, ROOT / name) if p.exists()]
        assert places, f"there is no {name}"
        for word in defined.split(", ") if defined else ():
            definition = (
                rf"^[\w ]*\b(?:def|class|function|const) {word}\b|^{word}\b.* ="
            )
            assert re.search(definition, places[0].read_text(), re.M), f"{name}: {word}"


def test_the_page_of_structure_has_every_room_on_its_floor():
    rows = re.findall(r"^\| (\d) \| (.*?) \|", STRUCTURE, re.M)
    told = {
        name.removesuffix(".py").removesuffix("/"): int(floor)
        for floor, names in rows
        for name in re.findall(r"`(\w+(?:/|\.py))`", names)
    }
    there = {rooms.room(module) for module in rooms.graph()} - {"minqwen"}
    assert told == {name: rooms.FLOOR[name] for name in there}


def test_modules_are_short():
    lengths = {
        str(path.relative_to(ROOT)): len(path.read_text().splitlines())
        for path in (ROOT / "minqwen").rglob("*.py")
    }
    assert not {name: n for name, n in lengths.items() if n > 320}


def test_what_is_taught_is_set_by_the_formatter_alone():
    """No `# fmt: skip`, and cells of at most 45 lines."""
    taught = [ROOT / "minqwen" / "model" / f"{module}.py" for module in MODEL_PART]
    for path in [*taught, ROOT / "minqwen" / "prompt" / "processor.py"]:
        assert "fmt: " not in path.read_text(), path.name
    for path in (ROOT / "notebooks").glob("[0-9]*.ipynb"):
        for number, cell, _ in tied_cells(nbformat.read(path, as_version=4)):
            assert len(cell["source"].splitlines()) <= 45, (path.name, number)


def test_formatter_and_types_are_checked_before_the_tests():
    recipe = (ROOT / "Makefile").read_text().split("\ntest quick:")[1]
    steps = ["ruff check .", "ruff format --check .", "mypy", "-m pytest"]
    assert [recipe.index(step) for step in steps] == sorted(map(recipe.index, steps))


@pytest.mark.parametrize("name", minqwen.PLACES)
def test_public_names_are_typed(name):
    """What mypy checks is what there is: each public function says its types."""
    value = getattr(minqwen, name)
    if inspect.isclass(value) and value.__module__ != "minqwen.errors":
        public = [m for n, m in vars(value).items() if n[0] != "_" or n == "__init__"]
        public = [getattr(m, "fget", getattr(m, "__func__", m)) for m in public]
        functions = [m for m in public if inspect.isfunction(m)]
    else:
        functions = [value] if inspect.isfunction(value) else []
    for function in functions:
        if function.__module__.startswith("minqwen.check"):
            continue
        signature = inspect.signature(function)
        untyped = [
            p.name
            for p in signature.parameters.values()
            if p.annotation is p.empty and p.name not in ("self", "cls")
        ]
        assert not untyped, f"{function.__qualname__}: {untyped}"
        assert signature.return_annotation is not signature.empty, function.__qualname__
    assert (ROOT / "minqwen" / "py.typed").is_file()


@pytest.mark.parametrize("module", MODEL_PART)
def test_model_part_fits_notebook_cells(module):
    text = (ROOT / "minqwen" / "model" / f"{module}.py").read_text()
    wide = [n for n, line in enumerate(text.splitlines(), 1) if len(line) > 88]
    assert not wide, f"lines over 88 columns: {wide}"
    long = {
        node.name: node.end_lineno - node.lineno + 1
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.FunctionDef) and node.end_lineno - node.lineno + 1 > 45
    }
    assert not long, f"functions over 45 lines: {long}"


def test_arrows_point_one_way_and_none_in_a_circle():
    arrows = rooms.graph()
    assert {rooms.room(module) for module in arrows} <= set(rooms.FLOOR)
    assert rooms.wrong(arrows) == []
    assert rooms.circles(arrows) == []


def test_an_arrow_the_wrong_way_is_found_even_inside_a_function():
    files = {
        "minqwen.model.norm": "def f():\n    from ..engine import generate",
        "minqwen.engine.generate": "import minqwen.model.norm\nfrom . import stream",
        "minqwen.engine.stream": "from .generate import g",
        "minqwen.engine": "",
        "minqwen.prompt.processor": "from ..kernels.fla import delta_rule",
        "minqwen.kernels.fla": "from ..model.norm import norm",
    }
    files = {name: (text, name == "minqwen.engine") for name, text in files.items()}
    arrows = rooms.graph(files)
    assert rooms.wrong(arrows) == [
        ("minqwen.engine.generate", "minqwen.model.norm"),
        ("minqwen.model.norm", "minqwen.engine.generate"),
        ("minqwen.prompt.processor", "minqwen.kernels.fla"),
    ]
    names = {"minqwen.model.norm", "minqwen.engine.generate", "minqwen.engine.stream"}
    assert rooms.circles(arrows) == [names]


def test_import_loads_nothing_but_what_is_asked_for():
    code = (
        "import sys, minqwen; assert dir(minqwen)\n"
        "heavy = 'torch numpy jinja2 tokenizers PIL matplotlib safetensors'.split()\n"
        "print([m for m in sys.modules if m in heavy or m.startswith('minqwen.')])\n"
        "minqwen.Config.named('0.8B'); minqwen.InputError\n"
        "heavy = 'jinja2 tokenizers PIL matplotlib minqwen.check'.split()\n"
        "print([m for m in sys.modules if m in heavy])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True
    )
    assert done.stdout.split("\n")[:2] == ["[]", "[]"], done.stderr


def test_every_public_name_is_there_and_known_to_type_checkers():
    tree = ast.parse((ROOT / "minqwen" / "__init__.py").read_text())
    block = next(n for n in tree.body if isinstance(n, ast.If)).body
    told = {}
    for node in block:
        for alias in node.names:
            assert alias.asname == alias.name  # else it is not re-exported
            told[alias.name] = node.module or alias.name
    assert told == minqwen.PLACES
    for name in minqwen.__all__:
        assert getattr(minqwen, name) is getattr(minqwen, name) and name in dir(minqwen)
    with pytest.raises(AttributeError, match="has no attribute 'nonsense'"):
        _ = minqwen.nonsense


def test_import_needs_no_optional_library():
    # torch may bring some of these along by itself: only what we add counts.
    code = (
        "import json, sys, torch; before = set(sys.modules)\n"
        "import minqwen, minqwen.cli.commands\n"
        "print(json.dumps(sorted(set(sys.modules) - before)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    added = {name.split(".")[0] for name in json.loads(done.stdout)}
    assert not added & set(OPTIONAL)
