"""The tiny model's training data, made on the spot and without a download.

    corpus = Corpus.build("assets/tiny", seed=0)
    halves = corpus.batch(step=0, mixture={"notes": 0.8, "source": 0.2}, rows=8)

A batch depends on the seed, the step and the arguments alone, so a run that was killed
goes on where it stopped without any state but its step.
"""

import numpy as np
import torch

from ...errors import InputError
from . import drills
from .chats import followed
from .processor import load_tokenizer, write_processor
from .tasks import TASKS
from .text import documents, fingerprint
from .tokenizer import MARKS, SPECIAL, token_sizes

__all__ = ["IGNORED", "TEXTS", "Corpus", "fingerprint", "write_processor"]

TEXTS = ("source", "docs")
KINDS = (*TASKS, *TEXTS, "drills")
IGNORED = -100


class Corpus:
    """The token streams and the tasks of one tokenizer; see `build`."""

    @classmethod
    def build(cls, folder, seed=0):
        """Read the tokenizer in `folder`, tokenise the library (seconds), keep it."""
        return cls(load_tokenizer(folder), seed)

    def __init__(self, tokenizer, seed=0):
        self.tokenizer = tokenizer
        self.seed = seed
        self.end = tokenizer.token_to_id("<|endoftext|>")
        self.sizes = np.array(token_sizes(tokenizer))
        self.streams = {kind: self._stream(kind, held_out=False) for kind in TEXTS}
        self.held_out = {kind: self._stream(kind, held_out=True) for kind in TEXTS}

    def _stream(self, kind, held_out):
        texts = [
            d.text for d in documents() if (d.kind, d.held_out) == (kind, held_out)
        ]
        ids = [e.ids + [self.end] for e in self.tokenizer.encode_batch(texts)]
        return np.concatenate([np.array(i, dtype=np.uint16) for i in ids])

    def summary(self):
        """Plain numbers for the model card."""
        facts = {"corpus_sha256": fingerprint()}
        for split, streams in (("train", self.streams), ("test", self.held_out)):
            for kind, ids in streams.items():
                facts[f"{split}_{kind}_tokens"] = len(ids)
                facts[f"{split}_{kind}_bytes"] = int(self.sizes[ids].sum())
        return facts

    def check(self):
        """InputError unless the tokenizer has the tasks' marks, in their order."""
        marks = SPECIAL + MARKS
        first = self.end or 0
        for number, mark in enumerate(marks, first):
            if self.tokenizer.token_to_id(mark) != number:
                raise InputError(
                    f"tokenizer.json does not have {mark} where the tasks need it; "
                    "train into an empty folder, which gets a tokenizer of its own"
                )

    def batch(self, step, mixture, rows, seq_len=256, level=1.0, mixed=0.0):
        """A step's rows in two equal parts, each the keywords of `losses`.

        mixture {task or text: share of the rows' room}; level 0 to 1, how hard; mixed,
        the share of chats that go on with another task.
        A part has input_ids [B, T] int64 and targets [B, T] int64, already shifted:
        targets[b, t] follows input_ids[b, t], and is -100 where no loss is due (what
        the assistant does not write itself). Rows are full, so there is no mask. With
        pictures: pixel_values float32 [N, 1536] and image_grid_thw int64 [n, 3], and
        for films pixel_values_videos and video_grid_thw.
        """
        parts = []
        for numbers in np.split(np.arange(rows), 2):
            inputs, targets, images, videos = [], [], [], []
            for row in numbers:
                rng = np.random.default_rng([self.seed, step, row])
                ids, loss = self._row(
                    rng, mixture, seq_len + 1, level, mixed, images, videos
                )
                inputs.append(ids[:-1])
                targets.append(np.where(loss[1:], ids[1:], IGNORED))
            part = {
                "input_ids": torch.tensor(np.stack(inputs)),
                "targets": torch.tensor(np.stack(targets)),
            }
            parts.append(part | pixels(images, videos))
        return parts

    def _row(self, rng, mixture, length, level, mixed, images, videos):
        """A row of text or of drills, or one chat after another: ids, loss.

        The last chat is cut if the third draw does not fit either.
        """
        kinds, shares = list(mixture), np.array(list(mixture.values()))
        draw = rng.choice(kinds, p=shares / shares.sum())
        if draw == "drills":
            return drills.make(rng, length, self.tokenizer, level)
        if draw in TEXTS:
            return self._window(draw, rng, length), np.ones(length, dtype=bool)
        tasks = [kind for kind in kinds if kind in TASKS]
        shares = np.array([mixture[task] for task in tasks])
        ids, loss, tries = [], [], 0
        while len(ids) < length:
            chat = self._chat(rng, tasks, shares / shares.sum(), level, mixed)
            more, learned = self.encode(chat)
            fits = len(ids) + len(more) <= length
            tries += 1
            if not fits and (not ids or tries < 3):
                continue  # a row has an answer at least, and little that is cut
            tries = 0
            if chat.images or chat.videos:
                if not fits:  # a picture cannot be cut
                    more = self._window("source", rng, length - len(ids)).tolist()
                    learned = [False] * len(more)
                else:
                    images += chat.images
                    videos += chat.videos
            ids, loss = ids + more, loss + learned
        return np.array(ids[:length]), np.array(loss[:length])

    def _chat(self, rng, tasks, shares, level, mixed):
        """Of one task, or now and then of one after the other."""
        name = rng.choice(tasks, p=shares)
        chat, met = TASKS[name](rng, level), {name}
        for _ in range(2 if mixed else 0):
            name = rng.choice(tasks, p=shares)
            # NOTE: never a task twice, whose second notes might contradict the first
            if rng.random() < mixed and name not in met:
                more = TASKS[name](rng, level)
                if not (chat.tools and more.tools):
                    chat, met = followed(chat, more), met | {name}
        return chat

    def encode(self, chat):
        """Ids of a chat with the end of its text, and which of them are learned."""
        texts = [text for text, _ in chat.parts]
        ids, learned = [], []
        for part, (_, own) in zip(
            self.tokenizer.encode_batch(texts), chat.parts, strict=True
        ):
            ids += part.ids
            learned += [own] * len(part.ids)
        return [*ids, self.end], [*learned, False]

    def _window(self, kind, rng, length):
        stream = self.streams[kind]
        start = int(rng.integers(len(stream) - length))
        return stream[start : start + length].astype(np.int64)

    def heldout(self, kind, seq_len, limit=None):
        """Text never trained on: `kind` "source" or "docs", whole windows only.

        Returns input_ids and targets [N, T] int64, and the bytes the targets stand
        for: bits per byte = sum of their losses / ln 2 / bytes. `limit` takes that
        many windows, evenly spread.
        """
        stream = self.held_out[kind].astype(np.int64)
        count = (len(stream) - 1) // seq_len
        inputs = stream[: count * seq_len].reshape(count, seq_len)
        targets = stream[1 : count * seq_len + 1].reshape(count, seq_len)
        if limit is not None and limit < count:
            chosen = np.linspace(0, count - 1, limit).round().astype(int)
            inputs, targets = inputs[chosen], targets[chosen]
        return {
            "input_ids": torch.tensor(inputs),
            "targets": torch.tensor(targets),
            "bytes": int(self.sizes[targets].sum()),
        }


def pixels(images, videos):
    """Pictures and films as the keywords that `model(...)` takes; none, no keyword."""
    found = {}
    if images:
        found["pixel_values"], found["image_grid_thw"] = stack(images)
    if videos:
        found["pixel_values_videos"], found["video_grid_thw"] = stack(videos)
    return found


def stack(pictures):
    patches, grids = zip(*pictures, strict=True)
    return torch.cat(patches), torch.tensor(grids)
