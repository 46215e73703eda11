"""What the embedded model can do, measured on what it never saw."""

import math

import numpy as np
import torch
import torch.nn.functional as F

from ..model.forms import using
from ..model.moe import Router, route
from .corpus import TEXTS, pixels
from .corpus.tasks import TASKS

WINDOW = 1024  # tokens of text read at once when measuring
TESTING = 2**40  # stands where a training row has its step, so it is never drawn
TOGETHER = 8192  # tokens


def heldout(make, count, seed=0):
    """`count` chats that no training batch holds."""
    rngs = (np.random.default_rng([seed, TESTING, i]) for i in range(count))
    return [make(rng, 1.0, unseen=True) for rng in rngs]


def answered(model, corpus, chats):
    """For each chat: is its last answer what the model writes, word for word?"""
    return [right for right, _ in answers(model, corpus, chats)]


def answers(model, corpus, chats):
    """For each chat: does the model write its last answer, and which token comes first?

    One reading of the right answer tells: what is likeliest after each of its tokens
    is the next one, all along, if and only if the model would write it, since to the
    first difference it writes under the same conditions.
    """
    rows = [encoded(corpus, chat) for chat in chats]
    order = sorted(range(len(rows)), key=lambda i: len(rows[i][0]))
    found, group = [None] * len(rows), []
    for i in [*order, None]:
        room = i is not None and (len(group) + 1) * len(rows[i][0]) <= TOGETHER
        if group and not room:
            for j, verdict in zip(group, read(model, group, rows, chats), strict=True):
                found[j] = verdict
            group = []
        group.append(i)
    return found


def encoded(corpus, chat):
    """Ids up to the end of the last answer, and where it starts."""
    prompt, answer = (
        part.ids for part in corpus.tokenizer.encode_batch([chat.prompt, chat.answer])
    )
    last = answer.index(corpus.tokenizer.token_to_id("<|im_end|>")) + 1
    return np.array(prompt + answer[:last]), len(prompt)


@torch.inference_mode()
def read(model, group, rows, chats):
    """`answers` of a few rows at once, padded on the right, which no token sees."""
    length = max(len(rows[i][0]) for i in group)
    ids = np.zeros((len(group), length), dtype=np.int64)
    for row, i in enumerate(group):
        ids[row, : len(rows[i][0])] = rows[i][0]
    ids = torch.tensor(ids)
    guess = model(ids, **pictures([chats[i] for i in group])).argmax(-1)
    for row, i in enumerate(group):
        whole, start = rows[i]
        own = guess[row, start - 1 : len(whole) - 1]
        yield bool((own == ids[row, start : len(whole)]).all()), int(own[0])


def pictures(chats):
    """The pictures of some chats as the keywords that `model(...)` takes."""
    images = [image for chat in chats for image in chat.images]
    videos = [video for chat in chats for video in chat.videos]
    return pixels(images, videos)


def glance(model, corpus, mixture, count=24, windows=3):
    """A quick look at each part of a mixture, for a learning curve: {name: figure}."""
    found = {}
    for name in mixture:
        if name in TASKS:
            right = answered(model, corpus, heldout(TASKS[name], count, corpus.seed))
            found[name] = sum(right) / count
        elif name in TEXTS:
            found[f"{name} bits"], _ = bits_per_byte(model, corpus, name, limit=windows)
    return found


@torch.inference_mode()
def bits_per_byte(model, corpus, kind, window=WINDOW, limit=None):
    """Held-out `kind` ("source" or "docs"), in windows: (bits a byte, bytes read)."""
    held = corpus.heldout(kind, window, limit)
    loss = 0.0
    for ids, targets in zip(held["input_ids"], held["targets"], strict=True):
        logits = model(ids[None])[0]
        loss += F.cross_entropy(logits.float(), targets, reduction="sum").item()
    return loss / math.log(2) / held["bytes"], held["bytes"]


@torch.inference_mode()
def draft_accuracy(model, rows):
    """How often the MTP head's guess is the token the model itself would write next.

    rows of (ids [T], start), each compared from the token `start` on, as `encoded`
    gives the answer of a chat.
    """
    agreed = total = 0
    for ids, start in rows:
        ids = torch.as_tensor(ids)[None]
        hidden = model.hidden(ids)
        own = model.logits(hidden)[0].argmax(-1)  # own[t] follows ids[t]
        guess = model.draft(hidden[:, :-1], ids[:, 1:])[0][0].argmax(-1)
        same = guess[start - 1 : -1] == own[start:-1]  # both of the token after next
        agreed += int(same.sum())
        total += same.numel()
    return agreed / total


@torch.inference_mode()
def copy_bits(model, corpus, count, tokens=64):
    """Bits a token of random tokens that the prompt says and the answer repeats."""
    asked = corpus.tokenizer.encode("<|im_start|>user\nRepeat: ").ids
    turn = "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
    turn = corpus.tokenizer.encode(turn).ids
    loss = 0.0
    for i in range(count):
        rng = np.random.default_rng([corpus.seed, TESTING, i])
        said = rng.integers(corpus.end, size=tokens).tolist()
        ids = torch.tensor([*asked, *said, *turn, *said])
        logits = model(ids[None, :-1])[0, -tokens:]
        loss += F.cross_entropy(logits.float(), ids[-tokens:]).item()
    return loss / count / math.log(2)


@torch.inference_mode()
def specialists(model, corpus, count):
    """For each layer, how much a token's experts tell of its task, and of it by chance.

    Mutual information in bits between the task and one expert drawn by its weight;
    and the same of a router with random weights of the same spread, which sees the
    same states. A learned router that told no more would be no specialist.
    """
    layers = model.model.language_model.modules()  # not the draft head's
    routers = [m for m in layers if isinstance(m, Router)]
    seeded = torch.Generator().manual_seed(corpus.seed)
    pairs, joint = {}, {}  # router -> both weights, [own or random, task, expert]
    for router in routers:
        own = router.weight.float()
        pairs[router] = own, torch.randn(own.shape, generator=seeded) * own.std()
        joint[router] = torch.zeros(2, len(TASKS), len(own))
    now = 0  # the task of the chat that is read

    def hear(router, args):
        x = args[0]
        for weight, table in zip(pairs[router], joint[router], strict=True):
            shares, ids = route(x.float() @ weight.T, router.top_k)
            table[now].scatter_add_(0, ids.flatten(), shares.flatten())

    hooks = [router.register_forward_pre_hook(hear) for router in routers]
    try:
        with using("torch"):  # NOTE: other forms pass modules' hooks by
            for now, make in enumerate(TASKS.values()):  # noqa: B007
                for chat in heldout(make, count, corpus.seed):
                    ids = torch.tensor(encoded(corpus, chat)[0])[None]
                    model(ids, **pictures([chat]))
    finally:
        for hook in hooks:
            hook.remove()
    return [[information(table) for table in both] for both in joint.values()]


def information(joint):
    """Mutual information in bits of a table [tasks, experts] of how often both met."""
    joint = joint / joint.sum(1, keepdim=True) / len(joint)  # tasks alike
    apart = joint.sum(0) * joint.sum(1, keepdim=True)
    return torch.xlogy(joint, joint / apart.clamp(min=1e-30)).sum().item() / math.log(2)
