"""Makes the sample traces: assets/tiny recalls a note, reads a picture, sees a film.

    python -m tools.sample_trace [NAME ...]     note, picture, film; default: all

The note's says where the explorer opens its memory: when the answer is due, at the head
that then most prefers what was written last to what stood there before. Run it again
when the checkpoint has changed.
"""

import sys
from functools import partial
from pathlib import Path

import numpy as np
import torch

import minqwen
from minqwen.cli.tour import STOPS, begins
from minqwen.model.delta import delta_recurrent
from minqwen.model.shapes import FULL
from minqwen.train.corpus import films

ROOT = Path(__file__).resolve().parent.parent
ASSETS = ROOT / "assets"
HEADS = 4  # of the delta rule in each trace, and two of attention
OLD, NEW = " table", " box"  # what the note says first, and then


def film(seed=6):
    """A film that no training saw, as frames, and what is asked about it."""
    rng = np.random.default_rng([seed, 2**41])
    frames, facts = films.moving(rng, 0.5, True, 3)
    frames = [frame for pair in frames for frame in (pair, pair)]
    return frames, facts[0].ways[0]


def asked(name):
    """The messages of a trace."""
    if name == "film":
        frames, question = film()
        shown = {"type": "video", "video": frames, "fps": films.FPS}
        content = [shown, {"type": "text", "text": question}]
        return [{"role": "user", "content": content}]
    (stop,) = (stop for stop in STOPS if stop.name == name)
    content = [{"type": "text", "text": stop.question}]
    if stop.picture:
        content.insert(0, {"type": "image", "image": ASSETS / stop.picture})
    return [{"role": "user", "content": content}]


def recorded(model, processor, messages, states=()):
    """The trace of a prompt and of the answer to it."""
    inputs = processor.chat(messages)
    with minqwen.record(model, states, norms=True, processor=processor) as trace:
        list(minqwen.generate(model, inputs, max_new_tokens=60, processor=processor))
    trace.meta.update(model="assets/tiny", prompt_length=inputs["input_ids"].shape[1])
    return trace


def heads_of(model, full):
    """All (layer, head) of full layers, or all of delta layers."""
    text = model.cfg.text
    count = text.num_attention_heads if full else text.linear_num_value_heads
    layers = [i for i, kind in enumerate(text.layer_types) if (kind == FULL) == full]
    return [(layer, head) for layer in layers for head in range(count)]


def given_back(trace, layer, head, token, probe):
    """What a head's memory after `token` gives back for what was written at `probe`.

    The cosine with what was written: 1, all is there; 0, nothing is.
    """
    q, k, v, g, beta = (
        torch.tensor(trace[f"delta.{layer}.{head}.{part}"]).float()[None, :, None]
        for part in ("q", "k", "v", "g", "beta")
    )  # [1, T, 1, ...]
    seen = slice(token + 1)
    _, state = delta_recurrent(
        q[:, seen], k[:, seen], v[:, seen], g=g[:, seen], beta=beta[:, seen]
    )
    back = k[0, probe, 0] @ state[0, 0]
    return float(torch.cosine_similarity(back, v[0, probe, 0], dim=0))


def sample(name, model, processor):
    """The trace, with where it opens."""
    record = partial(recorded, model, processor, asked(name))
    trace = record(heads_of(model, full=False))
    opens = {}
    delta = heads_of(model, full=False)
    if name == "note":
        texts, prompt = trace.tokens, trace.meta["prompt_length"]
        old, new = begins(texts, OLD), begins(texts, NEW)
        # the token that is followed by the word; the prompt's last one if none is
        before = prompt - 1 + (begins(texts[prompt:], NEW) or 0)
        kept = {
            pair: given_back(trace, *pair, before, new)
            - abs(given_back(trace, *pair, before, old))
            for pair in delta
        }
        delta.sort(key=kept.get, reverse=True)
        opens = {"token": before, "head": list(delta[0]), "probe": new}
    else:
        decay = dict(zip(delta, trace["state_decay"].mean(0).flatten(), strict=True))
        delta.sort(key=decay.get)
        delta = [delta[i] for i in np.linspace(0, len(delta) - 1, HEADS).astype(int)]
    full = heads_of(model, full=True)
    trace = record([*delta[:HEADS], full[0], full[-1]])
    trace.meta["opens"] = opens
    return trace


def main(names):
    model = minqwen.load(ASSETS / "tiny")
    processor = minqwen.Processor.load(ASSETS / "tiny")
    for name in names or ("note", "picture", "film"):
        trace = sample(name, model, processor)
        trace.save(ASSETS / f"{name}.safetensors")
        answer = "".join(trace.tokens[trace.meta["prompt_length"] :])
        print(f"{name}: {answer!r}, opens {trace.meta['opens']}")


if __name__ == "__main__":
    main(sys.argv[1:])
