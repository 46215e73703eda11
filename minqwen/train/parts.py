"""The card's table of what each part does: taken out, and never there.

From what `python -m tools.experiment` wrote into a folder's experiments/.
"""

import json
from pathlib import Path

SHORT = {  # what is measured, and its column
    "notes: 1 fact": "1 fact",
    "notes: 8 facts, 2 overwritten": "8 facts, 2 overwritten",
    "sums: 3 digits, thinking": "a sum",
    "pictures: a digit, known fonts": "a digit",
    "tools: the call": "a call",
    "bits a token, 64 random tokens again": "copy, bits",
    "bits a byte, Python": "Python, bits",
}
RETRAINED = {  # name of the experiment -> what is taken out to compare, and its name
    "whole": ("nothing", "nothing: the control"),
    "all-delta": ("both attention layers", "attention: delta in its place"),
    "all-attention": ("all delta layers", "delta: attention in its place"),
    "no-experts": ("all experts", "experts: one MLP as wide as those used"),
}


def parts_of(folder):
    """Figures of all experiments there: {name: content}."""
    files = sorted((Path(folder) / "experiments").glob("*.json"))
    return {file.stem: json.loads(file.read_text()) for file in files}


def parts_text(folder):
    """Markdown, or nothing where no experiment was made."""
    found = parts_of(folder)
    if "damage" not in found:
        return ""
    damage, rows = found["damage"]["rows"], []
    for name, (cut, without) in RETRAINED.items():
        rows.append([cut, "taken out", *cells([damage[cut]])])
        if name in found:
            seeds = [run["figures"] for run in found[name]["runs"]]
            rows.append([without, f"{len(seeds)} short runs", *cells(seeds)])
    for what, names in groups(damage).items():
        rows.append([what, "taken out", *cells([damage[name] for name in names])])
    trained = ""
    if "whole" in found:
        steps, seeds = found["whole"]["steps"], len(found["whole"]["runs"])
        trained = f"""
*Short runs* never had the part: the same recipe in {steps} steps, from {seeds} seeds;
mean, and least to most. A part taken out is missed by all that learned to rely on it:
its damage is not its worth. The start can build an induction head only where there are
both delta layers and attention (start.py)."""
    own = [
        (task, *(f"{100 * right:.0f} %" for right in rights.values()))
        for task, rights in found["damage"]["experts"].items()
    ]
    return f"""## What the parts do

{table(["part", "", *SHORT.values()], rows)}

Of {found["damage"]["chats"]} chats each. *Taken out* of the model as trained: a layer
of attention or delta says its mean, an expert nothing.{trained}

The two experts a layer that a task's tokens take most beyond the others, forbidden:

{table(["task", "with all", "without its own", "without another task's"], own)}

"""


def groups(damage):
    """Rows that are told together, as least to most."""
    names = {
        "two delta layers": "delta layers ",
        "one layer's experts": "the experts of layer ",
    }
    found = {k: [n for n in damage if n.startswith(v)] for k, v in names.items()}
    return found | {"the shared experts": ["the shared experts"]}


def cells(figures):
    """For each column the mean of some runs' figures, and their range."""
    for name in SHORT:
        values = [figure[name] for figure in figures]
        bits = name.startswith("bits")
        mean, least, most = (
            f"{value:.2f}" if bits else f"{100 * value:.0f}"
            for value in (sum(values) / len(values), min(values), max(values))
        )
        spread = f" ({least} to {most})" if least != most else ""
        yield mean + " %" * (not bits) + spread


def table(head, rows):
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)
