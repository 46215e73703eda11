"""Notebook 00, the name: four counts."""

from functools import partial

from .core import Exercise, given


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


def _mixer(D, H, Hkv, K, q=2, kv=2, o=1, norms=2):
    return (q * H + kv * Hkv + o * H) * K * D + norms * K


attention_size = Exercise(
    "00",
    "a full layer's mixer",
    _mixer,
    lambda rand: [
        {"D": whole(rand, 8, 15), "H": H, "Hkv": Hkv, "K": whole(rand, 3, 6)}
        for H, Hkv in [(4, 1), (6, 2), (8, 2)]
    ],
    wrong={
        "those are the textbook's four equal matrices; here q_proj makes gates too, "
        "keys and values have Hkv heads only, and there are two norms": (
            lambda D, H, Hkv, K: 4 * H * K * D
        ),
        "q_proj is twice as tall: beside each query it makes a gate of the same "
        "width, 2 H K rows in all": partial(_mixer, q=1),
        "the two norms are missing, K numbers each": partial(_mixer, norms=0),
        "keys and values have Hkv heads only; several query heads share one": (
            given(_mixer, Hkv=lambda case: case["H"])
        ),
        "keys and values each have Hkv K rows; one is missing": partial(_mixer, kv=1),
        "o_proj reads H K numbers: the gate is used up before": partial(_mixer, o=2),
        "all heads share one q_norm and one k_norm of K numbers each": (
            given(_mixer, norms=lambda case: case["H"] + case["Hkv"])
        ),
    },
    returns=("the number of parameters",),
)


def _active(total, layers, experts, top_k, one):
    return total - layers * (experts - top_k) * one


active_size = Exercise(
    "00",
    "what one token uses",
    _active,
    lambda rand: [
        {"total": L * E * one + whole(rand, 400, 900), "layers": L}
        | {"experts": E, "top_k": k, "one": one}
        for L, E, k in [(2, 5, 2), (4, 8, 1), (3, 16, 4)]
        for one in [whole(rand, 30, 60)]
    ],
    wrong={
        "each layer has experts of its own; that is one layer's idle ones": (
            given(_active, layers=1)
        ),
        "that takes all experts away; top_k of them are used": (
            given(_active, top_k=0)
        ),
        "top_k are used; those that sit idle are experts - top_k": (
            lambda total, layers, experts, top_k, one: total - layers * top_k * one
        ),
        "that is the experts alone; a token passes through all of the rest too": (
            lambda total, layers, experts, top_k, one: layers * top_k * one
        ),
        "only experts are chosen from; all of the "
        "rest is used by every token, so do not scale "
        "the total": lambda total, layers, experts, top_k, one: total * top_k / experts,
        "the shared expert is not among `experts`; it is in the rest already": (
            given(_active, experts=lambda case: case["experts"] - 1)
        ),
    },
    returns=("the number of parameters",),
)


experts_for_budget = Exercise(
    "00",
    "experts for a budget",
    lambda budget, rest, layers, one: (budget - rest) // (layers * one),
    lambda rand: [
        {"budget": rest + k * L * one + L * one // 2}
        | {"rest": rest, "layers": L, "one": one}
        for L, k in [(2, 3), (4, 1), (3, 7)]
        for one in [whole(rand, 30, 60)]
        for rest in [3 * L * one + whole(rand, 2, 20)]
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
