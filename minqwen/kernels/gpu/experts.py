"""The routed experts, `moe.Experts`: grouped products for many tokens, rows for few.

    y = sum over a token's choices of weight * down_e(silu(gate_e x) * up_e x)

Many tokens: the choices are sorted by expert, and every BM rows of one expert are a
tile. `gate_up` fetches its rows of x by index and multiplies them with gate and up
together, so neither a sorted copy of x nor gate and up are ever written; `down` puts
its rows back where the choices stood. No number leaves the device on the way, so the
count of tiles is the largest there can be, and those left over return at once.

Few tokens (`FEW`): at one token nothing but reading weights takes time, 25.2 MB for
each choice in a layer of 397B, and sorting would only stand before it. Programs take
some rows of a chosen expert's matrix and multiply and add; no tensor cores.
"""

# ruff: noqa: E741  I is the width of an expert everywhere
import torch
import triton
import triton.language as tl

from .tiles import dot

SHAPE = dict(BN=128, BK=64, num_stages=3)  # of tiles of 16-bit numbers
FEW = 8  # tokens up to which every choice reads its expert for itself


@triton.jit
def gate_up(x, w, order, expert, begin, ends, h, TOP: tl.constexpr, E: tl.constexpr,
            D: tl.constexpr, I: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
            BK: tl.constexpr):  # fmt: skip
    """A tile [BM, BN] of h = silu(gate) * up, rows sorted by expert.

    x [N, D]; w [E, 2 I, D]; order [N * TOP], a choice's number at its sorted place;
    expert, begin: of each tile; ends [E]; h [N * TOP, I].
    """
    blocks: tl.constexpr = (I + BN - 1) // BN
    tile = tl.program_id(0) // blocks  # a tile's neighbours share its rows of x, and
    n = tl.program_id(0) % blocks * BN + tl.arange(0, BN)  # an expert's tiles its w
    e = tl.load(expert + tile).to(tl.int64)
    if e == E:
        return
    m = tl.load(begin + tile) + tl.arange(0, BM)
    real = m < tl.load(ends + e)
    token = tl.load(order + m, real, 0) // TOP
    gate, up = tl.zeros([BM, BN], tl.float32), tl.zeros([BM, BN], tl.float32)
    for first in range(0, D, BK):
        d = first + tl.arange(0, BK)
        some = tl.load(
            x + token[:, None] * D + d[None, :], real[:, None] & (d < D)[None, :], 0.0
        )
        at, there = (e * 2 * I + n)[None, :] * D + d[:, None], (d < D)[:, None]
        there = there & (n < I)[None, :]
        gate += dot(some, tl.load(w + at, there, 0.0))
        up += dot(some, tl.load(w + at + I * D, there, 0.0))
    y = (gate * tl.sigmoid(gate) * up).to(h.dtype.element_ty)
    tl.store(h + m[:, None] * I + n[None, :], y, real[:, None] & (n < I)[None, :])


@triton.jit
def down(h, w, order, expert, begin, ends, weights, y, E: tl.constexpr,
         D: tl.constexpr, I: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
         BK: tl.constexpr):  # fmt: skip
    """A tile of weight * (h w^T). w [E, D, I]; y [N * TOP, D], rows by choice again."""
    blocks: tl.constexpr = (D + BN - 1) // BN
    tile = tl.program_id(0) // blocks
    n = tl.program_id(0) % blocks * BN + tl.arange(0, BN)
    e = tl.load(expert + tile).to(tl.int64)
    if e == E:
        return
    m = tl.load(begin + tile) + tl.arange(0, BM)
    real = m < tl.load(ends + e)
    choice = tl.load(order + m, real, 0)
    total = tl.zeros([BM, BN], tl.float32)
    for first in range(0, I, BK):
        i = first + tl.arange(0, BK)
        some = tl.load(
            h + m[:, None] * I + i[None, :], real[:, None] & (i < I)[None, :], 0.0
        )
        at, there = (e * D + n)[None, :] * I + i[:, None], (i < I)[:, None]
        total += dot(some, tl.load(w + at, there & (n < D)[None, :], 0.0))
    total *= tl.load(weights + choice, real, 0.0).to(tl.float32)[:, None]
    at, there = choice[:, None] * D + n[None, :], real[:, None] & (n < D)[None, :]
    tl.store(y + at, total.to(y.dtype.element_ty), there)


@triton.jit
def gate_up_rows(x, w, ids, h, TOP: tl.constexpr, D: tl.constexpr, I: tl.constexpr,
                 BI: tl.constexpr, BD: tl.constexpr):  # fmt: skip
    """BI numbers of h = silu(gate) * up for one choice. ids [N * TOP]; h fp32."""
    choice, i = tl.program_id(1), tl.program_id(0) * BI + tl.arange(0, BI)
    e, token = tl.load(ids + choice).to(tl.int64), choice // TOP
    gate, up = tl.zeros([BI, BD], tl.float32), tl.zeros([BI, BD], tl.float32)
    for first in range(0, D, BD):
        d = first + tl.arange(0, BD)
        some = tl.load(x + token * D + d, d < D, 0.0).to(tl.float32)[None, :]
        at = (e * 2 * I + i)[:, None] * D + d[None, :]
        real = (i < I)[:, None] & (d < D)[None, :]
        gate += tl.load(w + at, real, 0.0).to(tl.float32) * some
        up += tl.load(w + at + I * D, real, 0.0).to(tl.float32) * some
    gate, up = tl.sum(gate, 1), tl.sum(up, 1)
    tl.store(h + choice * I + i, gate * tl.sigmoid(gate) * up, i < I)


@triton.jit
def down_rows(h, w, ids, weights, y, TOP: tl.constexpr, D: tl.constexpr,
              I: tl.constexpr, BD: tl.constexpr, BI: tl.constexpr):  # fmt: skip
    """BD numbers of one token's sum over its choices. y [N, D]."""
    token, d = tl.program_id(1), tl.program_id(0) * BD + tl.arange(0, BD)
    total = tl.zeros([BD, BI], tl.float32)
    for choice in range(token * TOP, token * TOP + TOP):
        e = tl.load(ids + choice).to(tl.int64)
        share = tl.load(weights + choice).to(tl.float32)
        for first in range(0, I, BI):
            i = first + tl.arange(0, BI)
            some = share * tl.load(h + choice * I + i, i < I, 0.0)[None, :]
            at = (e * D + d)[:, None] * I + i[None, :]
            real = (d < D)[:, None] & (i < I)[None, :]
            total += tl.load(w + at, real, 0.0).to(tl.float32) * some
    out = tl.sum(total, 1).to(y.dtype.element_ty)
    tl.store(y + token * D + d, out, d < D)


def experts(x, weights, ids, gate_up_proj, down_proj):
    """x [N, D]; weights, ids [N, TOP]; the two tensors of `moe.Experts` -> [N, D]."""
    E, D, I = down_proj.shape
    form = few if len(x) <= FEW else many
    return form(x.contiguous(), weights.contiguous(), ids.contiguous(),
                gate_up_proj, down_proj, E, D, I)  # fmt: skip


def few(x, weights, ids, gate_up_proj, down_proj, E, D, I):
    N, TOP = ids.shape
    h = torch.empty(N * TOP, I, device=x.device)
    y = torch.empty_like(x)
    grid = triton.cdiv(I, 8), N * TOP
    gate_up_rows[grid](
        x, gate_up_proj, ids, h, TOP, D, I,
        BI=8, BD=min(512, triton.next_power_of_2(D)), num_warps=4,
    )  # fmt: skip
    down_rows[triton.cdiv(D, 8), N](
        h, down_proj, ids, weights, y, TOP, D, I,
        BD=8, BI=min(512, triton.next_power_of_2(I)), num_warps=4,
    )  # fmt: skip
    return y


def many(x, weights, ids, gate_up_proj, down_proj, E, D, I):
    N, TOP = ids.shape
    M = N * TOP
    blocks = tile_shape(M, E, x.dtype)
    order, expert, begin, ends = tiles(ids, E, blocks["BM"])
    h, y = x.new_empty(M, I), x.new_empty(N, TOP, D)
    where = order, expert, begin, ends
    columns = [len(expert) * triton.cdiv(n, blocks["BN"]) for n in (I, D)]
    gate_up[columns[0],](x, gate_up_proj, *where, h, TOP, E, D, I, **blocks)
    down[columns[1],](h, down_proj, *where, weights, y, E, D, I, **blocks)
    return y.sum(1)


def tile_shape(M, E, dtype):
    """Rows about as many as an expert has: more would be multiplied for nothing."""
    BM = min(128, max(16, triton.next_power_of_2(M // E)))
    blocks = dict(BN=64, BK=32, num_stages=2) if dtype.itemsize == 4 else SHAPE
    return blocks | dict(BM=BM, num_warps=8 if BM == 128 else 4)


def tiles(ids, E, BM):
    """Where choices go, and which BM sorted rows each tile takes. No host is asked.

    order [M]: the choices sorted by expert; expert, begin [tiles]: a tile's expert, E
    where there is no tile, and first row; ends [E]: the row after an expert's last.
    """
    sorted_ids, order = ids.flatten().sort(stable=True)
    experts = torch.arange(E, device=ids.device)
    ends = torch.searchsorted(sorted_ids, experts, right=True)
    starts = torch.searchsorted(sorted_ids, experts)
    count = (ends - starts + BM - 1) // BM  # tiles of each expert
    last = count.cumsum(0)
    M = len(order)
    tile = torch.arange(M // BM + min(E, M), device=ids.device)
    expert = torch.searchsorted(last, tile, right=True)  # [tiles], E beyond the last
    mine = expert.clamp(max=E - 1)
    return order, expert, starts[mine] + (tile - (last - count)[mine]) * BM, ends
