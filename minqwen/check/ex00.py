"""Notebook 00, the name: four counts."""

from .core import Exercise


def whole(rand, low, high):
    """A whole number from low to high, drawn."""
    return low + int(rand(()).abs() * 1000) % (high - low + 1)


expert_size = Exercise(
    "00",
    "one expert",
    lambda D, width: 3 * D * width,
    lambda rand: [
        {"D": whole(rand, 5, 12), "width": whole(rand, 3, 9)} for _ in range(3)
    ],
    wrong={
        "an expert has three matrices of D * width numbers: gate, up and down": (
            lambda D, width: 2 * D * width
        ),
        "that is one matrix; an expert has three": lambda D, width: D * width,
        "that is the number of bytes in bf16; numbers are asked for": (
            lambda D, width: 6 * D * width
        ),
        "these matrices have no biases beside them": (
            lambda D, width: 3 * D * width + 2 * width + D
        ),
    },
    returns=("the number of parameters",),
)


def _attention_size(D, H, Hkv, K):
    return 2 * H * K * D + 2 * Hkv * K * D + D * H * K + 2 * K


attention_size = Exercise(
    "00",
    "a full layer's mixer",
    _attention_size,
    lambda rand: [
        {"D": whole(rand, 8, 15), "H": H, "Hkv": Hkv, "K": whole(rand, 3, 6)}
        for H, Hkv in [(4, 1), (6, 2), (8, 2)]
    ],
    wrong={
        "q_proj is twice as tall: beside each query it makes a gate of the same "
        "width, 2 H K rows in all": (
            lambda D, H, Hkv, K: _attention_size(D, H, Hkv, K) - H * K * D
        ),
        "the two norms are missing, K numbers each": (
            lambda D, H, Hkv, K: _attention_size(D, H, Hkv, K) - 2 * K
        ),
        "keys and values have Hkv heads only; several query heads share one": (
            lambda D, H, Hkv, K: _attention_size(D, H, H, K)
        ),
        "keys and values each have a matrix of Hkv K rows; one is missing": (
            lambda D, H, Hkv, K: _attention_size(D, H, Hkv, K) - Hkv * K * D
        ),
        "o_proj reads H K numbers: the gate has been used up before it": (
            lambda D, H, Hkv, K: _attention_size(D, H, Hkv, K) + H * K * D
        ),
        "all heads share one q_norm and one k_norm of K numbers each": (
            lambda D, H, Hkv, K: _attention_size(D, H, Hkv, K) + (H + Hkv - 2) * K
        ),
    },
    returns=("the number of parameters",),
)


active_size = Exercise(
    "00",
    "what one token uses",
    lambda total, layers, experts, top_k, one: total - layers * (experts - top_k) * one,
    lambda rand: [
        {
            "total": layers * experts * one + whole(rand, 400, 900),
            "layers": layers,
            "experts": experts,
            "top_k": top_k,
            "one": one,
        }
        for layers, experts, top_k, one in [
            (2, 5, 2, whole(rand, 30, 60)),
            (4, 8, 1, whole(rand, 30, 60)),
            (3, 16, 4, whole(rand, 30, 60)),
        ]
    ],
    wrong={
        "each layer has experts of its own; that is one layer's idle ones": (
            lambda total, layers, experts, top_k, one: total - (experts - top_k) * one
        ),
        "that takes all experts away; top_k of them are used": (
            lambda total, layers, experts, top_k, one: total - layers * experts * one
        ),
        "top_k are used; those that sit idle are experts - top_k": (
            lambda total, layers, experts, top_k, one: total - layers * top_k * one
        ),
        "that is the experts alone; a token passes through all of the rest too": (
            lambda total, layers, experts, top_k, one: layers * top_k * one
        ),
        "only experts are chosen from; all of the rest is used by every token, so "
        "do not scale the total": (
            lambda total, layers, experts, top_k, one: total * top_k / experts
        ),
        "the shared expert is not among `experts`; it is in the rest already": (
            lambda total, layers, experts, top_k, one: (
                total - layers * (experts - top_k - 1) * one
            )
        ),
    },
    returns=("the number of parameters",),
)


experts_for_budget = Exercise(
    "00",
    "experts for a budget",
    lambda budget, rest, layers, one: (budget - rest) // (layers * one),
    lambda rand: [
        {
            "budget": (rest := 3 * layers * one + whole(rand, 2, 20))
            + k * layers * one
            + layers * one // 2,
            "rest": rest,
            "layers": layers,
            "one": one,
        }
        for layers, k, one in [
            (2, 3, whole(rand, 30, 60)),
            (4, 1, whole(rand, 30, 60)),
            (3, 7, whole(rand, 30, 60)),
        ]
    ],
    wrong={
        "the rest is used by every token and has its share of the budget: take it "
        "off first": lambda budget, rest, layers, one: budget // (layers * one),
        "each of them is needed in every layer: one more costs layers * one": (
            lambda budget, rest, layers, one: (budget - rest) // one
        ),
        "that is one too many: it is over the budget; round down": (
            lambda budget, rest, layers, one: (budget - rest) // (layers * one) + 1
        ),
        "experts come whole: round down": (
            lambda budget, rest, layers, one: (budget - rest) / (layers * one)
        ),
    },
    returns=("the number of experts",),
)
