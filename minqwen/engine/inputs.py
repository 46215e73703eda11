"""What `generate` is given, checked before any work and brought into one form."""

from collections.abc import Mapping

import torch

from ..errors import InputError, show
from ..model.qwen import check_ids
from .prefill import VISION

INPUTS = {"input_ids", "attention_mask"} | {name for v in VISION for name in v[:2]}
IGNORED = {"mm_token_type_ids"}  # transformers' processors give it; we find it out


def as_inputs(given, device):
    """`given` as a dict of tensors on `device`; ids alone are one sequence, or rows.

    Tensors, arrays and lists will do. InputError for what is no numbers.
    """
    if not isinstance(given, Mapping):
        ids = as_tensor(given, "inputs")
        given = {"input_ids": ids[None] if ids.ndim == 1 else ids}
    unknown = set(given) - INPUTS - IGNORED
    if unknown:
        names = ", ".join(sorted(show(name, 40) for name in unknown))
        raise InputError(f"generate does not take {names}")
    inputs = {
        name: as_tensor(value, name)
        for name, value in given.items()
        if name not in IGNORED and value is not None
    }
    for name, value in inputs.items():
        if name.startswith("pixel_values"):
            if value.ndim != 2 or not value.is_floating_point():
                raise InputError(
                    f"{name} are {value.dtype} {list(value.shape)}; expected patches "
                    "[N, numbers of one], as Processor.chat gives them"
                )
            if not value.isfinite().all():
                raise InputError(f"{name} hold a value that is NaN or infinite")
        elif value.is_floating_point() or value.is_complex():
            raise InputError(f"{name} are {value.dtype}; expected whole numbers")
        else:
            inputs[name] = value.long()
    return {name: value.to(device) for name, value in inputs.items()}


def as_tensor(value, name):
    try:
        return torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        raise InputError(
            f"{name} is {type(value).__name__} that holds no numbers of one shape; "
            "give a tensor, an array or a list"
        ) from None


def listed(values, name):
    """A tuple of what can be gone through once; InputError for what cannot."""
    try:
        return tuple(values)
    except TypeError:
        kind = type(values).__name__
        raise InputError(f"{name} is {kind}, but must be a list") from None


def longest_prompt(cfg):
    """Where the positions end; YaRN's files keep the native figure and its factor."""
    rope, limit = cfg.text.rope, cfg.text.max_position_embeddings
    if rope.rope_type == "yarn":
        limit = max(limit, int(rope.factor * rope.original_max_position_embeddings))
    return limit


def prompts(inputs, limit, cfg):
    """Each row's ids without its padding; InputError when one leaves no room."""
    ids = inputs.get("input_ids")
    if ids is None or ids.ndim != 2 or ids.numel() == 0:
        raise InputError("inputs need input_ids [B, T] with at least one token")
    mask = inputs.get("attention_mask", torch.ones_like(ids))
    bits = mask.shape == ids.shape and (mask == mask.bool()).all()
    if not bits or not mask[:, -1].all() or (mask.diff() < 0).any():
        raise InputError(
            "attention_mask must be [B, T] of 0 and 1 with all padding on the left"
        )
    rows = [row[real].tolist() for row, real in zip(ids, mask.bool(), strict=True)]
    check_ids(ids[mask.bool()], cfg.text.vocab_size)
    written = {token for row in rows for token in row}
    for pixels, grid, pad in VISION:
        token, patches = getattr(cfg, pad), inputs.get(pixels)
        if patches is None and token in written:
            raise InputError(
                f"the prompt has placeholders (id {token}) but no {pixels}; let "
                "Processor.chat build both"
            )
        check_grid(inputs.get(grid), grid, patches, cfg.vision)
    longest = max(map(len, rows))
    if longest >= limit:
        raise InputError(
            f"the prompt is {longest} tokens long and leaves no room to answer: the "
            f"model's positions end at {limit} (max_position_embeddings); shorten it"
        )
    return rows


def check_grid(grid, name, patches, vision):
    """InputError unless grid and patches, if they are there, fit the tower."""
    if patches is not None and vision is not None:
        width = vision.in_channels * vision.temporal_patch_size * vision.patch_size**2
        if patches.shape[1] != width:
            raise InputError(
                f"each patch has {patches.shape[1]} numbers, and the model's {width}; "
                "let a Processor of the same checkpoint build them"
            )
    if grid is None:
        return
    count = 0 if patches is None else len(patches)
    merge = vision.spatial_merge_size if vision else 1
    # Each side first, so that no product can overflow into the right count.
    fits = grid.ndim == 2 and grid.shape[1] == 3 and len(grid) > 0
    fits = fits and 1 <= grid.min() and grid.max() <= count
    fits = fits and not (grid[:, 1:] % merge).any()
    if not fits or sum(t * h * w for t, h, w in grid.tolist()) != count:
        raise InputError(
            f"{name} must be [pictures, 3] of frames, rows and columns, these in "
            f"multiples of {merge}, that count all {count} patches; let Processor.chat "
            "build both"
        )
