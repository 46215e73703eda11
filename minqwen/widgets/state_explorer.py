"""StateExplorer: the memory of a delta layer's head, as it is written."""

import numpy as np
import torch
import traitlets

from ..errors import InputError
from ..model.shapes import LINEAR
from .base import SIGNED, View, colours
from .bundle import widget

STEPS = ("forget", "ask", "compare", "write", "answer")
WINDOW = 160  # tokens that a map shows, as in state/data.mjs


class StateExplorer(View):
    """One delta head's state replayed from a trace: every step, what each token's key
    would return later, and which tokens an output comes from.

    trace: a minqwen.Trace recorded with states=[(layer, head), ...]; heads of full
    layers among them are shown for comparison. other: a second trace of a text that
    begins alike, whose memory is told beside the first's; `names`: of both. head
    (layer, head; where the trace opens, or the one that forgets least, where not
    given), token (likewise, or where the state is fullest), probe (the token whose key
    is asked) and step (one of STEPS) follow the browser and can be set; InputError for
    a head or token that the trace does not have. `state` is the memory after `token`.
    """

    _esm = widget("state/view.mjs")
    head = traitlets.Tuple(traitlets.Int(), traitlets.Int()).tag(sync=True)
    token = traitlets.Int().tag(sync=True)
    probe = traitlets.Int().tag(sync=True)
    step = traitlets.Enum(STEPS, STEPS[-1]).tag(sync=True)

    def __init__(self, trace, head=None, token=None, probe=None, step=STEPS[-1],
                 other=None, names=()):  # fmt: skip
        kinds = trace.meta["layer_types"]
        self.recorded = [pair for pair in trace.heads if kinds[pair[0]] == LINEAR]
        if not self.recorded:
            raise InputError(
                "the trace holds no head of a delta layer; record it with "
                "states=[(layer, head)]"
            )
        self.source = trace
        opens = trace.meta.get("opens", {})
        head = opens.get("head") if head is None else head
        head = max(self.recorded, key=self._kept) if head is None else tuple(head)
        if head in self.recorded:
            fullest = self._fullest(head)
            opens = {"token": fullest, "probe": fullest // 3} | opens
        super().__init__(
            trace,
            head=head,
            token=opens.get("token", 0) if token is None else token,
            probe=opens.get("probe", 0) if probe is None else probe,
            step=step,
            other=b"" if other is None else other.compact(),
            names=list(names),
        )

    def _kept(self, head):
        """The mean of a head's g, zero for one that forgets nothing."""
        return self.source["delta.{}.{}.g".format(*head)].mean()

    def _fullest(self, head):
        """The token after which its state is longest; the last, where none was told."""
        norms = self.source.tensors.get("state_norm")  # [T, layers, heads]
        if norms is None:
            return self.source.length - 1
        kinds = self.source.meta["layer_types"][: head[0]]
        return int(norms[:, kinds.count(LINEAR), head[1]].argmax())

    @traitlets.validate("head")
    def _head(self, proposal):
        if proposal.value not in self.recorded:
            held = ", ".join(map(str, self.recorded[:4]))
            more = f" and {len(self.recorded) - 4} more" * (len(self.recorded) > 4)
            raise InputError(
                f"head: the trace holds no delta head {proposal.value}; "
                f"it has {held}{more}"
            )
        return proposal.value

    @traitlets.validate("token", "probe")
    def _position(self, proposal):
        if not 0 <= proposal.value < self.source.length:
            raise InputError(
                f"{proposal.trait.name}: there is no token {proposal.value}; the trace "
                f"has {self.source.length}, counted from 0"
            )
        return proposal.value

    @property
    def state(self):
        """The memory after `token`: [K, V], fp32."""
        return self._replay(self.token + 1)

    def _parts(self):
        layer, head = self.head
        names = ("q", "k", "v", "g", "beta")
        arrays = [self.source[f"delta.{layer}.{head}.{name}"] for name in names]
        return [torch.tensor(array, dtype=torch.float32) for array in arrays]

    def _replay(self, until):
        """The state after `until` tokens: [K, V]."""
        _, k, v, g, beta = self._parts()
        name = "delta.{}.{}.start".format(*self.head)
        start = self.source.tensors.get(name, np.zeros((k.shape[1], v.shape[1])))
        state = torch.tensor(start, dtype=torch.float32)
        for t in range(until):
            state = state * g[t].exp()
            error = beta[t] * (v[t] - state.T @ k[t])
            state = state + torch.outer(k[t], error)
        return state

    def maps(self):
        """What two of the maps show, [W, W] by (a token, now), and their first token.

        W are the tokens up to `token`, WINDOW at the most; NaN where a token is ahead.
        The first map is the share of its value that a token's key gets back; the second
        how the weights of an output, a_tj times the length of e_j, are divided among
        the writes of the window.
        """
        first = max(0, self.token + 1 - WINDOW)
        state = self._replay(first)
        q, k, v, g, beta = (x[first : self.token + 1] for x in self._parts())
        W = len(k)
        kept, shares = torch.full((2, W, W), torch.nan)
        reads, errors = torch.zeros(2, W, v.shape[1])  # what each key gets back
        for t in range(W):
            state = state * g[t].exp()
            reads[:t] *= g[t].exp()
            reads[t] = state.T @ k[t]
            errors[t] = beta[t] * (v[t] - reads[t])
            state = state + torch.outer(k[t], errors[t])
            reads[: t + 1] += torch.outer(k[: t + 1] @ k[t], errors[t])
            sizes = v[: t + 1].square().sum(1).clamp_min(1e-12)
            kept[: t + 1, t] = (reads[: t + 1] * v[: t + 1]).sum(1) / sizes
            ago = g[: t + 1].flip(0).cumsum(0).flip(0) - g[: t + 1]  # log decay since j
            weight = ago.exp() * (k[: t + 1] @ q[t]) * errors[: t + 1].norm(dim=1)
            shares[: t + 1, t] = weight / weight.abs().sum().clamp_min(1e-12)
        return kept.numpy(), shares.numpy(), first

    def describe(self):
        (layer, head), (K, V) = self.head, self.state.shape
        kept, _, first = self.maps()
        place, asked = self.probe - first, ""
        if 0 <= place < len(kept):
            share = f"{kept[place, -1]:.2f}"
            asked = f" The key of token {self.probe} gets back {share} of its value."
        return (
            f"The memory of layer {layer}, head {head}, {K} by {V} numbers, after "
            f"{self.token + 1} tokens, and maps of what each token's key gets back and "
            f"of which writes each output comes from.{asked}"
        )

    def picture(self):
        from matplotlib.figure import Figure

        kept, shares, first = self.maps()
        layer, head = self.head
        figure = Figure(figsize=(7.8, 3.15), layout="constrained")
        text = self.source.tokens[self.token]
        figure.suptitle(
            f"After token {self.token}, {text!r}. Blue is above zero, orange below.",
            x=0.01, ha="left", fontsize=10, parse_math=False,
        )  # fmt: skip
        names = ("what each key gets back", "where outputs come from")
        shown = {f"memory of layer {layer}, head {head}": self.state.numpy()}
        shown |= dict(zip(names, (kept, shares), strict=True))
        axes = figure.subplots(1, 3)
        for ax, (title, values) in zip(axes, shown.items(), strict=True):
            # As in the browser: by the square root, so that small numbers are seen.
            limit = min(1, np.nanmax(np.abs(values))) or 1
            curved = np.sign(values) * np.sqrt(np.abs(values) / limit)
            tokens = (first - 0.5, first + len(kept) - 0.5)
            place = None if ax is axes[0] else (*tokens, *tokens[::-1])
            ax.imshow(curved, cmap=colours(SIGNED), vmin=-1, vmax=1, extent=place)
            ax.set_title(title, fontsize=9.5)
            ax.tick_params(labelsize=8)
        axes[0].set(xlabel="value", ylabel="key", xticks=[], yticks=[])
        axes[1].set(xlabel="now", ylabel="token asked for")
        axes[2].set(xlabel="now", ylabel="token written")
        return figure
