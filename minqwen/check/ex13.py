"""Notebook 13, fast paths: the roof, the fused step, a good test, an early answer."""

from functools import partial
from itertools import combinations

import torch

from . import ex04
from .core import Exercise, unit
from .ex00 import whole


def _roof(intensity, bandwidth, arithmetic, lower=min):
    return lower(arithmetic, bandwidth * intensity)


roof = Exercise(
    "13",
    "the roof",
    _roof,
    lambda rand: [
        dict(intensity=i, bandwidth=whole(rand, 10, 15), arithmetic=whole(rand, 80, 99))
        for i in (0.5, 3.0, 40.0)
    ],
    wrong={
        "that passes both limits; the lower one decides": partial(_roof, lower=max),
        "it has no end: where there is much to do for a byte, arithmetic decides": (
            lambda **case: _roof(**case | {"arithmetic": 1e9})
        ),
        "it is flat: where there is little to do for a byte, memory decides": (
            lambda **case: case["arithmetic"]
        ),
        "it divides; bytes a second times operations a byte are operations a second": (
            lambda **case: _roof(**case | {"intensity": 1 / case["intensity"]})
        ),
        "bytes a second are compared with operations a second": (
            lambda **case: _roof(**case | {"intensity": 1})
        ),
    },
    returns=("operations a second",),
)


def _heads(q, k, v, g, beta, state, step=ex04._gated):
    """A step of notebook 04 for each head."""
    each = zip(state, q, k, v, g, beta, strict=True)
    o, S = zip(*(step(*head) for head in each), strict=True)
    return torch.stack(o), torch.stack(S)


def _step_inputs(rand, *sizes):
    return [
        {
            "q": unit(rand(H, K)), "k": unit(rand(H, K)), "v": rand(H, V),
            "g": -rand(H).abs() - 0.1, "beta": 0.2 + 0.6 * rand(H).sigmoid(),
            "state": rand(H, K, V),
        }
        for H, K, V in sizes
    ]  # fmt: skip


def _whole_blocks(q, k, v, g, beta, state):
    o, S = _heads(q, k, v, g, beta, state)
    done = torch.arange(v.shape[1]) < v.shape[1] // 16 * 16
    return o * done, torch.where(done, S, state)


def _error_first(*args, **kwargs):
    return _heads(*args, **kwargs, step=ex04._error_first)


def _answer_first(*args, **kwargs):
    return _heads(*args, **kwargs, step=ex04._read_first)


fused_step = Exercise(
    "13",
    "one read, one write",
    _heads,
    lambda rand: _step_inputs(rand, (1, 4, 16), (2, 8, 32), (3, 16, 24)),
    wrong={
        "columns beyond the last whole block are left out; as many programs are "
        "needed as triton.cdiv(V, BV) says": _whole_blocks,
        "the error is taken against the state before it fades": _error_first,
        "the answer is read before the write; add k e^T to the tile first":
            _answer_first,
        "the answer is read with the key; load the query too":
            lambda **case: _heads(**case | {"q": case["k"]}),
        "the new state is not stored; tl.store(at, S, real)":
            lambda **case: (_heads(**case)[0], case["state"]),
        "every head takes the key and the query of head 0; add h * K to where they "
        "begin": lambda **case: _heads(
            **case | {name: case[name][:1].expand_as(case[name]) for name in "qk"}
        ),
        "g is a logarithm: times tl.exp(g), not g":
            partial(_heads, step=partial(ex04._gated, decay=torch.clone)),
        "beta is for the whole error, beta (v - read), not for v alone": partial(
            _heads,
            step=partial(ex04._gated, add=lambda v, read, beta: beta * v - read),
        ),
        "nothing is forgotten: times exp(g)":
            lambda **case: _heads(**case | {"g": 0 * case["g"]}),
        "beta is not used":
            lambda **case: _heads(**case | {"beta": torch.ones_like(case["beta"])}),
    },
    returns=("the output", "the new state"),
)  # fmt: skip


def _otherwise(*args, **kwargs):
    """Right, but for the rounding of sums in another order."""
    o, S = _heads(*args, **kwargs)
    return o * (1 + 2e-7), S * (1 + 2e-7)


def _short_state(*args, **kwargs):
    o, S = _heads(*args, **kwargs)
    return o, S.bfloat16().to(S.dtype)


FAULTS = {
    _whole_blocks: "that leaves out the columns after the last whole block of 16",
    _error_first: "that takes the error before the state fades",
    _answer_first: "that answers before it writes",
    _short_state: "that keeps its state in bf16",
}


def _tells(step):
    """Right for any step: a token of three heads, columns that fill no whole block."""
    rand = partial(torch.randn, generator=torch.Generator().manual_seed(1))
    [case] = _step_inputs(rand, (3, 16, 40))
    rights = _heads(**{name: x.double() for name, x in case.items()})
    pairs = zip(step(**case), rights, strict=True)
    return int(all(torch.allclose(a.double(), b, 5e-6, 5e-6) for a, b in pairs))


def _verdict(step, passed=()):
    return int(step not in FAULTS or step in passed)


telling_test = Exercise(
    "13",
    "a test that tells",
    _tells,
    lambda rand: [{"step": step} for step in (_heads, _otherwise, *FAULTS)],
    wrong={
        "it accepts a step " + ", and one ".join(FAULTS[step] for step in passed): (
            partial(_verdict, passed=passed)
        )
        for n in range(1, len(FAULTS) + 1)
        for passed in combinations(FAULTS, n)
    }
    | {
        "it refuses a right step whose sums are rounded otherwise; how large may a "
        "difference be?": lambda step: int(step is _heads),
        "it refuses every step; how exact can fp32 be?": lambda step: 0,
    },
    returns=("the verdict",),
)


def _early(found, asked, q, k, v, g, beta, gate=torch.exp):
    return gate(g) * asked + (k @ q) * (beta * (v - gate(g) * found))


early_answer = Exercise(
    "13",
    "an answer before the write",
    _early,
    lambda rand: [
        {"found": S.T @ case["k"], "asked": S.T @ case["q"]} | case
        for case in ex04._step_inputs(rand) for S in [case.pop("S")]
    ],
    wrong={
        "that is the answer before the write; what is written counts for q as far as "
        "q overlaps with k": lambda asked, g, **rest: g.exp() * asked,
        "the write counts in full only for a query equal to the key; times k . q": (
            lambda k, **rest: _early(k=k, **rest | {"q": k})
        ),
        "`asked` was read before the state faded: times exp(g)": (
            lambda asked, g, **rest: _early(asked=asked / g.exp(), g=g, **rest)
        ),
        "`found` was read before the state faded; the error is taken after": (
            lambda found, g, **rest: _early(found=found / g.exp(), g=g, **rest)
        ),
        "g is a logarithm: times exp(g), not g": partial(_early, gate=torch.clone),
        "neither read has faded yet: times exp(g)":
            lambda g, **rest: _early(g=0 * g, **rest),
        "beta is missing from the error": lambda beta, **rest: _early(beta=1, **rest),
        "the new write does not fade; exp(g) is for what was there before": (
            lambda g, **rest: _early(g=g, **rest | {"asked": 0}) * g.exp()
            + g.exp() * rest["asked"]),
        "v itself would be written; the rule writes the error, beta (v - read)": (
            lambda found, **rest: _early(found=0 * found, **rest)
        ),
    },
    returns=("the answer",),
)  # fmt: skip
