"""A trace in memory (its tensors' shapes are in file.py), and two compared."""

import codecs
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputError, number, show
from ..files import write_whole
from . import file as trace_file

HALVED = ("q", "k", "v")  # of a head: a browser needs them to three digits


class Trace:
    """One sequence's trace: `meta`, as in the file, and `tensors`, NumPy arrays.

    `trace["router_margin"]` is one of the tensors. `rows` lists the trace itself; a
    recording of a batch or of several calls has one trace there for each sequence.
    """

    def __init__(self, meta: dict, tensors: dict[str, np.ndarray]) -> None:
        self.meta, self.tensors, self.rows = meta, tensors, [self]

    @classmethod
    def load(cls, path: str | Path) -> "Trace":
        """Read a trace file; InputError, one sentence, for anything wrong with it."""
        return cls(*trace_file.read_trace(path))

    def save(self, path: str | Path) -> None:
        """Write it: the same bytes for the same trace, never half a file."""
        trace_file.check_trace(self.meta, self.tensors, show(path))
        write_whole(path, trace_file.to_bytes(self.meta, self.tensors))

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self.tensors:
            held = show(", ".join(sorted(self.tensors)), 300)
            raise InputError(f"the trace holds no {show(name)}, but {held}")
        return self.tensors[name]

    def __repr__(self):
        parts = [f"{self.length} tokens", f"{len(self.meta['layer_types'])} layers"]
        if self.meta["num_experts"]:
            chosen = self.tensors["expert_ids"].shape[2]
            parts.append(f"{chosen} of {self.meta['num_experts']} experts")
        if self.heads:
            parts.append(f"{len(self.heads)} heads")
        return f"Trace({', '.join(parts)})"

    @property
    def length(self) -> int:
        return self.meta["length"]

    @property
    def tokens(self) -> list[str]:
        """The tokens' texts; where they are not known, their ids in brackets."""
        if self.meta["tokens"] is not None:
            return self.meta["tokens"]
        ids = self.tensors.get("token_ids")
        return [f"[{i}]" for i in (range(self.length) if ids is None else ids)]

    @property
    def heads(self) -> list[tuple[int, int]]:
        """(layer, head) of every head that was recorded, in order."""
        found = (trace_file.HEAD.fullmatch(name) for name in self.tensors)
        return sorted({(int(m[2]), int(m[3])) for m in found if m})

    def name_tokens(self, processor: Any) -> None:
        """Give every token the text that `processor` (a Processor) has for its id."""
        for row in self.rows:
            row.meta["tokens"] = token_texts(processor, row["token_ids"].tolist())

    def first(self, count: int) -> "Trace":
        """A trace of the first `count` tokens, and of the pictures whole in them."""
        number(count, "the number of a trace's first tokens", int, 1, self.length)
        tensors: dict[str, np.ndarray] = {}
        pictures: list[dict] = []
        for name, array in self.tensors.items():
            if not name.startswith("picture."):
                whole = name.endswith(".start")
                tensors[name] = array if whole else array[:count]
        for i, picture in enumerate(self.meta["pictures"]):
            if picture["start"] + picture["rows"] * picture["columns"] <= count:
                tensors[f"picture.{len(pictures)}"] = self[f"picture.{i}"]
                pictures.append(picture)
        meta = self.meta | {"length": count, "pictures": pictures}
        if meta["tokens"] is not None:
            meta["tokens"] = meta["tokens"][:count]
        if meta["prompt_length"] is not None:
            meta["prompt_length"] = min(count, meta["prompt_length"])
        if "labels" in meta:
            labels = meta["labels"]
            meta["labels"] = labels | {"of": labels["of"][:count]}
        if "opens" in meta:
            opens = meta["opens"].items()
            meta["opens"] = {
                k: v if k == "head" else min(v, count - 1) for k, v in opens
            }
        return Trace(meta, tensors)

    def compact(self) -> bytes:
        """The bytes for a browser: weights in steps of 1/255, q, k and v halved."""
        tensors = dict(self.tensors)
        for name, array in self.tensors.items():
            if trace_file.HEAD.fullmatch(name) and name.rsplit(".", 1)[1] in HALVED:
                tensors[name] = array.astype(np.float16)
        weights = tensors.get("expert_weights")
        if weights is not None and weights.dtype != np.uint8:
            rounded = np.rint(weights.astype(np.float32) * 255)
            tensors["expert_weights"] = rounded.astype(np.uint8)
        return trace_file.to_bytes(self.meta, tensors)

    def compare(self, other: "Trace") -> "Comparison":
        """How far two traces of the same tokens chose the same experts: a Comparison.

        Choices are compared as sets, whatever their order. Only the tokens that both
        begin with are compared, so a text that goes on differently is no obstacle.
        """
        mine, theirs = self["expert_ids"], other["expert_ids"]
        if mine.shape[1:] != theirs.shape[1:]:
            raise InputError(
                f"the traces differ in layers and choices, {list(mine.shape[1:])} and "
                f"{list(theirs.shape[1:])}; compare two of the same model"
            )
        T = min(len(mine), len(theirs))
        if "token_ids" in self.tensors and "token_ids" in other.tensors:
            same = self["token_ids"][:T] == other["token_ids"][:T]
            T = T if same.all() else int(same.argmin())
        if T == 0:
            raise InputError(
                "the traces begin with different tokens; nothing to compare"
            )
        equal = np.stack(  # [T, L], how many choices the two share
            [
                (mine[:T, i, :, None] == theirs[:T, i, None, :]).any(2).sum(1)
                for i in range(mine.shape[1])
            ],
            axis=1,
        )
        return Comparison(equal, mine.shape[2], self.tokens[:T])


@dataclass(frozen=True)
class Comparison:
    """Where two traces agree. `equal` [T, L]: how many of the `top_k` are shared."""

    equal: np.ndarray = field(repr=False)
    top_k: int
    texts: list = field(repr=False)

    @property
    def share(self) -> np.ndarray:
        """Per layer, the share of choices that both made: [L], 1 where all agree."""
        return self.equal.mean(0) / self.top_k

    @property
    def tokens(self) -> list[int]:
        """The tokens that at least one layer sends to other experts."""
        return np.flatnonzero((self.equal < self.top_k).any(1)).tolist()

    @property
    def first(self) -> tuple[int, int] | None:
        """(token, layer) of the first difference, or None."""
        if not self.tokens:
            return None
        differ = self.equal[self.tokens[0]] < self.top_k
        return self.tokens[0], int(differ.argmax())

    def __str__(self):
        T, L = self.equal.shape
        if not self.tokens:
            return f"All choices agree, over {T} tokens and {L} layers."
        (t, layer), least = self.first, int(self.share.argmin())
        text = show(repr(self.texts[t]), 40)
        return (
            f"{self.share.mean():.2%} of choices agree; {len(self.tokens)} of {T} "
            f"tokens differ somewhere, first token {t} ({text}) in "
            f"layer {layer}; least alike is layer {least}, {self.share[least]:.2%}."
        )


def token_texts(processor, ids):
    """Each token's text, such that joined they are the whole text."""
    # A character of several tokens belongs to the last of them, so others may be empty.
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    result = []
    for token in ids:
        data = processor.token_bytes(token)
        text = decoder.decode(data)
        if not data:  # a special token: no bytes, but a name
            text = decoder.decode(b"", final=True)
            decoder.reset()
            text += processor.decode([token], skip_special=False)
        result.append(text)
    if result:
        result[-1] += decoder.decode(b"", final=True)
    return result
