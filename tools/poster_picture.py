"""The picture of the architecture in README.md: the poster that notebook 00 shows.

python -m tools.poster_picture [FILE]        a FILE.pdf prints sharper
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "notebooks"))

from course import png  # noqa: E402
from poster import COLOURS, poster  # noqa: E402


def main(path):
    fig, _ = poster()
    if path.suffix == ".png":
        path.write_bytes(png(fig, COLOURS, flat=True)[0])
    else:
        fig.savefig(path)
    print(f"{path.name}: {path.stat().st_size // 1000} kB")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "assets" / "poster.png")
