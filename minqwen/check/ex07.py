"""Notebook 07, experts."""

from functools import partial

import torch
import torch.nn.functional as F

from .core import Exercise, with_slopes


def _router(x, weight, k, shares=lambda z: z.softmax(-1), share_out=None, largest=True):
    """Right by default; each option is one mistake."""
    chosen, ids = shares(x @ weight.T).topk(k, largest=largest)
    return share_out(chosen) if share_out else chosen / chosen.sum(-1, True), ids


def _by_number(x, weight, k):
    weights, ids = _router(x, weight, k)
    ids, order = ids.sort(-1)
    return weights.gather(-1, order), ids


router = Exercise(
    "07",
    "a router",
    _router,
    lambda rand: [
        {"x": rand(N, D), "weight": rand(E, D), "k": k}
        for N, D, E, k in [(6, 2, 4, 2), (7, 4, 8, 3), (8, 5, 16, 10)]
    ],
    wrong={
        "the winners' shares do not add up to one: divide them by their sum": (
            partial(_router, share_out=lambda chosen: chosen)
        ),
        "divided by the sum of all tokens' shares; each token's add up to one: "
        "sum(-1, keepdim=True)": partial(_router, share_out=lambda c: c / c.sum()),
        "a softmax of shares: they are between 0 and 1, so "
        "it makes all nearly equal; divide them by their "
        "sum instead": partial(_router, share_out=lambda chosen: chosen.softmax(-1)),
        "that is DeepSeek-V3's way, where each expert has a sigmoid of its own; "
        "here they compete in one softmax": partial(_router, shares=torch.sigmoid),
        "the softmax goes over the tokens; it goes over the experts, the last axis": (
            partial(_router, shares=lambda z: z.softmax(0))
        ),
        "those are logits divided by their sum; take exponentials (softmax) first": (
            partial(_router, shares=lambda z: z)
        ),
        "those are logits; shares are asked for, which come from a softmax": (
            partial(_router, shares=lambda z: z, share_out=lambda chosen: chosen)
        ),
        "those are the experts with the lowest scores": partial(_router, largest=False),
        "right but for the order: the best expert comes first": _by_number,
        "right but for the order: the best comes first, and here it is the last": (
            lambda x, weight, k: tuple(y.flip(-1) for y in _router(x, weight, k))
        ),
    },
    returns=("the weights", "the experts' numbers"),
)


def _swiglu(x, gate_up, down, join=lambda gate, up: F.silu(gate) * up):
    return join(*(x @ gate_up.T).chunk(2, dim=-1)) @ down.T


def _in_turn(x, gate_up, down):
    return _swiglu(x, torch.cat([gate_up[0::2], gate_up[1::2]]), down)


swiglu = Exercise(
    "07",
    "one expert",
    _swiglu,
    lambda rand: [
        {"x": rand(N, D), "gate_up": rand(2 * width, D), "down": rand(D, width)}
        for N, D, width in [(1, 2, 2), (3, 4, 3), (5, 3, 4)]
    ],
    wrong={
        "silu is on the wrong half: the first half of the rows is the gate": (
            partial(_swiglu, join=lambda gate, up: gate * F.silu(up))
        ),
        "gate and up rows are taken in turn; all gate rows come first, then all "
        "up rows": _in_turn,
        "silu is missing: without it the gate is one more factor": (
            partial(_swiglu, join=lambda gate, up: gate * up)
        ),
        "silu comes after the product; it belongs to the gate alone": (
            partial(_swiglu, join=lambda gate, up: F.silu(gate * up))
        ),
        "silu is on both halves; it belongs to the gate alone": (
            partial(_swiglu, join=lambda gate, up: F.silu(gate) * F.silu(up))
        ),
        "that is the sigmoid; silu(y) is y sigmoid(y)": (
            partial(_swiglu, join=lambda gate, up: gate.sigmoid() * up)
        ),
        "that is gelu; silu(y) is y sigmoid(y)": (
            partial(_swiglu, join=lambda gate, up: F.gelu(gate) * up)
        ),
        "gate and up are added; multiply them": (
            partial(_swiglu, join=lambda gate, up: F.silu(gate) + up)
        ),
    },
    returns=("the output",),
)


def _token(
    x, weights, ids, experts, shared, gate,
    one=lambda expert, w, x: w * expert(x),
    join=lambda routed, s, y: routed + s.sigmoid() * y,  # y: what `shared` makes of x
    numbers=lambda ids: ids,
):  # fmt: skip
    """Right by default; each option is one mistake."""
    chosen = zip(numbers(ids).tolist(), weights, strict=True)
    routed = sum(one(experts[e], w, x) for e, w in chosen)
    return join(routed, gate @ x, shared(x))


def _gate_alone(x, weights, ids, experts, shared, gate):
    routed = _token(x, weights, ids, experts, shared, gate, join=lambda r, s, y: r)
    return routed + gate.sigmoid() * shared(x)


def _token_inputs(rand):
    def network(D, width):
        gate_up, down = rand(2 * width, D), rand(D, width)
        return lambda x: _swiglu(x, gate_up, down)

    return [
        {
            "x": rand(D), "weights": rand(k).softmax(-1).sort(descending=True)[0],
            "ids": 1 + rand(E - 1).topk(k)[1],  # never 0: so not the first k
            "experts": [network(D, 3) for _ in range(E)], "shared": network(D, 4),
            "gate": rand(D),
        }
        for D, E, k in [(2, 4, 2), (4, 8, 3), (3, 6, 1)]
    ]  # fmt: skip


one_token = Exercise(
    "07",
    "one token through the layer",
    _token,
    _token_inputs,
    wrong={
        "the shared expert comes in whole: multiply it by "
        "sigmoid(gate . x). (A softmax over one number is 1, so "
        "it changes nothing.)": partial(_token, join=lambda routed, s, y: routed + y),
        "the shared expert is missing; every token uses it": (
            partial(_token, join=lambda routed, s, y: routed)
        ),
        "the shared expert is multiplied by gate . x itself; take its sigmoid": (
            partial(_token, join=lambda routed, s, y: routed + s * y)
        ),
        "the sigmoid is of `gate` itself; its dot product with x comes first": (
            _gate_alone
        ),
        "the gate scales everything; it belongs to the shared expert alone": (
            partial(_token, join=lambda routed, s, y: s.sigmoid() * (routed + y))
        ),
        "the gate shares out between the two, (1 - s) routed + s shared; the "
        "routed sum is not scaled": (
            partial(_token, join=lambda routed, s, y: routed.lerp(y, s.sigmoid()))
        ),
        "the weights scale what goes into an expert; an expert is not linear, so "
        "scale what comes out": partial(_token, one=lambda expert, w, x: expert(w * x)),
        "the weights are not used": partial(_token, one=lambda expert, w, x: expert(x)),
        "those are experts 0, 1, ...; the chosen ones are experts[ids[0]], ...": (
            partial(_token, numbers=lambda ids: torch.arange(len(ids)))
        ),
    },
    returns=("the output",),
)


def _plan(
    ids, E,
    tokens=lambda ids, order: order // ids.shape[1],
    ends=lambda count: count.cumsum(0),
):  # fmt: skip
    """Right by default; each option is one mistake."""
    order = ids.flatten().argsort(stable=True)
    return tokens(ids, order), ends(ids.flatten().bincount(minlength=E))


def _by_rank(ids, _):
    return ids.T.flatten().argsort(stable=True) % len(ids)


def _plan_inputs(rand):
    cases = []
    for N, k, E in [(6, 2, 4), (9, 3, 8), (12, 4, 6)]:
        ids = rand(N, E - 1).topk(k)[1]  # the last expert is never chosen
        ids[:2] = torch.arange(k)
        ids[0, :2] = torch.tensor([1, 0])  # 0 is token 0's second choice, 1's first
        cases.append({"ids": ids, "E": E})
    return cases


sort_by_expert = Exercise(
    "07",
    "sorted by expert",
    _plan,
    _plan_inputs,
    wrong={
        "those are numbers of choices, 0 to N k - 1; choice i is of token i // k": (
            partial(_plan, tokens=lambda ids, order: order)
        ),
        "i % k is a choice's rank for its token; the token is i // k": (
            partial(_plan, tokens=lambda ids, order: order % ids.shape[1])
        ),
        "grouped well, but an expert's tokens are "
        "not in the order of the text: flatten "
        "ids as it is, and argsort with stable=True": partial(_plan, tokens=_by_rank),
        "divided by 2, as in the example; a token has k choices: choice i is of token "
        "i // k": partial(_plan, tokens=lambda ids, order: order // 2),
        "argsort of argsort says where a choice goes; asked for is the token that "
        "stands at each place: one argsort, not two": (
            partial(_plan, tokens=lambda ids, order: order.argsort() // ids.shape[1])
        ),
        "right order; the last experts may have no row and still have an end: "
        "count with minlength=E": lambda ids, E: _plan(ids, E=0),
        "right order; those are the numbers of rows: add them up (cumsum)": (
            partial(_plan, ends=lambda count: count)
        ),
        "right order; those are the rows where experts start, not where they end": (
            partial(_plan, ends=lambda count: count.cumsum(0) - count)
        ),
        "right order; an end is one past the expert's last row, as in a slice": (
            partial(_plan, ends=lambda count: count.cumsum(0) - 1)
        ),
    },
    returns=("the tokens", "the ends"),
)


def _balance(logits, ids, probable=lambda z: z.softmax(-1).mean(0)):
    N, E = logits.shape
    chosen = ids.flatten().bincount(minlength=E) / N
    return E * (chosen * probable(logits)).sum()


def _winners_only(logits, ids):
    won = torch.zeros_like(logits).scatter(1, ids, 1.0)
    return _balance(logits, ids, lambda z: (won * z.softmax(-1)).mean(0))


def _token_by_token(logits, ids):
    return logits.shape[1] * logits.softmax(-1).gather(1, ids).sum(-1).mean()


def _squared(logits, ids):
    chosen = ids.flatten().bincount(minlength=logits.shape[1]) / len(logits)
    return _balance(logits, ids, lambda z: chosen)


balance = Exercise(
    "07",
    "a loss for unevenness",
    _balance,
    lambda rand: [
        {"logits": (logits := rand(N, E)), "ids": logits.topk(k)[1]}
        for N, E, k in [(4, 4, 2), (8, 6, 3), (16, 8, 2)]
    ],
    wrong={
        "the E in front is missing, with which an even use costs k for any E": (
            lambda logits, ids: _balance(logits, ids) / logits.shape[1]
        ),
        "that is the share of all choices; the share of "
        "tokens that chose e is k times as large: divide "
        "the count by N": lambda logits, ids: _balance(logits, ids) / ids.shape[1],
        "that is a count; divide it by the number of tokens": (
            lambda logits, ids: _balance(logits, ids) * len(logits)
        ),
        "the probabilities are those of the winners alone; take the mean over all "
        "tokens, also those that chose otherwise": _winners_only,
        "multiplied token by token, then averaged; average first, each of the two, "
        "then multiply": _token_by_token,
        "the counts are squared; a count has no slope, so nothing could be learned "
        "from it: multiply by the mean probability": _squared,
        "those are mean logits; take the softmax first, then the mean": (
            partial(_balance, probable=lambda z: z.mean(0))
        ),
        "that is a softmax of mean logits; take the softmax first, then the mean": (
            partial(_balance, probable=lambda z: z.mean(0).softmax(-1))
        ),
        "the softmax goes over the tokens; it goes over the experts, the last axis": (
            partial(_balance, probable=lambda z: z.softmax(0).mean(0))
        ),
        "right, and cannot be trained: no slope comes back to the logits": (
            lambda logits, ids: _balance(logits.detach(), ids)
        ),
    },
    returns=("the loss", "its slopes"),
    through=with_slopes,
)
