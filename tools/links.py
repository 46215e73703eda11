"""Links: those inside lead somewhere, those outside are listed in docs/links.md.

    python -m tools.links             check; a new address gets a row, to be filled in
    python -m tools.links --outside   ask each address too, and note which answer

A number such as 2412.06464 is taken for the paper on arXiv. The list says what an
address is, and when it was last seen: "answered" means that this tool asked it.
"""

import re
import sys
import urllib.request
from datetime import date

import nbformat

from . import address

ROOT = address.ROOT
LIST = "docs/links.md"
PAGES = ["*.md", "*.cff", "docs/**/*.md", "notebooks/**/*.md", "notebooks/*.ipynb"]
PAGES += [
    "assets/**/*.md",
    *(f"minqwen/**/*.{end}" for end in "md py mjs toml".split()),
]
URL = re.compile(r"""https?://[^\s<>()[\]"'`|{}\\]+[^\s<>()[\]"'`|{}\\.,;:]""")
NO_PLACE = re.compile(r"//(127\.0\.0\.1|localhost|www\.w3\.org/)")  # or no page
ARXIV = re.compile(r"(?<![\d./])(?:0[7-9]|[12]\d)(?:0[1-9]|1[0-2])\.\d{5}(?!\d)")
INNER = re.compile(r"\]\((?!https?:)([^)\s]+)\)")
CODE = re.compile(r"^```.*?^```|`[^`\n]*`", flags=re.M | re.S)
ROW = re.compile(r"^\| (.*) \| <(\S+)> \| (.*) \|$", flags=re.M)
RULE = "|---|---|---|\n"  # above the first row


def pages(root):
    """(path, text with code, prose alone) of all that may hold links."""
    for path in (path for form in PAGES for path in sorted(root.glob(form))):
        text = prose = path.read_text(encoding="utf-8")
        if path.suffix == ".ipynb":
            cells = nbformat.reads(text, as_version=4).cells
            text = "\n\n".join(cell.source for cell in cells)
            prose = "\n\n".join(c.source for c in cells if c.cell_type == "markdown")
        elif path.suffix != ".md":
            prose = ""
        if path != root / LIST:
            yield path, text, CODE.sub("", prose)


def outside(root=ROOT):
    """{address: the pages that name it}, but for the project's own."""
    found, own = {}, address.read(root).partition("//")[2]
    for path, text, _ in pages(root):
        papers = [f"https://arxiv.org/abs/{number}" for number in ARXIV.findall(text)]
        for url in [*URL.findall(text), *papers]:
            if not NO_PLACE.search(url) and not (own and own in url):
                found.setdefault(url, {})[path.relative_to(root).as_posix()] = True
    return found


def anchors(text):
    """What `#...` may name in a page: its headings, as GitHub and JupyterLab do."""
    titles = re.findall(r"^#+ (.+)$", text, flags=re.M)
    return {re.sub(r"[^\w\- ]", "", t.lower()).replace(" ", "-") for t in titles}


def inside(root=ROOT):
    """Complaints about links to files and headings that are not there."""
    texts = {path: text for path, text, _ in pages(root)}
    for path, _, prose in pages(root):
        for link in INNER.findall(prose):
            name, _, anchor = link.partition("#")
            target = (path.parent / name).resolve() if name else path
            here = f"{path.relative_to(root)}: {link}"
            if not target.exists():
                yield f"{here} is not there"
            elif anchor and anchor not in anchors(texts.get(target, "")):
                yield f"{here} names no heading of that page"


def known(root=ROOT):
    """{address: (what it is, when it was seen)} of the list."""
    text = (root / LIST).read_text(encoding="utf-8")
    return {url: (what, seen) for what, url, seen in ROW.findall(text)}


def check(root=ROOT):
    """All complaints."""
    rows, told = known(root), [*inside(root)]
    for url, where in outside(root).items():
        if not rows.get(url, ("",))[0].strip():
            remedy = f"run python -m tools.links, and say in {LIST} what it is"
            told.append(f"{', '.join(where)}: {url} is not listed; {remedy}")
    return told


def ask(url):
    """Why an address does not answer; empty if it does."""
    try:
        request = urllib.request.Request(url, headers={"User-Agent": "minqwen-links"})
        urllib.request.urlopen(request, timeout=20).close()
    except Exception as error:  # whatever a server does
        return str(error)
    return ""


def write(rows, root=ROOT):
    """Put {address: (what, seen)} into the list, below what it says before."""
    head = (root / LIST).read_text(encoding="utf-8").partition(RULE)[0]
    lines = [f"| {what} | <{url}> | {seen} |\n" for url, (what, seen) in rows.items()]
    (root / LIST).write_text(head + RULE + "".join(lines), encoding="utf-8")


def main():
    rows = known()
    rows = {url: rows.get(url, ("", "not seen")) for url in sorted(outside())}
    silent = {}
    for url in rows if "--outside" in sys.argv[1:] else ():
        if why := ask(url):
            silent[url] = why
        else:
            rows[url] = (rows[url][0], f"{date.today()}, answered")
    write(rows)
    told = check() + [f"{url} does not answer: {why}" for url, why in silent.items()]
    print(*told, f"{len(rows)} addresses", sep="\n")
    sys.exit(bool(told))


if __name__ == "__main__":
    main()
