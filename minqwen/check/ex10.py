"""Notebook 10, pictures and films: patches, their order, and where tokens stand."""

from functools import partial

import torch

from ..model.vision import in_blocks
from ..prompt.videos import frame_seconds
from .core import Exercise


def _cut(picture, p, order=(0, 2, 1, 3)):
    H, W = picture.shape
    blocks = picture.reshape(H // p, p, W // p, p)  # row of patches, row, column, ..
    return blocks.permute(order).reshape(-1, p * p)


cut_patches = Exercise(
    "10",
    "cut a picture",
    _cut,
    lambda rand: [
        {"picture": rand(H, W), "p": p} for H, W, p in [(4, 4, 2), (4, 6, 2), (6, 9, 3)]
    ],
    wrong={
        "that reshapes without cutting: p * p pixels of one line are no square": (
            lambda picture, p: picture.reshape(-1, p * p)
        ),
        "the patches come column by column; a row of patches comes first": (
            partial(_cut, order=(2, 0, 1, 3))
        ),
        "the pixels inside a patch come column by column; its first row comes first": (
            partial(_cut, order=(0, 2, 3, 1))
        ),
        "all is read column by column: the picture was transposed": (
            lambda picture, p: _cut(picture.T, p)
        ),
        "the pixels of a patch lie far apart; a patch is made of neighbours": (
            partial(_cut, order=(1, 3, 0, 2))
        ),
    },
    returns=("the table of patches",),
)


def _order(h, w, merge, axes=(0, 2, 1, 3)):
    number = torch.arange(h * w).view(h // merge, merge, w // merge, merge)
    return number.permute(axes).flatten()


block_order = Exercise(
    "10",
    "patches in blocks",
    lambda h, w, merge: in_blocks(torch.arange(h * w).view(h, w, 1), merge).flatten(),
    lambda rand: [
        {"h": h, "w": w, "merge": m} for h, w, m in [(4, 4, 2), (4, 8, 2), (9, 6, 3)]
    ],
    wrong={
        "row by row: the patches that the merger joins must follow each other": (
            partial(_order, axes=(0, 1, 2, 3))
        ),
        "the blocks are right, but inside each its columns come first": (
            partial(_order, axes=(0, 2, 3, 1))
        ),
        "the blocks come column by column; a row of blocks comes first": (
            partial(_order, axes=(2, 0, 1, 3))
        ),
        "blocks and patches both come column by column; rows come first in both": (
            partial(_order, axes=(2, 0, 3, 1))
        ),
        "that says where each patch goes; which patch comes next is asked for": (
            lambda h, w, merge: _order(h, w, merge).argsort()
        ),
    },
    returns=("the order",),
)


def _stand(runs, after=max, axes=(0, 1, 2), line=(0, 0), begin=(1, 1, 1)):
    at, parts = 0, []
    for run in runs:
        h, w = run if isinstance(run, tuple) else (1, run)
        place = torch.cartesian_prod(torch.arange(1), torch.arange(h), torch.arange(w))
        words = torch.arange(h * w).expand(3, h * w)
        if isinstance(run, tuple):
            place = place.T[list(axes)]
            place[:1] += line[0] * words[:1]
            place[1:] = words[1:] if line[1] else place[1:]
            parts.append(at * torch.tensor(begin)[:, None] + place)
            at += after(h, w)
        else:
            parts.append(at + words)
            at += run
    return torch.cat(parts, dim=1)


three_positions = Exercise(
    "10",
    "where tokens stand",
    _stand,
    lambda rand: [{"runs": [4, (2, 3), 2]}, {"runs": [1, (3, 2), 2, (2, 5), 1]}],
    wrong={
        "words go on max(h, w) after the picture began, not h * w": (
            partial(_stand, after=lambda h, w: h * w)
        ),
        "words go on one too early: max(h, w) after the picture began": (
            partial(_stand, after=lambda h, w: max(h, w) - 1)
        ),
        "words go on one too late: max(h, w) after the picture began": (
            partial(_stand, after=lambda h, w: max(h, w) + 1)
        ),
        "a picture takes max(h, w) positions, not one": (
            partial(_stand, after=lambda h, w: 1)
        ),
        "the larger of h and w counts, also in a picture that is wider than high": (
            partial(_stand, after=lambda h, w: h)
        ),
        "the larger of h and w counts, also in a picture that is higher than wide": (
            partial(_stand, after=lambda h, w: w)
        ),
        "time stands still in a picture: all its tokens have the same": (
            partial(_stand, line=(1, 0))
        ),
        "a picture's tokens stand in rows and columns, not in a line": (
            partial(_stand, line=(1, 1), after=lambda h, w: h * w)
        ),
        "the second axis is the row, the third the column": (
            partial(_stand, axes=(0, 2, 1))
        ),
        "rows and columns count from where the picture begins, not from 0": (
            partial(_stand, begin=(1, 0, 0))
        ),
        "a picture's time is where it begins, not 0": partial(_stand, begin=(0, 1, 1)),
    },
    returns=("the table of positions",),
)


def _seconds(frames, fps, pick=lambda pair: sum(pair) / 2):
    pairs = zip(frames[::2], [*frames[1::2], *frames[-1:]], strict=False)
    return torch.tensor([pick(pair) / fps for pair in pairs])


film_seconds = Exercise(
    "10",
    "the seconds of a film",
    lambda frames, fps: torch.tensor(frame_seconds(frames, fps)),
    lambda rand: [
        {"frames": [0, 16, 31, 47], "fps": 24.0},
        {"frames": [0, 10, 21, 30, 41], "fps": 8.0},
    ],
    wrong={
        "that is when a pair's first frame is seen; take the middle of the two": (
            partial(_seconds, pick=lambda pair: pair[0])
        ),
        "that is when a pair's second frame is seen; take the middle of the two": (
            partial(_seconds, pick=lambda pair: pair[1])
        ),
        "a number for each frame; two frames are one pair": (
            lambda frames, fps: torch.tensor(frames) / fps
        ),
        "those are frame numbers; divide by fps": (
            lambda frames, fps: _seconds(frames, 1.0)
        ),
        "fps is frames a second: divide by it": (
            lambda frames, fps: _seconds(frames, 1 / fps)
        ),
        "the last frame of an odd film stands for two": (
            lambda frames, fps: _seconds(frames[: len(frames) // 2 * 2], fps)
        ),
        "do not round; that comes later, when the time is written": (
            lambda frames, fps: (_seconds(frames, fps) * 10).round() / 10
        ),
        "the frames are numbered as in the film, not 0, 1, 2": (
            lambda frames, fps: _seconds(list(range(len(frames))), fps)
        ),
    },
    returns=("the row of seconds",),
)
