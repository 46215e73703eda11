"""From logits to one token: temperature, filters, and a draw that a seed repeats."""

from dataclasses import dataclass

import torch

from ..errors import number


def probabilities(logits, temperature=1.0, top_k=0, top_p=1.0, min_p=0.0):
    """logits [V] to the distribution that is drawn from: [V], float64, sum 1."""
    # float64: 248,320 float32 terms would not sum to 1; minus max: no overflow
    logits = logits.double()
    p = ((logits - logits.max()) / temperature).softmax(-1)
    if top_k:
        p = keep_top_k(p, top_k)
    if top_p < 1:
        p = keep_top_p(p, top_p)
    if min_p > 0:
        p = keep_min_p(p, min_p)
    return p


def keep_top_k(p, k):
    """The k likeliest: cuts the long tail, however flat the head is."""
    values, ids = p.topk(min(k, len(p)))
    return torch.zeros_like(p).scatter(0, ids, values / values.sum())


def keep_top_p(p, top_p):
    """The fewest that together reach top_p: few when sure, many when unsure."""
    # All rarer than this together weigh less than what may be left out: no need to sort
    ids = (p >= (1 - top_p) / len(p)).nonzero()[:, 0]
    values, order = p[ids].sort(descending=True, stable=True)
    before = values.cumsum(0) - values
    kept = values.where(before < top_p, 0)
    return torch.zeros_like(p).scatter(0, ids[order], kept / kept.sum())


def keep_min_p(p, min_p):
    """Those at least min_p times as likely as the best: a floor that follows it."""
    kept = p.where(p >= min_p * p.max(), 0)
    return kept / kept.sum()


def penalise(logits, seen, penalty):
    """Lower every token already written, once: it discourages going in circles."""
    return logits - penalty * seen.to(logits.dtype)


def draw(p, random):
    """One id from p [V], by one uniform number: where it falls in the running sum.

    One number a token, in order of id, is what makes a seed give the same text
    whatever draws beside it, drafts included.
    """
    ids = p.nonzero()[:, 0]
    total = p[ids].cumsum(0)
    u = torch.rand((), dtype=torch.float64, generator=random) * total[-1]
    place = torch.searchsorted(total, u, right=True)
    return int(ids[place.clamp(max=len(ids) - 1)])


@dataclass(frozen=True)
class Sampling:
    """How tokens are chosen; temperature 0 takes the likeliest."""

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    presence_penalty: float = 0.0
    seed: int = 0

    def __post_init__(self):
        number(self.temperature, "temperature", low=0)
        number(self.top_k, "top_k", int, low=0)
        number(self.top_p, "top_p", low=0, high=1, over=True)
        number(self.min_p, "min_p", low=0, high=1)
        number(self.presence_penalty, "presence_penalty")
        number(self.seed, "seed", int, low=0, high=2**63 - 1)

    def choose(self, logits, seen, random):
        """logits [V] float32, seen [V] bool -> id."""
        if self.presence_penalty:
            logits = penalise(logits, seen, self.presence_penalty)
        if self.temperature == 0:
            return int(logits.argmax())
        p = probabilities(logits, self.temperature, self.top_k, self.top_p, self.min_p)
        return draw(p, random)
