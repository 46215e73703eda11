"""Notebook 04, the delta rule."""

from functools import partial

import torch

from ..model import delta
from .core import Exercise, unit

write = Exercise(
    "04",
    "a corrected write",
    lambda S, k, v: S + torch.outer(k, v - S.T @ k),
    lambda rand: [
        {"S": rand(K, V), "k": unit(rand(K)), "v": rand(V)}
        for K, V in [(2, 2), (4, 4), (3, 5)]
    ],
    wrong={
        "it adds v itself, as a Hebbian memory does; only what the memory gets "
        "wrong should be added, v - S^T k": lambda S, k, v: S + torch.outer(k, v),
        "S @ k is another product, which agrees for a symmetric S only; a key reads "
        "S^T k": lambda S, k, v: S + torch.outer(k, v - S @ k),
        "the memory is unchanged; is the write returned?": lambda S, k, v: S,
        "the old content is gone: return S plus the write, not the write alone": (
            lambda S, k, v: torch.outer(k, v - S.T @ k)
        ),
        "the error has the wrong sign: it is v minus what was read": (
            lambda S, k, v: S - torch.outer(k, v - S.T @ k)
        ),
    },
    returns=("the new S",),
)


strength = Exercise(
    "04",
    "how strong a write",
    lambda k, left: (1 - left) / (k @ k),
    lambda rand: [
        {"k": scale * unit(rand(4)), "left": left}
        for scale, left in [(1.0, 0.5), (2.0, 0.25), (0.5, 0.0)]
    ],
    wrong={
        "right for keys of length one only; a key twice as long is written, and "
        "read, twice as strongly": lambda k, left: 1 - left,
        "the length comes in twice: once when the key writes, once when it reads; "
        "divide by |k| squared": lambda k, left: (1 - left) / k.norm(),
        "that is for the part removed; `left` is what remains": (
            lambda k, left: left / (k @ k)
        ),
    },
    returns=("beta",),
)


def _correction(v, read, beta):
    return beta * (v - read)


def _read(S, k):
    return S.T @ k


def _gated(
    S, q, k, v, g, beta, decay=torch.exp, add=_correction, ask=_read, answer=_read
):  # fmt: skip
    S = decay(g) * S
    S = S + torch.outer(k, add(v, ask(S, k), beta))
    return answer(S, q), S


def _error_first(S, q, k, v, g, beta):
    S = g.exp() * S + torch.outer(k, beta * (v - S.T @ k))
    return S.T @ q, S


def _forget_all(S, q, k, v, g, beta):
    S = g.exp() * (S + torch.outer(k, beta * (v - S.T @ k)))
    return S.T @ q, S


def _interpolate(S, q, k, v, g, beta):
    S = g.exp() * (1 - beta) * S + torch.outer(k, beta * v)
    return S.T @ q, S


def _read_first(S, q, k, v, g, beta):
    _, new = _gated(S, q, k, v, g, beta)
    return (g.exp() * S).T @ q, new


def _step_inputs(rand):
    return [
        {
            "S": rand(K, V), "q": unit(rand(K)), "k": unit(rand(K)), "v": rand(V),
            "g": -rand(()).abs() - 0.1, "beta": 0.2 + 0.6 * rand(()).sigmoid(),
        }
        for K, V in [(2, 2), (4, 4), (3, 5)]
    ]  # fmt: skip


gated_step = Exercise(
    "04",
    "the gated step",
    _gated,
    _step_inputs,
    wrong={
        "the error is taken before forgetting; first S <- exp(g) S, then read it "
        "and take the error": _error_first,
        "the new pair is forgotten as well: decay the old memory, then write": (
            _forget_all
        ),
        "the correction is missing: it adds beta v, "
        "not beta (v - S^T k). That is a Hebbian "
        "memory with decay": partial(_gated, add=lambda v, read, beta: beta * v),
        "(1 - beta) shrinks the whole memory; the delta rule changes it along k only": (
            _interpolate
        ),
        "the output is read before the write; write first, then read with q": (
            _read_first
        ),
        "the output is read with the key; read it with the query q": (
            lambda S, q, k, v, g, beta: _gated(S, k, k, v, g, beta)
        ),
        "g is a logarithm: the memory is multiplied by exp(g), not by g": (
            partial(_gated, decay=lambda g: g)
        ),
        "the error is from S @ k, another product; a key reads S^T k": (
            partial(_gated, ask=torch.matmul)
        ),
        "the output is S @ q, another product; a query reads S^T q": (
            partial(_gated, answer=torch.matmul)
        ),
        "S @ k and S @ q are other products; it is read by S^T k and S^T q": (
            partial(_gated, ask=torch.matmul, answer=torch.matmul)
        ),
        "nothing is forgotten: g is not used": partial(_gated, decay=torch.ones_like),
        "beta is not used": partial(_gated, add=lambda v, read, beta: v - read),
        "beta belongs to the whole error, beta (v - S^T k), not to v alone": (
            partial(_gated, add=lambda v, read, beta: beta * v - read)
        ),
    },
    returns=("the output", "the new S"),
)


def _tiled_keys(q, k, v, **rest):
    times = v.shape[2] // k.shape[2]
    q, k = (x.repeat(1, 1, times, 1) for x in (q, k))
    return delta.delta_recurrent(q, k, v, **rest)


def _shape_last(**case):
    o, state = delta.delta_recurrent(**case)
    return o.transpose(1, 2), state


def _forgotten(state, **case):
    steps = [
        delta.delta_recurrent(**{k: x[:, [t]] for k, x in case.items()}, state=state)
        for t in range(case["v"].shape[1])
    ]
    return torch.cat([o for o, _ in steps], dim=1), steps[-1][1]


def _loop_inputs(rand):
    return [
        {
            "q": unit(rand(B, T, Hk, 4)), "k": unit(rand(B, T, Hk, 4)),
            "v": rand(B, T, H, 3), "g": -rand(B, T, H).abs(),
            "beta": rand(B, T, H).sigmoid(), "state": rand(B, H, 4, 3),
        }
        for B, T, Hk, H in [(1, 5, 2, 4), (2, 1, 2, 2), (2, 7, 2, 6)]
    ]  # fmt: skip


delta_recurrent = Exercise(
    "04",
    "token by token",
    delta.delta_recurrent,
    _loop_inputs,
    wrong={
        "the keys are tiled (0, 1, 0, 1); neighbours share a key head "
        "(0, 0, 1, 1): repeat_interleave, not repeat": _tiled_keys,
        "it starts from zeros, not from the state that it was given": (
            lambda state, **case: delta.delta_recurrent(**case)
        ),
        "each token starts from the first state again: pass the new state on": (
            _forgotten
        ),
        "time and heads are swapped in the output; stack along dim=1": _shape_last,
    },
    returns=("the outputs", "the last state"),
)


def _transition(k, v, g, beta):
    eye = torch.eye(len(k))
    return g.exp() * (eye - beta * torch.outer(k, k)), beta * torch.outer(k, v)


transition = Exercise(
    "04",
    "the step as a matrix",
    _transition,
    lambda rand: [
        {name: case[name] for name in ("k", "v", "g", "beta")}
        for case in _step_inputs(rand)
    ],
    wrong={
        "the decay is missing from A: everything that was there is multiplied "
        "by exp(g)": lambda k, v, g, beta: _transition(k, v, torch.zeros_like(g), beta),
        "the decay reaches B: the new pair is written after forgetting": (
            lambda k, v, g, beta: _transition(k, g.exp() * v, g, beta)
        ),
        "A only decays; the read S^T k is also linear in S, so it belongs to A": (
            lambda k, v, g, beta: (_transition(k, v, g, 0)[0], beta * torch.outer(k, v))
        ),
        "beta is missing from B: it multiplies the whole error, so v as well": (
            lambda k, v, g, beta: (_transition(k, v, g, beta)[0], torch.outer(k, v))
        ),
        "1 minus a matrix takes it from a matrix full of ones; the identity, "
        "torch.eye, has them on its diagonal only": (
            lambda k, v, g, beta: (
                g.exp() * (1 - beta * torch.outer(k, k)),
                beta * torch.outer(k, v),
            )
        ),
        "only the identity decays; the read is of the decayed memory too, so "
        "exp(g) multiplies both terms of A": (
            lambda k, v, g, beta: (
                g.exp() * torch.eye(len(k)) - beta * torch.outer(k, k),
                beta * torch.outer(k, v),
            )
        ),
    },
    returns=("A", "B"),
)
