"""Writing with the model, one token at a time, or several where it guessed them.

    prompt --prefill--> logits --sampling--> token --stream--> text
                          ^                    |
                          +------- cache <-----+

Each sequence of a batch is a `Row` with its own random stream and its own text: row i
of a batch with seed s writes what it would write alone with seed s + i.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from ..errors import InputError, number
from ..model.forms import whole
from ..model.qwen import Qwen
from ..model.rope import positions
from .inputs import as_inputs, listed, longest_prompt, prompts
from .prefill import VISION, pieces, prefill
from .sampling import Sampling
from .stream import TextStream


@dataclass(frozen=True)
class Step:
    """One token written: its id, and the text that became certain with it."""

    token: int
    text: str = ""
    thinking: bool = False  # between <think> and </think>
    drafted: bool = False  # the draft head had guessed it
    finish: str | None = None  # on a row's last step: "stop", "length" or "context"


class Row:
    """One sequence being written: its random stream, its tokens, its text."""

    def __init__(self, prompt, room, sampling, processor=None, stop=(), stop_ids=()):
        self.prompt, self.room, self.sampling = prompt, room, sampling
        self.stop_ids = stop_ids
        self.random = torch.Generator().manual_seed(sampling.seed)
        self.stream = TextStream(processor, prompt, stop) if processor else None
        self.vocab = processor.vocab_size if processor else None
        self.seen = self.finish = self.last = None
        self.written, self.at_limit = 0, "length"

    def bounded(self, room):
        """Ends where the model's positions do, if that is before max_new_tokens."""
        if room < self.room:
            self.room, self.at_limit = room, "context"
        return self

    def write(self, logits, guess=None):
        """The next token, from logits [V] float32 on the cpu; returns a Step."""
        if not logits.isfinite().all():
            raise InputError(
                "the model's logits are not finite, so no token can be chosen: its "
                "weights are damaged, or too large for this dtype; try torch.float32"
            )
        logits = logits[: self.vocab]  # ids beyond only fill the table: never drawn
        if self.seen is None:
            self.seen = torch.zeros(len(logits), dtype=torch.bool)
        token = self.sampling.choose(logits, self.seen, self.random)
        self.seen[token] = True
        self.last, self.written = token, self.written + 1
        thinking, text = bool(self.stream and self.stream.thinking), ""
        if token in self.stop_ids:
            self.finish = "stop"
        elif self.stream:
            text = self.stream.push(token)
            self.finish = "stop" if self.stream.stopped else None
        if self.finish is None and self.written == self.room:
            self.finish = self.at_limit
        if self.finish and self.stream:
            text += self.stream.flush()
        return Step(token, text, thinking, token == guess, self.finish)


def generate(
    model: Qwen,
    inputs: Any,
    max_new_tokens: int = 64,
    temperature: float = 0.0,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
    presence_penalty: float = 0.0,
    seed: int = 0,
    stop: str | Iterable[str] = (),
    stop_ids: Iterable[int] | None = None,
    processor: Any = None,
    draft: int = 0,
) -> Iterator[Any]:
    """Write on from a prompt, yielding a Step per token.

    inputs: what `Processor.chat` returns: input_ids [B, T], attention_mask, pictures;
    ids alone will do, as a tensor, an array or a list.
    One sequence yields Steps; a batch (B > 1) yields lists of B, None where a row has
    ended. stop: strings that end the answer, never shown. stop_ids: tokens that do; by
    default the config's and the processor's. Without a processor there is no text, so
    no stop strings and no thinking. draft: tokens guessed ahead by the model's
    multi-token head: another speed, the same text (in fp32, ties apart). For the rest
    see `Sampling`. The last Step of a row has `finish`: "stop", "length" at
    max_new_tokens, "context" where the model's positions end. InputError for a value
    out of range, and for a prompt that leaves no room.
    """
    number(max_new_tokens, "max_new_tokens", int, 1)
    number(draft, "draft", int, 0)
    number(seed, "seed", int, 0, 2**63 - 1)
    stop = (stop,) if isinstance(stop, str) else listed(stop, "stop")
    texts = all(isinstance(text, str) and text for text in stop)
    if not texts or (stop and processor is None):
        raise InputError("stop strings must be texts, not empty, and need processor=")
    if stop_ids is None:
        more = processor.stop_ids if processor else ()
        stop_ids = {*model.cfg.text.eos_token_id, *more}
    ends = listed(stop_ids, "stop_ids")
    stop_ids = {number(token, "one of stop_ids", int, 0) for token in ends}
    limit, inputs = longest_prompt(model.cfg), as_inputs(inputs, model.device)
    rows, options = [], (temperature, top_k, top_p, min_p, presence_penalty)
    for i, prompt in enumerate(prompts(inputs, limit, model.cfg)):
        sampling, room = Sampling(*options, seed + i), limit - len(prompt)
        row = Row(prompt, max_new_tokens, sampling, processor, stop, stop_ids)
        rows.append(row.bounded(room))
    if draft:
        return write_drafting(model, inputs, only(rows, model.cfg), draft)
    steps = write(model, inputs, rows)
    return (step[0] for step in steps) if len(rows) == 1 else steps


def only(rows, cfg):
    """The one row that may be drafted; InputError for more, and without a head."""
    if len(rows) > 1:
        raise InputError(f"draft takes one sequence, not {len(rows)}; set draft=0")
    if not cfg.text.mtp_num_hidden_layers:
        raise InputError("this model has no multi-token-prediction head; set draft=0")
    return rows[0]


def decoder(model, cache, tokens):
    """f(ids [B, 1], cache) -> logits: a form of the model, if worth it, or itself."""

    def plain(ids, cache):
        return model(ids, cache=cache, last_only=True)

    return whole("step", model, cache, tokens) or plain


@torch.inference_mode()
def write(model, inputs, rows):
    """One token a row and forward; yields lists of Step or None."""
    room = max(row.room for row in rows)
    cache = model.new_cache(len(rows), inputs["input_ids"].shape[1] + room)
    logits = prefill(model, inputs, cache)
    read = decoder(model, cache, room)
    while True:
        pairs = zip(rows, logits[:, -1].float().cpu(), strict=True)
        yield [None if row.finish else row.write(own) for row, own in pairs]
        if all(row.finish for row in rows):
            return
        ids = [[row.last] for row in rows]  # an ended row idles until all have ended
        ids = torch.tensor(ids, device=logits.device)
        logits = read(ids, cache)


@torch.inference_mode()
def write_drafting(model, inputs, row, draft):
    """Several tokens a forward where the guesses hold; yields Steps.

    The head guesses `draft` tokens, one forward of the whole model reads them all, and
    the row samples from its logits, in order, as it would have one by one. It goes on
    while the sampled token is the guessed one. Each token takes one random number, so
    the text is the same as without guesses.
    """
    cache = model.new_cache(1, len(row.prompt) + row.room)
    hidden, place = read_drafting(model, inputs, cache)
    yield row.write(model.logits(hidden)[0, -1].float().cpu())
    tokens = [row.last]
    while not row.finish:
        count = min(draft, row.room - row.written - 1)
        guesses = guess(model, cache, hidden, tokens, place, count, row.vocab)
        cache.marks.clear()  # one copy of the recurrent states is enough
        cache.mark()
        start, place = cache.length, cache.next_position[None, None]
        ids = torch.tensor([[row.last, *guesses]], device=hidden.device)
        hidden = model.hidden(ids, cache=cache)
        tokens = []
        for logits, guessed in zip(
            model.logits(hidden)[0].float().cpu(), [*guesses, None], strict=True
        ):
            yield row.write(logits, guessed)
            tokens.append(row.last)
            if row.finish or row.last != guessed:
                break
        if len(tokens) <= count and not row.finish:
            # The states have read wrong guesses: back, and read the right ones again.
            cache.cut(start)
            model.hidden(ids[:, : len(tokens)], cache=cache)
        place = place + torch.arange(len(tokens), device=place.device)
        hidden, place = hidden[:, : len(tokens)], place.expand(3, 1, -1)


def guess(model, cache, hidden, tokens, place, count, vocab=None):
    """The head's next `count` tokens, greedily.

    hidden [1, T, D], states of tokens at place [3, 1, T] that the head has not read;
    tokens, the T tokens that follow each. Its cache keeps these, not its own guesses.
    """
    guesses, known = [], None
    while len(guesses) < count:
        ids = torch.tensor([tokens], device=hidden.device)
        logits, hidden = model.draft(hidden, ids, place, cache, last_only=True)
        known = cache.mtp.length if known is None else known
        tokens = [int(logits[0, -1, :vocab].argmax())]
        guesses += tokens
        hidden, place = hidden[:, -1:], place[..., -1:] + 1
    if known is not None:
        cache.mtp.length = known
    return guesses


def read_drafting(model, inputs, cache):
    """Prefill for the model and its head: the last token's state, and its place."""
    # The head pairs each token's state with the next token, so it stays one behind.
    inputs = without_padding(inputs)
    following = inputs["input_ids"][:, 1:]
    for piece in pieces(model.cfg, inputs):
        ids, grids = piece["input_ids"], [piece.get(names[1]) for names in VISION]
        start, real = cache.length, torch.ones_like(ids, dtype=torch.bool)
        place, _ = positions(ids, real, cache.next_position, model.cfg, *grids)
        hidden = model.hidden(**piece, position_ids=place, cache=cache)
        known = following[:, start : cache.length]
        if known.shape[1]:
            states = hidden[:, : known.shape[1]]
            at = place[..., : known.shape[1]]
            model.draft(states, known, at, cache, last_only=True)
    return hidden[:, -1:], place[..., -1:]


def without_padding(inputs):
    """A single row's inputs as they would be alone."""
    mask = inputs.get("attention_mask")
    if mask is None:
        return inputs
    others = {k: v for k, v in inputs.items() if k != "attention_mask"}
    return others | {"input_ids": inputs["input_ids"][mask.bool()][None]}
