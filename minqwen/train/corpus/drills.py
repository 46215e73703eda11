"""Rows of random tokens, to find again what stood in the row before.

Learned first and fast, since nearly every token is a question with one answer: to go
on as the last time (induction), and to give a key its newest value (the delta rule's
own task). All that is said in words later needs both.
"""

import numpy as np


def make(rng, length, vocab, level=1.0):
    """ids int64 [length] below `vocab`, and bool [length]: can it be told from before?

    The alphabet, the stretches and the numbers of pairs grow with `level`.
    """
    size = int(rng.integers(8, 9 + round(level * (vocab - 8))))
    alphabet = rng.choice(vocab, size, replace=False)
    kind = copied if rng.random() < 0.5 else recalled
    return kind(rng, length, alphabet, level)


def copied(rng, length, alphabet, level):
    """One stretch of random tokens again and again, until the row is full."""
    stretch = int(rng.integers(2, 5 + round(level * (length // 2 - 4))))
    once = rng.choice(alphabet, stretch)
    ids = np.resize(once, length)
    return ids, np.arange(length) > stretch


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
