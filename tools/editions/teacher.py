"""The teacher edition: the notebooks as they are stored, and what to say in class."""

from nbformat.v4 import new_markdown_cell, new_notebook

from minqwen import check
from tools.execute import GUESS, tidy, write

from .lesson import lessons, tagged


def fill(folder):
    guide = ["# A guide to the course\n"]
    for lesson in lessons():
        notes = [(at, "\n\n".join(parts)) for at, parts in notes_of(lesson)]
        for at, text in reversed(notes):
            quoted = f"> **For the teacher.** {text}".replace("\n", "\n> ")
            lesson.cells.insert(at + 1, new_markdown_cell(quoted))
        write(tidy(new_notebook(cells=lesson.cells)), folder / lesson.path.name)
        guide += [f"## {lesson.title}\n", *(f"{text}\n" for _, text in notes)]
    (folder / "guide.md").write_text("\n".join(guide), encoding="utf-8")


def notes_of(lesson):
    """(the cell to follow, paragraphs) for the class, each guess and each exercise."""
    if taught := lesson.taught:
        first = " and ".join(taught["needs"]) or "no other notebook"
        stumbles = "\n".join(f"- {one}" for one in taught["stumbles"])
        yield 0, [f"{taught['hours']:g} hours in class, after {first}.", "**Opening.**",
                  taught["opening"], "**Where a class stops.**", stumbles]  # fmt: skip
    for at, cell in enumerate(lesson.cells):
        if tagged(cell, "guess"):
            asked = check.predictions()[GUESS.fullmatch(cell.source)[1]]
            told = (f"- {letter}: {said}" for letter, said in asked.told.items())
            yield at, [f"{asked.right} is right. Guesses are told:", "\n".join(told)]
        elif tagged(cell, "solution"):
            yield at, of_task(lesson.tasks[at - 1])


def of_task(task):
    """Effort, what to expect and say, and the wrong answers that the check knows."""
    yield (f"Exercise {task.number}, {task.title}: {task.minutes} minutes, difficulty "
           f"{task.difficulty}, importance {task.importance}.")  # fmt: skip
    for key in ("topic", "expect", "say"):
        yield f"**{key.capitalize()}.** {task.taught.get(key, '')}"
    rows = ["| what the check says of a wrong answer | what to say then |", "|---|---|"]
    for why, _ in check.EXERCISES[task.name].wrong:
        more = task.taught.get("more", {}).items()
        say = next((say for begins, say in more if why.startswith(begins)), "")
        rows.append("| {} | {} |".format(*(x.replace("|", r"\|") for x in (why, say))))
    yield "\n".join(rows)
