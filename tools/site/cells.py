"""Notebooks as pages: what a reader should not see at once is folded, and a prediction
is answered without a script."""

import re

import nbformat
from markdown_it import MarkdownIt

from minqwen.errors import InputError
from tools.execute import GUESS, UNSEEN
from tools.first_cell import TAG

OPTION = re.compile(r"^- ([A-Z]): (.*(?:\n  .*)*)\n?", re.M)
FOLDS = {  # a cell's tag: what is folded, and the words on it
    "solution": ("hide-cell", "A solution"),
    "figure": ("hide-input", "The code of this picture"),
    "answer": ("hide-output", "What the run prints"),
}
LIVE = {  # a widget as it is stored, and a live page of its kind
    "StateExplorer()": "note.html#view=memory",
    "RoutingExplorer()": "picture.html",
}
INLINE = MarkdownIt("commonmark", {"html": False})


def prepared(notebook, told):
    """The notebook, ready for the site; `told`: what is said of its predictions."""
    cells = []
    for cell in notebook.cells:
        guess = cell.cell_type == "code" and GUESS.fullmatch(cell.source)
        if guess:
            cells.append(choices(cells[-1], guess[1], told[guess[1]]))
            continue
        if TAG in cell.metadata.get("tags", []):
            continue  # where a notebook is read, there is nothing to install
        cells.append(cell)
        if cell.cell_type == "code":
            cells += folded(cell)
    notebook.cells = cells
    return notebook


def folded(cell):
    """Fold what the cell's tags say, name its picture; a link to where it is live."""
    tags = [tag for tag in FOLDS if tag in cell.metadata.get("tags", [])]
    shown = {}
    if tags:
        words = FOLDS[tags[0]][1] if len(tags) == 1 else "Show the {type}"
        shown = {"code_prompt_show": words, "code_prompt_hide": words}
    for output in cell.outputs:
        texts = output if "text" in output else output.get("data", {})
        for kind in {"text", "text/plain"} & set(texts):
            texts[kind] = texts[kind].removeprefix(UNSEEN)
    bundles = [output for output in cell.outputs if "data" in output]
    pictures = [o.metadata["image/png"] for o in bundles if "image/png" in o.data]
    if len(pictures) > 1:
        raise InputError("a cell with two pictures can name only one of them")
    if pictures:
        shown["image"] = {"alt": pictures[0]["alt"]}
    cell.metadata = {"tags": [FOLDS[tag][0] for tag in tags], "mystnb": shown}
    pages = [LIVE.get(output.data.get("text/plain")) for output in bundles]
    return [
        markdown(f'<p class="live"><a href="../live/{page}">Such an explorer, live</a>')
        for page in pages
        if page
    ]


def choices(question, name, told):
    """The options of the prediction `name`, taken out of its question, each with what
    is told of it."""
    options = OPTION.findall(question.source)
    question.source = OPTION.sub("", question.source)
    lines = []
    for letter, text in options:
        mark = "✓" if letter == told["right"] else "✗"
        lines.append(
            f'<details name="{name}" class="guess"><summary><b>{letter}</b> '
            f"{INLINE.renderInline(text.replace('  ', ''))}</summary>"
            f"<p>{mark} {INLINE.renderInline(told[letter])}</p></details>"
        )
    return markdown("\n".join(lines))


def markdown(text):
    return nbformat.v4.new_markdown_cell(text)
