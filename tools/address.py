"""The project's address, one constant in pyproject.toml, and all that is made from it.

    python -m tools.address    write it into README.md, CITATION.cff and the notebooks

`address` of [tool.minqwen] is empty while the project has no public place. Then there
is no badge, no URL, and no link or picture in what a package index shows (setup.py
asks for that here), so that nothing leads nowhere.
"""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
UNKNOWN = "<this repository>"
RELATIVE = re.compile(r"(!?)\[([^\]]*)\]\((?!https?:|#)([^)\s]+)\)")


def read(root=ROOT):
    """The address, without a slash at its end; empty if there is none yet."""
    settings = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    return settings["tool"]["minqwen"]["address"].rstrip("/")


def readme(text, address):
    """README.md with a badge and the address to clone from, or without."""
    text = re.sub(r"^\[!\[tests\].*\n\n", "", text, flags=re.M)
    workflow = f"{address}/actions/workflows/tests.yml"
    if address:
        badge = f"[![tests]({workflow}/badge.svg)]({workflow})\n\n"
        text = re.sub(r"\A# .*\n\n", lambda title: title[0] + badge, text)
    clone = f"git clone {address or UNKNOWN} minqwen"
    return re.sub(r"git clone (<.*?>|\S+) minqwen", lambda _: clone, text)


def citation(text, address):
    """CITATION.cff with the place of the code, or without."""
    text = re.sub(r"^repository-code: .*\n", "", text, flags=re.M)
    line = f"repository-code: {address}\n" if address else ""
    return re.sub(r"^license: .*\n", lambda found: found[0] + line, text, flags=re.M)


def description(text, address):
    """README.md for a package index, where its relative links would lead nowhere."""

    def absolute(match):
        picture, words, path = match.groups()
        if not address:
            return f"Picture: {words}" if picture else words
        kind = "raw" if picture else "blob"
        return f"{picture}[{words}]({address}/{kind}/HEAD/{path})"

    return RELATIVE.sub(absolute, text)


def urls(address):
    """What a package index lists beside the description."""
    if not address:
        return {}
    changes = f"{address}/blob/HEAD/CHANGELOG.md"
    return {"Source": address, "Issues": f"{address}/issues", "Changelog": changes}


def write(root=ROOT):
    """Bring the files under `root` in step with its pyproject.toml."""
    address = read(root)
    for name, filled in (("README.md", readme), ("CITATION.cff", citation)):
        text = (root / name).read_text(encoding="utf-8")
        (root / name).write_text(filled(text, address), encoding="utf-8")
    from . import first_cell  # setup.py needs none of its libraries

    first_cell.apply(address, root / "notebooks")


if __name__ == "__main__":
    write()
