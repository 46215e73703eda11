"""The teacher edition: the notebooks as they are stored, and what to say in class."""

import re

from nbformat.v4 import new_markdown_cell, new_notebook

from minqwen import check
from tools.execute import GUESS, tidy, write

from .lesson import lessons, tagged


def fill(folder):
    guide = ["# A guide to the course"]
    for lesson in lessons():
        for at, parts in reversed([*notes_of(lesson)]):
            quoted = "\n\n".join(["> **For the teacher.**", *parts]).replace(
                "\n", "\n> "
            )
            lesson.cells.insert(at + 1, new_markdown_cell(quoted))
        write(tidy(new_notebook(cells=lesson.cells)), folder / lesson.path.name)
        sources = (cell.source for cell in lesson.cells)
        told = (re.search(r"\*\*Predict.*|^> .*", source, re.S) for source in sources)
        guide += [f"## {lesson.title}", *(found[0] for found in told if found)]
    (folder / "guide.md").write_text("\n\n".join(guide), encoding="utf-8")


def notes_of(lesson):
    """(the cell to follow, paragraphs) for the class, each guess and each exercise."""
    hours, needs = lesson.taught["hours"], " and ".join(lesson.taught["needs"])
    stumbles = "\n".join(f"- {one}" for one in lesson.taught["stumbles"])
    first = f"Hours in class: {hours:g}, after {needs or 'no other notebook'}."
    opening = f"**Opening.** {lesson.taught['opening']}"
    yield 0, [first, opening, "**Where a class stops.**", stumbles]
    for at, cell in enumerate(lesson.cells):
        if tagged(cell, "guess"):
            asked = check.predictions()[GUESS.fullmatch(cell.source)[1]]
            told = (f"- {letter}: {said}" for letter, said in asked.told.items())
            yield at, [f"{asked.right} is right. Guesses are told:", "\n".join(told)]
        elif tagged(cell, "solution"):
            yield at, of_task(lesson.tasks[at - 1])


def of_task(task):
    """Effort, what to expect and say, and the wrong answers that the check knows."""
    marks = f"difficulty {task.difficulty} · importance {task.importance}"
    yield f"**Exercise {task.number}, {task.title}** · {task.minutes} min · {marks}"
    for key in ("topic", "expect", "say"):
        yield f"**{key.capitalize()}.** {task.taught[key]}"
    rows = ["| what the check says of a wrong answer | what to say then |", "|---|---|"]
    for why, _ in check.EXERCISES[task.name].wrong:
        more = task.taught.get("more", {}).items()
        say = next((say for begins, say in more if why.startswith(begins)), "")
        rows.append("| {} | {} |".format(*(x.replace("|", r"\|") for x in (why, say))))
    yield "\n".join(rows)
