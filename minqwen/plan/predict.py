"""What an answer should take by the speeds measured here, beside what it took."""

from collections import Counter

from ..model.forms import Stored
from ..units import human
from .budget import memory_bytes, part_named

NAMES = {"float32": "fp32", "bfloat16": "bf16", "float16": "bf16"}
IDLE = ("vision tower", "draft head")  # of a token of text


def moved_by(model, context):
    """{form: bytes} that one token of one text moves of a loaded model's memory.

    Experts count by the share that a token chooses, wherever they lie.
    """
    t, found = model.cfg.text, Counter()
    share = t.num_experts_per_tok / t.num_experts if t.num_experts else 1
    for name, form, size in _weights(model):
        part = part_named(name)
        if part == "embedding" and not model.cfg.tie_word_embeddings:
            continue  # a row of it
        if part not in IDLE:
            found[form] += size * (share if part == "routed experts" else 1)
    width = model.dtype.itemsize
    kept = memory_bytes(model.cfg, context, 1, width)
    states = kept["recurrent states"] + kept["convolution windows"]
    plain = NAMES[str(model.dtype).removeprefix("torch.")]
    found[plain] += kept["keys and values"] + 2 * states
    return dict(found)


def _weights(model):
    """(name, form, bytes) of every weight, packed and paged ones as they are stored."""
    for name, p in model.named_parameters():
        yield name, NAMES[str(p.dtype).removeprefix("torch.")], p.nbytes
    for name, module in model.named_modules():
        if isinstance(module, Stored):
            # Those on disk are computed with in the form of their cache's places.
            slots = getattr(getattr(module, "pages", None), "slots", {})
            place = slots.get(name.rpartition(".")[2], module)
            parts = [*place.buffers()] if isinstance(place, Stored) else []
            plain = NAMES[str(module.dtype).removeprefix("torch.")]
            whole = module.shape.numel() * module.dtype.itemsize
            size = sum(p.nbytes for p in parts) * len(module) / len(place)
            yield name, place.form if parts else plain, size or whole


def beside(model, answer, measured):
    """{"tokens a second", "bytes a token"} predicted, and those that were."""
    context = answer["prompt_tokens"] + answer["tokens"] // 2
    moved = moved_by(model, context)
    loops = measured["loops"]  # of every width of scales, one form was measured
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
    """That for the terminal."""
    disk = (
        f" and {human(told['read_a_token'])} from disk" if told["read_a_token"] else ""
    )
    was, expected = told["tokens_a_second"], told["predicted_tokens_a_second"]
    return (
        f"predicted by what was measured here: {expected:.3g} tokens a second, for "
        f"{human(told['bytes_a_token'])} of memory{disk} a token; it was {was:.3g}, "
        f"{was / expected:.0%} of that"
    )
