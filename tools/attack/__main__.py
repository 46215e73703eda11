"""The table: of each category what was tried, what held, and the first that did not."""

import argparse
import os
import warnings
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter

os.environ |= {"TOKENIZERS_PARALLELISM": "false", "RUST_BACKTRACE": "0"}
import torch  # noqa: E402  (after what it and others read once)

from . import CATEGORIES, judge  # noqa: E402


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=CATEGORIES, nargs="+", default=CATEGORIES)
    parser.add_argument("--count", type=int, help="of each category, evenly spread")
    parser.add_argument("--faults", type=int, default=5, help="shown of each category")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)  # others would not outlive a fork
    print(f"{'category':<10}{'cases':>7}{'tried':>7}{'held':>7}{'seconds':>9}")
    wrong = 0
    for name in options.only:
        begun = perf_counter()
        with TemporaryDirectory(prefix="attack") as folder:
            made = import_module(f"tools.attack.{name}").cases(Path(folder))
            cases = made[:: max(1, len(made) // (options.count or len(made)))]
            faults = judge(cases)
        wrong += len(faults)
        counts = len(made), len(cases), len(cases) - len(faults)
        row = "".join(f"{count:>7}" for count in counts)
        print(f"{name:<10}{row}{perf_counter() - begun:>9.0f}", flush=True)
        for place in sorted(faults)[: options.faults]:
            print(f"    {ascii(cases[place].name)}: {faults[place]}")
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
