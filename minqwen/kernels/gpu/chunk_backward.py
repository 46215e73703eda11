"""Gradients of the chunked delta rule, with chunk.py's letters; d is the loss's.

The adjoint of `carry` runs through the chunks from the last to the first, with dS, the
gradient at the state that leaves a chunk, in registers:

    dE = P^T dO + exp(G_C - G) (k dS)
    dS <- exp(G_C) dS + q^T (exp(G) dO) - W^T dE

That is `carry_back`. All else is a matter of one chunk (`spread`), R being the value
heads of a key head, over which dq and dk add up, and dR = M^T dE:

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

from .chunk import Sizes, carry, forward, prepare
from .tiles import column, dot, rows, square


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
    at_state, real_state = square(b * H + h, x, K, V, BK, BV)
    dS = tl.load(end + at_state, real_state, 0.0)
    chunks = tl.cdiv(T, C)
    for back in range(chunks):
        n = chunks - 1 - back
        first = n * C
        at, real = rows(b, h // R, first, T, H // R, K, C, BK)
        keys, queries = tl.load(k + at, real, 0.0), tl.load(q + at, real, 0.0)
        at, real = rows(b, h, first, T, H, K, C, BK)
        reads = tl.load(w + at, real, 0.0)
        at, real = rows(b, h, first, T, H, C, C, C)
        within = tl.load(p + at, real, 0.0)
        at, real = column(b, h, first, T, H, C)
        sums = tl.load(G + at, real, 0.0)
        whole = tl.load(G + (b * T + tl.minimum(first + C, T) - 1) * H + h)
        rounded = dS.to(keys.dtype)
        into, inside = square((b * chunks + n) * H + h, x, K, V, BK, BV)
        tl.store(ds + into, rounded, inside)
        at, real = rows(b, h, first, T, H, V, C, BV, x)
        dO = tl.load(do + at, real, 0.0)
        dE = dot(keys, rounded) * tl.exp(whole - sums)[:, None]
        dE = (dE + dot(tl.trans(within), dO)).to(keys.dtype)
        tl.store(de + at, dE, real)
        dO = (dO * tl.exp(sums)[:, None]).to(keys.dtype)
        dS = dS * tl.exp(whole) + dot(tl.trans(queries), dO) - dot(tl.trans(reads), dE)
    tl.store(start + at_state, dS, real_state)


@triton.jit
def spread(q, k, v, beta, m, G, do, e, de, states, ds, dq, dk, dv, dg, dbeta, T,
           H: tl.constexpr, R: tl.constexpr, K: tl.constexpr, V: tl.constexpr,
           BK: tl.constexpr, BV: tl.constexpr, C: tl.constexpr):  # fmt: skip
    """One chunk of one key head: the gradients of everything the rule was fed."""
    Hk: tl.constexpr = H // R
    n, b = tl.program_id(0), (tl.program_id(1) // Hk).to(tl.int64)
    head, first = tl.program_id(1) % Hk, tl.program_id(0) * C
    at_k, real_k = rows(b, head, first, T, Hk, K, C, BK)
    keys, queries = tl.load(k + at_k, real_k, 0.0), tl.load(q + at_k, real_k, 0.0)
    i, j = tl.arange(0, C)[:, None], tl.arange(0, C)[None, :]
    dQ, dK = tl.zeros([C, BK], tl.float32), tl.zeros([C, BK], tl.float32)
    for h in range(head * R, head * R + R):
        at_one, real_one = column(b, h, first, T, H, C)
        whole = tl.load(G + (b * T + tl.minimum(first + C, T) - 1) * H + h)
        # Beyond T nothing decays: a sum of 0 there would be growth, and overflow.
        sums = tl.where(real_one, tl.load(G + at_one, real_one, 0.0), whole)
        believed = tl.load(beta + at_one, real_one, 0.0).to(tl.float32)
        at_m, real_m = rows(b, h, first, T, H, C, C, C)
        inverse = tl.trans(tl.load(m + at_m, real_m, 0.0))
        dP, dL = tl.zeros([C, C], tl.float32), tl.zeros([C, C], tl.float32)
        y, a = tl.zeros([C, BK], tl.float32), tl.zeros([C, BK], tl.float32)
        asked = tl.zeros([C, BK], tl.float32)
        dB, dG_last = tl.zeros([C], tl.float32), tl.zeros([BK], tl.float32)
        for x in range(0, V, BV):
            at, real = rows(b, h, first, T, H, V, C, BV, x)
            dO, E = tl.load(do + at, real, 0.0), tl.load(e + at, real, 0.0)
            dR = dot(inverse, tl.load(de + at, real, 0.0))
            dB += tl.sum(dR * tl.load(v + at, real, 0.0), 1)
            tl.store(dv + at, (dR * believed[:, None]).to(keys.dtype), real)
            dR = dR.to(keys.dtype)
            dP += dot(dO, tl.trans(E))
            dL -= dot(dR, tl.trans(E))
            at, real = square((b * tl.cdiv(T, C) + n) * H + h, x, K, V, BK, BV)
            S, dS = tl.load(states + at, real, 0.0), tl.load(ds + at, real, 0.0)
            asked += dot(dO, tl.trans(S))
            y -= dot(dR, tl.trans(S))
            a += dot(E, tl.trans(dS))
            dG_last += tl.sum(S.to(tl.float32) * dS, 1)
        kept = tl.exp(sums)[:, None]
        asked, y, a = asked * kept, y * kept, a * tl.exp(whole - sums)[:, None]
        of_a, of_y = tl.sum(a * keys, 1), tl.sum(y * keys, 1)
        decay = tl.exp(tl.where(i >= j, sums[:, None] - sums[None, :], float("-inf")))
        dP = tl.where(i >= j, dP, 0.0) * decay
        dL = tl.where(i > j, dL, 0.0) * decay
        kk, qk = dot(keys, tl.trans(keys)), dot(queries, tl.trans(keys))
        dB += of_y + tl.sum(dL * kk, 1)
        dL *= believed[:, None]
        pairs = dP * qk + dL * kk  # of G_i - G_j
        dG = tl.sum(asked * queries, 1) + believed * of_y - of_a
        dG += tl.sum(pairs, 1) - tl.sum(pairs, 0)
        dG_whole = tl.exp(whole) * tl.sum(dG_last) + tl.sum(of_a)
        last = tl.minimum(T - first, C) - 1
        dG += tl.where(tl.arange(0, C) == last, dG_whole, 0.0)
        tl.store(dbeta + at_one, dB, real_one)
        tl.store(dg + at_one, tl.cumsum(dG, 0, reverse=True), real_one)
        dP, dL = dP.to(keys.dtype), dL.to(keys.dtype)
        dQ += asked + dot(dP, keys)
        dK += a + y * believed[:, None] + dot(tl.trans(dP), queries)
        dK += dot(dL, keys) + dot(tl.trans(dL), keys)
    tl.store(dq + at_k, dQ.to(keys.dtype), real_k)
    tl.store(dk + at_k, dK.to(keys.dtype), real_k)


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
    dq, dk, dv = (torch.empty_like(x) for x in (q, k, v))
    dg, dbeta = torch.empty_like(G), torch.empty_like(G)
    spread[size.by_chunk](
        q, k, v, beta, m, G, do, e, de, states, ds, dq, dk, dv, dg, dbeta,
        **size.all, **size.spread,
    )  # fmt: skip
    return dq, dk, dv, dg.to(g.dtype), dbeta.to(beta.dtype), start
