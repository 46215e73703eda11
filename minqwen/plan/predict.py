"""An answer's speed as predicted from what was measured here, and as it was."""

from collections import Counter

import torch

from ..model.forms import Stored
from ..units import human
from .budget import memory_bytes, part_named

NAMES = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "bf16"}
IDLE = ("vision tower", "draft head")  # parts that a token of text does not need


def moved_by(model, context):
    """{form: bytes} of a loaded model's memory that one token of one text moves.

    Of the experts, in memory or on disk, the share that a token chooses is counted.
    """
    t, found = model.cfg.text, Counter()
    share = t.num_experts_per_tok / t.num_experts if t.num_experts else 1
    for name, form, size in _weights(model):
        part = part_named(name)
        if part == "embedding" and not model.cfg.tie_word_embeddings:
            continue  # a row of it
        if part not in IDLE:
            found[form] += size * (share if part == "routed experts" else 1)
    kept = memory_bytes(model.cfg, context, 1, model.dtype.itemsize)
    states = kept["recurrent states"] + kept["convolution windows"]
    found[NAMES[model.dtype]] += kept["keys and values"] + 2 * states
    return dict(found)


def _weights(model):
    """(name, form, bytes) of every weight, packed and paged ones as they are stored."""
    for name, p in model.named_parameters():
        yield name, NAMES[p.dtype], p.nbytes
    for name, module in model.named_modules():
        if isinstance(module, Stored):
            # Experts on disk are used in the form that their cache holds.
            slots = getattr(getattr(module, "pages", None), "slots", {})
            place = slots.get(name.rpartition(".")[2], module)
            parts = [*place.buffers()] if isinstance(place, Stored) else []
            whole = module.shape.numel() * module.dtype.itemsize
            size = sum(p.nbytes for p in parts) * len(module) / len(place)
            yield name, place.form if parts else NAMES[module.dtype], size or whole


def beside(model, answer, measured):
    """{"tokens a second", "bytes a token"} predicted, and those that were."""
    context = answer["prompt_tokens"] + answer["tokens"] // 2
    moved = moved_by(model, context)
    loops = measured["loops"]  # forms that differ only in scales count as one
    seconds = sum(size / loops[form.split()[0]] for form, size in moved.items())
    read = answer.get("experts", {}).get("answer", {}).get("bytes_read_a_token", 0)
    seconds += read / measured["disk"]
    spent = answer["seconds"] - answer["prompt_seconds"]
    return {
        "bytes_a_token": round(sum(moved.values())),
        "read_a_token": read,
        "predicted_tokens_a_second": round(1 / seconds, 4),
        "tokens_a_second": round((answer["tokens"] - 1) / spent, 4) if spent else 0.0,
    }


def line(told):
    """A line for the terminal of what `beside` returns."""
    disk = told["read_a_token"]
    disk = f" and {human(disk)} from disk" if disk else ""
    was, expected = told["tokens_a_second"], told["predicted_tokens_a_second"]
    return (
        f"predicted by what was measured here: {expected:.3g} tokens a second, for "
        f"{human(told['bytes_a_token'])} of memory{disk} a token; it was {was:.3g}, "
        f"{was / expected:.0%} of that"
    )
