"""What a bench measured, as JSON and as a picture."""

import io
import statistics
from pathlib import Path

from ..files import as_json, write_whole


def keep_result(folder, name, result, draw):
    """NAME.json and, where matplotlib is installed, NAME.png."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / f"{name}.json", as_json(result))
    try:
        import matplotlib

        matplotlib.use("Agg")
    except ImportError:
        return
    picture = io.BytesIO()
    draw(result).savefig(picture, format="png", dpi=110, bbox_inches="tight")
    write_whole(folder / f"{name}.png", picture.getvalue())


def tokens_a_second(run, part, name):
    count = run["context"] if part == "prefill" else 1
    return count / statistics.median(run["contestants"][name][part])


def draw_speeds(result):
    """Tokens a second against context, a panel for prefill and one for decoding."""
    import matplotlib.pyplot as plt

    dtypes = sorted({run["dtype"] for run in result["runs"]})
    fig, axes = plt.subplots(
        len(dtypes), 2, figsize=(8, 3 * len(dtypes)), squeeze=False
    )
    for axis_row, dtype in zip(axes, dtypes, strict=True):
        runs = [run for run in result["runs"] if run["dtype"] == dtype]
        for axis, part in zip(axis_row, ("prefill", "decode"), strict=True):
            names = dict.fromkeys(n for run in runs for n in run["contestants"])
            for name, marker in zip(names, "osv^D", strict=False):
                there = [run for run in runs if name in run["contestants"]]
                there = [run for run in there if part == "decode" or run["read"]]
                speed = [tokens_a_second(run, part, name) for run in there]
                x = [run["context"] for run in there]
                axis.plot(x, speed, marker=marker, label=name)
            axis.set_xscale("log", base=2)
            axis.set_ylim(bottom=0)
            axis.set_title(f"{part}, {dtype}", loc="left")
            axis.set_xlabel("tokens in the context")
            axis.set_ylabel("tokens a second")
    axes[0, 1].legend(frameon=False, fontsize=8)
    fig.tight_layout()
    return fig


def draw_growth(result):
    """Against context: time a token of one text; tokens a second of a full memory."""
    import matplotlib.pyplot as plt

    fig, (one, batch) = plt.subplots(1, 2, figsize=(8, 3.2))
    for name, marker in zip(result["one"][0]["rows"], "os", strict=True):
        for axis, runs in ((one, result["one"]), (batch, result["batch"])):
            runs = [run for run in runs if run["seconds"][name]]
            x = [run["context"] for run in runs]
            took = [statistics.median(run["seconds"][name]) for run in runs]
            y = [s * 1e3 for s in took]
            if axis is batch:
                y = [r["rows"][name] / s for r, s in zip(runs, took, strict=True)]
            axis.plot(x, y, marker=marker, label=name)
    one.set_title("ms a token, one text", loc="left")
    memory = result["memory"] / 2**30
    batch.set_title(f"tokens a second, {memory:.0f} GiB full of texts", loc="left")
    batch.set_yscale("log", base=2)
    batch.yaxis.set_major_formatter(lambda y, _: f"{y:g}")
    one.set_ylim(bottom=0)
    for axis in (one, batch):
        axis.set_xscale("log", base=2)
        ticks = [run["context"] for run in result["one"]]
        axis.set_xticks(ticks, [f"{n // 1024}K" for n in ticks])
        axis.minorticks_off()
        axis.set_xlabel("tokens in the context")
    one.legend(frameon=False, fontsize=8)
    fig.tight_layout()
    return fig
