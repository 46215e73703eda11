"""Videos, from a file or a list of frames, to the patches the vision tower reads.

Follows the processor published with the checkpoints (Qwen3-VL's): about two frames a
second, all resized alike within one budget of pixels for the whole video, and for
every two frames the time at which they are seen, which the prompt then spells out.
"""

import os
from collections.abc import Mapping

import numpy as np
import torch
from PIL import Image

from ..errors import InputError, number, show
from .images import frames_to_patches, normalise, open_picture, smart_resize

DEFAULT_FPS = 24.0


def sample_frames(total, source_fps, *, fps=2.0, min_frames=4, max_frames=768):
    """Which of `total` frames to look at: evenly spread, about `fps` a second."""
    wanted = int(total / source_fps * fps)
    wanted = min(max(wanted, min_frames), max_frames, total)
    return [int(i) for i in np.linspace(0, total - 1, wanted).round()]


def frame_seconds(indices, source_fps, temporal_patch_size=2):
    """When each group of frames is seen: the mean of its first and last frame's time.

    `indices` are frame numbers in the source; the last is repeated to fill a group.
    """
    missing = -len(indices) % temporal_patch_size
    times = [index / source_fps for index in [*indices, *indices[-1:] * missing]]
    groups = range(0, len(times), temporal_patch_size)
    return [(times[i] + times[i + temporal_patch_size - 1]) / 2 for i in groups]


def video_to_patches(
    video, source_fps=None, *, patch_size=16, temporal_patch_size=2, merge_size=2,
    min_pixels=4_096, max_pixels=25_165_824, mean=0.5, std=0.5, fps=2.0, min_frames=4,
    max_frames=768,
):  # fmt: skip
    """A video to patches [t*h*w, 1536], its grid (t, h, w) and t times in seconds.

    `video` is a file, or a list of frames of one size, each anything `open_picture`
    takes, seen `source_fps` times a second (24 when not said, as in transformers).
    Frames are sampled down to `fps` a second. The pixel limits hold for all frames
    together. Raises InputError for fewer than 2 frames or frames of unlike size.
    """
    pick = {"fps": fps, "min_frames": min_frames, "max_frames": max_frames}
    pictures, indices, source_fps = _load_frames(video, source_fps, pick)
    factor, (width, height) = patch_size * merge_size, pictures[0].size
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


def _load_frames(video, source_fps, pick):
    """The sampled frames, their numbers and the source's frames per second."""
    if isinstance(video, (str, os.PathLike)):
        pictures, indices, source_fps = read_video(video, **pick)
    else:
        source_fps = DEFAULT_FPS if source_fps is None else source_fps
        pictures, indices = _pick_frames(video, source_fps, pick)
    sizes = sorted({picture.size for picture in pictures})
    if len(pictures) < 2 or len(sizes) > 1:
        raise InputError(
            f"a video has {len(pictures)} frames of sizes {sizes}, but at least "
            "2 frames of one size are needed; give a single frame as a picture"
        )
    return pictures, indices, source_fps


def _pick_frames(frames, source_fps, pick):
    listed = hasattr(frames, "__len__") and hasattr(frames, "__getitem__")
    if not listed or isinstance(frames, Mapping):
        raise InputError(
            f"a video cannot be made from {type(frames).__name__}; "
            "give a file or a list of frames"
        )
    source_fps = number(source_fps, "a video's fps", float, 0, over=True)
    indices = sample_frames(len(frames), source_fps, **pick)
    return [open_picture(frames[i]) for i in indices], indices


def read_video(path, **pick):
    """Sampled frames of a video file as PIL pictures, their numbers, the file's fps.

    pick: as for `sample_frames`. Needs the optional package `av` (PyAV). Raises
    InputError when that is missing or when the file holds no readable video.
    """
    try:
        import av
    except ImportError:
        raise InputError(
            f"{show(path)}: reading a video file needs the package `av`; "
            "install minqwen[video], or give the video as a list of frames"
        ) from None
    if not os.path.isfile(path):
        raise InputError(f"{show(path)}: no such video file; give the path of a file")
    try:
        with av.open(os.fspath(path)) as container:
            stream = container.streams.video[0]
            source_fps = float(stream.average_rate)
            # some containers do not say how many there are, so count
            total = stream.frames or sum(1 for _ in container.decode(video=0))
        indices = sample_frames(total, source_fps, **pick)
        with av.open(os.fspath(path)) as container:
            pictures = _decode_frames(container, set(indices))
    except (av.FFmpegError, IndexError, TypeError, ZeroDivisionError) as error:
        raise InputError(
            f"{show(path)} cannot be read as a video ({show(error)}); "
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
