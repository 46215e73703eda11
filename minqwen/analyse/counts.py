"""What can be counted in recorded traces, each by its published definition."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from statistics import NormalDist

import numpy as np

from ..errors import InputError, number
from ..trace.trace import Trace


@dataclass(frozen=True)
class Difference:
    """How much oftener one set of prompts chose each expert: [L, E] each.

    `rate` in one set minus in the other, and the interval from `low` to `high`.
    """

    rate: np.ndarray = field(repr=False)
    low: np.ndarray = field(repr=False)
    high: np.ndarray = field(repr=False)

    def top(self, count: int = 10) -> list[tuple[int, int]]:
        """(layer, expert) of those that the first set chose oftener, the most first;
        only where the interval is above zero."""
        order = np.argsort(-self.rate, axis=None, kind="stable")
        found = zip(*np.unravel_index(order, self.rate.shape), strict=True)
        sure = [(int(i), int(e)) for i, e in found if self.low[i, e] > 0]
        return sure[:count]


def compare(a: Iterable[Trace], b: Iterable[Trace], level: float = 0.95) -> Difference:
    """Rate on the prompts of `a` minus rate on those of `b`: SteerMoE's contrast.

    An expert's rate is the share of a set's tokens that were sent to it (arXiv
    2509.09660). Tokens of a prompt are alike, so the interval is of prompts: the
    variance of a ratio of sums over them, with Student's t of the smaller set less one.
    It holds for one expert; for all at once, give level = 1 - 0.05 / (L E). InputError
    for sets of fewer than two prompts, and for traces of different models.
    """
    number(level, "level", float, 0.5, 1 - 1e-12)
    sets = [counted(traces) for traces in (a, b)]
    if sets[0][0].shape[1:] != sets[1][0].shape[1:]:
        raise InputError("the two sets' traces differ in layers or experts")
    (rate_a, var_a), (rate_b, var_b) = (rates(*each) for each in sets)
    z, free = NormalDist().inv_cdf(0.5 + level / 2), min(len(s[1]) for s in sets) - 1
    # Student's quantile from the normal one (Abramowitz and Stegun 26.7.5)
    t = z + (z**3 + z) / (4 * free) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * free**2)
    rate, half = rate_a - rate_b, t * np.sqrt(var_a + var_b)
    return Difference(rate, rate - half, rate + half)


def rates(counts, lengths):
    """Each expert's rate over all prompts and its variance, from [n, L, E] and [n]."""
    n, total = len(lengths), lengths.sum()
    rate = counts.sum(0) / total
    errors = counts - rate * lengths[:, None, None]
    return rate, n / (n - 1) * (errors**2).sum(0) / total**2


def counted(traces):
    """How often each prompt chose each expert [n, L, E], and its tokens [n]."""
    traces = [traces] if isinstance(traces, Trace) else [*traces]
    if len(traces) < 2:
        raise InputError(
            "a set needs at least two prompts' traces, to tell how they vary"
        )
    if len({trace["expert_ids"].shape[1] for trace in traces}) > 1:
        raise InputError("the traces of a set differ in layers; take one model's")
    E = max(trace.meta["num_experts"] for trace in traces)
    counts = np.stack([chosen(trace, E).sum(0) for trace in traces])
    return counts.astype(float), np.array([trace.length for trace in traces], float)


def chosen(trace, experts=None):
    """Whether each token chose each expert: bool [T, L, E]."""
    ids = trace["expert_ids"].astype(int)
    found = np.zeros((*ids.shape[:2], experts or trace.meta["num_experts"]), bool)
    np.put_along_axis(found, ids, True, axis=2)
    return found


@dataclass(frozen=True)
class Specialisation:
    """What an expert's tokens have in common, by `labels` (sorted).

    lift [L, E, labels]: how much likelier a label is among the expert's tokens than
    among all. bits [L, E]: what being sent there tells of the label.
    """

    labels: list
    lift: np.ndarray = field(repr=False)
    bits: np.ndarray = field(repr=False)


def specialisation(trace: Trace, labels: Sequence) -> Specialisation:
    """Which labels of tokens each expert is for; labels: T texts or numbers.

    Lift is P(label | expert) / P(label), with one token of the common mix added to each
    expert, so that one never chosen has lift 1. Bits are the mutual information of
    "sent there" and the label, less its bias for few tokens, (cells - 1 - (rows - 1) -
    (columns - 1)) / 2 T ln 2 of those that occur (Miller and Madow; Panzeri and Treves
    1996): about 0, and perhaps below, where there is nothing to tell. Neighbouring
    tokens are taken as independent, so a label that lasts looks surer than it is.
    """
    labels = [*labels]
    if len(labels) != trace.length:
        raise InputError(f"{len(labels)} labels are given for {trace.length} tokens")
    names, which = np.unique([str(label) for label in labels], return_inverse=True)
    own = np.eye(len(names))[which]  # [T, labels]
    both = np.einsum("tle,ty->ley", chosen(trace).astype(float), own)
    share, T = own.mean(0), len(own)
    sent = both.sum(2, keepdims=True)
    lift = (both + share) / (sent + 1) / share
    joint = np.stack([both, own.sum(0) - both], 2) / T  # [L, E, 2, labels]
    apart = joint.sum(3, keepdims=True) * share
    parts = joint * np.log2(joint / np.where(apart > 0, apart, 1), where=joint > 0,
                            out=np.zeros_like(joint))  # fmt: skip
    cells, rows = (joint > 0).sum((2, 3)), (joint.sum(3) > 0).sum(2)
    bias = (cells - rows - len(names) + 1) / (2 * T * math.log(2))
    return Specialisation(names.tolist(), lift, parts.sum((2, 3)) - bias)


def coactivation(trace: Trace) -> np.ndarray:
    """Lift of pairs of experts in a layer: [L, E, E], P(i and j) / (P(i) P(j)).

    The measure of which experts to lay beside each other on a disk. A token's choices
    differ, so pairs taken at random have (K - 1) E / (K (E - 1)), below 1. NaN where
    one of the two was never chosen; on the diagonal 1 / P(i).
    """
    found = chosen(trace).astype(np.float32)
    both = np.einsum("tli,tlj->lij", found, found, optimize=True) / trace.length
    alone = found.mean(0)
    apart = alone[:, :, None] * alone[:, None]
    return np.where(apart > 0, both / np.where(apart > 0, apart, 1), np.nan)


def half_lives(trace: Trace) -> dict[tuple[int, int], float]:
    """Tokens until half of a delta head's memory is forgotten, {(layer, head): tokens}.

    ln 2 over the mean of -g, the head's log decay, as the explorer has it: what decay
    does by itself, writes apart. Of the heads recorded with `states`, or, with `norms`,
    of all. Infinite where nothing was forgotten.
    """
    kinds, decay = trace.meta["layer_types"], trace.tensors.get("state_decay")
    delta = [i for i, kind in enumerate(kinds) if kind == "linear_attention"]
    if decay is not None:  # [T, Ld, H]
        means = {
            (layer, head): decay[:, i, head].mean(dtype=float)
            for i, layer in enumerate(delta)
            for head in range(decay.shape[2])
        }
    else:
        means = {
            (layer, head): trace[f"delta.{layer}.{head}.g"].mean(dtype=float)
            for layer, head in trace.heads
            if layer in delta
        }
    if not means:
        raise InputError(
            "the trace holds no delta head; record it with norms=True, or with states"
        )
    return {pair: -math.log(2) / g if g else math.inf for pair, g in means.items()}
