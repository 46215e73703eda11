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

Packed matrices differ in how a tile of them is loaded (packed.py: widened), no more.
"""

# ruff: noqa: E741  I is the width of an expert everywhere
import torch
import triton
import triton.language as tl

from .packed import most_columns, parts, widened
from .tiles import dot

SHAPE = dict(BN=128, BK=64, num_stages=3)  # of tiles of 16-bit numbers
FEW = 8  # tokens up to which every choice reads its expert for itself


@triton.jit
def gate_up(x, w, scales, order, expert, begin, ends, h, FORM: tl.constexpr,
            TOP: tl.constexpr, E: tl.constexpr, D: tl.constexpr, I: tl.constexpr,
            BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr):  # fmt: skip
    """A tile [BM, BN] of h = silu(gate) * up, rows sorted by expert.

    x [N, D]; w [E, 2 I, D], or with its scales in FORM; order [N * TOP], a choice's
    number at its sorted place; expert, begin: of each tile; ends [E]; h [N * TOP, I].
    """
    blocks: tl.constexpr = (I + BN - 1) // BN
    tile = tl.program_id(0) // blocks  # a tile's neighbours share its rows of x, and
    first_n = tl.program_id(0) % blocks * BN  # an expert's tiles its w
    e = tl.load(expert + tile).to(tl.int64)
    if e == E:
        return
    n, row, left = first_n + tl.arange(0, BN), e * 2 * I + first_n, I - first_n
    m = tl.load(begin + tile) + tl.arange(0, BM)
    real = m < tl.load(ends + e)
    token = tl.load(order + m, real, 0) // TOP
    gate, up = tl.zeros([BM, BN], tl.float32), tl.zeros([BM, BN], tl.float32)
    for first in range(0, D, BK):
        d = first + tl.arange(0, BK)
        some = tl.load(
            x + token[:, None] * D + d[None, :], real[:, None] & (d < D)[None, :], 0.0
        )
        rows = widened(w, scales, row, left, first, D, BN, BK, FORM, I)
        gate += dot(some, rows.to(some.dtype).T)
        rows = widened(w, scales, row + I, left, first, D, BN, BK, FORM, I)
        up += dot(some, rows.to(some.dtype).T)
    y = (gate * tl.sigmoid(gate) * up).to(h.dtype.element_ty)
    tl.store(h + m[:, None] * I + n[None, :], y, real[:, None] & (n < I)[None, :])


@triton.jit
def down(h, w, scales, order, expert, begin, ends, weights, y, FORM: tl.constexpr,
         E: tl.constexpr, D: tl.constexpr, I: tl.constexpr, BM: tl.constexpr,
         BN: tl.constexpr, BK: tl.constexpr):  # fmt: skip
    """A tile of weight * (h w^T). w [E, D, I]; y [N * TOP, D], rows by choice again."""
    blocks: tl.constexpr = (D + BN - 1) // BN
    tile = tl.program_id(0) // blocks
    first_n = tl.program_id(0) % blocks * BN
    e = tl.load(expert + tile).to(tl.int64)
    if e == E:
        return
    n, row, left = first_n + tl.arange(0, BN), e * D + first_n, D - first_n
    m = tl.load(begin + tile) + tl.arange(0, BM)
    real = m < tl.load(ends + e)
    choice = tl.load(order + m, real, 0)
    total = tl.zeros([BM, BN], tl.float32)
    for first in range(0, I, BK):
        i = first + tl.arange(0, BK)
        some = tl.load(
            h + m[:, None] * I + i[None, :], real[:, None] & (i < I)[None, :], 0.0
        )
        rows = widened(w, scales, row, left, first, I, BN, BK, FORM, D)
        total += dot(some, rows.to(some.dtype).T)
    total *= tl.load(weights + choice, real, 0.0).to(tl.float32)[:, None]
    at, there = choice[:, None] * D + n[None, :], real[:, None] & (n < D)[None, :]
    tl.store(y + at, total.to(y.dtype.element_ty), there)


@triton.jit
def gate_up_rows(x, w, scales, ids, h, FORM: tl.constexpr, TOP: tl.constexpr,
                 D: tl.constexpr, I: tl.constexpr, BI: tl.constexpr,
                 BD: tl.constexpr):  # fmt: skip
    """BI numbers of h = silu(gate) * up for one choice. ids [N * TOP]; h fp32."""
    choice, first_i = tl.program_id(1), tl.program_id(0) * BI
    e, token = tl.load(ids + choice).to(tl.int64), choice // TOP
    i, row, left = first_i + tl.arange(0, BI), e * 2 * I + first_i, I - first_i
    gate, up = tl.zeros([BI, BD], tl.float32), tl.zeros([BI, BD], tl.float32)
    for first in range(0, D, BD):
        d = first + tl.arange(0, BD)
        some = tl.load(x + token * D + d, d < D, 0.0).to(tl.float32)[None, :]
        gate += some * widened(w, scales, row, left, first, D, BI, BD, FORM, I)
        up += some * widened(w, scales, row + I, left, first, D, BI, BD, FORM, I)
    gate, up = tl.sum(gate, 1), tl.sum(up, 1)
    tl.store(h + choice * I + i, gate * tl.sigmoid(gate) * up, i < I)


@triton.jit
def down_rows(h, w, scales, ids, weights, y, FORM: tl.constexpr, TOP: tl.constexpr,
              D: tl.constexpr, I: tl.constexpr, BD: tl.constexpr,
              BI: tl.constexpr):  # fmt: skip
    """BD numbers of one token's sum over its choices. y [N, D]."""
    token, first_d = tl.program_id(1), tl.program_id(0) * BD
    d = first_d + tl.arange(0, BD)
    total = tl.zeros([BD, BI], tl.float32)
    for choice in range(token * TOP, token * TOP + TOP):
        e = tl.load(ids + choice).to(tl.int64)
        share = tl.load(weights + choice).to(tl.float32)
        for first in range(0, I, BI):
            i = first + tl.arange(0, BI)
            some = share * tl.load(h + choice * I + i, i < I, 0.0)[None, :]
            row, left = e * D + first_d, D - first_d
            total += some * widened(w, scales, row, left, first, I, BD, BI, FORM, D)
    out = tl.sum(total, 1).to(y.dtype.element_ty)
    tl.store(y + token * D + d, out, d < D)


def experts(x, weights, ids, gate_up_proj, down_proj):
    """x [N, D]; weights, ids [N, TOP]; the two weights of `moe.Experts` -> [N, D]."""
    E, D, I = down_proj.shape
    form = few if len(x) <= FEW else many
    return form(x.contiguous(), weights.contiguous(), ids.contiguous(),
                parts(gate_up_proj), parts(down_proj), E, D, I)  # fmt: skip


def few(x, weights, ids, into, back, E, D, I):
    (*into, into_form), (*back, back_form) = into, back
    N, TOP = ids.shape
    h = torch.empty(N * TOP, I, device=x.device)
    y = torch.empty_like(x)
    grid = triton.cdiv(I, 8), N * TOP
    gate_up_rows[grid](
        x, *into, ids, h, into_form, TOP, D, I,
        BI=8, BD=most_columns(D, 512), num_warps=4,
    )  # fmt: skip
    down_rows[triton.cdiv(D, 8), N](
        h, *back, ids, weights, y, back_form, TOP, D, I,
        BD=8, BI=most_columns(I, 512), num_warps=4,
    )  # fmt: skip
    return y


def many(x, weights, ids, into, back, E, D, I):
    (*into, into_form), (*back, back_form) = into, back
    N, TOP = ids.shape
    M = N * TOP
    blocks = tile_shape(M, E, x.dtype)
    order, expert, begin, ends = tiles(ids, E, blocks["BM"])
    h, y = x.new_empty(M, I), x.new_empty(N, TOP, D)
    where = order, expert, begin, ends
    columns = [len(expert) * triton.cdiv(n, blocks["BN"]) for n in (I, D)]
    gate_up[columns[0],](x, *into, *where, h, into_form, TOP, E, D, I, **blocks)
    down[columns[1],](h, *back, *where, weights, y, back_form, E, D, I, **blocks)
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
