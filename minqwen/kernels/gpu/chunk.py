"""The gated delta rule a chunk at a time: `delta.delta_chunked` in two GPU kernels.

Within a chunk of C tokens, with G the log decay since it began, S the state it
began with, and all of it per value head:

    L_ij = beta_i (k_i . k_j) exp(G_i - G_j), i > j      M = (I + L)^-1
    P_ij = (q_i . k_j) exp(G_i - G_j), i >= j
    W = M (beta exp(G) k)     U = M (beta v)
    E = U - W S               the chunk's errors
    O = exp(G) (q S) + P E    its outputs
    S <- exp(G_C) S + k^T (exp(G_C - G) E)

`solve` makes W, U, P and G of all chunks at once: nothing in them depends on S. `carry`
then walks through the chunks with S in registers, one program for each head and block
of value columns, since columns of S never meet, and writes the outputs as it goes.

What moves, in bf16 at K = V = 128, for each token and value head: v, W, U, P and o are
256 + 256 + 256 + 128 + 256 bytes, W, U and P twice, so 1.8 KB, and a quarter of q and k
where four value heads share them. S itself never leaves the chip: written out at every
chunk for a third kernel to read, it would cost another 1 KB.
"""

import torch
import triton
import triton.language as tl

from . import tiles
from .tiles import dot, load_rows, store_rows

CHUNK = 64  # tokens: the row count of one wgmma product
CHUNK_FP32 = 32  # of numbers twice as wide, as much as fits into shared memory
STATE_COLUMNS = 64  # of V in one program of `carry`: with 64 heads, 128 programs
FEW_PROGRAMS = 96  # below it, half as many columns each, so that more SMs have work


@triton.jit
def solve(q, k, v, g, beta, w, u, p, m, G, T, H: tl.constexpr, R: tl.constexpr,
          K: tl.constexpr, V: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr,
          C: tl.constexpr, KEEP: tl.constexpr):  # fmt: skip
    """One chunk of one key head, for the R value heads that share it, one by one.

    q, k [B, T, H / R, K]; v [B, T, H, V]; g, beta [B, T, H]. Writes w [B, T, H, K],
    u [B, T, H, V], p [B, T, H, C] in q's dtype, G [B, T, H] fp32, and, with KEEP, the
    inverse m [B, T, H, C]. k k^T and q k^T are computed once for R heads.
    """
    Hk: tl.constexpr = H // R
    first, b = tl.program_id(0) * C, (tl.program_id(1) // Hk).to(tl.int64)
    head = tl.program_id(1) % Hk
    keys = load_rows(k, b, head, first, 0, T, Hk, K, C, BK)
    kk = dot(keys, tl.trans(keys))
    qk = dot(load_rows(q, b, head, first, 0, T, Hk, K, C, BK), tl.trans(keys))
    i, j = tl.arange(0, C)[:, None], tl.arange(0, C)[None, :]
    for h in range(head * R, head * R + R):
        sums = tl.cumsum(tiles.load_column(g, b, h, first, T, H, C), 0)
        tiles.store_column(sums, G, b, h, first, T, H, C)
        believed = tiles.load_column(beta, b, h, first, T, H, C)
        # Masked before exp: above the diagonal it would overflow.
        decay = tl.exp(tl.where(i >= j, sums[:, None] - sums[None, :], float("-inf")))
        store_rows(qk * decay, p, b, h, first, 0, T, H, C, C, C)
        lower = tl.where(i > j, kk * decay * believed[:, None], 0.0)
        inverse = invert(lower, keys.dtype, C)
        if KEEP:
            store_rows(inverse, m, b, h, first, 0, T, H, C, C, C)
        inverse *= believed[None, :]
        reads = (inverse * tl.exp(sums)[None, :]).to(keys.dtype)
        store_rows(dot(reads, keys), w, b, h, first, 0, T, H, K, C, BK)
        inverse = inverse.to(keys.dtype)
        for x in range(0, V, BV):
            values = load_rows(v, b, h, first, x, T, H, V, C, BV)
            store_rows(dot(inverse, values), u, b, h, first, x, T, H, V, C, BV)


@triton.jit
def invert(lower, dtype: tl.constexpr, C: tl.constexpr):
    """(I + lower)^-1 for a strictly lower [C, C] in fp32; returns fp32.

    The 16 x 16 blocks on the diagonal are inverted side by side, row by row. With D
    those inverses and X = D (the rest), the whole is the y that solves y = D - X y;
    every pass sets one more row of blocks right, for good.

    For 16-bit inputs the products take fp16: its 10 bits of mantissa are tf32's, at
    twice the speed, and no number here is above 1 while keys have length 1 and
    0 < beta < 1, because a write then only ever takes error away.
    """
    N: tl.constexpr = C // 16
    exact: tl.constexpr = tl.float32 if dtype == tl.float32 else tl.float16
    i, j = tl.arange(0, C)[:, None], tl.arange(0, C)[None, :]
    n = tl.arange(0, N)
    same = (n[:, None] == n[None, :])[:, :, None, None]
    blocks = tl.permute(tl.reshape(lower, [N, 16, N, 16]), [0, 2, 1, 3])
    blocks = tl.sum(tl.where(same, blocks, 0.0), 1)  # [N, 16, 16], on the diagonal
    row, col = tl.arange(0, 16)[None, :, None], tl.arange(0, 16)[None, None, :]
    D = tl.where(row == col, 1.0, tl.zeros_like(blocks))
    for r in range(15):  # row r is final: take it out of those below
        factor = tl.sum(tl.where(col == r, blocks, 0.0), 2, keep_dims=True)
        D -= factor * tl.sum(tl.where(row == r, D, 0.0), 1, keep_dims=True)
    D = tl.where(same, tl.expand_dims(D, 1), 0.0)
    D = tl.reshape(tl.permute(D, [0, 2, 1, 3]), [C, C])
    X = dot(D.to(exact), tl.where(i // 16 != j // 16, lower, 0.0).to(exact)).to(exact)
    y = D
    for _ in range(N - 1):
        y = D - dot(X, y.to(exact))
    return y


@triton.jit
def carry(q, k, w, u, p, G, start, o, end, states, e, T, H: tl.constexpr,
          R: tl.constexpr, K: tl.constexpr, V: tl.constexpr, BK: tl.constexpr,
          BV: tl.constexpr, C: tl.constexpr, KEEP: tl.constexpr):  # fmt: skip
    """BV columns of one value head's state through all chunks.

    start, end [B, H, K, V] fp32; o [B, T, H, V]. With KEEP no outputs are made:
    instead what the backward pass asks for, states [B, chunks, H, K, V] as they enter
    each chunk, and e [B, T, H, V].
    """
    x, b = tl.program_id(0) * BV, (tl.program_id(1) // H).to(tl.int64)
    h = tl.program_id(1) % H
    S = tiles.load_square(start, b * H + h, x, K, V, BK, BV)
    chunks = tl.cdiv(T, C)
    for n in range(chunks):
        first = n * C
        keys = load_rows(k, b, h // R, first, 0, T, H // R, K, C, BK)
        reads = load_rows(w, b, h, first, 0, T, H, K, C, BK)
        sums = tiles.load_column(G, b, h, first, T, H, C)
        whole = tl.load(G + (b * T + tl.minimum(first + C, T) - 1) * H + h)
        rounded = S.to(keys.dtype)
        E = load_rows(u, b, h, first, x, T, H, V, C, BV) - dot(reads, rounded)
        if KEEP:
            store_rows(E, e, b, h, first, x, T, H, V, C, BV)
            index = (b * chunks + n) * H + h
            tiles.store_square(rounded, states, index, x, K, V, BK, BV)
        else:
            queries = load_rows(q, b, h // R, first, 0, T, H // R, K, C, BK)
            within = load_rows(p, b, h, first, 0, T, H, C, C, C)
            out = dot(queries, rounded) * tl.exp(sums)[:, None]
            out += dot(within, E.to(keys.dtype))
            store_rows(out, o, b, h, first, x, T, H, V, C, BV)
        E *= tl.exp(whole - sums)[:, None]
        S = S * tl.exp(whole) + dot(tl.trans(keys), E.to(keys.dtype))
    tiles.store_square(S, end, b * H + h, x, K, V, BK, BV)


class Sizes:
    """Shapes of one call, and the blocks and warps that suit them."""

    def __init__(self, k, v):
        self.B, self.T, self.H, self.V = v.shape
        self.Hk, self.K = k.shape[2:]
        wide = k.element_size() == 4
        self.C = CHUNK_FP32 if wide else CHUNK
        self.chunks = triton.cdiv(self.T, self.C)
        BK, BV = (max(16, triton.next_power_of_2(x)) for x in (self.K, self.V))
        columns = min(BV, STATE_COLUMNS)
        if wide or self.B * self.H * triton.cdiv(self.V, columns) < FEW_PROGRAMS:
            columns = min(BV, STATE_COLUMNS // 2)
        self.all = dict(T=self.T, H=self.H, R=self.H // self.Hk, K=self.K, V=self.V,
                        BK=BK, C=self.C)  # fmt: skip
        warps = 8 if wide else 4
        self.solve = dict(BV=min(BV, 64), num_warps=warps, num_stages=1)
        self.carry = dict(BV=columns, num_warps=warps, num_stages=1 if wide else 2)
        self.spread = dict(BV=min(BV, 32), num_warps=8, num_stages=1)
        self.by_chunk = self.chunks, self.B * self.Hk
        self.by_state = triton.cdiv(self.V, columns), self.B * self.H


def prepare(q, k, v, g, beta, size, keep=False):
    """`solve` for all chunks: w, u, p, G, and m or None."""
    wide = dict(dtype=q.dtype, device=q.device)
    w = torch.empty(size.B, size.T, size.H, size.K, **wide)
    p = torch.empty(size.B, size.T, size.H, size.C, **wide)
    m = torch.empty_like(p) if keep else None
    u, G = torch.empty_like(v), torch.empty_like(g, dtype=torch.float32)
    solve[size.by_chunk](
        q, k, v, g, beta, w, u, p, m, G, KEEP=keep, **size.all, **size.solve
    )
    return w, u, p, G, m


def forward(q, k, v, g, beta, state):
    """o [B, T, H, V] in v's dtype and the last state, fp32."""
    size = Sizes(k, v)
    w, u, p, G, _ = prepare(q, k, v, g, beta, size)
    o, end = torch.empty_like(v), torch.empty_like(state)
    carry[size.by_state](
        q, k, w, u, p, G, state, o, end, None, None,
        KEEP=False, **size.all, **size.carry,
    )  # fmt: skip
    return o, end
