"""Notebook 03, gated attention."""

from functools import partial

import torch

from ..model import attention
from ..model.config import Config
from ..model.shapes import FULL
from .core import Exercise


def _weights(q, k, scale=None, look=torch.tril):
    """Causal weights [T, S] of one head; `look` keeps what may be seen."""
    scores = q @ k.T / (len(q[0]) ** 0.5 if scale is None else scale)
    seen = look(torch.ones_like(scores)).bool()
    return scores.masked_fill(~seen, -torch.inf).softmax(-1)


def _one_head(q, k, v, **mistake):
    return _weights(q, k, **mistake) @ v


def _over_queries(q, k, v):
    scores = q @ k.T / q.shape[1] ** 0.5
    future = torch.ones_like(scores).triu(1).bool()
    return scores.masked_fill(future, -torch.inf).softmax(0) @ v


one_head = Exercise(
    "03",
    "one head",
    _one_head,
    lambda rand: [
        {"q": rand(T, K), "k": rand(T, K), "v": rand(T, K)}
        for T, K in [(3, 2), (5, 4), (6, 8)]
    ],
    wrong={
        "the scores are not divided by the square root of the head's width": (
            partial(_one_head, scale=1)
        ),
        "the scores are divided by the width; divide by its square root": (
            lambda q, k, v: _weights(q, k, scale=q.shape[1]) @ v
        ),
        "divided by the root of 2, as in the example; a head of width K needs that of "
        "K": partial(_one_head, scale=2**0.5),
        "tokens look into the future; nothing is masked": (
            partial(_one_head, look=torch.ones_like)
        ),
        "a token does not see itself, and the first sees "
        "nothing, which is nan: triu() has the diagonal in it, "
        "triu(1) has the future": partial(_one_head, look=lambda ones: ones.tril(-1)),
        "the future is all that is seen; the mask is the wrong way round": (
            partial(_one_head, look=torch.triu)
        ),
        "a score of 0 is a score like any other and gets a "
        "weight; the future needs -inf, whose exponential "
        "is 0": lambda q, k, v: (q @ k.T / q.shape[1] ** 0.5).tril().softmax(-1) @ v,
        "the future is cut away after the softmax, so the weights "
        "no longer add up to one; put -inf into the scores "
        "before it": lambda q, k, v: _weights(q, k, look=torch.ones_like).tril() @ v,
        "the softmax runs over the queries; each query's weights over the keys "
        "add up to one, which is dim=-1": _over_queries,
    },
    returns=("the outputs",),
)


def _bytes(cfg, layers=None, heads=None):
    layers = cfg.layer_types.count(FULL) if layers is None else layers
    heads = cfg.num_key_value_heads if heads is None else heads
    return layers * 2 * heads * cfg.head_dim * 2


kv_bytes = Exercise(
    "03",
    "bytes for a token",
    _bytes,
    lambda rand: [
        {"cfg": Config.named(name).text} for name in ("397B-A17B", "0.8B", "27B")
    ],
    wrong={
        "every layer is counted; only those of `layer_types` called full_attention "
        "keep keys and values": lambda cfg: _bytes(cfg, layers=cfg.num_hidden_layers),
        "all query heads are counted; only the key and value heads are kept": (
            lambda cfg: _bytes(cfg, heads=cfg.num_attention_heads)
        ),
        "a factor of two is missing: keys and values are both kept, and bf16 takes "
        "two bytes for each number": lambda cfg: _bytes(cfg) // 2,
        "four bytes a number, as in fp32, are twice too many; bf16 takes two": (
            lambda cfg: 2 * _bytes(cfg)
        ),
        "those are numbers of keys; values are kept as well, and bf16 takes two "
        "bytes for each number": lambda cfg: _bytes(cfg) // 4,
        "that is one layer; how many keep something?": partial(_bytes, layers=1),
    },
    returns=("the bytes",),
)


def _mask_with(rule):
    """rule(query [T, 1], key [S], real [B, S]) -> what may be seen, [B, 1, T, S]."""

    def mask(real, T):
        S = real.shape[1]
        query, key = torch.arange(S - T, S)[:, None], torch.arange(S)
        seen = rule(query, key, real)
        return seen.expand(len(real), 1, T, S)

    return mask


def _mask_inputs(rand):
    return [
        {"real": torch.arange(S) >= torch.tensor(padding)[:, None], "T": T}
        for S, T, padding in [(5, 5, [0, 2]), (6, 2, [1, 0]), (4, 4, [3, 1])]
    ]


causal_mask = Exercise(
    "03",
    "who may look at whom",
    attention.causal_mask,
    _mask_inputs,
    wrong={
        "padding is not masked: `real` is not used": (
            _mask_with(lambda query, key, real: (key <= query)[None, None])
        ),
        "a padding token may look at nothing, not even itself; its row of the "
        "softmax would be NaN": (
            _mask_with(lambda query, key, real: (key <= query) & real[:, None, None])
        ),
        "a token does not see itself: triu() has the diagonal in it, triu(1) has not": (
            _mask_with(lambda query, key, real: (key < query) & real[:, None, None])
        ),
        "the queries are numbered from 0; they are the last T of the S tokens, "
        "so they begin at S - T": (
            _mask_with(
                lambda query, key, real: (
                    (key <= query - query[0]) & real[:, None, None]
                    | (key == query - query[0])
                )
            )
        ),
        "tokens look into the future": (
            _mask_with(lambda query, key, real: real[:, None, None] | (key == query))
        ),
        "the triangle begins at the first token, as `tril` makes it; the last T of the "
        "S tokens ask, so it is shifted by S - T": (
            _mask_with(
                lambda query, key, real: (
                    (key <= query - query[0]) & real[:, None, None] | (key == query)
                )
            )
        ),
        "two things are missing: the last T of the S tokens ask, so the triangle is "
        "shifted by S - T; and a padding token looks at itself": (
            _mask_with(
                lambda query, key, real: (key <= query - query[0]) & real[:, None, None]
            )
        ),
        "the wrong way round: True is where a token may look": (
            lambda real, T: ~attention.causal_mask(real, T)
        ),
        "padding is opened, not closed: `real` is True where there is text": (
            _mask_with(lambda query, key, real: (key <= query) | ~real[:, None, None])
        ),
        "padding is masked where it asks; mask it where it is looked at, along "
        "the keys": (
            _mask_with(
                lambda query, key, real: (
                    (key <= query) & real[:, None, query[:, 0], None] | (key == query)
                )
            )
        ),
        "all S tokens ask; only the last T do": (
            lambda real, T: attention.causal_mask(real, real.shape[1])
        ),
    },
    returns=("the mask",),
)


def _split(y, heads):
    q, gate = y.view(len(y), heads, -1).chunk(2, dim=-1)
    return q, gate


def _halves(y, heads):
    return tuple(half.reshape(len(y), heads, -1) for half in y.chunk(2, dim=-1))


def _every_other(y, heads):
    y = y.view(len(y), heads, -1)
    return y[..., 0::2], y[..., 1::2]


query_and_gate = Exercise(
    "03",
    "queries and gates",
    _split,
    lambda rand: [
        {"y": rand(T, H * 2 * K), "heads": H}
        for T, H, K in [(3, 2, 2), (2, 4, 4), (1, 3, 2)]
    ],
    wrong={
        "all queries, then all gates: that is another layout. Cut into heads "
        "first, then cut each head in two": _halves,
        "query and gate are swapped; the query comes first": (
            lambda y, heads: _split(y, heads)[::-1]
        ),
        "right, and one step too far: the sigmoid of the gates comes later, in the "
        "layer": lambda y, heads: (_split(y, heads)[0], _split(y, heads)[1].sigmoid()),
        "query and gate do not alternate number by number; a head's whole query "
        "comes before its gate": _every_other,
    },
    returns=("the queries", "the gates"),
)
