"""Recording a trace: what routers chose and what the delta rule was fed, by listening.

Nothing of the model is changed: a recorder is one more listener to its taps (taps.py).
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import torch

from ..errors import InputError, number
from ..model.qwen import Qwen
from ..model.shapes import FULL, LINEAR
from ..model.taps import listen
from .columns import columns, overview
from .sequence import Sequence
from .trace import Trace


@contextmanager
def record(
    model: Qwen,
    states: Iterable[tuple[int, int]] = (),
    norms: bool = False,
    processor: Any = None,
) -> Iterator["Recording"]:
    """Record what `model` does in the block; gives a Trace, complete when it ends.

    states: (layer, head) pairs. Of a delta layer's value head, all that its memory can
    be replayed from; of a full layer's query head, its queries and keys. norms: also
    every delta head's state norm, decay and beta, which costs a step of the rule per
    token. processor: gives the tokens their texts.

    Whatever other listeners change, what is recorded is what came of it.

    Calls with a cache continue the sequence that the cache holds, also when it was cut
    back; others begin one. Each row of a batch is a trace of its own in `trace.rows`,
    without its padding; if there is one row, the trace is that row. What `generate` fed
    and did not want is there too: a batch's rows that have ended go on being fed their
    last token, and drafts leave their last guesses. `Trace.first` cuts such ends off.
    """
    if model.ranks > 1:
        raise InputError(
            "one of several processes has some of the heads alone, and no whole trace; "
            "load the model in one process to record it"
        )
    recorder = Recorder(model, check_heads(model.cfg.text, states), norms)
    trace = Recording(recorder, processor)
    try:
        with listen(model, last=True, **recorder.listeners()):
            yield trace
    finally:
        trace.rows, trace.recorder = recorder.rows(), None
    if processor is not None:
        trace.name_tokens(processor)
    for told in recorder.followers:
        told()


class Recording(Trace):
    """The trace that `record` gives. Its rows appear when the block ends."""

    def __init__(self, recorder, processor):
        self.rows, self.recorder, self.processor = [], recorder, processor

    def follow(self, told: Callable[[], None]) -> None:
        """Within the block: call `told` after each call of the model, and at the end.

        It may ask for `now`, which takes the longer the more is recorded.
        """
        if self.recorder is None:
            raise InputError("the recording has ended; follow it within its block")
        self.recorder.followers.append(told)

    def now(self) -> Trace | None:
        """What is recorded so far of the latest sequence (its last row), if any."""
        if self.recorder is None:
            return self.rows[-1] if self.rows else None
        rows = self.recorder.rows()
        if rows and self.processor is not None:
            rows[-1].name_tokens(self.processor)
        return rows[-1] if rows else None

    @property
    def meta(self):
        return self._only().meta

    @property
    def tensors(self):
        return self._only().tensors

    def _only(self):
        if len(self.rows) == 1:
            return self.rows[0]
        raise InputError(
            f"the recording holds {len(self.rows)} sequences; take one from trace.rows"
            if self.rows
            else "nothing is recorded: call the model in the block, and read after it"
        )

    def __repr__(self):
        return repr(self.rows[0]) if len(self.rows) == 1 else f"Recording({self.rows})"


def check_heads(text, states, name="states"):
    """The pairs, each once and in order; InputError for one that does not exist."""
    try:
        heads = sorted({(layer, head) for layer, head in states})
    except (TypeError, ValueError):
        raise InputError(
            f"{name} must be pairs of layer and head, such as [(3, 0)]"
        ) from None
    for layer, head in heads:
        number(layer, f"{name}: layer", int)
        number(head, f"{name}: head", int)
        if not 0 <= layer < text.num_hidden_layers:
            raise InputError(
                f"{name}: there is no layer {layer}; the model has "
                f"{text.num_hidden_layers}, counted from 0"
            )
        full = text.layer_types[layer] == FULL
        count = text.num_attention_heads if full else text.linear_num_value_heads
        if not 0 <= head < count:
            raise InputError(
                f"{name}: layer {layer} has no head {head}; it has {count}, counted "
                "from 0"
            )
    return heads


class Recorder:
    """Listens to one model. `heard` collects what one call of it says, by layer."""

    POOL = 64  # steps of decoding, many and small, of which columns are made at a time

    def __init__(self, model, heads, norms):
        self.model, self.heads, self.norms = model, heads, norms
        self.layers = {layer for layer, _ in heads}
        self.blocks = model.model.language_model.layers
        self.sequences, self.by_cache = [], WeakKeyDictionary()
        self.heard, self.call = {}, None  # of the call under way
        self.pool, self.pooled = [], None  # (ids, real, heard) of calls, their sequence
        self.followers = []  # told when a call has ended

    def listeners(self):
        """Only what will be kept, so that fast forms run where nothing is."""
        kinds = {self.blocks[i].kind for i in self.layers}
        names = ["router", "shared_gate"]
        if self.norms or LINEAR in kinds:
            names.append("rule")
        if FULL in kinds:
            names.append("qkv")
        heard = {name: partial(self.hear, name) for name in names}
        return heard | {"tokens": self.begin, "final_norm": self.end}

    def hear(self, name, layer, **said):
        routing = name in ("router", "shared_gate")  # is kept of every layer
        if routing or name == "rule" and self.norms or layer in self.layers:
            self.heard[name, layer] = tuple(said.values())

    def begin(self, layer, input_ids, real, pictures, cache):
        """A call begins: note which sequence it continues, and its states before."""
        past, T = 0 if cache is None else cache.length, input_ids.shape[1]
        sequence = self.by_cache.get(cache) if past else None
        new = sequence is None or past < sequence.start_at
        if new or sequence is not self.pooled or past != sequence.end or T > 1:
            self.empty()
        before = self.states(cache) if past and (new or not self.pool) else {}
        self.call = past, None if new else sequence, before
        self.call += input_ids, real, pictures, cache
        self.heard = {}

    def end(self, layer, x):
        """It went well: keep what was heard."""
        past, sequence, before, ids, real, pictures, cache = self.call
        self.call = None  # else a cache would live as long as the recording
        if sequence is None:
            sequence = Sequence(self.model.cfg, past, before)
            self.sequences.append(sequence)
            if cache is not None:
                self.by_cache[cache] = sequence
        if past != sequence.end:
            sequence.cut(past)
        if not self.pool:
            self.pooled, self.before = sequence, before
        self.pool.append((ids.clone(), real, self.heard))
        self.heard = {}  # what the draft head says next is nobody's
        sequence.read(ids, pictures)
        if ids.shape[1] > 1 or len(self.pool) == self.POOL:
            self.empty()
        for told in self.followers:
            told()

    def states(self, cache):
        """The states of the delta layers listened to: {layer: [B, H, K, V]}."""
        return {
            i: cache.layers[i].state.clone()
            for i, block in enumerate(self.blocks)
            if block.kind == LINEAR and (self.norms or i in self.layers)
        }

    @torch.no_grad()
    def empty(self):
        """Make columns of the calls in the pool."""
        if not self.pool:
            return
        ids, reals, calls = zip(*self.pool, strict=True)
        found = columns(calls, ids[0].shape, self.heads)
        if self.norms:
            found |= overview(calls, self.before)
        reals = [
            torch.ones_like(part, dtype=torch.bool) if real is None else real
            for part, real in zip(ids, reals, strict=True)
        ]
        found |= {"token_ids": torch.cat(ids, 1), "real": torch.cat(reals, 1)}
        self.pooled.kept.append({name: value.cpu() for name, value in found.items()})
        self.pool = []

    def rows(self):
        """A Trace for each row of each sequence, in the order they began."""
        self.empty()
        return [row for sequence in self.sequences for row in sequence.rows()]
