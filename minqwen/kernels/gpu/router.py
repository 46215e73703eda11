"""The router's choice, `moe.Router` after its product: logits to weights and experts.

    p = softmax(logits)    ids = the top_k largest of p    weights = p / their sum

A softmax over all experts divided by the winners' share is the softmax of the winners
alone, so the losers' exponentials are never taken. One program for each token: E
logits in registers, top_k times the largest. It reads 2 bytes an expert and writes a
few dozen, and replaces a softmax, a sort, a sum and a division.
"""

import torch
import triton
import triton.language as tl


@triton.jit
def choose(logits, weights, ids, E: tl.constexpr, TOP: tl.constexpr, BE: tl.constexpr,
           BT: tl.constexpr):  # fmt: skip
    """logits [N, E]; weights, ids [N, TOP]."""
    n = tl.program_id(0).to(tl.int64)
    e, place = tl.arange(0, BE), tl.arange(0, BT)
    left = tl.load(logits + n * E + e, e < E, float("-inf")).to(tl.float32)
    best = tl.max(left, 0)
    mine, chosen = tl.zeros([BT], tl.float32), tl.zeros([BT], tl.int64)
    for i in tl.static_range(TOP):
        top, which = tl.max(left, 0, return_indices=True)  # the first, among equals
        mine = tl.where(place == i, tl.exp(top - best), mine)
        chosen = tl.where(place == i, which.to(tl.int64), chosen)
        left = tl.where(e == which, float("-inf"), left)
    mine /= tl.sum(mine, 0)
    at = n * TOP + place
    tl.store(weights + at, mine.to(weights.dtype.element_ty), place < TOP)
    tl.store(ids + at, chosen, place < TOP)


def route(logits, top_k):
    """logits [N, E] -> weights [N, top_k] in their dtype, ids [N, top_k] int64.

    The best comes first; of equal logits, the expert with the lower number, where
    torch promises no order.
    """
    N, E = logits.shape
    weights = logits.new_empty(N, top_k)
    ids = torch.empty(N, top_k, dtype=torch.int64, device=logits.device)
    if N:
        BE, BT = triton.next_power_of_2(E), triton.next_power_of_2(top_k)
        choose[(N,)](logits.contiguous(), weights, ids, E, top_k, BE, BT, num_warps=1)
    return weights, ids
