"""What each form of the weights costs on tasks: shares of chats answered right.

    python -m tools.quant_tasks [--count 200] [--page]

Converts assets/tiny into the forms of docs/quantisation.md and asks each the same chats
as the card's, so that a difference is one of the weights alone. Prints a table; --page
also writes it into the page.
"""

import argparse
import tempfile
from pathlib import Path

from minqwen.files import ASSETS
from minqwen.train.abilities import answered
from minqwen.train.cases import CASES
from minqwen.train.corpus import Corpus

from .quant_error import FORMS, into_page, loaded

MODEL = ASSETS / "tiny"
ASKED = ("bf16", "int8", "int4:int8", "int4")
HEAD = "| right, of {} chats a task |"
LONG = 4  # times fewer of the long chats


def count_of(case, count):
    return count // LONG if case.long else count


def rights(form, corpus, count):
    """For each case, which of its chats a model of this form answers right."""
    with tempfile.TemporaryDirectory() as folder:
        model = loaded(MODEL, Path(folder), form)
        return [
            answered(model, corpus, case.chats(count_of(case, count))) for case in CASES
        ]


def line(case, found):
    """A row: the share of the first, and what each other form has more or less."""
    first, *others = [100 * sum(r) / len(r) for r in found]
    cells = [f"{first:.1f} %", *(f"{other - first:+.1f}" for other in others)]
    return f"| {case.task}: {case.what} | {' | '.join(cells)} |\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=200, help="chats of each task")
    parser.add_argument("--page", action="store_true", help="write the page's table")
    options = parser.parse_args()
    corpus = Corpus.build(MODEL)
    found = [rights(form, corpus, options.count) for form in ASKED]
    names = [FORMS[form] for form in ASKED]
    table = f"{HEAD.format(options.count)} {' | '.join(names)} |\n"
    table += "|---" * (1 + len(ASKED)) + "|\n"
    table += "".join(map(line, CASES, zip(*found, strict=True)))
    print(table, end="")
    if options.page:
        into_page(HEAD.split("{}")[0], table)


if __name__ == "__main__":
    main()
