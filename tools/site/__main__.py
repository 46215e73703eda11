"""Builds the site: the course, the explorers and the package's reference as pages.

    python -m tools.site OUT

Sphinx makes them from a copy of the repository's texts (pages.py) and of the notebooks
as they are stored (cells.py). Nothing is run but the small model, whose traces the live
pages show. They ask nothing of any network, and open from a disk as from a server.
"""

import argparse
import shutil
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from sphinx.cmd.build import build_main

from minqwen.errors import InputError
from tools import gallery

from . import pages

HERE = Path(__file__).parent


def main():
    parser = argparse.ArgumentParser(
        prog="python -m tools.site", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("out", metavar="OUT", type=Path, help="a folder, made anew")
    out = parser.parse_args().out
    if out.exists() and any(out.iterdir()) and not (out / "searchindex.js").exists():
        sys.exit(f"minqwen: {out} is not empty, and holds no site; name another folder")
    shutil.rmtree(out, ignore_errors=True)
    with TemporaryDirectory() as folder:
        source, doctrees = Path(folder, "source"), Path(folder, "doctrees")
        try:
            pages.lay(source)
        except InputError as error:
            sys.exit(f"minqwen: {error}")
        words = ["-q", "-W", "--keep-going", "-j", "auto", "-d", doctrees]
        if build_main([str(word) for word in (*words, "-c", HERE, source, out)]):
            sys.exit("minqwen: the site was not built; what is wrong stands above")
    gallery.main([str(out / "live")])
    files = [file for file in out.rglob("*") if file.is_file()]
    size = sum(file.stat().st_size for file in files) / 1e6
    print(f"{len(files)} files, {size:.0f} MB: {out / 'index.html'}")


if __name__ == "__main__":
    main()
