"""Notebook 09, training: the least loss, next tokens, Muon, balance of three kinds."""

import math
from functools import partial

import torch
import torch.nn.functional as F

from ..model.moe import balance_loss
from .core import Exercise

least_loss = Exercise(
    "09",
    "the least loss",
    lambda choices: choices.log2().mean(),
    lambda rand: [
        {"choices": torch.cat([1.0 + rand(n).abs() * 9, torch.ones(n // 2)]).round()}
        for n in (6, 9, 12)
    ],
    wrong={
        "averaged before the logarithm; each token costs its own log2, and those are "
        "averaged": lambda choices: choices.mean().log2(),
        "that is in nats; bits are log2": lambda choices: choices.log().mean(),
        "a sum over the text; the loss is the mean over its tokens": (
            lambda choices: choices.log2().sum()
        ),
        "tokens that are certain are left out of the mean; they cost 0, and count": (
            lambda choices: choices[choices > 1].log2().mean()
        ),
        "those are numbers of choices; n equally likely ones cost log2(n)": (
            lambda choices: choices.mean()
        ),
        "that is the perplexity, 2 to the power of the loss": (
            lambda choices: 2 ** choices.log2().mean()
        ),
        "that is the share of tokens that are certain": (
            lambda choices: (choices == 1).float().mean()
        ),
    },
    returns=("the loss",),
)


def _next(
    logits, ids, learned,
    before=slice(-1), after=slice(1, None), of=slice(1, None), rows=True,
    cost=lambda logits, ids: F.cross_entropy(logits.mT, ids, reduction="none"),
):  # fmt: skip
    """Right by default; each option is one mistake."""
    each = cost(logits[:, before], ids[:, after])
    mask = learned[:, of].float()
    if not rows:
        return (each * mask).sum() / mask.sum()
    return ((each * mask).sum(1) / mask.sum(1)).mean()


def _next_inputs(rand):
    cases = []
    for B, T, V in [(2, 6, 5), (3, 8, 7)]:
        learned = torch.zeros(B, T, dtype=torch.bool)
        for row in range(B):  # rows of different numbers of targets
            learned[row, 2 : 4 + row] = True
        learned[:, 0] = True  # and nothing before it to say it
        ids = rand(B, T, V).argmax(-1)
        cases.append({"logits": 2 * rand(B, T, V), "ids": ids, "learned": learned})
    return cases


next_loss = Exercise(
    "09",
    "the loss of the next token",
    _next,
    _next_inputs,
    wrong={
        "each logit is compared with its own token, which the model has just read; the "
        "target is the token after it": partial(
            _next, before=slice(None), after=slice(None), of=slice(None)
        ),
        "shifted the wrong way: logits at t say what comes at t + 1": partial(
            _next, before=slice(1, None), after=slice(-1), of=slice(-1)
        ),
        "`learned` says which tokens are targets, so it is shifted as they are": (
            partial(_next, of=slice(-1))
        ),
        "the mean is over all tokens, so a long row counts more than a short one; take "
        "each row's mean, then theirs": partial(_next, rows=False),
        "`learned` is not used": lambda logits, ids, learned: (
            _next(logits, ids, torch.ones_like(learned))
        ),
        "divided by the number of all tokens; divide each row by the number of its "
        "targets": lambda logits, ids, learned: (
            _next(logits, ids, torch.ones_like(learned), cost=lambda z, y: (
                F.cross_entropy(z.mT, y, reduction="none") * learned[:, 1:]))
        ),
        "a row's first token counts as a target, and nothing comes before it to say "
        "it; shift `learned` before you count": lambda logits, ids, learned: _next(
            logits, ids, learned, cost=lambda z, y: F.cross_entropy(
                z.mT, y, reduction="none")
            * (1 - 1 / learned.sum(1, keepdim=True))),
        "the last logits are compared with the row's first token (`roll`); nothing "
        "follows them, so they have no target": lambda logits, ids, learned: _next(
            logits.roll(1, 1), ids, learned, slice(None), slice(None), slice(None)),
        "that is in bits; nats are asked for, as cross_entropy has it": (
            lambda logits, ids, learned: _next(logits, ids, learned) / math.log(2)
        ),
        "a softmax too many: cross_entropy takes logits": partial(
            _next,
            cost=lambda z, y: F.cross_entropy(z.softmax(-1).mT, y, reduction="none"),
        ),
        "that is the probability of the right token; its loss is minus the logarithm": (
            partial(_next, cost=lambda z, y: (-F.cross_entropy(
                z.mT, y, reduction="none")).exp())
        ),
    },
    returns=("the loss",),
)  # fmt: skip


def _orthogonal(
    x, rounds=5, size=lambda x: x.norm(), coefficients=(3.4445, -4.7750, 2.0315),
    power=lambda c, square: c * square @ square,
):  # fmt: skip
    """Right by default; each option is one mistake."""
    x = x / size(x)
    a, b, c = coefficients
    for _ in range(rounds):
        square = x @ x.T
        x = a * x + (b * square + power(c, square)) @ x
    return x


def _entry_by_entry(x):
    x = x / x.norm()
    for _ in range(5):
        x = 3.4445 * x - 4.7750 * x**3 + 2.0315 * x**5
    return x


def _exact(x):
    U, _, Vh = torch.linalg.svd(x, full_matrices=False)
    return U @ Vh


orthogonal_update = Exercise(
    "09",
    "an update made orthogonal",
    _orthogonal,
    lambda rand: [{"x": 2 * rand(*shape)} for shape in [(2, 2), (3, 5), (4, 6)]],
    wrong={
        "it explodes: the polynomial is for singular values from 0 to 1. Is x divided "
        "by its norm first, and are the powers those of the formula?": (
            partial(_orthogonal, size=lambda x: 1.0)
        ),
        "those are powers of each entry; x x^T is a product of matrices, `@`": (
            _entry_by_entry
        ),
        "(x x^T)^2 is that product times itself, `@`; `*` and `**` take each entry": (
            partial(_orthogonal, power=lambda c, square: c * square**2)
        ),
        "one round only; five are asked for": partial(_orthogonal, rounds=1),
        "that is Newton and Schulz's own polynomial, 1.5 x - 0.5 x^3, which needs more "
        "rounds; take the three coefficients": (
            partial(_orthogonal, coefficients=(1.5, -0.5, 0.0))
        ),
        "that is the exact one, from a singular value decomposition; Muon comes near "
        "it by products alone": _exact,
        "divided by the norm and no more": partial(_orthogonal, rounds=0),
    },
    returns=("the update",),
)  # fmt: skip


def _row_balance(logits, ids, join=lambda losses: losses.mean()):
    pairs = zip(logits, ids, strict=True)
    return join(torch.stack([balance_loss(*pair) for pair in pairs]))


row_balance = Exercise(
    "09",
    "balance in each row",
    _row_balance,
    lambda rand: [
        {"logits": (logits := 2 * rand(B, T, E)), "ids": logits.topk(k)[1]}
        for B, T, E, k in [(2, 4, 4, 2), (3, 5, 6, 2), (4, 3, 8, 3)]
    ],
    wrong={
        "that is the loss of the whole batch, in which one row may make up for "
        "another": lambda logits, ids: balance_loss(
            logits.flatten(0, 1), ids.flatten(0, 1)
        ),
        "a sum over rows; take their mean, so that a larger batch weighs no more": (
            partial(_row_balance, join=lambda losses: losses.sum())
        ),
        "multiplied token by token; average over the row first, each of the two": (
            lambda logits, ids: (
                logits.shape[-1] * logits.softmax(-1).gather(-1, ids).sum(-1).mean()
            )
        ),
        "the worst row alone; take the mean over rows": (
            partial(_row_balance, join=lambda losses: losses.max())
        ),
        "the first row alone": partial(_row_balance, join=lambda losses: losses[0]),
    },
    returns=("the loss",),
)


def _loss_free(
    logits, bias, k, rate,
    choice=lambda shares, logits, bias: shares + bias,
    value=lambda shares, bias: shares,
    move=torch.sign, fair=lambda ids, E: ids.numel() / E, least=None,
):  # fmt: skip
    """Right by default; each option is one mistake."""
    E = logits.shape[1]
    shares = logits.softmax(-1)
    ids = choice(shares, logits, bias).topk(k)[1]
    weights = value(shares, bias).gather(1, ids)
    count = ids.flatten().bincount(minlength=E if least is None else least)
    new = bias + rate * move(fair(ids, E) - count)
    return weights / weights.sum(1, keepdim=True), ids, new


def _not_renormalised(logits, bias, k, rate):
    _, ids, new = _loss_free(logits, bias, k, rate)
    return logits.softmax(-1).gather(1, ids), ids, new


loss_free = Exercise(
    "09",
    "balance without a loss",
    _loss_free,
    lambda rand: [
        {"logits": rand(N, E) - last * torch.eye(E)[-1],
         "bias": 0.2 * rand(E).abs() + 0.01 - last * torch.eye(E)[-1],
         "k": k, "rate": 0.01}
        for N, E, k, last in [(21, 4, 2, 0), (25, 6, 2, 0), (31, 8, 3, 9)]  # 9: unused
    ],
    wrong={
        "the wrong sign: what is chosen too often should be chosen less, so its bias "
        "goes down": partial(_loss_free, move=lambda x: -x.sign()),
        "the bias is in the weights too; it takes part in the choice alone, so that it "
        "never changes what a token is given": (
            partial(_loss_free, value=lambda shares, bias: shares + bias)
        ),
        "the bias is not used in the choice": (
            partial(_loss_free, choice=lambda shares, logits, bias: shares)
        ),
        "the bias is added to the logits; here it is added to the shares, their "
        "softmax": partial(_loss_free, choice=lambda shares, logits, bias: (
            logits + bias)),
        "moved by how far the count is off; the paper takes its sign alone, so that "
        "each step is `rate`": partial(_loss_free, move=lambda x: x),
        "compared with N / E; a token makes k choices, so a fair count is N k / E": (
            partial(_loss_free, fair=lambda ids, E: len(ids) / E)
        ),
        "an expert that no token chose has a count too, 0: count with minlength=E": (
            partial(_loss_free, least=0)
        ),
        "the weights do not add up to one: divide them by their sum": _not_renormalised,
    },
    returns=("the weights", "the experts' numbers", "the new bias"),
)  # fmt: skip
