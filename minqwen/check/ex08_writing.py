"""Notebook 08, sixty layers: how the next token is chosen, and the loop."""

from functools import partial

import torch

from ..engine import sampling
from ..model.config import Config
from ..model.qwen import Qwen
from .core import Exercise, given


def _top_p(logits, temperature, top_p, shift=0, scale=True, back=True, down=True):
    """Right by default; each option is one mistake."""
    values, order = (logits / temperature).softmax(-1).sort(descending=down)
    count = int((values.cumsum(0) - values < top_p).sum()) + shift
    values = values.where(torch.arange(len(logits)) < count, 0)
    values = values / values.sum() if scale else values
    return torch.zeros_like(logits).scatter(0, order, values) if back else values


def _right(logits, temperature, top_p):
    return sampling.probabilities(logits, temperature, top_p=top_p)


def _order_twice(logits, temperature, top_p):
    return _top_p(logits, temperature, top_p, back=False)[logits.argsort().flip(0)]


def _filter_first(logits, temperature, top_p):
    kept = _top_p(logits, 1, top_p) > 0
    return (logits / temperature).masked_fill(~kept, -torch.inf).softmax(-1)


def _nucleus_inputs(rand):
    """top_p such that one token crosses it, and such that temperature decides which."""
    cases = []
    place = torch.tensor([2, 6, 0, 1, 5, 3, 4])  # its sorting twice is not the identity
    for temperature in (3.0, 0.5):
        logits = (0.6 * torch.arange(7) + 0.4 * rand(7).sigmoid())[place]
        warm = (logits / temperature).softmax(-1).sort(descending=True).values
        cold = logits.softmax(-1).sort(descending=True).values
        between = (0.5 * (warm.cumsum(0) + cold.cumsum(0)))[1]
        top_p = max(between, warm[0] + 0.3 * warm[1])
        case = {"logits": logits, "temperature": temperature, "top_p": top_p.item()}
        cases.append(case)
    return cases


nucleus = Exercise(
    "08",
    "temperature and top-p",
    _right,
    _nucleus_inputs,
    wrong={
        "the token that crosses top_p is dropped; it is the last one kept, so that "
        "the kept ones together reach top_p": (partial(_top_p, shift=-1)),
        "one token too many is kept: stop as soon as top_p is reached": (
            partial(_top_p, shift=1)
        ),
        "the temperature has no effect: dividing probabilities by it cancels when they "
        "are made to sum to one. Divide the logits, before "
        "the softmax": lambda logits, temperature, top_p: _top_p(logits, 1, top_p),
        "the logits are multiplied by the temperature; divide them": (
            lambda logits, temperature, top_p: _top_p(logits, 1 / temperature, top_p)
        ),
        "top_p is applied before the temperature; first the temperature, then the "
        "softmax, then top_p on what came out": _filter_first,
        "the kept probabilities do not sum to one; divide them by their sum": (
            partial(_top_p, scale=False)
        ),
        "the probabilities are in order of size; put each back at its token's id": (
            partial(_top_p, back=False)
        ),
        "`order` says which token stands at each place, so values[order] is not the "
        "way back: scatter them to `order`": _order_twice,
        "the rarest are kept: sort begins with the smallest unless told "
        "descending=True": partial(_top_p, down=False),
        "nothing is left out: top_p is not used": (
            lambda logits, temperature, top_p: (logits / temperature).softmax(-1)
        ),
    },
    returns=("the probabilities",),
)


SMALL = dict(
    model_type="qwen3_5_text", vocab_size=97, hidden_size=16, intermediate_size=16,
    num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1, head_dim=8,
    full_attention_interval=2, linear_num_key_heads=1, linear_num_value_heads=2,
    linear_key_head_dim=4, linear_value_head_dim=4, linear_conv_kernel_dim=4,
    rms_norm_eps=1e-6, max_position_embeddings=512,
    rope_parameters=dict(rope_type="default", rope_theta=10_000,
                         partial_rotary_factor=0.5, mrope_section=[1, 1, 0],
                         mrope_interleaved=True))  # fmt: skip


def _drawn_model(rand):
    """A small model whose next token depends on all that it has read."""
    with torch.device("meta"):
        model = Qwen(Config.from_dict(SMALL))
    model.to_empty(device="cpu").requires_grad_(False)
    for name, weight in model.named_parameters():
        mixed = name.endswith(("o_proj.weight", "out_proj.weight"))
        weight.copy_((3 if mixed else 0.7) * rand(*weight.shape))
    return model


def _watched(answer):
    """Uses an answer, and tells beside its tokens whether it read any of them twice."""

    def run(model, ids, count):
        read = []
        hook = model.register_forward_pre_hook(
            lambda _, args, named: read.append((args or [*named.values()])[0].shape[1]),
            with_kwargs=True,
        )
        try:
            written = answer(model=model, ids=ids, count=count)
        finally:
            hook.remove()
        return written, sum(read) > ids.shape[1] + count

    return run


def _reread(model, ids, count):
    for _ in range(count):
        ids = torch.cat([ids, model(ids, last_only=True).argmax(-1)], 1)
    return ids[0, -count:]


def _greedy(model, ids, count, whole=False, first=-1):
    """Right by default; each option is one mistake."""
    cache = model.new_cache(1, (ids.shape[1] + count) * (count + 1))
    new, written = model(ids, cache=cache)[:, first:][:, :1].argmax(-1), []
    while len(written) < count:
        written.append(new)
        ids = torch.cat([ids, new], 1)
        new = model(ids if whole else new, cache=cache, last_only=True).argmax(-1)
    return torch.cat(written, 1)[0]


def _forgetful(model, ids, count):
    new, written = model(ids, last_only=True).argmax(-1), []
    while len(written) < count:
        written.append(new)
        new = model(new, cache=model.new_cache(1, 1)).argmax(-1)
    return torch.cat(written, 1)[0]


greedy = Exercise(
    "08",
    "the loop that writes",
    _greedy,
    lambda rand: [
        {"model": model, "ids": ids, "count": 8}
        for model in [_drawn_model(rand)]
        for ids in [(rand(1, T).sigmoid() * 97).long() for T in (3, 4, 5, 6)]
    ],
    wrong={
        "the right tokens, but the whole text is read again for each; a cache "
        "remembers it, so after the prompt feed only the new token": _reread,
        "the whole text is fed again, to a cache that holds it already; after the "
        "prompt feed only the new token": partial(_greedy, whole=True),
        "a new cache at every step: the model has forgotten the text. Make one, "
        "and hand it to every call": _forgetful,
        "the first new token is what follows the prompt's first token; take the "
        "logits of its last": partial(_greedy, first=0),
        "the prompt's last token is read twice; what follows it is in the logits "
        "of the first call": (
            given(
                _greedy,
                ids=lambda case: torch.cat([case["ids"], case["ids"][:, -1:]], 1),
            )
        ),
        "the first new token is missing: the prompt's logits already give one": (
            lambda model, ids, count: _greedy(model, ids, count + 1)[1:]
        ),
        "the prompt is returned too; only what was written is asked for": (
            lambda model, ids, count: torch.cat([ids[0], _greedy(model, ids, count)])
        ),
    },
    returns=("the new tokens", "whether tokens are read twice"),
    through=_watched,
)
