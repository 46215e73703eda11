"""Notebook 04, the delta rule."""

import torch

from ..model import delta
from .core import Exercise


def unit(x):
    return x / x.norm(dim=-1, keepdim=True)


# ---- 1: one corrected write


def _write(S, k, v):
    return S + torch.outer(k, v - S.T @ k)


write = Exercise(
    "04",
    "a corrected write",
    _write,
    lambda rand: [
        {"S": rand(K, V), "k": unit(rand(K)), "v": rand(V)}
        for K, V in [(2, 2), (4, 4), (3, 5)]
    ],
    wrong={
        "it adds v itself, as a Hebbian memory does; only what the memory gets "
        "wrong should be added, v - S^T k": lambda S, k, v: S + torch.outer(k, v),
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


# ---- 2: how strong a write must be


def _strength(k, left):
    return (1 - left) / (k @ k)


strength = Exercise(
    "04",
    "how strong a write",
    _strength,
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


# ---- 3: the gated step


def _gated(S, q, k, v, g, beta):
    S = g.exp() * S
    S = S + torch.outer(k, beta * (v - S.T @ k))
    return S.T @ q, S


def _error_first(S, q, k, v, g, beta):
    error = beta * (v - S.T @ k)
    S = g.exp() * S + torch.outer(k, error)
    return S.T @ q, S


def _forget_all(S, q, k, v, g, beta):
    S = g.exp() * (S + torch.outer(k, beta * (v - S.T @ k)))
    return S.T @ q, S


def _hebbian(S, q, k, v, g, beta):
    S = g.exp() * S + torch.outer(k, beta * v)
    return S.T @ q, S


def _interpolate(S, q, k, v, g, beta):
    S = g.exp() * (1 - beta) * S + torch.outer(k, beta * v)
    return S.T @ q, S


def _read_first(S, q, k, v, g, beta):
    S = g.exp() * S
    new = S + torch.outer(k, beta * (v - S.T @ k))
    return S.T @ q, new


def _read_by_key(S, q, k, v, g, beta):
    S = _gated(S, q, k, v, g, beta)[1]
    return S.T @ k, S


def _alpha_is_g(S, q, k, v, g, beta):
    S = g * S
    S = S + torch.outer(k, beta * (v - S.T @ k))
    return S.T @ q, S


def _no_decay(S, q, k, v, g, beta):
    return _gated(S, q, k, v, torch.zeros_like(g), beta)


def _no_beta(S, q, k, v, g, beta):
    return _gated(S, q, k, v, g, torch.ones_like(beta))


def _beta_on_value(S, q, k, v, g, beta):
    S = g.exp() * S
    S = S + torch.outer(k, beta * v - S.T @ k)
    return S.T @ q, S


WRONG_STEPS = {
    "the error is taken before forgetting; first S <- exp(g) S, then read it "
    "and take the error": _error_first,
    "the new pair is forgotten as well: decay the old memory, then write": _forget_all,
    "the correction is missing: it adds beta v, not beta (v - S^T k). That is a "
    "Hebbian memory with decay": _hebbian,
    "(1 - beta) shrinks the whole memory; the delta rule changes it along k only": (
        _interpolate
    ),
    "the output is read before the write; write first, then read with q": _read_first,
    "the output is read with the key; read it with the query q": _read_by_key,
    "g is a logarithm: the memory is multiplied by exp(g), not by g": _alpha_is_g,
    "nothing is forgotten: g is not used": _no_decay,
    "beta is not used": _no_beta,
    "beta belongs to the whole error, beta (v - S^T k), not to v alone": _beta_on_value,
}


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
    wrong=WRONG_STEPS,
    returns=("the output", "the new S"),
)


# ---- 4: the loop


def _loop_with(spread, step=delta.delta_step, carry=True):
    def loop(q, k, v, *, g, beta, state):
        B, T, H, V = v.shape
        q, k = spread(q, H), spread(k, H)
        state = state if carry else torch.zeros_like(state)
        outputs = []
        for t in range(T):
            inputs = {"g": g[:, t], "beta": beta[:, t], "state": state}
            o, state = step(q[:, t], k[:, t], v[:, t], **inputs)
            outputs.append(o)
        return torch.stack(outputs, dim=1), state

    return loop


def _neighbours(x, H):
    return x.repeat_interleave(H // x.shape[2], dim=2)


def _tiled(x, H):
    return x.repeat(1, 1, H // x.shape[2], 1)


def _shape_last(q, k, v, *, g, beta, state):
    o, state = delta.delta_recurrent(q, k, v, g=g, beta=beta, state=state)
    return o.transpose(1, 2), state


def _forgotten(q, k, v, *, g, beta, state):
    steps = [
        delta.delta_recurrent(
            q[:, t : t + 1], k[:, t : t + 1], v[:, t : t + 1],
            g=g[:, t : t + 1], beta=beta[:, t : t + 1], state=state,
        )
        for t in range(v.shape[1])
    ]  # fmt: skip
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
        "(0, 0, 1, 1): repeat_interleave, not repeat": _loop_with(_tiled),
        "it starts from zeros, not from the state that it was given": (
            _loop_with(_neighbours, carry=False)
        ),
        "each token starts from the first state again: pass the new state on": (
            _forgotten
        ),
        "time and heads are swapped in the output; stack along dim=1": _shape_last,
    },
    returns=("the outputs", "the last state"),
)


# ---- 5: the step as a matrix


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
            lambda k, v, g, beta: (
                _transition(k, v, g, beta)[0],
                g.exp() * beta * torch.outer(k, v),
            )
        ),
        "A only decays; the read S^T k is also linear in S, so it belongs to A": (
            lambda k, v, g, beta: (
                g.exp() * torch.eye(len(k)),
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
