"""A label for each token of a trace: its class, document, task or language."""

import csv
import io
import json
from collections import Counter
from pathlib import Path

from ..errors import InputError, show
from ..files import read_whole
from .engines import read_npy
from .trace import Trace

MOST = 8  # names told apart, as many as there are colours for them
REST = "others"


def labelled(trace, labels):
    """The Trace with `labels`, one text or number a token, in its metadata.

    labels: a list, an array [T], or the path of a .npy, .json (a list) or .csv (one
    label a line) file. The most frequent keep their names; beyond MOST, all further
    ones are called REST. InputError where there are more or fewer than tokens.
    """
    values, name = labels, "labels"
    if isinstance(labels, str | Path):
        values, name = read_labels(Path(labels)), show(Path(labels).name)
    values = values.tolist() if hasattr(values, "tolist") else list(values)
    if not all(isinstance(value, str | int | float | bool) for value in values):
        raise InputError(f"{name}: labels must be texts or numbers, one a token")
    if len(values) != trace.length:
        raise InputError(
            f"{name}: {len(values)} labels for {trace.length} tokens; give one for each"
        )
    texts = [str(value).encode(errors="replace").decode()[:60] for value in values]
    names = [text for text, _ in Counter(texts).most_common()]
    if len(names) > MOST:
        kept = [text for text in names if text != REST][: MOST - 1]
        names, texts = [*kept, REST], [t if t in kept else REST for t in texts]
    of = {text: n for n, text in enumerate(names)}
    meta = {"names": names, "of": [of[text] for text in texts]}
    return Trace(trace.meta | {"labels": meta}, trace.tensors)


def read_labels(path):
    """What a file of labels holds, as a list or an array."""
    data = read_whole(path)
    try:
        if path.suffix == ".npy":
            return read_npy(io.BytesIO(data), show(path.name))
        if path.suffix == ".csv":
            return [row[0] for row in csv.reader(data.decode().splitlines())]
        if path.suffix == ".json" and isinstance(values := json.loads(data), list):
            return values
    except (ValueError, IndexError, csv.Error, RecursionError) as error:
        if isinstance(error, InputError):
            raise
    raise InputError(
        f"{show(path.name)} is no list of labels; give a .npy, a .json list, or a .csv "
        "with one label a line"
    )
