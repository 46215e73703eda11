"""Notebook 08, sixty layers: blocks, the whole, its cache."""

from functools import partial

import torch

from ..model.norm import rms_norm
from .core import Exercise, given


def _block(x, mixer, mlp, norm1, norm2):
    x = x + mixer(norm1(x))
    return x + mlp(norm2(x))


def _post_norm(x, mixer, mlp, norm1, norm2):
    x = norm1(x + mixer(x))
    return norm2(x + mlp(x))


def _normed_stream(x, mixer, mlp, norm1, norm2):
    x = norm1(x)
    x = norm2(x + mixer(x))
    return x + mlp(x)


def _normed_output(x, mixer, mlp, norm1, norm2):
    x = x + norm1(mixer(x))
    return x + norm2(mlp(x))


def _norm(gain):
    return lambda x: rms_norm(x, gain, 1e-6)


def _reader(weight, mix):
    """A small layer: a token reads those before it where `mix` is true."""
    return lambda x: torch.tanh((x.cumsum(0) if mix else x) @ weight)


def _identity(x):
    return x


block = Exercise(
    "08",
    "one block",
    _block,
    lambda rand: [
        {
            "x": 3 * rand(T, D),
            "mixer": _reader(rand(D, D), True),
            "mlp": _reader(rand(D, D), False),
            "norm1": _norm(rand(D).tanh() / 2),
            "norm2": _norm(rand(D).tanh() / 2),
        }
        for T, D in [(3, 2), (5, 4)]
    ],
    wrong={
        "the norms sit on the stream, after the sums (post-norm); here they sit "
        "on what is read: x + mixer(norm1(x))": _post_norm,
        "what was in the stream is lost: mixer and mlp are added to it": (
            lambda x, mixer, mlp, norm1, norm2: mlp(norm2(mixer(norm1(x))))
        ),
        "the stream itself is normed; only what mixer and mlp read is": _normed_stream,
        "the norms are on what mixer and mlp write; they belong on what they read": (
            _normed_output
        ),
        "the mlp reads the stream as it was before the mixer wrote to it": (
            lambda x, mixer, mlp, norm1, norm2: x + mixer(norm1(x)) + mlp(norm2(x))
        ),
        "what the mixer wrote is lost: the mlp's part is added to the stream that "
        "holds it, not to the old one": (
            lambda x, mixer, mlp, norm1, norm2: x + mlp(norm2(x + mixer(norm1(x))))
        ),
        "norm1 is used twice; the mlp has a norm of its own": (
            lambda x, mixer, mlp, norm1, norm2: _block(x, mixer, mlp, norm1, norm1)
        ),
        "the two norms are swapped": (
            lambda x, mixer, mlp, norm1, norm2: _block(x, mixer, mlp, norm2, norm1)
        ),
        "nothing is normed": (
            given(_block, norm1=lambda case: _identity, norm2=lambda case: _identity)
        ),
        "the mlp is missing": lambda x, mixer, mlp, norm1, norm2: x + mixer(norm1(x)),
    },
    returns=("the new x",),
)


def _model(ids, embed, blocks, norm, head, last_only, enter=_identity, between=None):
    x = enter(embed[ids])
    for one in blocks:
        x = one(x) if between is None else between(one(x))
    x = norm(x)[-1:] if last_only else norm(x)
    return x @ (embed if head is None else head).T


def _model_inputs(rand):
    def one(T, D, vocab, tied, last_only):
        layers = [_reader(rand(D, D), True) for _ in range(3)]
        return {
            "ids": rand(vocab).argsort()[:T], "embed": rand(vocab, D),
            "blocks": [lambda x, f=layer: x + f(x) for layer in layers],
            "norm": _norm(rand(D).tanh() / 2),
            "head": None if tied else rand(vocab, D), "last_only": last_only,
        }  # fmt: skip

    return [one(4, 3, 7, False, False), one(5, 4, 6, True, True)]


_with = partial(given, _model)  # the right model with some arguments replaced


def _wrong_end(**case):
    out = _model(**case | {"last_only": False})
    return out[:1] if case["last_only"] else out


def _cut_early(**case):
    ids = case["ids"][-1:] if case["last_only"] else case["ids"]
    return _model(**case | {"ids": ids})


def _from_embedding(**case):
    start = case["embed"][case["ids"]]
    blocks = [lambda x, f=f: x + f(start) - start for f in case["blocks"]]
    return _model(**case | {"blocks": blocks})


whole_model = Exercise(
    "08",
    "the whole model",
    _model,
    _model_inputs,
    wrong={
        "the final norm is missing: the head reads the stream at whatever size it has "
        "grown to, as draft heads did in "
        "LightLLM #1402": _with(norm=lambda case: _identity),
        "the embedding is multiplied by the square root of "
        "the width; some models do that, this one takes "
        "the row as it is": _with(enter=lambda case: lambda x: x * x.shape[-1] ** 0.5),
        "the embedding is normed before the first "
        "block; each block norms what it reads, "
        "and `norm` comes once, at the end": _with(enter=lambda case: case["norm"]),
        "the stream is normed after every block; `norm` comes once, at the end": (
            _with(between=lambda case: case["norm"])
        ),
        "every block reads the embedding; each reads what the one before it left": (
            _from_embedding
        ),
        "each block's result is added to the stream; a block returns the new stream, "
        "with the old one in it": (
            _with(blocks=lambda c: [lambda x, f=f: x + f(x) for f in c["blocks"]])
        ),
        "the blocks are applied last to first": (
            _with(blocks=lambda case: case["blocks"][::-1])
        ),
        "`head` is not used; the embedding stands in for it only when it is None": (
            _with(head=None)
        ),
        "`last_only` gives the first token; the next token follows the last one, "
        "[-1:]": _wrong_end,
        "only the last token enters the blocks, so it sees none of the others; cut "
        "after them, before the head": _cut_early,
        "`last_only` is not used": _with(last_only=False),
        "those are probabilities; a model returns logits, the softmax is for "
        "whoever samples": lambda **case: _model(**case).softmax(-1),
    },
    returns=("the logits",),
)


def _step(q, k, v, keys, values, turn, at=None, read_old=False):
    at = len(keys) if at is None else at
    q, k = turn(q, at), turn(k, at)
    seen = keys, values
    keys, values = torch.cat([keys, k[None]]), torch.cat([values, v[None]])
    seen = seen if read_old else (keys, values)
    weights = (seen[0] @ q / len(q) ** 0.5).softmax(0)
    return weights @ seen[1], keys, values


def _turn_to(x, at):
    angle = torch.tensor(float(at))
    a, b = x[0::2], x[1::2]
    pair = a * angle.cos() - b * angle.sin(), a * angle.sin() + b * angle.cos()
    return torch.stack(pair, 1).flatten()


def _stays(case, name):
    return case["turn"](case[name], -len(case["keys"]))


def _turned_again(q, k, v, keys, values, turn):
    again = [turn(key, place) for place, key in enumerate(keys)]
    keys = torch.stack(again) if again else keys
    return _step(q, k, v, keys, values, turn)


def _in_front(q, k, v, keys, values, turn):
    out, keys, values = _step(q, k, v, keys, values, turn)
    return out, keys.roll(1, 0), values.roll(1, 0)


def _not_kept(q, k, v, keys, values, turn):
    return _step(q, k, v, keys, values, turn)[0], keys, values


cached_step = Exercise(
    "08",
    "one token through a cache",
    _step,
    lambda rand: [
        {"q": 2 * rand(K), "k": 2 * rand(K), "v": rand(V), "turn": _turn_to}
        | {"keys": 2 * rand(S, K), "values": rand(S, V)}
        for S, K, V in [(0, 2, 2), (3, 4, 3), (5, 2, 3)]
    ],
    wrong={
        "it reads before it appends: a token looks at itself too, so its own key "
        "and value go into the cache first": (partial(_step, read_old=True)),
        "the position starts again at 0; it is the number of tokens that the cache "
        "holds": partial(_step, at=0),
        "the position is one too far: tokens count from 0, so with S kept the new "
        "one is at S": lambda **case: _step(**case, at=len(case["keys"]) + 1),
        "the scores are not divided by the square root of K, as attention's are": (
            given(_step, q=lambda case: case["q"] * len(case["q"]) ** 0.5)
        ),
        "the query is not turned to its position": (
            given(_step, q=lambda case: _stays(case, "q"))
        ),
        "the new key is kept as it came; turn it to its position first": (
            given(_step, k=lambda case: _stays(case, "k"))
        ),
        "the kept keys are turned once more; they were turned when they came": (
            _turned_again
        ),
        "the new pair is kept in front of the old; it goes to the end": _in_front,
        "the new key and value are not kept": _not_kept,
    },
    returns=("the output", "the keys", "the values"),
)
