"""Reading a long prompt in pieces, so that its length does not decide the memory."""

from bisect import bisect_right

import torch

from ..model.forms import whole

PIECE = 1024  # tokens in one forward; more is hardly faster, and takes more memory
VISION = (
    ("pixel_values", "image_grid_thw", "image_token_id"),
    ("pixel_values_videos", "video_grid_thw", "video_token_id"),
)


def cuts(input_ids, size, vision_ids):
    """Where to cut a prompt [B, T]: ends of pieces of at most `size` tokens."""
    # Never between two placeholders of one picture: its rows of patches stay whole,
    # so a piece may be longer than `size` where a picture is.
    length = input_ids.shape[1]
    same = input_ids[:, 1:] == input_ids[:, :-1]
    inside = (same & torch.isin(input_ids[:, 1:], vision_ids)).any(0)
    allowed = [*((~inside).nonzero()[:, 0] + 1).tolist(), length]
    ends = [0]
    while ends[-1] < length:
        at = bisect_right(allowed, ends[-1] + size) - 1  # the furthest that fits
        if at < 0 or allowed[at] <= ends[-1]:
            at += 1
        ends.append(allowed[at])
    return ends[1:]


def vision_units(cfg, inputs):
    """Pictures, and films cut to frames: {names: what `placed` says of them}.

    Frames of a film do not see each other in the tower, so each may travel in the
    piece that its placeholders are in. None where patches and placeholders do not
    match.
    """
    units = {}
    for names in VISION:
        patches, grid = inputs.get(names[0]), inputs.get(names[1])
        if patches is not None:
            units[names] = placed(cfg, inputs["input_ids"], names[2], patches, grid)
    return None if None in units.values() else units


def placed(cfg, ids, pad, patches, grid):
    """[(row, first column, patches, grid [3])] of pictures and frames in ids [B, T].

    pad: the name of their placeholder's id. None where these and patches do not match.
    """
    if cfg.vision is None or grid is None:
        return None
    frames = grid.repeat_interleave(grid[:, 0], 0)  # [U, 3] of (t, h, w) in patches
    frames[:, 0] = 1
    sizes, merge = frames.prod(-1), cfg.vision.spatial_merge_size**2
    # row by row of the batch, the order in which the patches come too
    places = (ids == getattr(cfg, pad)).nonzero()
    if len(places) * merge != sizes.sum() or len(patches) != sizes.sum():
        return None
    starts = places[(sizes.cumsum(0) - sizes) // merge].tolist()
    parts = zip(starts, patches.split(sizes.tolist()), frames, strict=True)
    return [(*start, part, frame) for start, part, frame in parts]


def pieces(cfg, inputs, size=PIECE):
    """The prompt as a list of keyword arguments for the model, to be fed in order."""
    ids, mask = inputs["input_ids"], inputs.get("attention_mask")
    if ids.shape[1] <= size:
        return [inputs]
    units = vision_units(cfg, inputs)
    if units is None:
        return [inputs]  # the model's own message says what does not match
    vision_ids = ids.new_tensor([getattr(cfg, names[2]) for names in units])
    result, start = [], 0
    for end in cuts(ids, size, vision_ids):
        piece = {"input_ids": ids[:, start:end]}
        if mask is not None:
            piece["attention_mask"] = mask[:, :end]
        for names, found in units.items():
            here = [u for u in found if start <= u[1] < end]
            if here:
                piece[names[0]] = torch.cat([u[2] for u in here])
                piece[names[1]] = torch.stack([u[3] for u in here])
        result.append(piece)
        start = end
    return result


def reader(model, inputs, cache):
    """f(ids [1, T], cache) -> last logits, for one row of text; or None: by pieces."""
    ids, mask = inputs["input_ids"], inputs.get("attention_mask")
    text = set(inputs) <= {"input_ids", "attention_mask"}
    if not text or len(ids) > 1 or not (mask is None or mask.all()):
        return None
    return whole("read", model, cache, ids.shape[1])


def prefill(model, inputs, cache, size=PIECE):
    """Read the prompt into the cache; returns the last token's logits [B, 1, vocab]."""
    if read := reader(model, inputs, cache):
        return read(inputs["input_ids"], cache)
    for piece in pieces(model.cfg, inputs, size):
        logits = model(**piece, cache=cache, last_only=True)
    return logits
