"""Notebook 05b, a trained layer: listening to it, and whose values it gives back."""

from contextlib import contextmanager
from functools import partial

import torch

from ..model.delta import delta_recurrent
from .core import Exercise, unit


def _twice(layer, x, **_):
    return {"x": 2 * x}


def _number(layer, x, **_):
    return {"x": x + layer}


def _floor(layer, g, **_):
    return {"g": g.clamp(min=-0.1)}


def _silent(layer, **_):
    return None


def _tap(functions, layer, **values):
    for function in functions:
        values |= function(layer, **values) or {}
    return tuple(values.values())


def _all_hear_the_model(functions, layer, **values):
    left = dict(values)
    for function in functions:
        left |= function(layer, **values) or {}
    return tuple(left.values())


def _some_are_lost(functions, layer, **values):
    for function in functions:
        values = function(layer, **values) or values
    return tuple(values.values())


tap = Exercise(
    "05b",
    "say, and take back",
    _tap,
    lambda rand: [
        {"functions": functions, "layer": layer, "x": rand(3), "g": -rand(3).abs() - 1}
        for functions, layer in [
            ([_twice, _number], 3),
            ([_floor], 1),
            ([], 2),
            ([_silent, _number, _twice, _silent], 5),
        ]
    ],
    wrong={
        "what listeners return is not used: put it in the place of the values": (
            lambda functions, layer, **values: tuple(values.values())
        ),
        "every listener was given what the model said; the second one hears what the "
        "first has left": _all_hear_the_model,
        "a listener may return some of the values only; the others are lost here, keep "
        "them as they are": _some_are_lost,
        "only the first listener is called": (
            lambda functions, layer, **values: _tap(functions[:1], layer, **values)
        ),
        "only the last listener is called": (
            lambda functions, layer, **values: _tap(functions[-1:], layer, **values)
        ),
        "the listeners are called last one first; go in the list's order": (
            lambda functions, layer, **values: _tap(functions[::-1], layer, **values)
        ),
    },
    returns=("the first value", "the second value"),
)


class _Failure(Exception):
    """What goes wrong in a block while somebody listens."""


def _around(answer):
    """Uses a generator with one yield, or a block; tells who listens in and after."""

    def run(table, functions):
        told = []
        for fails in (False, True):
            own = {name: list(before) for name, before in table.items()}
            made = answer(own, functions)
            if not hasattr(made, "__next__") and not hasattr(made, "__enter__"):
                return ["there is no yield"] if made is None else made
            block = made if hasattr(made, "__enter__") else _block(made)
            try:
                with block:
                    told.append(f"within: {_names(own)}")
                    if fails:
                        raise _Failure
            except _Failure:
                told.append("the failure is heard of")
            told.append(f"after {'a failure' if fails else 'it'}: {_names(own)}")
        return told

    return run


@contextmanager
def _block(generator):
    yield from generator


def _names(table):
    return "; ".join(
        f"{name} {', '.join(f.__name__.strip('_') for f in functions) or '-'}"
        for name, functions in table.items()
    )


def _listen(table, functions, add=list.append, take=list.remove, surely=True):
    """Right by default; each option is one mistake."""
    for name, function in functions.items():
        add(table[name], function)
    done = False
    try:
        yield
        done = True
    finally:
        for name, function in functions.items():
            if done or surely:
                take(table[name], function)


def _hushed(table, functions):
    try:
        yield from _listen(table, functions)
    except _Failure:
        pass


def _instead(table, functions):
    before = {name: list(table[name]) for name in functions}
    table.update({name: [function] for name, function in functions.items()})
    try:
        yield
    finally:
        table.update(before)


listen = Exercise(
    "05b",
    "listen for a while",
    _listen,
    lambda rand: [
        {
            "table": {"x": [_twice], "g": []},
            "functions": {"x": _number, "g": _floor},
        },
        {"table": {"x": [_silent, _twice], "g": [_floor]}, "functions": {"x": _number}},
    ],
    wrong={
        "the functions still listen after the block; take them out again": (
            partial(_listen, take=lambda functions, function: None)
        ),
        "after a block that failed the functions still listen: put what comes after "
        "the yield into a `finally`": partial(_listen, surely=False),
        "what fails in the block is hushed up: `finally` would let it pass on, where "
        "`except` does not": _hushed,
        "whoever listened before is silenced in the block; add to the list": _instead,
        "at the end all listeners of the tap are gone; take out your own alone": (
            partial(_listen, take=lambda functions, function: functions.clear())
        ),
        "the new listeners come first; those who were there before hear first": (
            partial(_listen, add=lambda fs, function: fs.insert(0, function))
        ),
    },
    returns=("who listens",),
    through=_around,
)


def _rule(q, k, v, g, beta):
    """Outputs [T, V] and the last state [K, V] of one head."""
    q, k, v, g, beta = (x[None, :, None] for x in (q, k, v, g, beta))
    o, S = delta_recurrent(q, k, v, g=g, beta=beta)
    return o[0, :, 0], S[0, 0]


def _whose(q, k, g, beta):
    return _rule(q, k, torch.eye(len(q)), g, beta)[0]


def _faded(g, diagonal=0):
    G = g.cumsum(0)
    return (G[:, None] - G).exp().tril(diagonal)


def _head(rand, T, K):
    beta = 0.2 + 0.6 * rand(T).sigmoid()
    gates = {"g": -0.1 - 0.4 * rand(T).abs(), "beta": beta}
    return {"k": unit(0.5 + rand(T, K))} | gates


whose_values = Exercise(
    "05b",
    "whose values are these?",
    _whose,
    lambda rand: [
        {"q": unit(0.5 + rand(T, K)), **_head(rand, T, K)}
        for T, K in [(3, 2), (6, 4), (5, 8)]
    ],
    wrong={
        "nothing is corrected: these are the weights of a memory "
        "that only adds, where a later token with a similar "
        "key takes nothing away": lambda q, k, g, beta: _faded(g) * (q @ k.T) * beta,
        "these are the weights of the errors that were "
        "written; an error is a value less what was known "
        "before, and values are asked for": lambda q, k, g, beta: _faded(g) * (q @ k.T),
        "nothing fades: g is not used": (
            lambda q, k, g, beta: _whose(q, k, 0 * g, beta)
        ),
        "beta is not used": lambda q, k, g, beta: _whose(q, k, g, torch.ones_like(g)),
        "a token does not see its own value; the memory is read after the write": (
            lambda q, k, g, beta: _whose(q, k, g, beta).tril(-1)
        ),
        "it is read with the keys; each row is what this token's query reads": (
            lambda q, k, g, beta: _whose(k, k, g, beta)
        ),
        "that is softmax attention; the rule has none, it only gets other values": (
            lambda q, k, g, beta: (
                (q @ k.T).masked_fill(_faded(g) == 0, -torch.inf).softmax(-1)
            )
        ),
    },
    returns=("the weights",),
)


def _memory(k, g, beta):
    """The last state when values are names: column t is what token t has in it."""
    return _rule(k, k, torch.eye(len(k)), g, beta)[1]


def _known(k, g, beta, share=True):
    found = (k.T * _memory(k, g, beta)).sum(0)
    return found / beta if share else found


still_known = Exercise(
    "05b",
    "what is still known",
    _known,
    lambda rand: [_head(rand, T, K) for T, K in [(3, 2), (6, 4), (5, 8)]],
    wrong={
        "that is what fading alone leaves; later tokens with similar keys write over a "
        "pair as well": lambda k, g, beta: _faded(g)[-1],
        "divide by beta: a token writes that share of its value, and all of what it "
        "wrote counts as one": partial(_known, share=False),
        "nothing fades: g is not used": lambda k, g, beta: _known(k, 0 * g, beta),
        "all are asked for by the last token's key; ask for each by its own": (
            lambda k, g, beta: k[-1] @ _memory(k, g, beta) / beta
        ),
        "that counts the values of all tokens; of "
        "what key t reads, the weight of value "
        "t is asked for": lambda k, g, beta: (k @ _memory(k, g, beta)).sum(1) / beta,
        "a pair does not fade at its own token, which writes after it has forgotten": (
            lambda k, g, beta: _known(k, g, beta) * g.exp()
        ),
    },
    returns=("the shares",),
)
