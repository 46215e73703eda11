"""Which experts a model chose, for every token in every layer: the routing explorer."""

import re
import time
from textwrap import fill

import numpy as np
import traitlets

from ..errors import InputError
from ..trace.labels import labelled
from ..trace.trace import Trace
from .base import View, colours
from .bundle import widget

ORDERS = ("as numbered", "by load", "by specialisation")
COLOURS = ("", "weight", "rank", "load", "lift", "kind", "margin", "differ")
PACE = 0.1  # seconds: a growing view is told no oftener
INK = ("#f5f6f8", "#8fc0ee", "#4189d0", "#164f9a", "#06214a")  # as in shared/look.mjs


class RoutingExplorer(View):
    """All layers and experts of a trace at once, to be played, searched and compared.

    trace: a minqwen.Trace; other: a second one, of a text that begins alike. It is
    drawn in the lower half of every row, and choices that differ are marked; `names`
    are what the two are called, such as ("bf16", "fp8"). labels: one a token, such as
    its task, or a file of them, as of trace/labels.py: they take the place of kinds.

    `token` is where the reader is in the text. `selected` is what is selected:
    {"token": t}, {"tokens": [start, end]}, {"layer": l}, {"layer": l, "expert": e}, or
    {} for the whole text; `tokens` are the positions it stands for. `order` is one of
    ORDERS, `colour` what the map's colour means, one of COLOURS ("": what fits). All
    but `tokens` follow the browser and can be set; InputError for a place that the
    trace does not have.

    live: instead of a trace, what `minqwen.record` gives, within its block: the view
    grows as the model reads and writes, and who is at its end goes along. A sequence
    that is begun anew takes the place of the one before.
    """

    _esm = widget("routing/view.mjs")
    token = traitlets.Int().tag(sync=True)
    selected = traitlets.Dict().tag(sync=True)
    order = traitlets.Enum(ORDERS, ORDERS[0]).tag(sync=True)
    colour = traitlets.Enum(COLOURS, "").tag(sync=True)
    find = traitlets.Unicode().tag(sync=True)  # what is searched for in the text

    def __init__(self, trace=None, other=None, token=None, selected=None,
                 order=ORDERS[0], names=(), colour="", live=None,
                 labels=None):  # fmt: skip
        traits = {"order": order, "colour": colour, "names": list(names)}
        self.source, self.growing, self.sent, self.told = None, live, 0, -PACE
        if live is not None:
            if trace is not None or other is not None:
                raise InputError("give a trace, perhaps with another, or live alone")
            super().__init__(**traits)
            return live.follow(self._grow)
        if trace is None:
            raise InputError("give a trace, or live=, a recording under way")
        if "expert_ids" not in trace.tensors:
            raise InputError("the trace holds no expert_ids: its model has no experts")
        if labels is not None:
            trace = labelled(trace, labels)
        if other is not None:
            trace, other = alike(trace, other)
            traits["other"] = other.compact()
        self.source = trace
        if token is None:
            token = (selected or {}).get("token", opens_at(trace))
        traits["token"] = token
        traits["selected"] = {"token": token} if selected is None else selected
        super().__init__(trace, **traits)

    def _grow(self):
        """Send what came since the whole trace was sent, or the whole once more."""
        done, now = self.growing.recorder is None, time.monotonic()
        if not done and now - self.told < PACE:
            return
        trace, old, begun = self.growing.now(), self.source, self.sent
        if trace is None:
            return
        self.source, self.told, last = trace, now, trace.length - 1
        same = old is not None and last + 1 >= old.length
        same = same and (trace["token_ids"][: old.length] == old["token_ids"]).all()
        # Views that come later start from the whole, and miss nothing after it.
        if done or not same or last - begun >= max(32, begun // 4):
            with self.hold_sync():
                self.trace, self.sent = trace.compact(), last + 1
                if not same:
                    self.token, self.selected = last, {"token": last}
        elif last + 1 > begun:
            self.send({"kind": "grow", "from": begun}, [beyond(trace, begun).compact()])

    @property
    def tokens(self):
        """Positions of the selected tokens; for an expert, of those that chose it."""
        chosen, ids = self.selected, self.source["expert_ids"]
        if "token" in chosen:
            return np.array([chosen["token"]])
        if "tokens" in chosen:
            return np.arange(*chosen["tokens"])
        if "expert" not in chosen:
            return np.arange(self.source.length)
        return np.flatnonzero((ids[:, chosen["layer"]] == chosen["expert"]).any(1))

    @traitlets.validate("token")
    def _token(self, proposal):
        self._need("token", proposal.value, self.source.length)
        return proposal.value

    @traitlets.validate("selected")
    def _selected(self, proposal):
        chosen = {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in proposal.value.items()
        }
        L = self.source["expert_ids"].shape[1]
        E = self.source.meta["num_experts"]
        ends = {"token": self.source.length, "layer": L, "expert": E}
        if set(chosen) == {"tokens"} and is_span(chosen["tokens"]):
            for place, value in zip(("start", "end"), chosen["tokens"], strict=True):
                self._need(place, value, self.source.length + (place == "end"))
        elif set(chosen) in ({"token"}, {"layer"}, {"layer", "expert"}, set()):
            for name, value in chosen.items():
                self._need(name, value, ends[name])
        else:
            raise InputError(
                f"selected: {chosen} is no selection; give {{'token': t}}, {{'tokens': "
                "[start, end]}, {'layer': l}, {'layer': l, 'expert': e} or {}"
            )
        return chosen

    def _need(self, name, value, end):
        if type(value) is not int or not 0 <= value < end:
            raise InputError(
                f"{name}: there is no {value!r} in this trace; give 0 to {end - 1}"
            )

    @traitlets.observe("token")
    def _moved(self, change):
        """A selected token is always the one the reader is at."""
        if "token" in self.selected:
            self.selected = {"token": change.new}

    @traitlets.observe("selected")
    def _chose(self, change):
        if "token" in change.new:
            self.token = change.new["token"]

    def describe(self):
        if self.source is None:
            return "Nothing is recorded yet: no token is read."
        T, L, K = self.source["expert_ids"].shape
        E = self.source.meta["num_experts"]
        if "token" in self.selected:
            who = f"for token {self.token} of {T}, {self.source.tokens[self.token]!r}"
        else:
            who = f"for {len(self.tokens)} of {T} tokens, darker where more often"
        return (
            f"A map of {L} layers by {E} experts: lit are the {K} experts that each "
            f"layer chose {who}."
        )

    def picture(self):
        from matplotlib.figure import Figure

        if self.source is None:
            return Figure((7.8, 0.5))
        shares, of = self._shares()
        L, E = shares.shape
        figure = Figure((7.8, 1.4 + min(4, 0.25 * L)), dpi=100, layout="constrained")
        axis = figure.subplots()
        # By the square root, so that small ones are seen, as in the browser.
        shown = axis.imshow(
            np.sqrt(shares), cmap=colours(INK), aspect="auto", interpolation="nearest"
        )
        who = self.describe().split(": lit are ", 1)[1]
        title = fill(f"Lit are {who}", 96)
        axis.set_title(title, loc="left", fontsize=10, parse_math=False)
        axis.set(xlabel="expert", ylabel="layer")
        for each in (axis.xaxis, axis.yaxis):
            each.get_major_locator().set_params(integer=True)
        top = float(shares.max()) or 1.0
        ticks = [0, top / 4, top]
        bar = figure.colorbar(shown, ax=axis, fraction=0.03, pad=0.01, label=of)
        bar.set_ticks(np.sqrt(ticks), labels=[f"{tick:.2f}" for tick in ticks])
        return figure

    def _shares(self):
        """How strongly cells are lit, [L, E], and what that is: a single token's
        weights, or the share of several that chose an expert."""
        ids = self.source["expert_ids"][self.tokens]  # [n, L, K]
        n, L, K = ids.shape
        lit = np.zeros((L, self.source.meta["num_experts"]), np.float32)
        weights = self.source.tensors.get("expert_weights")
        weighed = n == 1 and weights is not None
        if weighed:
            share = weights[self.tokens].astype(np.float32)
            share = share / share.sum(-1, keepdims=True)
        else:
            share = np.full(ids.shape, 1 / max(1, n), np.float32)
        layers = np.broadcast_to(np.arange(L)[:, None], (n, L, K))
        np.add.at(lit, (layers, ids), share)
        return lit, "weight" if weighed else "share of the tokens"


def opens_at(trace):
    """Where the trace says, else the last word or number of its answer, or its text."""
    texts = trace.meta["tokens"] or ()
    words = [t for t, text in enumerate(texts) if re.match(r"\s*\w", text)]
    return trace.meta.get("opens", {}).get(
        "token", max(words, default=trace.length - 1)
    )


def beyond(trace, start):
    """What the routing view needs of the tokens from `start` on, as a trace."""
    names = [n for n in trace.tensors if "." not in n and n[:6] != "state_"]
    tensors = {name: trace[name][start:] for name in names}
    meta = trace.meta | {"length": trace.length - start, "pictures": []}
    if meta["tokens"] is not None:
        meta["tokens"] = meta["tokens"][start:]
    return Trace(meta, tensors)


def alike(trace, other):
    """Both traces, as far as their texts are the same."""
    if trace.meta["num_experts"] != other.meta["num_experts"]:
        raise InputError(
            f"the traces differ in experts, {trace.meta['num_experts']} and "
            f"{other.meta['num_experts']}; compare two of the same model"
        )
    count = len(trace.compare(other).equal)
    return tuple(t.first(count) if t.length > count else t for t in (trace, other))


def is_span(value):
    return (
        isinstance(value, list)
        and len(value) == 2
        and all(type(place) is int for place in value)
        and value[0] < value[1]
    )
