"""Rows without words, in which nearly every token is a question with one answer.

To go on as the last time (induction), to say again, to give a key its newest value (the
delta rule's own task), and to add and subtract digits. What is said in words needs all.
"""

import numpy as np

from . import sums

SUMS = 0.4  # of the rows
SAID = "<|im_start|>user\nRepeat: "
TURN = "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
END = "<|im_end|>\n"


def make(rng, length, tokenizer, level=1.0):
    """ids int64 [length], and bool [length]: can it be told from what stood before?

    The alphabet, the stretches and the numbers of pairs grow with `level`.
    """
    if rng.random() < SUMS:
        return summed(rng, length, tokenizer, level)
    vocab = tokenizer.token_to_id("<|endoftext|>")
    size = int(rng.integers(8, 9 + round(level * (vocab - 8))))
    alphabet = rng.choice(vocab, size, replace=False)
    draw = rng.random()
    if draw < 0.4:
        frame = [tokenizer.encode(mark).ids for mark in (SAID, TURN, END)]
        return repeated(rng, length, alphabet, level, frame)
    kind = copied if draw < 0.6 else recalled
    return kind(rng, length, alphabet, level)


def summed(rng, length, tokenizer, level):
    """`8+7=15`, one below the other, or longer sums with all their columns."""
    ids, known = [], []
    long = rng.random() < 0.5
    while len(ids) < length:
        asked, found = sums.written(rng, level) if long else sums.column(rng)
        for text, learned in ((f"{asked}=", False), (f"{found}\n", True)):
            more = tokenizer.encode(text).ids
            ids, known = ids + more, known + [learned] * len(more)
    return np.array(ids[:length]), np.array(known[:length])


def copied(rng, length, alphabet, level):
    """One stretch of random tokens again and again, until the row is full."""
    stretch = int(rng.integers(2, 5 + round(level * (length // 2 - 4))))
    once = rng.choice(alphabet, stretch)
    ids = np.resize(once, length)
    return ids, np.arange(length) > stretch


def repeated(rng, length, alphabet, level, frame):
    """Random tokens in chats: every token, the rarest too, can be said again."""
    said, turn, end = frame
    ids, known = [], []
    while len(ids) < length:
        count = int(rng.integers(2, 5 + round(level * 92)))
        text = rng.choice(alphabet, count).tolist()
        asked = [*said, *text, *turn]
        ids += [*asked, *text, *end]
        known += [False] * len(asked) + [True] * (len(text) + len(end))
    return np.array(ids[:length]), np.array(known[:length])


def recalled(rng, length, alphabet, level):
    """Keys with their values, in any order; now and then a key gets a new value.

    Between key and value are a few tokens, the same all along the row.
    """
    pairs = int(rng.integers(1, 3 + round(level * 30)))
    keys = rng.choice(alphabet, min(pairs, len(alphabet) // 2), replace=False)
    values, between = {}, list(rng.choice(alphabet, int(rng.integers(0, 3))))
    ids, known = [], []
    while len(ids) < length:
        key = keys[rng.integers(len(keys))]
        told = key in values and rng.random() > 0.1
        if not told:
            values[key] = rng.choice(alphabet)
        known += [False] + [bool(ids)] * len(between) + [told]
        ids += [key, *between, values[key]]
    return np.array(ids[:length]), np.array(known[:length])
