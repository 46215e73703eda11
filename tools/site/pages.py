"""Lays out what Sphinx reads: the repository's texts, at the paths they have there.

So a link between two of them holds. One to a source file leads to a page of its lines;
one to anything else that the site does not have, to the project's address, if any.
"""

import posixpath
import re
import shutil
import tomllib
from pathlib import Path

import nbformat
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import TextLexer, find_lexer_class_for_filename

from minqwen.errors import InputError
from tools import address

from .cells import prepared

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).parent
TEXTS = "*.md docs/*.md notebooks/*.md assets/tiny/*.md minqwen/kernels/*.md".split()
ROOMS = "analyse engine model prompt trace weights widgets".split()
# Files that the reference leads to.
LINES = ["*.py", "check/[!e]*.py", *(f"{room}/*.py" for room in ROOMS)]
PARTS = "shapes norm rope attention delta deltanet moe vision block mtp forms taps"
API = {
    "Load and save": "load save",
    "The model": "Config Qwen Cache",
    "Prompts and answers": "Processor generate engine.generate.Step "
    "engine.sampling.Sampling",
    "Traces": "record Trace",
    "Causes and counts": "analyse",
    "Widgets": "widgets.RoutingExplorer widgets.StateExplorer widgets.MemoryBoard",
    "Exercises": "check progress",
    "Errors": "InputError",
    "The model's parts": " ".join(f"model.{part}" for part in PARTS.split()),
}
LINK = re.compile(r"(\]\()(?!https?:|mailto:|#)([^)\s#]+)")


def lay(target):
    """Write everything into the folder `target`."""
    paths = [path for each in LINES for path in (ROOT / "minqwen").glob(each)]
    sources = {path.relative_to(ROOT).as_posix() for path in paths}
    texts = sorted(path for each in TEXTS for path in ROOT.glob(each))
    names = [path.relative_to(ROOT).as_posix() for path in texts]
    for path, name in zip(texts, names, strict=True):
        text = linked(path.read_text("utf-8"), name, sources, target)
        if name == "README.md":
            name, text = "index.md", front(text, names)
        put(target / name, text)
    for path in (ROOT / "notebooks").glob("[0-9]*.ipynb"):
        notebook = prepared(nbformat.read(path, as_version=4), told(path))
        for cell in notebook.cells:
            if cell.cell_type == "markdown":
                name = f"notebooks/{path.name}"
                cell.source = linked(cell.source, name, sources, target)
        put(target / "notebooks" / path.name, nbformat.writes(notebook))
    live = (HERE / "live.md").read_text("utf-8")
    put(target / "live.md", linked(live, "live.md", sources, target))
    put(target / "api.rst", reference())
    for name in sources:
        # What begins with a dot is left out where Pages gets the site.
        put(target / f"{name.lstrip('.')}.md", listing(name))


def told(path):
    """What is said of the predictions of the notebook at `path`."""
    file = ROOT / "minqwen/check/predictions" / f"{path.name.split('_')[0]}.toml"
    return tomllib.loads(file.read_text("utf-8"))


def put(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def front(readme, names):
    """The first page: its own text, around what the README says, and where all pages
    stand; those that it does not know are with the rest."""
    text = (HERE / "index.md").read_text("utf-8")
    rest = [name[:-3] for name in names if name[:-3] not in text + "README"]
    parts = {
        "opening": re.search(r"^minqwen is .*$", readme, re.M)[0],
        "course": re.search(r"^\| notebook .*?\n\n", readme, re.M | re.S)[0],
        "use": re.search(r"^## Use it\n\n(.*?)\n\n## ", readme, re.M | re.S)[1],
        "poster": re.search(r"^!\[.*\]\(assets/poster\.png\)$", readme, re.M)[0],
        "rest": "\n".join(rest),
    }
    for name, value in parts.items():
        text = text.replace(f"{{{name}}}", value)
    return text


def reference():
    """The public names, room by room, as Sphinx's autodoc is asked for them."""
    text = "Reference\n=========\n\nShapes stand in brackets; their letters are in "
    text += ":doc:`minqwen/model/shapes.py`.\n"
    for title, names in API.items():
        text += f"\n{title}\n{'-' * len(title)}\n\n"
        for name in names.split():
            last = name.rpartition(".")[2]
            kind = "class" if last[0].isupper() else "function"
            if name.startswith("model."):
                text += f"\n{last}.py\n{'~' * len(name)}\n\n"
            if name in ("analyse", "check") or name.startswith("model."):
                kind = "module"
            text += f".. auto{kind}:: minqwen.{name}\n"
            text += "   :members:\n" * (kind != "function" and name != "check")
            text += "   :imported-members:\n" * (name == "analyse")
            text += "   :exclude-members: half, bfloat16\n" * (name == "Qwen")
    return text


def linked(text, name, sources, target):
    """`text`, of the file `name`, with links that hold in the site; `sources` gains the
    files that need a page with their lines, `target` the pictures."""
    place = address.read()

    def lead(match):
        start, given = match.groups()
        to = posixpath.normpath(posixpath.join(posixpath.dirname(name), given))
        path = ROOT / to
        if path.suffix == ".png" and path.exists():
            (target / to).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target / to)
        elif (path / "README.md").exists():
            given = f"{given.rstrip('/')}/README.md"
        elif to == "README.md":
            given = given.replace("README.md", "index.md")
        elif path.is_file() and path.suffix not in (".md", ".ipynb"):
            sources.add(to)
            at = posixpath.dirname(name) or "."
            given = posixpath.relpath(to.lstrip("."), at) + ".md"
        elif not path.is_file():
            if not place:
                raise InputError(f"{name} links to {given}, which the site cannot show")
            given = f"{place}/tree/HEAD/{to}"
        return start + given

    return LINK.sub(lead, text)


def listing(name):
    """A page with a source file's lines, each with a place of its own."""
    lexer = (find_lexer_class_for_filename(name) or TextLexer)()
    form = HtmlFormatter(linespans="line", linenos="inline")
    lines = highlight((ROOT / name).read_text("utf-8"), lexer, form)
    fence = "~" * 12  # longer than any in a file's own text
    title = name.replace("_", "\\_")  # else __init__ is bold
    head = f"---\norphan: true\n---\n# {title}\n\n"
    return f"{head}{fence}{{raw}} html\n{lines}{fence}\n"
