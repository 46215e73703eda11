"""The chunked delta rule with its gradients, in chunk.py's letters; d is the loss's.

The adjoint of `carry` runs through the chunks from the last to the first, with dS, the
gradient at the state that leaves a chunk, in registers:

    dE = P^T dO + exp(G_C - G) (k dS)
    dS <- exp(G_C) dS + q^T (exp(G) dO) - W^T dE

That is `carry_back`. All else is a matter of one chunk (`spread`), with dR = M^T dE:

    dv  = beta dR
    dP  = dO E^T, i >= j            dq += (dP decay) k     dk += (dP decay)^T q
    dL  = -dR E^T, i > j            dk += (D + D^T) k      D = dL decay beta
    from exp(G) (q S)               dq += exp(G) dO S^T
    from beta (v - exp(G) (k S))    dk += beta y           y = -exp(G) dR S^T
    from k^T (exp(G_C - G) E)       dk += a                a = exp(G_C - G) E dS^T

What the way forward left in memory was w, u and p; they are made again, with M, E and
the states S besides, instead of being kept until the gradient comes.
"""

import torch
import triton
import triton.language as tl
from torch.autograd.function import once_differentiable

from . import tiles
from .chunk import Sizes, carry, forward, prepare
from .tiles import dot, load_rows, store_rows


@triton.jit
def carry_back(q, k, w, p, G, do, end, ds, de, start, T, H: tl.constexpr,
               R: tl.constexpr, K: tl.constexpr, V: tl.constexpr, BK: tl.constexpr,
               BV: tl.constexpr, C: tl.constexpr):  # fmt: skip
    """BV columns of one value head's dS, from the last chunk to the first.

    do [B, T, H, V]; end, the gradient at the last state, [B, H, K, V] fp32. Writes
    ds [B, chunks, H, K, V] at each chunk's end, de [B, T, H, V], and start as end.
    """
    x, b = tl.program_id(0) * BV, (tl.program_id(1) // H).to(tl.int64)
    h = tl.program_id(1) % H
    dS = tiles.load_square(end, b * H + h, x, K, V, BK, BV)
    chunks = tl.cdiv(T, C)
    for back in range(chunks):
        n = chunks - 1 - back
        first = n * C
        keys = load_rows(k, b, h // R, first, 0, T, H // R, K, C, BK)
        within = load_rows(p, b, h, first, 0, T, H, C, C, C)
        sums = tiles.load_column(G, b, h, first, T, H, C)
        whole = tl.load(G + (b * T + tl.minimum(first + C, T) - 1) * H + h)
        rounded = dS.to(keys.dtype)
        tiles.store_square(rounded, ds, (b * chunks + n) * H + h, x, K, V, BK, BV)
        dO = load_rows(do, b, h, first, x, T, H, V, C, BV)
        dE = dot(keys, rounded) * tl.exp(whole - sums)[:, None]
        dE = (dE + dot(tl.trans(within), dO)).to(keys.dtype)
        store_rows(dE, de, b, h, first, x, T, H, V, C, BV)
        reads = load_rows(w, b, h, first, 0, T, H, K, C, BK)
        dS = dS * tl.exp(whole) - dot(tl.trans(reads), dE)
        dO = (dO * tl.exp(sums)[:, None]).to(keys.dtype)
        queries = load_rows(q, b, h // R, first, 0, T, H // R, K, C, BK)
        dS += dot(tl.trans(queries), dO)
    tiles.store_square(dS, start, b * H + h, x, K, V, BK, BV)


@triton.jit
def spread(q, k, v, beta, m, G, do, e, de, states, ds, dq, dk, dv, dg, dbeta, T,
           H: tl.constexpr, R: tl.constexpr, K: tl.constexpr, V: tl.constexpr,
           BK: tl.constexpr, BV: tl.constexpr, C: tl.constexpr):  # fmt: skip
    """One chunk of one value head: the gradients of everything the rule was fed.

    dq, dk [B, T, H, K]: of this head alone. To add them up over the heads that share a
    key, in registers, would take more of those than there are.
    """
    n, b = tl.program_id(0), (tl.program_id(1) // H).to(tl.int64)
    h, first = tl.program_id(1) % H, tl.program_id(0) * C
    keys = load_rows(k, b, h // R, first, 0, T, H // R, K, C, BK)
    queries = load_rows(q, b, h // R, first, 0, T, H // R, K, C, BK)
    i, j, t = tl.arange(0, C)[:, None], tl.arange(0, C)[None, :], tl.arange(0, C)
    whole = tl.load(G + (b * T + tl.minimum(first + C, T) - 1) * H + h)
    # Beyond T nothing decays: a sum of 0 there would be growth, and overflow.
    sums = tl.where(first + t < T, tiles.load_column(G, b, h, first, T, H, C), whole)
    believed = tiles.load_column(beta, b, h, first, T, H, C)
    inverse = tl.trans(load_rows(m, b, h, first, 0, T, H, C, C, C))
    dP, dL = tl.zeros([C, C], tl.float32), tl.zeros([C, C], tl.float32)
    y, dB = tl.zeros([C, BK], tl.float32), tl.zeros([C], tl.float32)
    dG_last = tl.zeros([BK], tl.float32)
    index = (b * tl.cdiv(T, C) + n) * H + h
    for x in range(0, V, BV):
        E = load_rows(e, b, h, first, x, T, H, V, C, BV)
        dP += dot(load_rows(do, b, h, first, x, T, H, V, C, BV), tl.trans(E))
        dR = dot(inverse, load_rows(de, b, h, first, x, T, H, V, C, BV))
        dB += tl.sum(dR * load_rows(v, b, h, first, x, T, H, V, C, BV), 1)
        store_rows(dR * believed[:, None], dv, b, h, first, x, T, H, V, C, BV)
        dR = dR.to(keys.dtype)
        dL -= dot(dR, tl.trans(E))
        S = tiles.load_square(states, index, x, K, V, BK, BV)
        y -= dot(dR, tl.trans(S))
        dS = tiles.load_square(ds, index, x, K, V, BK, BV)
        dG_last += tl.sum(S.to(tl.float32) * dS, 1)
    y *= tl.exp(sums)[:, None]
    of_y = tl.sum(y * keys, 1)
    dK = y * believed[:, None]
    a = through(e, ds, b, h, first, index, T, H, K, V, C, BK, BV)
    a *= tl.exp(whole - sums)[:, None]
    of_a = tl.sum(a * keys, 1)
    dK += a
    asked = through(do, states, b, h, first, index, T, H, K, V, C, BK, BV)
    asked *= tl.exp(sums)[:, None]
    of_asked = tl.sum(asked * queries, 1)
    decay = tl.exp(tl.where(i >= j, sums[:, None] - sums[None, :], float("-inf")))
    dP = tl.where(i >= j, dP, 0.0) * decay
    dL = tl.where(i > j, dL, 0.0) * decay
    kk, qk = dot(keys, tl.trans(keys)), dot(queries, tl.trans(keys))
    tiles.store_column(dB + of_y + tl.sum(dL * kk, 1), dbeta, b, h, first, T, H, C)
    dL *= believed[:, None]
    pairs = dP * qk + dL * kk  # of G_i - G_j
    dG = of_asked + believed * of_y - of_a + tl.sum(pairs, 1) - tl.sum(pairs, 0)
    dG_whole = tl.exp(whole) * tl.sum(dG_last) + tl.sum(of_a)
    dG += tl.where(t == tl.minimum(T - first, C) - 1, dG_whole, 0.0)
    tiles.store_column(tl.cumsum(dG, 0, reverse=True), dg, b, h, first, T, H, C)
    dP, dL = dP.to(keys.dtype), dL.to(keys.dtype)
    dQ = asked + dot(dP, keys)
    dK += dot(tl.trans(dP), queries) + dot(dL, keys) + dot(tl.trans(dL), keys)
    store_rows(dQ, dq, b, h, first, 0, T, H, K, C, BK)
    store_rows(dK, dk, b, h, first, 0, T, H, K, C, BK)


@triton.jit
def through(x, states, b, h, first, index, T, H: tl.constexpr, K: tl.constexpr,
            V: tl.constexpr, C: tl.constexpr, BK: tl.constexpr,
            BV: tl.constexpr):  # fmt: skip
    """x S^T of one chunk, [C, BK], for x [B, T, H, V] and one of the states."""
    # A loop of its own for each, though both read what another loop has read: three
    # sums of this size at a time would not fit into the registers.
    total = tl.zeros([C, BK], tl.float32)
    for v in range(0, V, BV):
        some = load_rows(x, b, h, first, v, T, H, V, C, BV)
        total += dot(some, tl.trans(tiles.load_square(states, index, v, K, V, BK, BV)))
    return total


def delta_rule(q, k, v, *, g, beta, state=None):
    """`delta.delta_chunked`, with gradients. o [B, T, H, V] in v's dtype.

    q, k and v may be fp32, fp16 or bf16, one dtype for all three: the products are
    made in it and added up in fp32. The state is fp32 in and out.
    """
    B, _, H, V = v.shape
    if state is None:
        state = v.new_zeros(B, H, k.shape[-1], V, dtype=torch.float32)
    return Rule.apply(*(x.contiguous() for x in (q, k, v, g, beta, state)))


class Rule(torch.autograd.Function):
    """`chunk.forward` with gradients for q, k, v, g, beta and the state."""

    @staticmethod
    def forward(ctx, q, k, v, g, beta, state):
        ctx.save_for_backward(q, k, v, g, beta, state)
        return forward(q, k, v, g, beta, state)

    @staticmethod
    @once_differentiable
    def backward(ctx, do, end):
        return backward(*ctx.saved_tensors, do.contiguous(), end.contiguous())


def backward(q, k, v, g, beta, state, do, end):
    """Gradients of the six, each in its own dtype and shape."""
    size = Sizes(k, v)
    w, u, p, G, m = prepare(q, k, v, g, beta, size, keep=True)
    states = q.new_empty(size.B, size.chunks, size.H, size.K, size.V)
    e, de, ds = torch.empty_like(v), torch.empty_like(v), torch.empty_like(states)
    carry[size.by_state](
        q, k, w, u, p, G, state, None, torch.empty_like(state), states, e,
        KEEP=True, **size.all, **size.carry,
    )  # fmt: skip
    start = torch.empty_like(state)
    carry_back[size.by_state](
        q, k, w, p, G, do, end, ds, de, start, **size.all, **size.carry
    )
    dq, dk, dv = torch.empty_like(w), torch.empty_like(w), torch.empty_like(v)
    dg, dbeta = torch.empty_like(G), torch.empty_like(G)
    spread[size.chunks, size.B * size.H](
        q, k, v, beta, m, G, do, e, de, states, ds, dq, dk, dv, dg, dbeta,
        **size.all, **size.spread,
    )  # fmt: skip
    dq, dk = (x.unflatten(2, (size.Hk, -1)).sum(3) for x in (dq, dk))
    return dq, dk, dv, dg.to(g.dtype), dbeta.to(beta.dtype), start
