"""Notebook 06, chunks."""

from functools import partial

import torch

from .core import Exercise, unit, with_slopes


def _gates(rand, C):
    return {"g": -rand(C).abs() - 0.1, "beta": 0.2 + 0.6 * rand(C).sigmoid()}


def _triangle(k, beta):
    return (beta[:, None] * (k @ k.T)).tril(-1)


triangle = Exercise(
    "06",
    "fill the triangle",
    _triangle,
    lambda rand: [
        {"k": unit(rand(C, K)), "beta": _gates(rand, C)["beta"]}
        for C, K in [(2, 2), (4, 3), (6, 8)]
    ],
    wrong={
        "the diagonal is filled; an error needs those "
        "before it, not itself, so L is zero from "
        "the diagonal on: tril(-1)": lambda k, beta: (beta[:, None] * (k @ k.T)).tril(),
        "that is I + L; the ones of the diagonal are left to the solver": (
            lambda k, beta: _triangle(k, beta) + torch.eye(len(k))
        ),
        "the upper triangle is filled; row i is about token i and needs the "
        "columns j < i": lambda k, beta: (beta[:, None] * (k @ k.T)).triu(1),
        "all of it is filled, so a token also needs the errors after it": (
            lambda k, beta: beta[:, None] * (k @ k.T)
        ),
        "beta is that of token j; error i is multiplied by its own, beta_i, and "
        "so is row i": lambda k, beta: (beta * (k @ k.T)).tril(-1),
        "beta is not used": lambda k, beta: (k @ k.T).tril(-1),
        "that is minus L: what is subtracted goes to the left side with a plus": (
            lambda k, beta: -_triangle(k, beta)
        ),
    },
    returns=("L",),
)


def _decays(g):
    G = g.cumsum(0)
    ahead = torch.ones(len(g), len(g), dtype=torch.bool).triu(1)
    return (G[:, None] - G).masked_fill(ahead, -torch.inf).exp()


decays = Exercise(
    "06",
    "decays that stay below one",
    _decays,
    lambda rand: [
        {"g": _gates(rand, 3)["g"]},
        {"g": _gates(rand, 5)["g"]},
        {"g": torch.full((4,), -50.0)},
    ],
    wrong={
        "above the diagonal it is not zero: mask the difference with -inf, "
        "before exp": lambda g: (g.cumsum(0)[:, None] - g.cumsum(0)).exp(),
        "right, and cannot be trained: above the diagonal exp is inf, and its slope "
        "nan even where a mask covers it; put -inf there "
        "first, then exp": lambda g: (g.cumsum(0)[:, None] - g.cumsum(0)).exp().tril(),
        "right, and cannot be trained: no slope comes back to g": (
            lambda g: _decays(g).detach()
        ),
        "the diagonal is zero; from a token to itself nothing fades: it is 1": (
            lambda g: _decays(g).tril(-1)
        ),
        "above the diagonal there are ones: tril leaves a difference of 0 there, and "
        "exp(0) is 1": lambda g: (g.cumsum(0)[:, None] - g.cumsum(0)).tril().exp(),
        "g itself is subtracted; what fades between two tokens is the sum over "
        "all between them: cumsum first": lambda g: (g[:, None] - g).exp().tril(),
        "one factor too many: a pair does not fade "
        "at its own token, so the decay is G_i "
        "- G_j with G the sum up to and with the token": lambda g: _decays(g) * g.exp(),
        "that is the decay since the chunk began, exp(G_i), for every j": (
            lambda g: g.cumsum(0).exp()[:, None].expand(len(g), len(g)).tril()
        ),
    },
    returns=("the decays", "their slopes"),
    through=with_slopes,
)


def _carry(S, k, E, g):
    G = g.cumsum(0)
    return G[-1].exp() * S + ((G[-1] - G).exp()[:, None] * k).T @ E


carry_state = Exercise(
    "06",
    "carry the state",
    _carry,
    lambda rand: [
        dict(S=rand(K, V), k=unit(rand(C, K)), E=rand(C, V), g=_gates(rand, C)["g"])
        for C, K, V in [(2, 2, 2), (4, 4, 3), (5, 3, 5)]
    ],
    wrong={
        "the writes do not fade; what token j wrote fades from there to the end of the "
        "chunk, by exp(G_last - G_j)": lambda S, k, E, g: g.sum().exp() * S + k.T @ E,
        "exp(G_j) is the decay before token j; its write fades after it, by "
        "exp(G_last - G_j)": (
            lambda S, k, E, g: (
                g.sum().exp() * S + (g.cumsum(0).exp()[:, None] * k).T @ E
            )
        ),
        "the old state does not fade; it lives through the whole chunk, "
        "exp(G_last)": lambda S, k, E, g: S + _carry(0 * S, k, E, g),
        "the old state fades by the last g only, not by the sum of all": (
            lambda S, k, E, g: g[-1].exp() * S + _carry(0 * S, k, E, g)
        ),
        "the old state is gone; it fades, and the writes are added to it": (
            lambda S, k, E, g: _carry(0 * S, k, E, g)
        ),
        "all of it fades as the old state does; the writes came later": (
            lambda S, k, E, g: g.sum().exp() * (S + k.T @ E)
        ),
    },
    returns=("the new S",),
)


def _chunk(
    S, q, k, v, g, beta, asked=1, read=1, faded=(1, 1, 1, 1), inside=0, values=False,
    times=(1, 1), solve=torch.linalg.solve_triangular,
):  # fmt: skip
    """Right by default; each option is one mistake."""
    G, D = g.cumsum(0), _decays(g)
    at_error, at_output = ((G * on).exp()[:, None] for on in faded[:2])
    in_errors, in_scores = (D**on for on in faded[2:])
    whole, answered = (beta[:, None] ** on for on in times)
    rhs = beta[:, None] * v - answered * asked * at_error * (k @ S)
    L = _triangle(k, whole[:, 0]) * in_errors
    E = solve(L, rhs, upper=False, unitriangular=True)
    used = beta[:, None] * v if values else E
    o = read * at_output * (q @ S) + ((q @ k.T) * in_scores).tril(inside) @ used
    return o, _carry(S, k, E, g)


def _product(L, rhs, **_):
    return rhs + L @ rhs


def _no_ones(L, rhs, **_):
    return torch.linalg.solve_triangular(L, rhs, upper=False)


one_chunk = Exercise(
    "06",
    "a whole chunk",
    _chunk,
    lambda rand: [
        {"S": rand(K, V), "q": unit(rand(C, K)), "k": unit(rand(C, K))}
        | {"v": rand(C, V), **_gates(rand, C)}
        for C, K, V in [(2, 2, 2), (4, 4, 3), (5, 3, 5)]
    ],
    wrong={
        "the errors do not ask the old state; subtract what it answers from v": (
            partial(_chunk, asked=0)
        ),
        "the errors ask the old state as it was when the chunk began; by token i "
        "it has faded by exp(G_i)": partial(_chunk, faded=(0, 1, 1, 1)),
        "the outputs read the old state as it was when the chunk began; by token "
        "i it has faded by exp(G_i)": partial(_chunk, faded=(1, 0, 1, 1)),
        "the outputs come from this chunk alone; add what q reads from the old "
        "state": partial(_chunk, read=0),
        "the triangle has no decays: what an earlier token wrote has faded when a "
        "later one asks": partial(_chunk, faded=(1, 1, 0, 1)),
        "the scores of the outputs have no decays: what an earlier token wrote has "
        "faded when a later one reads": partial(_chunk, faded=(1, 1, 1, 0)),
        "the triangle has no beta: row i is multiplied by beta_i, as in exercise 1": (
            partial(_chunk, times=(0, 1))
        ),
        "on the right-hand side beta is on v alone; it multiplies all of the error, "
        "also what the old state answers": partial(_chunk, times=(1, 0)),
        "I + L is multiplied with the right-hand side; the errors solve the system": (
            partial(_chunk, solve=_product)
        ),
        "the solver divides by a diagonal of zeros: tell it unitriangular=True, or "
        "give it I + L": partial(_chunk, solve=_no_ones),
        "right outputs; the new S is the old one: carry it through the chunk": (
            lambda S, **case: (_chunk(S, **case)[0], S)
        ),
        "a token does not see its own write; the read comes after it, so keep "
        "the diagonal": partial(_chunk, inside=-1),
        "the outputs add up the values; add up the errors, which are what was "
        "written": partial(_chunk, values=True),
    },
    returns=("the outputs", "the new S"),
)
