"""Videos, from a file or a list of frames, to the patches the vision tower reads.

Follows the processor published with the checkpoints (Qwen3-VL's): about two frames a
second, all resized alike within a limit on the pixels of the whole video, and for
every two frames their time, which the prompt then spells out.
"""

import io
import math
import os
from collections.abc import Mapping
from functools import partial

import numpy as np
import torch
from PIL import Image

from ..errors import InputError, number, show
from .images import (
    SAMPLING,
    asked_size,
    frames_to_patches,
    local,
    normalise,
    open_picture,
    smart_resize,
)

DEFAULT_FPS = 24.0
# Tokens of a frame and of a whole video whose message asks for a size.
FRAME_TOKENS, FILM_TOKENS = (128, 768), 128_000 * 0.9
SAMPLED = (*SAMPLING, "video_start", "video_end")
SIZED = ("min_pixels", "max_pixels", "total_pixels", "resized_height")


def sample_frames(total, source_fps, *, fps=2.0, min_frames=4, max_frames=768):
    """Which of `total` frames to look at: evenly spread, about `fps` a second."""
    wanted = int(total / source_fps * fps)
    wanted = min(max(wanted, min_frames), max_frames, total)
    return [int(i) for i in np.linspace(0, total - 1, wanted).round()]


def choose_frames(total, source_fps, asked, *, sample=True, **usual):
    """Which of `total` frames to look at: those of `sample_frames`, or as `asked`.

    `asked` has a message's keys; as in qwen-vl-utils, they lead to an even count.
    `sample` False takes every frame. Raises InputError for more than there are.
    """
    first = min(math.ceil(asked.get("video_start", 0) * source_fps), total)
    last = min(math.floor(asked.get("video_end", 2**53) * source_fps), total - 1)
    count = last + 1 - first
    if count < 1:
        raise InputError(f"a video of {total} frames has none where it is to be read")
    own = not asked.keys().isdisjoint(SAMPLED)
    if "num_frames" in asked or "nframes" in asked:
        wanted = asked.get("num_frames") or round(asked["nframes"] / 2) * 2
        if wanted > count:
            raise InputError(f"{wanted} frames are asked of {count}; ask for fewer")
    elif not own and (not sample or "sample_fps" in asked):
        wanted = count
    else:
        usual |= {key: asked[key] for key in SAMPLING if key in asked}
        if own:
            usual["min_frames"] = math.ceil(usual.get("min_frames", 4) / 2) * 2
            usual["max_frames"] = usual.get("max_frames", 768) // 2 * 2
        wanted = len(sample_frames(count, source_fps, **usual))
        wanted -= wanted % 2 if own else 0
    return [int(i) for i in np.linspace(first, last, wanted).round()]


def frame_seconds(indices, source_fps, temporal_patch_size=2):
    """When each group of frames is seen: the mean of its first and last frame's time.

    `indices` are frame numbers in the source; the last is repeated to fill a group.
    """
    missing = -len(indices) % temporal_patch_size
    times = [index / source_fps for index in [*indices, *indices[-1:] * missing]]
    groups = range(0, len(times), temporal_patch_size)
    return [(times[i] + times[i + temporal_patch_size - 1]) / 2 for i in groups]


def video_to_patches(
    video, source_fps=None, asked=None, *, patch_size=16, temporal_patch_size=2,
    merge_size=2, min_pixels=4_096, max_pixels=25_165_824, mean=0.5, std=0.5, **usual,
):  # fmt: skip
    """A video to patches [t*h*w, 1536], its grid (t, h, w) and t times in seconds.

    `video` is a file, or a list of frames of one size, each anything `open_picture`
    takes, `source_fps` of them a second (24 by default, as in transformers). `asked` is
    what its message says about it, `usual` more arguments for `choose_frames`.
    min_pixels and max_pixels are for all frames together, those asked for are for one.
    Raises InputError for fewer than 2 frames or frames of unlike size.
    """
    asked = asked or {}
    pictures, indices, source_fps = _load_frames(video, source_fps, asked, usual)
    factor, (width, height) = patch_size * merge_size, pictures[0].size
    if not asked.keys().isdisjoint(SIZED):
        size = frame_size(height, width, len(pictures), asked, factor)
    else:
        if min(height, width) < factor:  # unlike a picture, first brought to one token
            scale = max(factor / height, factor / width)
            height, width = int(height * scale), int(width * scale)
        size = smart_resize(
            height, width, factor=factor, min_pixels=min_pixels, max_pixels=max_pixels,
            frames=len(pictures), frame_step=temporal_patch_size,
        )  # fmt: skip
    levels = np.stack([np.asarray(p).transpose(2, 0, 1) for p in pictures])
    # Unlike pictures, videos are resized by torch in the published processor, and
    # Pillow's bicubic differs from torch's by up to two levels here and there.
    levels = torch.nn.functional.interpolate(
        torch.from_numpy(levels), size, mode="bicubic", antialias=True
    )
    frames = normalise(levels.numpy(), mean, std)  # [T, C, H, W]
    patches, grid = frames_to_patches(
        frames, patch_size, temporal_patch_size, merge_size
    )
    return patches, grid, frame_seconds(indices, source_fps, temporal_patch_size)


def frame_size(height, width, count, asked, factor):
    """The size of each of `count` frames, by the keys that qwen-vl-utils reads."""
    low = asked.get("min_pixels", FRAME_TOKENS[0] * factor**2)
    share = asked.get("total_pixels", FILM_TOKENS * factor**2) / count * 2
    most = max(min(FRAME_TOKENS[1] * factor**2, share), int(low * 1.05))
    high = min(asked.get("max_pixels", most), most)
    low = min(low, high)
    return asked_size(
        height, width, asked, factor=factor, min_pixels=low, max_pixels=high
    )


def _load_frames(video, source_fps, asked, usual):
    """The sampled frames, their numbers and the source's frames per second."""
    if isinstance(video, (str, bytes, os.PathLike)):
        pick = partial(choose_frames, asked=asked, **usual)
        pictures, indices, source_fps = read_video(video, pick)
    else:
        said = asked.get("sample_fps", asked.get("fps", DEFAULT_FPS))
        source_fps = said if source_fps is None else source_fps
        asked = {key: asked[key] for key in asked if key != "fps"}  # their own rate
        pictures, indices = _pick_frames(video, source_fps, asked, usual)
    sizes = sorted({picture.size for picture in pictures})
    if len(pictures) < 2 or len(sizes) > 1:
        raise InputError(
            f"a video has {len(pictures)} frames of sizes {sizes}, but at least "
            "2 frames of one size are needed; give a single frame as a picture"
        )
    return pictures, indices, source_fps


def _pick_frames(frames, source_fps, asked, usual):
    listed = hasattr(frames, "__len__") and hasattr(frames, "__getitem__")
    if not listed or isinstance(frames, Mapping):
        raise InputError(
            f"a video cannot be made from {type(frames).__name__}; "
            "give a file or a list of frames"
        )
    source_fps = number(source_fps, "a video's fps", float, 0, over=True)
    indices = choose_frames(len(frames), source_fps, asked, **usual)
    return [open_picture(frames[i]) for i in indices], indices


def read_video(video, pick=sample_frames):
    """Sampled frames of a video file as PIL pictures, their numbers, the file's fps.

    `video` is a path, a file: or data: URI, or bytes; pick(total, fps) chooses frames.
    Needs the optional package `av` (PyAV). Raises InputError when that is missing, or
    when there is no readable video.
    """
    video = local(video)
    in_memory = isinstance(video, bytes)
    name = f"the video of {len(video)} bytes" if in_memory else show(video)
    try:
        import av
    except ImportError:
        raise InputError(
            f"{name}: reading a video file needs the package `av`; "
            "install minqwen[video], or give the video as a list of frames"
        ) from None
    if not in_memory and not os.path.isfile(video):
        raise InputError(f"{name}: no such video file; give the path of a file")

    def opened():
        return av.open(io.BytesIO(video) if in_memory else os.fspath(video))

    try:
        with opened() as container:
            stream = container.streams.video[0]
            source_fps = float(stream.average_rate)
            # some containers do not say how many there are, so count
            total = stream.frames or sum(1 for _ in container.decode(video=0))
        indices = pick(total, source_fps)
        with opened() as container:
            pictures = _decode_frames(container, set(indices))
    except (av.FFmpegError, IndexError, TypeError, ZeroDivisionError) as error:
        raise InputError(
            f"{name} cannot be read as a video ({show(error)}); "
            "give a file with a video stream that FFmpeg reads"
        ) from error
    return pictures, indices[: len(pictures)], source_fps


def _decode_frames(container, wanted):
    pictures = []
    for place, frame in enumerate(container.decode(video=0)):
        if place in wanted:
            pictures.append(Image.fromarray(frame.to_ndarray(format="rgb24")))
        if place == max(wanted):
            break
    return pictures
