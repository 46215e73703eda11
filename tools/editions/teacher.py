"""The teacher edition: the notebooks as they are stored, and what to say in class.

guide.html has the same notes to print, each with the question or task it belongs to;
project_ideas.md and project_builder.md are handed out when a project is set.
"""

import re
from pathlib import Path
from types import SimpleNamespace

from nbconvert.filters import markdown2html
from nbformat.v4 import new_markdown_cell, new_notebook

from minqwen import check
from tools.execute import GUESS, ROOT, tidy, write

from .lesson import lessons, tagged

OPTION = re.compile(r"(?s)^- ([A-C]): (.+?)\s*(?=^- |\Z)", re.M)
INWARD = re.compile(r"\[([^\]]+)\]\((?!http)[^)]*\)")  # a link into the repository
CONTENTS = "| | in class | needs |\n|---|---|---|"


def fill(folder):
    contents, chapters = [CONTENTS], []
    for lesson in lessons():
        notes = list(notes_of(lesson))
        chapters.append("\n\n".join([f"## {lesson.title}", *guide(lesson, notes)]))
        needs = ", ".join(lesson.taught["needs"]) or "-"
        contents.append(f"| {lesson.title} | {hours(lesson.taught)} | {needs} |")
        for note in reversed(notes):
            text = f"> **For the teacher.** {note.head}\n\n{note.said}"
            quoted = text.replace("\n", "\n> ")
            lesson.cells.insert(note.at + 1, new_markdown_cell(quoted))
        write(tidy(new_notebook(cells=lesson.cells)), folder / lesson.path.name)
    page = markdown2html("\n\n".join(["\n".join(contents), *chapters]))
    head = Path(__file__).with_name("guide.html").read_text(encoding="utf-8")
    (folder / "guide.html").write_text(head + page, encoding="utf-8")
    for track in ("ideas", "builder"):
        page = (ROOT / "docs" / f"{track}.md").read_text(encoding="utf-8")
        sheet = INWARD.sub(r"\1", page[page.index("## The open project") + 1 :])
        (folder / f"project_{track}.md").write_text(sheet, encoding="utf-8")


def guide(lesson, notes):
    """The notes under the sections they stand in, with what they are about."""
    section = ""
    for note in notes:
        prose = "\n".join(cell.source for cell in lesson.cells[: note.at])
        now = re.findall(r"(?m)^##+ (?!Exercise )(.+)", prose)[-1:] if note.at else []
        if now and now[0] != section:
            section = now[0]
            yield f"### {section}"
        yield from (note.head, *note.about, note.said)


def notes_of(lesson):
    """`at`, the cell to follow; `head` and `said`; `about`, which that cell shows."""
    taught = lesson.taught
    head = f"{hours(taught)} in class, needs {', '.join(taught['needs']) or 'nothing'}."
    yield SimpleNamespace(at=0, head=head, about=[], said=of_class(taught))
    for at, cell in enumerate(lesson.cells):
        if tagged(cell, "guess"):
            before, _, question = lesson.cells[at - 1].source.partition("**Predict.** ")
            last = before.strip().split("\n\n")[-1]  # often what "which one?" is about
            about = ["" if last.startswith("#") else last, question.split("\n- A:")[0]]
            asked = check.predictions()[GUESS.fullmatch(cell.source)[1]]
            said = [f"- {letter}: {option}. *{plain(asked.told[letter])}*"
                    for letter, option in OPTION.findall(question)]  # fmt: skip
            head = f"**Prediction: {asked.right} is right.**"
            yield SimpleNamespace(at=at, head=head, about=about, said="\n".join(said))
        elif tagged(cell, "solution"):
            task, lines = lesson.tasks[at - 1], cell.source.partition("\n\n\ncheck.")[0]
            asks = lesson.cells[at - 2].source.partition("minutes.**")[2]
            yield SimpleNamespace(
                at=at, head=f"**Exercise {task.number}, {task.title}** "
                f"({task.taught['topic']}): {task.minutes} minutes, difficulty "
                f"{task.difficulty}, importance {task.importance}.",
                about=[asks.partition("<details>")[0], f"```python\n{lines}\n```"],
                said=of_task(task),
            )  # fmt: skip


def hours(taught):
    return f"{taught['hours']:g} hour{'s' if taught['hours'] > 1 else ''}"


def of_class(taught):
    stumbles = "\n".join(f"- {one}" for one in taught["stumbles"])
    return (f"**Opening.** {taught['opening']}\n\n"
            f"**Where a class stops.**\n\n{stumbles}")  # fmt: skip


def of_task(task):
    """What to expect and to say, and the wrong answers that the check knows."""
    known, more = [], task.taught.get("more", {}).items()
    for why, _ in check.EXERCISES[task.name].wrong:
        say = next(
            (f" → *{say}*" for begins, say in more if why.startswith(begins)), ""
        )
        known.append(f"- {plain(why)}{say}")
    return (f"**Expect.** {task.taught['expect']}\n\n**Say.** {task.taught['say']}\n\n"
            "**Wrong answers that the check knows**, and what to say where that needs "
            "another word:\n\n" + "\n".join(known))  # fmt: skip


def plain(text):
    """What is printed elsewhere, as markdown: what looks like markup in it is none."""
    parts = re.split(r"(`[^`]*`)", text)
    return "".join(
        p if p[:1] == "`" else re.sub(r"([<*_|\[])", r"\\\1", p) for p in parts
    )
