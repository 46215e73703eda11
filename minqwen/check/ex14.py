"""Notebook 14, what a token costs: bytes moved, experts shared, texts that fit."""

from functools import partial

from .core import Exercise, given
from .ex00 import whole


def _step(weights, batch, tokens, kv, state, states=2, copies=1):
    return copies * weights + batch * (kv * tokens + states * state)


step_bytes = Exercise(
    "14",
    "the bytes of a step",
    _step,
    lambda rand: [
        {"weights": whole(rand, 200, 400), "batch": batch, "kv": kv}
        | {"tokens": whole(rand, 11, 30), "state": whole(rand, 5, 9)}
        for batch, kv in [(1, 2), (3, 5), (8, 1)]
    ],
    wrong={
        "a state is read, changed and written back: it travels twice": (
            partial(_step, states=1)
        ),
        "weights travel once a step, whatever the number of texts; that is what a "
        "batch is for": lambda **case: _step(**case, copies=case["batch"]),
        "every text has keys, values and states of its own: times `batch`": (
            given(_step, batch=1)
        ),
        "a token looks at all tokens of its text, not at one: kv * tokens": (
            given(_step, tokens=1)
        ),
        "the state is the same size after any number "
        "of tokens; only keys and values are kept "
        "for each": given(_step, state=lambda case: case["state"] * case["tokens"]),
        "the states are missing": given(_step, state=0),
        "keys and values are only read here; it is the state that travels twice": (
            given(_step, kv=lambda case: 2 * case["kv"])
        ),
        "those are the bytes for each text; a step's are asked for": (
            lambda **case: _step(**case) / case["batch"]
        ),
    },
    returns=("the bytes of a step",),
)


def _touched(experts, top_k, batch):
    return experts * (1 - (1 - top_k / experts) ** batch)


touched_experts = Exercise(
    "14",
    "experts that a batch touches",
    _touched,
    lambda rand: [
        {"experts": E, "top_k": k, "batch": B}
        for E, k, B in [
            (whole(rand, 12, 30), 4, 3),
            (whole(rand, 8, 12), 3, whole(rand, 5, 9)),  # more choices than experts
            (64, whole(rand, 3, 8), 1),
        ]
    ],
    wrong={
        "no two texts would ever share an expert; some do": (
            lambda experts, top_k, batch: top_k * batch
        ),
        "no two texts would share an expert until all are taken; some do before": (
            lambda experts, top_k, batch: min(top_k * batch, experts)
        ),
        "all texts would choose the same experts; each chooses for itself": (
            lambda experts, top_k, batch: top_k
        ),
        "those are the experts that nobody chose; the others are asked for": (
            lambda experts, top_k, batch: experts - _touched(experts, top_k, batch)
        ),
        "that is a share; times the number of experts": (
            lambda experts, top_k, batch: _touched(experts, top_k, batch) / experts
        ),
        "a text's own choices are all different: it "
        "leaves an expert out with probability 1 - top_k "
        "/ experts": lambda experts, top_k, batch: _touched(experts, 1, top_k * batch),
    },
    returns=("the number of experts",),
)


def _fit(memory, weights, kv, tokens, state, states=1, least=0):
    return max(least, (memory - weights) // (kv * tokens + states * state))


texts_that_fit = Exercise(
    "14",
    "texts that fit",
    _fit,
    lambda rand: [
        {"memory": weights + count * (kv * tokens + state) + spare * kv}
        | {"weights": weights, "kv": kv, "tokens": tokens, "state": state}
        for count, spare, kv, tokens, state in [
            (9, 2, 2, whole(rand, 8, 12), whole(rand, 12, 16)),
            (5, 3, 3, whole(rand, 8, 12), whole(rand, 20, 30)),
            (-6, 2, 1, whole(rand, 12, 16), whole(rand, 5, 9)),
        ]
        for weights in [whole(rand, 200, 300)]
    ],
    wrong={
        "a state is moved twice a step, but it is kept once": partial(_fit, states=2),
        "the states take room too": partial(_fit, states=0),
        "the weights take their room first": given(_fit, weights=0),
        "where even the weights do not fit, no text does: 0, not less": (
            partial(_fit, least=-1000)
        ),
        "a text fits whole or not at all: round down": (
            lambda memory, weights, kv, tokens, state: max(
                0, (memory - weights) / (kv * tokens + state)
            )
        ),
        "that is one too many; round down": lambda **case: _fit(**case) + 1,
        "a text keeps keys and values of all its tokens: kv * tokens": (
            given(_fit, tokens=1)
        ),
    },
    returns=("the number of texts",),
)


def _ceiling(slow_kv, fast_kv, fast_state, tokens, states=2):
    return slow_kv * tokens / (fast_kv * tokens + states * fast_state)


ceiling = Exercise(
    "14",
    "the ratio in a large batch",
    _ceiling,
    lambda rand: [
        {"slow_kv": whole(rand, 40, 60), "fast_kv": whole(rand, 5, 9)}
        | {"fast_state": whole(rand, 300, 500), "tokens": tokens}
        for tokens in (whole(rand, 100, 200), 1000)
    ],
    wrong={
        "the states of the fast model are moved as well, twice": (
            given(_ceiling, fast_state=0)
        ),
        "a state is read and written: it is moved twice": partial(_ceiling, states=1),
        "that is how many times as slow; fewer bytes are faster, so the slow model's "
        "bytes stand above": lambda **case: 1 / _ceiling(**case),
        "the state is moved once a step, not once for each token of the text": (
            given(_ceiling, fast_state=lambda case: case["fast_state"] * case["tokens"])
        ),
    },
    returns=("the ratio",),
)
