"""MemoryBoard: pairs written by hand into two small memories, for notebook 04."""

import torch
import traitlets

from ..errors import InputError
from ..model.delta import delta_step
from .base import SIGNED, View, colours
from .bundle import widget


class MemoryBoard(View):
    """Two memories of size x size numbers, Hebbian and delta, that get the same writes.

    pairs: (key, value), `size` numbers each; the two of notebook 04 where not given.
    writes: pairs already written, by their number from 0. Later writes come from the
    browser. `hebbian` and `delta` are the memories as they stand, [size, size]. Raises
    InputError where a pair has another size, or a write names no pair.
    """

    _esm = widget("board/view.mjs")
    size = traitlets.Int(2, min=2, max=8).tag(sync=True)
    pairs = traitlets.List(traitlets.Dict()).tag(sync=True)
    writes = traitlets.List(traitlets.Dict()).tag(sync=True)
    asked = traitlets.Int(-1).tag(sync=True)

    def __init__(self, pairs=(([1, 0], [2, 1]), ([0.6, 0.8], [0, 5])), writes=()):
        size = len(pairs[0][0]) if pairs else 0
        if not 2 <= size <= 8:
            raise InputError(f"a board is 2 to 8 numbers wide, not {size}; see `pairs`")
        made = [
            {"key": [float(x) for x in key], "value": [float(x) for x in value]}
            for key, value in pairs
        ]
        for key, value in pairs:
            if not len(key) == len(value) == size:
                raise InputError(
                    f"every key and value needs {size} numbers, as the first key has; "
                    f"got {list(key)} and {list(value)}"
                )
        for write in writes:
            if not 0 <= write < len(made):
                raise InputError(f"writes: there is no pair {write} of {len(made)}")
        strong = {"beta": 1.0, "keep": 1.0}
        done = [{"pair": i, **made[i], **strong} for i in writes]
        super().__init__(size=size, pairs=made, writes=done)

    @property
    def hebbian(self):
        """The memory that adds every value: [size, size], fp64."""
        state = torch.zeros(self.size, self.size, dtype=torch.float64)
        for key, value, beta, keep in map(tensors_of, self.writes):
            state = keep * state + torch.outer(key, beta * value)
        return state

    @property
    def delta(self):
        """The memory that adds what is missing, by the package's own step."""
        state = torch.zeros(1, 1, self.size, self.size, dtype=torch.float64)
        for key, value, beta, keep in map(tensors_of, self.writes):
            key, value = key[None, None], value[None, None]
            gates = {"g": keep.log()[None, None], "beta": beta[None, None]}
            _, state = delta_step(key, key, value, **gates, state=state)
        return state[0, 0]

    def describe(self):
        told = ", ".join(f"k{write['pair'] + 1}" for write in self.writes) or "nothing"
        reads = []
        for i, pair in enumerate(self.pairs, 1):
            key = torch.tensor(pair["key"], dtype=torch.float64)
            added, corrected = row(self.hebbian.T @ key), row(self.delta.T @ key)
            reads.append(f"k{i} reads {added} and {corrected} of {row(pair['value'])}")
        return f"A Hebbian and a delta memory after writing {told}: {'; '.join(reads)}."

    def picture(self):
        from matplotlib.figure import Figure

        figure = Figure(figsize=(6, 2.4 + 0.2 * (self.size > 4)), layout="constrained")
        memories = {"Hebbian memory": self.hebbian, "Delta memory": self.delta}
        for axes, title in zip(figure.subplots(1, 2), memories, strict=True):
            values = memories[title]
            limit = 2.5 * max(1e-9, values.abs().max().item())
            axes.imshow(values, cmap=colours(SIGNED), vmin=-limit, vmax=limit)
            for i, line in enumerate(values.tolist()):
                for j, x in enumerate(line):
                    size = 12 if self.size < 5 else 7
                    axes.text(j, i, f"{x:.3g}", ha="center", va="center", fontsize=size)
            axes.set(title=title, xticks=[], yticks=[])
        return figure


def tensors_of(write):
    """A write as fp64 tensors: key, value, beta, and what is kept."""
    names = ("key", "value", "beta", "keep")
    return [torch.tensor(write[name], dtype=torch.float64) for name in names]


def row(values):
    return "(" + ", ".join(f"{float(x):.4g}" for x in values) + ")"
