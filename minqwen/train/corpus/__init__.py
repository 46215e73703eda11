"""The tiny model's training data, made on the spot and without a download.

    corpus = Corpus.build("assets/tiny", seed=0)
    batch = corpus.batch(step=0, batch_size=8, seq_len=512, picture_share=0.25)

A batch depends on the seed and the step alone, so a run that was killed goes on
where it stopped without any state but its step.
"""

import math

import numpy as np
import torch

from .chats import one_digit, picture_chat, text_chats
from .digits import TRAIN_FONTS, UNSEEN_FONTS
from .processor import load_tokenizer, write_processor
from .text import documents, fingerprint
from .tokenizer import token_sizes

__all__ = ["Corpus", "fingerprint", "write_processor"]

# rows without pictures: what they hold, and how often
TEXT_SHARES = {"source": 0.6, "docs": 0.2, "chats": 0.2}
GOLDEN = (math.sqrt(5) - 1) / 2
IGNORED = -100
ALONE = 2**39  # stands where a training row has its step, as TESTING does
TESTING = 2**40  # stands where a training row has its step, so it is never drawn


class Corpus:
    """Token streams and chats of one tokenizer; see `build`."""

    @classmethod
    def build(cls, folder, seed=0):
        """Read the tokenizer in `folder`, tokenise everything (seconds), keep it."""
        return cls(load_tokenizer(folder), seed)

    def __init__(self, tokenizer, seed=0):
        self.tokenizer = tokenizer
        self.seed = seed
        self.end = tokenizer.token_to_id("<|endoftext|>")
        self.sizes = np.array(token_sizes(tokenizer))
        kinds = ("source", "docs")
        self.streams = {kind: self._stream(kind, held_out=False) for kind in kinds}
        self.held_out = {kind: self._stream(kind, held_out=True) for kind in kinds}
        chats = text_chats(np.random.default_rng(seed))
        prompts = tokenizer.encode_batch([c.prompt + c.answer for c in chats])
        self.chats = [np.array(p.ids + [self.end]) for p in prompts]

    def _stream(self, kind, held_out):
        texts = [
            d.text for d in documents() if (d.kind, d.held_out) == (kind, held_out)
        ]
        ids = [e.ids + [self.end] for e in self.tokenizer.encode_batch(texts)]
        return np.concatenate([np.array(i, dtype=np.uint16) for i in ids])

    def summary(self):
        """Plain numbers for the model card."""
        facts = {"corpus_sha256": fingerprint(), "chats": len(self.chats)}
        for split, streams in (("train", self.streams), ("test", self.held_out)):
            for kind, ids in streams.items():
                facts[f"{split}_{kind}_tokens"] = len(ids)
                facts[f"{split}_{kind}_bytes"] = int(self.sizes[ids].sum())
        return facts

    def batch(self, step, batch_size, seq_len, picture_share=0.25):
        """The rows of one step, as the keywords `model(...)` takes, plus `targets`.

        input_ids [B, T] int64; targets [B, T] int64, already shifted: targets[b, t]
        follows input_ids[b, t], and is -100 where no loss is due (the prompts of
        picture chats). Rows are full, so there is no mask. With pictures in the
        batch: pixel_values float32 [N, 1536] and image_grid_thw int64 [n, 3], and
        for films pixel_values_videos and video_grid_thw. Text rows are windows into
        the streams; one row in 1 / picture_share holds whole picture chats.
        """
        rows, images, videos = [], [], []
        for row in range(batch_size):
            number = step * batch_size + row
            rng = np.random.default_rng([self.seed, step, row])
            pictured = math.floor((number + 1) * picture_share) > math.floor(
                number * picture_share
            )
            if pictured:
                rows.append(self._picture_row(rng, number, seq_len, images, videos))
            else:
                kind = rng.choice(list(TEXT_SHARES), p=list(TEXT_SHARES.values()))
                rows.append(self._text_row(kind, number, seq_len))
        inputs, targets = zip(*rows, strict=True)
        batch = {
            "input_ids": torch.tensor(np.stack(inputs)),
            "targets": torch.tensor(np.stack(targets)),
        }
        if images:
            batch["pixel_values"], batch["image_grid_thw"] = stack(images)
        if videos:
            batch["pixel_values_videos"], batch["video_grid_thw"] = stack(videos)
        return batch

    def _text_row(self, kind, number, seq_len):
        if kind == "chats":
            ids = self._packed_chats(number, seq_len + 1)
        else:
            ids = self._window(kind, number, seq_len + 1)
        return ids[:-1], ids[1:]

    def _window(self, kind, number, length):
        """A window of the stream; golden-ratio steps visit the stream evenly."""
        stream = self.streams[kind]
        start = int(number * GOLDEN % 1 * (len(stream) - length))
        return stream[start : start + length].astype(np.int64)

    def _packed_chats(self, number, length):
        """Whole chats from a place in the shuffled list on, the last one cut."""
        at = int(number * GOLDEN % 1 * len(self.chats))
        ids = np.empty(0, dtype=np.int64)
        while len(ids) < length:
            ids = np.concatenate([ids, self.chats[at % len(self.chats)]])
            at += 1
        return ids[:length]

    def _picture_row(self, rng, number, seq_len, images, videos):
        """Picture chats while they fit, then source; loss on the answers only."""
        ids, loss = [], []
        while True:
            chat = picture_chat(rng)
            prompt = self.tokenizer.encode(chat.prompt).ids
            answer = self.tokenizer.encode(chat.answer).ids + [self.end]
            if len(ids) + len(prompt) + len(answer) > seq_len + 1:
                break
            ids += prompt + answer
            loss += [False] * len(prompt) + [True] * len(answer)
            images += chat.images
            videos += chat.videos
        rest = seq_len + 1 - len(ids)
        ids = np.concatenate(
            [np.array(ids, np.int64), self._window("source", number, rest)]
        )
        loss = np.array(loss + [True] * rest, dtype=bool)
        return ids[:-1], np.where(loss[1:], ids[1:], IGNORED)

    def digits(self, step, count):
        """Pictures without words, for the tower alone: patches, grids, digits."""
        rng = np.random.default_rng([self.seed, ALONE, step])
        named = rng.integers(10, size=count)
        images = [one_digit(int(d), rng, thinking=False).images[0] for d in named]
        return *stack(images), torch.tensor(named)

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

    def heldout_digits(self, count):
        """`count` prompts with a fresh picture each, every second in an unseen font.

        Yields dicts: input_ids [1, T] up to where the assistant answers,
        pixel_values, image_grid_thw, the whole `answer` ("This is the digit 7."), and
        for a check in one forward pass `answer_ids` (its ids) and `digit_at`, the
        place of the digit in them; `digit`, and `unseen` (a font never trained on).
        """
        for number in range(count):
            rng = np.random.default_rng([self.seed, TESTING, number])
            unseen = number % 2 == 1
            digit = number // 2 % 10
            fonts = UNSEEN_FONTS if unseen else TRAIN_FONTS
            chat = one_digit(digit, rng, thinking=False, fonts=fonts)
            pixels, grid = stack(chat.images)
            answer = self.tokenizer.encode(chat.answer).ids
            yield {
                "input_ids": torch.tensor([self.tokenizer.encode(chat.prompt).ids]),
                "pixel_values": pixels,
                "image_grid_thw": grid,
                "answer": chat.answer.removesuffix("<|im_end|>\n"),
                "answer_ids": answer,
                "digit_at": answer.index(self.tokenizer.token_to_id(str(digit))),
                "digit": digit,
                "unseen": unseen,
            }


def stack(pictures):
    patches, grids = zip(*pictures, strict=True)
    return torch.cat(patches), torch.tensor(grids)
