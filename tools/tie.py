"""Notebooks and package, one text: cells that teach a file hold its very lines.

A cell whose first line is `# minqwen/model/delta.py` is tied. It holds definitions of
that file, comments included, and nothing else. A class too long for one cell goes on
in another as `class Name(Name):  # continued`, which runs as it stands.
"""

import ast
import itertools
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
HEADER = re.compile(r"# minqwen/((?:\w+/)*\w+)\.py$")
ASSIGNS = ast.Assign | ast.AnnAssign
DEFINES = ast.FunctionDef | ast.ClassDef | ASSIGNS

# Which notebook teaches what: a module's public names, or one name of it. Modules of
# the model's room go by their bare names, and so do those that are around it.
TAUGHT = {
    "00": ["shapes", "config"],
    "01": ["processor"],  # around the model, and yet every line of it
    "02": ["norm", "rope.inverse_frequencies", "rope.rope_angles", "rope.rotate"],
    "03": ["attention"],
    "04": ["delta.delta_step", "delta.delta_recurrent"],
    "05": ["deltanet"],
    "05b": ["taps"],
    "06": ["delta.delta_chunked", "delta.delta_rule"],
    "07": ["moe"],
    "08": ["block", "cache", "forms", "qwen", "plain", "generate.write",
           "sampling.keep_top_k", "sampling.keep_top_p", "sampling.penalise",
           "sampling.draw"],  # from "plain" on: around the model
    # around the model: the trainer, and what it is shown on
    "09": ["languages", "course", "muon", "loop.row_loss", "recipe.rate"],
    "10": ["vision", "rope.positions", "drawn.draw", "drawn.drawn_at",
           "drawn.withheld"],  # from "drawn" on: around the model
    "11": ["mtp", "generate", "sampling"],  # what 08 has left of the last two
    "13": ["step"],  # around the model: the delta rule's step on a GPU
}  # fmt: skip
NOT_TAUGHT = {  # a module, or one name of it
    "family": "the checks of config.json: tables to look up",
    "members": "the released sizes: a table to look up",
    "ranges": "what each number of config.json may be: a table to look up",
    "generate.generate": "checks what it is given and calls one of the two loops",
}
MODEL_PART = sorted(
    path.stem
    for path in (ROOT / "minqwen" / "model").glob("*.py")
    if path.stem != "__init__"
)
AROUND_IT = {  # taught as well, and the rooms they are in
    "processor": "prompt", "plain": "weights", "generate": "engine",
    "sampling": "engine", "step": "kernels/gpu", "languages": "train",
    "course": "train", "muon": "train",
}  # fmt: skip
# Of these, what TAUGHT names alone.
IN_PART = {"loop": "train", "recipe": "train", "drawn": "train"}


class Source:
    """One file's text: what it defines, and the lines of each definition."""

    def __init__(self, text):
        self.lines = text.splitlines()
        self.nodes = {}
        self.order = []
        for node in ast.parse(text).body:
            if isinstance(node, DEFINES):
                self.order.append(node)
                self.nodes |= dict.fromkeys(names(node), node)

    def text(self, first, last):
        """The lines of two nodes and all between, with the comments above."""
        start = min([first.lineno, *(d.lineno for d in _decorators(first))]) - 1
        while start and self.lines[start - 1].strip().startswith("#"):
            start -= 1
        return "\n".join(self.lines[start : last.end_lineno])


def names(node):
    """The names a definition binds."""
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return [node.name]
    targets = node.targets if isinstance(node, ast.Assign) else [node.target]
    return [n.id for t in targets for n in ast.walk(t) if isinstance(n, ast.Name)]


def methods(node):
    return [n for n in node.body if isinstance(n, ast.FunctionDef)]


def _decorators(node):
    return getattr(node, "decorator_list", [])


def continues(node):
    """Is this `class Name(Name):`, the rest of a class begun in an earlier cell?"""
    return any(getattr(b, "id", "") == node.name for b in getattr(node, "bases", []))


def render(cell, package):
    """What the cell should say, and the (name, method or None) pairs it teaches.

    Raises KeyError for what the package does not define.
    """
    parts, taught = [], []
    for node in cell.order:
        ours = package.nodes[names(node)[0]]
        taught += [(name, None) for name in names(ours) if not continues(node)]
        if not isinstance(ours, ast.ClassDef):
            parts.append(package.text(ours, ours))
            continue
        all_of_it = {m.name: m for m in methods(ours)}
        shown = [all_of_it[m.name] for m in methods(node)]
        if continues(node):
            body = package.text(shown[0], shown[-1])
            parts.append(f"class {node.name}({node.name}):  # continued\n{body}")
            first, last = methods(ours).index(shown[0]), methods(ours).index(shown[-1])
            shown = methods(ours)[first : last + 1]
        else:  # a first cell shows the class as far as the methods named in it
            shown = methods(ours)[: len(shown)] or methods(ours)
            whole = shown == methods(ours)
            parts.append(package.text(ours, ours if whole else shown[-1]))
        taught += [(node.name, m.name) for m in shown]
    gaps = [
        "\n" if isinstance(a, ASSIGNS) and isinstance(b, ASSIGNS) else "\n\n\n"
        for a, b in itertools.pairwise(cell.order)
    ]
    return "".join(itertools.chain(*zip(parts, [*gaps, ""], strict=True))), taught


def tied_cells(notebook):
    """(cell number, cell, module as in "model/delta") of every tied cell."""
    for number, cell in enumerate(notebook["cells"]):
        header = HEADER.match(cell["source"].split("\n")[0])
        if cell["cell_type"] == "code" and header:
            yield number, cell, header[1]


def compare(notebook, label, sync=False):
    """Complaints about one notebook, and what it teaches; `sync` mends its cells."""
    complaints, taught = [], []
    for number, cell, module in tied_cells(notebook):
        where = f"{label}, cell {number}"
        path = ROOT / "minqwen" / f"{module}.py"
        head, _, body = cell["source"].partition("\n")
        try:
            written = Source(body)
            right, pairs = render(written, Source(path.read_text()))
        except (FileNotFoundError, SyntaxError) as e:
            complaints.append(f"{where}: minqwen/{module}.py cannot be compared ({e})")
            continue
        except KeyError as e:
            complaints.append(f"{where}: minqwen/{module}.py does not define {e}")
            continue
        bare = module.split("/")[-1]
        taught += [(f"{bare}.{name}", method) for name, method in pairs]
        if sync:
            cell["source"] = f"{head}\n{right}"
        elif body != right:
            complaints.append(f"{where}: {_difference(body, right, module)}")
    return complaints, taught


def _difference(body, right, module):
    pairs = itertools.zip_longest(body.split("\n"), right.split("\n"), fillvalue="")
    mine, theirs = next((a, b) for a, b in pairs if a != b)
    return (
        f"differs from minqwen/{module}.py: it has {mine.strip()!r} where the file has "
        f"{theirs.strip()!r}; edit the package, then `make sync`"
    )


def owned():
    """{"delta.delta_step": "04", ...} for every public name of the model part."""
    owner = {n: nb for nb, parts in TAUGHT.items() for n in parts if "." in n}
    for notebook, parts in TAUGHT.items():
        for module in (p for p in parts if "." not in p):
            for name in public(module):
                owner.setdefault(f"{module}.{name}", notebook)
    return owner


def taught_file(module):
    """The text of a module that goes by its bare name."""
    room = (AROUND_IT | IN_PART).get(module, "model")
    return Source((ROOT / "minqwen" / room / f"{module}.py").read_text())


def public(module):
    names = [name for name in taught_file(module).nodes if not name.startswith("_")]
    return [name for name in names if f"{module}.{name}" not in NOT_TAUGHT]


def coverage(taught):
    """Complaints about what is taught: {"04": [("delta.delta_step", None), ...]}.

    Each public name once, whole, in the notebook that owns it. Notebooks not written
    yet owe nothing.
    """
    complaints, owner = [], owned()
    seen = [(pair, nb) for nb, pairs in taught.items() for pair in pairs]
    for (name, method), group in itertools.groupby(
        sorted(seen, key=str), lambda s: s[0]
    ):
        places = [nb for _, nb in group]
        what = f"{name}.{method}" if method else name
        if len(places) > 1:
            complaints.append(f"{what} is taught more than once: {', '.join(places)}")
        elif name in owner and owner[name] not in places:
            complaints.append(f"{what} is taught in {places[0]}, not in {owner[name]}")
    have = {pair for pair, _ in seen}
    for name, notebook in owner.items():
        if notebook not in taught:
            continue
        module, bare = name.split(".")
        node = taught_file(module).nodes[bare]
        whole = methods(node) if isinstance(node, ast.ClassDef) else []
        needed = [None, *(m.name for m in whole)]
        for method in needed:
            if (name, method) not in have:
                what = f"{name}.{method}" if method else name
                complaints.append(f"{what} should be taught in {notebook} and is not")
    return complaints
