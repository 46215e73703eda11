"""Traces that no model made, of any size: what the widgets are tested and timed with.

python -m tools.made_trace FILE [--layers 60 --experts 512 --tokens 2000 --chosen 10]
"""

import argparse
from pathlib import Path

import numpy as np

from minqwen.files import write_whole
from minqwen.trace.file import to_bytes

WORDS = " the| model| router|def|(self|):|\n    |return| x|,| y|7|42|.| Größe| λ|\n"
WORDS = WORDS.split("|")


def made_trace(
    layers=60, experts=512, tokens=2000, chosen=10, seed=0, texts=None, pictures=(),
    weights=True, changed=0.0,
):  # fmt: skip
    """A trace file's bytes, in the format of minqwen/widgets/shared/trace.mjs.

    Experts have favourites among the texts and differ in popularity, as trained ones
    do. pictures: (start, rows, columns) of each; weights=False leaves all but the ids
    out, as other engines do; `changed` moves the logits a little, for a second trace
    that differs where the choice was close.
    """
    rng = np.random.default_rng(seed)
    texts = texts or [WORDS[i] for i in rng.integers(0, len(WORDS), tokens)]
    tokens = len(texts)
    names = sorted(set(texts))
    taste = rng.normal(size=(layers, len(names), experts)).astype(np.float32)
    popular = 0.7 * rng.normal(size=(layers, experts)).astype(np.float32)
    nudge = np.random.default_rng(seed + 1)
    ids = np.empty((tokens, layers, chosen), np.uint16)
    share = np.empty((tokens, layers, chosen), np.uint8)
    margin = np.empty((tokens, layers), np.float16)
    runner_up = np.empty((tokens, layers), np.uint16)
    for t, text in enumerate(texts):
        logits = taste[:, names.index(text)] + popular
        logits = logits + rng.normal(size=logits.shape).astype(np.float32)
        logits += changed * nudge.normal(size=logits.shape).astype(np.float32)
        best = np.argpartition(-logits, chosen, axis=1)[:, : chosen + 1]
        top = np.take_along_axis(logits, best, 1)
        order = np.argsort(-top, axis=1)
        best = np.take_along_axis(best, order, 1)
        top = np.take_along_axis(top, order, 1)
        part = np.exp(top[:, :chosen] - top[:, :1])
        ids[t], runner_up[t] = best[:, :chosen], best[:, chosen]
        share[t] = np.round(255 * part / part.sum(1, keepdims=True))
        margin[t] = top[:, chosen - 1] - top[:, chosen]
    tensors = {"expert_ids": ids, "token_ids": np.arange(tokens, dtype=np.uint32)}
    if weights:
        gate = rng.uniform(0.1, 0.9, (tokens, layers)).astype(np.float16)
        tensors |= {"expert_weights": share, "router_margin": margin}
        tensors |= {"runner_up": runner_up, "shared_gate": gate}
    for i, (_, rows, columns) in enumerate(pictures):
        tensors[f"picture.{i}"] = picture(16 * rows, 16 * columns)
    kinds = [("linear", "full")[i % 4 == 3] + "_attention" for i in range(layers)]
    meta = {
        "version": 1, "model": f"made, {layers} x {experts}", "source": "made_trace",
        "length": tokens, "layer_types": kinds, "num_experts": experts, "tokens": texts,
        "prompt_length": None,
        "pictures": [
            {"kind": "image", "start": start, "rows": rows, "columns": columns}
            for start, rows, columns in pictures
        ],
    }  # fmt: skip
    return to_bytes(meta, tensors)


def picture(height, width):
    """A ring on paper, uint8 [height, width, 3]."""
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    ring = np.abs(np.hypot(x, y) - 0.6) < 0.18
    return np.where(ring[..., None], [40, 60, 120], [245, 240, 230]).astype(np.uint8)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file")
    sizes = {"layers": 60, "experts": 512, "tokens": 2000, "chosen": 10}
    for name, number in sizes.items():
        parser.add_argument(f"--{name}", type=int, default=number)
    options = vars(parser.parse_args())
    write_whole(Path(options.pop("file")), made_trace(**options))


if __name__ == "__main__":
    main()
