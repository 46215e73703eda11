"""The student edition: nothing stored or solved, and no answer before its guess."""

import base64
import json
import re
import zlib
from difflib import get_close_matches
from itertools import groupby
from pathlib import Path

from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from minqwen import __version__
from minqwen.files import as_json
from tools.execute import GUESS, ROOT, tidy, write
from tools.tie import HEADER, Source, names

from .lesson import CHECK, blocks, lessons, tagged

LONG = 15  # characters of a line, without blanks, that is not anybody's
NEAR = 0.83  # how alike two lines are, from which on they are taken for one
ASKS = ("**Predict", "- A: ", "### Exercise", "<details>")  # told with a question
LAST = re.compile(r"(.+[.?)])\s+([A-Z][^.]*[:?])", re.S)  # a last sentence
DIGITS = 3  # of a number that can be nothing but an answer


def fill(folder):
    told, readme = {}, Path(__file__).with_name("student.md").read_text("utf-8")
    wheel = f"minqwen-{__version__}-py3-none-any.whl"  # `make student` puts it there
    (folder / "constraints.txt").write_bytes((ROOT / "constraints.txt").read_bytes())
    (folder / "README.md").write_text(readme.replace("WHEEL", wheel), "utf-8")
    for lesson in lessons():
        notebook, told[lesson.place] = student(lesson)
        write(notebook, folder / lesson.path.name)
    (folder / "told.json").write_bytes(as_json(told))


def student(lesson):
    """The notebook to hand out, and what it holds back: packed (prediction, text)."""
    cells, told = [], Told(lesson.place)
    instead = imports(lesson.cells) | without_solutions(lesson.cells, told)
    for at, cell in enumerate(lesson.cells):
        if cell.cell_type == "markdown":
            cells += told.split(cell.source)
        else:
            told.meet(cell)
            tags = {"tags": ["figure"]} if tagged(cell, "figure") else {}
            cells.append(new_code_cell(instead.get(at, cell.source), metadata=tags))
    first = next(cell for cell in cells if "from course import" in cell.source)
    first.source = f"from course import lend, reveal\n{first.source}"
    made = tidy(new_notebook(cells=cells))
    for cell in made.cells:  # nothing is folded but a figure's lines and a hint
        folded = {"source_hidden": True}
        cell.metadata = {"jupyter": folded} if tagged(cell, "figure") else {}
    return made, told.kept


class Told:
    """What is held back, and after which guess, while cells are gone through."""

    def __init__(self, place):
        self.place, self.kept = place, []
        self.asked = self.answered = None
        self.seen, self.put_out = set(), set()  # numbers read, and known by a run only

    def meet(self, cell):
        """Code is a guess, its answer if a question came before, or neither."""
        self.seen |= digits(cell.source)
        self.put_out |= digits(put_out(cell)) - self.seen
        if tagged(cell, "guess"):
            self.asked = GUESS.fullmatch(cell.source)[1]
        elif self.asked is not None:
            self.asked, self.answered = None, self.asked

    def keep(self, text, prediction=""):
        """What finds this text again."""
        packed = zlib.compress(json.dumps([prediction, text]).encode(), 9)
        self.kept.append(base64.b64encode(packed).decode())
        return f'("{self.place}", {len(self.kept)})'

    def split(self, text):
        """The text as cells: what may be read, and calls that show the rest."""
        pairs = []  # (the guess that comes first; None: free to read), a block
        for block in blocks(text):
            if block.startswith(("#", "**Predict")):
                self.answered = None
            asks = block.startswith(ASKS)
            told = not asks and digits(block) & self.put_out - self.seen
            self.seen |= set() if asks or told else digits(block)
            free = self.answered is None and not told
            pairs.append((None if free else self.answered or "", block))
        pairs[-1:] = self.leading_on(*pairs[-1])
        self.asked, self.answered = "" if "**Predict" in text else None, None
        for guess, run in groupby(pairs, key=lambda pair: pair[0]):
            run = "\n\n".join(block for _, block in run)
            call = f"reveal{self.keep(run, guess)}" if guess is not None else ""
            yield new_code_cell(call) if call else new_markdown_cell(run)

    def leading_on(self, guess, block):
        """A last sentence that asks for what comes next is read without a guess."""
        found = LAST.fullmatch(block) if guess else None
        if found is None or digits(found[2]) & self.put_out - self.seen:
            return [(guess, block)]
        return [(guess, found[1]), (None, found[2])]


def digits(text):
    """The numbers of a text that have some digits, commas left out."""
    plain = re.sub(r"(?<=\d)[,_](?=\d{3})", "", text)
    found = {*re.findall(r"(?<![\w.])\d+(?:\.\d+)?(?!\w)", plain)}
    return {n for n in found if len(n.replace(".", "")) >= DIGITS}


def put_out(cell):
    data = (output.get("data", output) for output in cell.get("outputs", []))
    return "\n".join(one.get("text/plain", one.get("text", "")) for one in data)


def without_solutions(cells, told):
    """{cell: its source}: what goes on is the reader's function, or the course's."""
    sources = {}
    for at in (at for at, cell in enumerate(cells) if tagged(cell, "solution")):
        check, mine = CHECK.search(cells[at - 1].source).groups()
        solution = CHECK.search(cells[at].source)[2]
        sources[at] = f"{solution} = check.{check}.settled({mine})"
        source = Source(cells[at].source)
        if others := [n for name, n in source.nodes.items() if name != solution]:
            kept = told.keep("\n\n\n".join(source.text(n, n) for n in others))
            sources[at] += f"\nlend{kept}  # {', '.join(n.name for n in others)}"
    return sources


def lines(source):
    """The lines of code, without comments and blanks, that are of some length."""
    bare = (re.sub(r"(^|\s+)#.*|\s", "", line) for line in source.splitlines())
    return {line for line in bare if len(line) >= LONG}


def imports(cells):
    """{cell: an import}, for the package's cells, and whole classes, that give away."""
    solutions, giving, tied = [], set(), {}
    for at, cell in enumerate(cells):
        if tagged(cell, "solution"):
            solutions.append(lines(cell.source))
        elif header := HEADER.match(cell.source.split("\n")[0]):
            listed = [n for node in Source(cell.source).order for n in names(node)]
            shown = [x.name for x in Source(cell.source).order if hasattr(x, "name")]
            tied[at] = header[1].replace("/", "."), listed, shown
            there = lines(cell.source)
            for solution in solutions:  # is a tenth of its lines there, or nearly?
                found = [x for x in solution if get_close_matches(x, there, 1, NEAR)]
                giving |= set(listed if 10 * len(found) >= len(solution) else ())
    return {
        at: "# Lines of the package, much like the solution's. To read them: "
        f"{'??, '.join(shown)}??\n"
        f"from minqwen.{module} import {', '.join(listed)}"
        for at, (module, listed, shown) in tied.items()
        if giving & set(listed)
    }
