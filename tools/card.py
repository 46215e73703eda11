"""Makes the small model's card again.

python -m tools.card [FOLDER]           all figures and the page, in ten minutes
python -m tools.card --page [FOLDER]    the page alone, of figures that are there
"""

import argparse
import sys

from minqwen.errors import InputError
from minqwen.files import ASSETS
from minqwen.train.card import write_card, write_page


def main():
    parser = argparse.ArgumentParser(
        prog="python -m tools.card", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("folder", nargs="?", default=ASSETS / "tiny")
    parser.add_argument("--page", action="store_true")
    options = parser.parse_args()
    try:
        (write_page if options.page else write_card)(options.folder)
    except InputError as error:
        sys.exit(f"minqwen: {error}")


if __name__ == "__main__":
    main()
