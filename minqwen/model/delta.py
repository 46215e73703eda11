"""The gated delta rule: a memory of fixed size that is corrected, not only added to.

Three forms of one function: a step, a loop over steps, and chunks without that loop.
They give the same answer; which is faster depends on T and the machine.

    here         paper (arXiv 2412.06464)      transformers, fla
    S [K, V]     S^T                           recurrent state
    g            log alpha                     g, decay
    beta         beta                          beta
"""

import torch
from torch import Tensor

from .forms import OptTensor, operation


def delta_step(
    q: Tensor, k: Tensor, v: Tensor, *, g: Tensor, beta: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:
    """One token of the gated delta rule (Yang et al., arXiv 2412.06464).

        S <- exp(g) S          forget
        e  = beta (v - S^T k)  what the memory gets wrong about k
        S <- S + k e^T         correct it
        o  = S^T q             read

    q, k [B, H, K]; v [B, H, V]; g, beta [B, H] with g <= 0, 0 < beta < 1;
    state [B, H, K, V], fp32. Returns o [B, H, V] and the new state.
    """
    state = state * g.exp()[..., None, None]
    # NOTE: the error is taken against what decay has left, not what was there before.
    read = (state * k[..., None]).sum(-2)  # [B, H, V]
    error = beta[..., None] * (v - read)
    state = state + k[..., None] * error[..., None, :]
    # NOTE: read after the write, so a token sees what it has just written.
    return (state * q[..., None]).sum(-2), state


def delta_recurrent(
    q: Tensor, k: Tensor, v: Tensor, *, g: Tensor, beta: Tensor, state: OptTensor = None
) -> tuple[Tensor, Tensor]:
    """The rule token by token: the form to trust, and the one used for a single token.

    q, k [B, T, Hk, K]; v [B, T, H, V]; g, beta [B, T, H]; state [B, H, K, V] or None
    for zeros; H is a multiple of Hk. All fp32. Returns o [B, T, H, V], the last state.
    """
    B, T, H, V = v.shape
    # NOTE: value head h reads key head h // (H / Hk); not h mod Hk.
    q, k = (x.repeat_interleave(H // x.shape[2], dim=2) for x in (q, k))
    if state is None:
        state = v.new_zeros(B, H, k.shape[-1], V)
    outputs = []
    for t in range(T):
        o, state = delta_step(
            q[:, t], k[:, t], v[:, t], g=g[:, t], beta=beta[:, t], state=state
        )
        outputs.append(o)
    return torch.stack(outputs, dim=1), state


def delta_chunked(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    g: Tensor,
    beta: Tensor,
    state: OptTensor = None,
    chunk: int = 64,
) -> tuple[Tensor, Tensor]:
    """The rule a chunk at a time: the errors of a chunk solve one triangular system.

    Error i needs the errors before it: e_i = beta_i (v_i - decayed S^T k_i
    - sum_{j<i} decay_ij (k_j . k_i) e_j). That is (I + L) E = rhs with L strictly
    lower, solved once for all chunks; only the state passes from chunk to chunk
    (Yang et al., arXiv 2406.06484). Shapes and result as `delta_recurrent`.
    """
    B, T, H, V = v.shape
    Hk, K = k.shape[2:]
    q, k, v, g, beta = _chunks(q, k, v, g, beta, Hk, chunk)
    G = g.cumsum(-1)  # [B, Hk, R, n, C], log decay since the chunk began
    # Masked before exp: above the diagonal the difference is positive and overflows.
    ahead = torch.ones(chunk, chunk, dtype=torch.bool, device=q.device).triu(1)
    decay = (G[..., :, None] - G[..., None, :]).masked_fill(ahead, -torch.inf).exp()
    L = (k @ k.mT) * decay * beta[..., None]  # [B, Hk, R, n, C, C]
    rhs = torch.cat([v, k * G.exp()[..., None]], dim=-1) * beta[..., None]
    # unitriangular: the solver takes 1 for the diagonal and never looks at L's own.
    UW = torch.linalg.solve_triangular(L, rhs, upper=False, unitriangular=True)
    U, W = UW.split([V, K], dim=-1)
    inside = (q @ k.mT) * decay
    reads = q * G.exp()[..., None]
    writes = k * (G[..., -1:] - G).exp()[..., None]
    kept = G[..., -1].exp()[..., None, None]
    R = H // Hk
    S = v.new_zeros(B, Hk, R, K, V) if state is None else state.view(B, Hk, R, K, V)
    outputs = []
    # unbind, not an index for each chunk: a gradient is then put together once.
    chunks = (x.unbind(3) for x in (U, W, reads, inside, writes, kept))
    for u, w, read, within, write, keep in zip(*chunks, strict=True):
        E = u - w @ S  # the chunk's errors
        outputs.append(read @ S + within @ E)
        S = keep * S + write.mT @ E
    o = torch.cat(outputs, dim=-2)[..., :T, :]  # [B, Hk, R, T, V]
    return o.reshape(B, H, T, V).transpose(1, 2), S.reshape(B, H, K, V)


@operation
def delta_rule(
    q: Tensor, k: Tensor, v: Tensor, *, g: Tensor, beta: Tensor, state: OptTensor = None
) -> tuple[Tensor, Tensor]:
    """The rule as the layers call it. Shapes and result as `delta_recurrent`."""
    if q.shape[1] == 1:
        return delta_recurrent(q, k, v, g=g, beta=beta, state=state)
    # Chunks no longer than a key is wide: else their own products cost most.
    chunk = min(64, q.shape[-1])
    return delta_chunked(q, k, v, g=g, beta=beta, state=state, chunk=chunk)


def _chunks(
    q: Tensor, k: Tensor, v: Tensor, g: Tensor, beta: Tensor, Hk: int, chunk: int
) -> list[Tensor]:
    """Zero-pad T to whole chunks (which changes nothing) and bring heads forward.

    Keys stay one per key head, [B, Hk, 1, n, C, K]; the R value heads that share
    them are an axis of their own, [B, Hk, R, n, C, V].
    """
    pad = -v.shape[1] % chunk

    def split(x: Tensor) -> Tensor:
        x = torch.nn.functional.pad(x, (0, 0) * (x.dim() - 2) + (0, pad))
        x = x.unflatten(2, (Hk, -1)).unflatten(1, (-1, chunk))  # [B, n, C, Hk, R, ...]
        return x.movedim((3, 4), (1, 2))  # [B, Hk, R, n, C, ...]

    return [split(x) for x in (q, k, v, g, beta)]
