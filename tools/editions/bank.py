"""The exercise bank: docs/exercises.md, all exercises by topic."""

import re
from pathlib import Path

from tools.execute import ROOT
from tools.notebooks import number

from .lesson import lessons

PAGE = ROOT / "docs" / "exercises.md"
TOPICS = (
    "counting, text, norms and positions, attention, delta rule, experts, whole model, "
    "training, vision, generation, files and number formats, speed and cost"
).split(", ")
TABLE = "| exercise | difficulty | importance | minutes | task |\n|---|---|---|---|---|"


def page():
    parts = [Path(__file__).with_name("bank.md").read_text(encoding="utf-8")]
    tasks = [task for lesson in lessons() for task in lesson.tasks.values()]
    for topic in TOPICS:
        rows = [row(task) for task in tasks if task.taught["topic"] == topic]
        parts.append("\n".join([f"## {topic.capitalize()}\n", TABLE, *rows, ""]))
    return "\n".join(parts)


def row(task):
    """A line of the table, with the first sentences of the task."""
    name = f"{number(task.path)}.{task.number} {task.title}"
    text = re.match(r".{60,}?[.?](?=\s|$)|.+", " ".join(task.text.split()))[0]
    told = task.difficulty, task.importance, task.minutes, text.replace("|", r"\|")
    return f"| [{name}](../notebooks/{task.path.name}) | {' | '.join(told)} |"
