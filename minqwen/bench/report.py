"""What a bench measured, kept as JSON and drawn."""

import json
import statistics

from ..files import write_whole


def write(folder, result):
    """bench.json and, where matplotlib is installed, bench.png."""
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(result, indent=1, sort_keys=True) + "\n"
    write_whole(folder / "bench.json", text.encode())
    try:
        import matplotlib

        matplotlib.use("Agg")
    except ImportError:
        return
    draw(result).savefig(folder / "bench.png", dpi=150, bbox_inches="tight")


def draw(result):
    """Tokens a second against context, a panel for prefill and one for decoding."""
    import matplotlib.pyplot as plt

    dtypes = sorted({run["dtype"] for run in result["runs"]})
    fig, axes = plt.subplots(
        len(dtypes), 2, figsize=(8, 3 * len(dtypes)), squeeze=False
    )
    for axis_row, dtype in zip(axes, dtypes, strict=True):
        runs = [run for run in result["runs"] if run["dtype"] == dtype]
        for axis, part in zip(axis_row, ("prefill", "decode"), strict=True):
            for name, marker in zip(runs[0]["contestants"], "osv^", strict=False):
                x = [run["context"] for run in runs]
                middle = [
                    statistics.median(run["contestants"][name][part]) for run in runs
                ]
                count = x if part == "prefill" else [1] * len(x)
                speed = [n / s for n, s in zip(count, middle, strict=True)]
                axis.plot(x, speed, marker=marker, label=name)
            axis.set_xscale("log", base=2)
            axis.set_ylim(bottom=0)
            axis.set_title(f"{part}, {dtype}", loc="left")
            axis.set_xlabel("tokens in the context")
            axis.set_ylabel("tokens a second")
    axes[0, 1].legend(frameon=False, fontsize=8)
    fig.tight_layout()
    return fig
