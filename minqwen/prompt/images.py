"""Pictures to the patches that the vision tower reads; videos.py builds on this.

Follows the processor published with the checkpoints (Qwen2-VL's): RGB, sides that
are multiples of 32, bicubic, pixels to -1..1, then 16 x 16 squares of two frames
each, flattened to (channel, frame, row, column) = 1536 numbers and ordered in 2 x 2
blocks, because the tower's merger later joins each block into one token.
"""

import io
import json
import math
import os
import re
from base64 import b64decode
from contextlib import suppress
from urllib.parse import unquote

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError

from ..errors import InputError, number, show

MAX_RATIO = 200
# File formats that are read; Pillow knows more, some of which run other programs.
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF", "HEIF")
# The numbers of a preprocessor_config.json, as `errors.number` takes them; the highest
# are about ten times the published ones.
NUMBERS = {
    "patch_size": (int, 1, 256), "temporal_patch_size": (int, 1, 32),
    "merge_size": (int, 1, 32), "min_pixels": (int, 1, 2**24),
    "max_pixels": (int, 1, 2**28),
}  # fmt: skip
SAMPLING = {"fps": (float, 0, 1000, True), "min_frames": (int, 1, 2**16),
            "max_frames": (int, 1, 2**16)}  # fmt: skip
# Settings that only one value is supported of.
FIXED = {"do_resize": True, "do_rescale": True, "do_normalize": True, "resample": 3,
         "rescale_factor": 1 / 255, "do_convert_rgb": True, "do_center_crop": False,
         "do_pad": False}  # fmt: skip
FIXED_OF_VIDEO = {"num_frames": None, "cap_pixels_per_frame": False}
MIN_TOKENS, MAX_TOKENS = 4, 16384  # of a picture with resized_height and _width
LIMITS = {"min_pixels": "size.shortest_edge", "max_pixels": "size.longest_edge"}


def smart_resize(height, width, *, factor, min_pixels, max_pixels, frames=1,
                 frame_step=1):  # fmt: skip
    """The height and width, multiples of `factor`, that a picture is resized to.

    The ratio of the sides is kept as well as rounding allows. The area, times
    `frames` for a video, is brought between `min_pixels` and `max_pixels`; for that
    comparison alone `frames` is rounded to a multiple of `frame_step`.
    Raises InputError when one side is more than 200 times the other.
    """
    ratio = max(height, width) / min(height, width)
    if ratio > MAX_RATIO:
        raise InputError(
            f"a picture of {width} x {height} pixels has a side ratio of {ratio:.0f}, "
            f"but at most {MAX_RATIO} is possible; crop it or cut it into pieces"
        )
    new_height = round(height / factor) * factor
    new_width = round(width / factor) * factor
    rounded_frames = round(frames / frame_step) * frame_step
    area = frames * height * width
    if rounded_frames * new_height * new_width > max_pixels:
        shrink = math.sqrt(area / max_pixels)
        new_height = max(factor, math.floor(height / shrink / factor) * factor)
        new_width = max(factor, math.floor(width / shrink / factor) * factor)
    elif rounded_frames * new_height * new_width < min_pixels:
        grow = math.sqrt(min_pixels / area)
        new_height = math.ceil(height * grow / factor) * factor
        new_width = math.ceil(width * grow / factor) * factor
    return new_height, new_width


def asked_size(height, width, asked, *, factor, min_pixels, max_pixels):
    """The height and width for one picture whose message asks for a size or limits.

    A limit that is not `asked` for is the given one, moved where the other crosses it.
    """
    if "resized_height" in asked:
        height, width = asked["resized_height"], asked["resized_width"]
        low, high = (tokens * factor**2 for tokens in (MIN_TOKENS, MAX_TOKENS))
    else:
        low = asked.get("min_pixels", min(min_pixels, asked.get("max_pixels", 2**53)))
        high = asked.get("max_pixels", max(max_pixels, low))
    return smart_resize(height, width, factor=factor, min_pixels=low, max_pixels=high)


def open_picture(image):
    """An RGB PIL picture from a path, bytes, a PIL picture or an array.

    A text may also be a file: or data: URI, or base64. Files and bytes are rotated as
    their EXIF data says; a PIL picture is taken as it is. Transparency becomes white.
    Arrays are uint8 [H, W], [H, W, C] or [C, H, W] with C of 1, 3 or 4. Raises
    InputError for anything else.
    """
    if isinstance(image, (str, os.PathLike, bytes, bytearray)):
        picture = _decode(local(image))
    elif isinstance(image, Image.Image):
        picture = image
    elif hasattr(image, "__array__"):
        picture = _from_array(np.asarray(image))
    else:
        raise InputError(
            f"a picture cannot be made from {type(image).__name__}; "
            "give a path, bytes, a PIL picture or a uint8 array"
        )
    if "A" in picture.getbands() or picture.info.get("transparency") is not None:
        picture = picture.convert("RGBA")
        white = Image.new("RGBA", picture.size, "white")
        picture = Image.alpha_composite(white, picture)
    return picture.convert("RGB")


def local(source):
    """The file's path or the bytes that a text stands for; other sources unchanged.

    Raises InputError for an address: nothing is fetched from the network here.
    """
    if not isinstance(source, str) or os.path.isfile(source):
        return source
    scheme = re.match(r"(file|data):|[a-z][a-z0-9+.-]*://", source, re.IGNORECASE)
    kind = (scheme[1] or scheme[0]).lower() if scheme else None
    if kind == "file":
        path = source[5:].removeprefix("//").removeprefix("localhost")
        return path if os.path.isfile(path) else unquote(path)
    if kind == "data":
        head, _, body = source.partition(",")
        if content := head.lower().endswith(";base64") and _from_base64(body):
            return content
        raise InputError(
            f"{show(source, 60)} is no whole data: URI in base64; give its file instead"
        )
    if kind:
        raise InputError(
            f"{show(source)} is an address, and nothing is fetched from the network "
            "here; download it first and give the path of the file"
        )
    content = _from_base64(source)
    with suppress(Exception):  # then it is a path of which there is no file
        Image.open(io.BytesIO(content), formats=_formats()).close()
        return content
    return source


def _from_base64(text):
    with suppress(ValueError):
        return b64decode("".join(text.split()), validate=True)


def _formats():
    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]


def _decode(source):
    in_memory = isinstance(source, (bytes, bytearray))
    name = f"the picture of {len(source)} bytes" if in_memory else show(source)
    if not in_memory and not os.path.isfile(source):
        raise InputError(f"{name}: no such picture file; give the path of a file")
    try:
        file = io.BytesIO(source) if in_memory else source
        with Image.open(file, formats=_formats()) as picture:
            picture.load()
            return ImageOps.exif_transpose(picture)
    except Exception as error:  # decoders of broken files raise many kinds
        why = show(error)
        if isinstance(error, UnidentifiedImageError):  # which names our own object
            why = "it is of no kind that is known"
            why = "it is HEIC: save it as JPEG" if _heic(source) else why
        raise InputError(
            f"{name} cannot be read as a picture ({why}); "
            f"give a whole file of one of the kinds {', '.join(_formats())}"
        ) from error


def _heic(source):
    """Phones write it, and Pillow reads it only with pillow-heif."""
    in_memory = isinstance(source, (bytes, bytearray))
    with io.BytesIO(source) if in_memory else open(source, "rb") as file:
        start = file.read(12)
    return start[4:] in (b"ftypheic", b"ftypheix", b"ftypmif1", b"ftyphevc")


def _from_array(array):
    if array.ndim == 3 and array.shape[0] in (1, 3, 4) and array.shape[2] > 4:
        array = array.transpose(1, 2, 0)  # [C, H, W] -> [H, W, C]
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[..., 0]
    channels_fit = array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (3, 4))
    if array.dtype != np.uint8 or not channels_fit or array.size == 0:
        raise InputError(
            f"a picture array is {array.dtype} {list(array.shape)}, but uint8 of "
            "[height, width] or [height, width, 3 or 4] with values 0..255 is needed"
        )
    return Image.fromarray(np.ascontiguousarray(array))


def picture_to_patches(
    image, asked=None, *, patch_size=16, temporal_patch_size=2, merge_size=2,
    min_pixels=65_536, max_pixels=16_777_216, mean=0.5, std=0.5,
):  # fmt: skip
    """One picture to patches and its grid, as transformers' Pillow processor.

    `image` is anything `open_picture` takes, `asked` what its message says about its
    size; `mean` and `std` are numbers or one number per channel. Returns patches
    float32 [h * w, 3 * frames * p * p] and the grid (1, h, w) in patches. A picture is
    repeated as `temporal_patch_size` equal frames.
    """
    picture = open_picture(image)
    size = asked_size(
        picture.height, picture.width, asked or {}, factor=patch_size * merge_size,
        min_pixels=min_pixels, max_pixels=max_pixels,
    )  # fmt: skip
    resized = picture.resize(size[::-1], Image.Resampling.BICUBIC)
    pixels = normalise(np.asarray(resized).transpose(2, 0, 1), mean, std)  # [C, H, W]
    frames = pixels.expand(temporal_patch_size, *pixels.shape)  # [T, C, H, W]
    return frames_to_patches(frames, patch_size, temporal_patch_size, merge_size)


def normalise(levels, mean, std):
    """uint8 [..., 3, H, W] to float32 (level / 255 - mean) / std of the same shape."""
    # There are only 256 levels, so normalise those and look the rest up.
    unit = (np.arange(256) * (1 / 255)).astype(np.float32)
    mean = np.broadcast_to(np.float32(mean), 3)[:, None]
    std = np.broadcast_to(np.float32(std), 3)[:, None]
    table = (unit - mean) / std  # [3, 256]
    channel = np.arange(3)[:, None, None]
    return torch.from_numpy(table[channel, levels])


def frames_to_patches(frames, patch_size, temporal_patch_size, merge_size):
    """Cut frames [T, C, H, W] into patches [t*h*w, C * frames * p * p] and (t, h, w).

    H and W are multiples of patch_size * merge_size. The last frame is repeated until
    T is a multiple of temporal_patch_size. Rows run over (t, h/m, w/m, m, m).
    """
    missing = -len(frames) % temporal_patch_size
    if missing:
        frames = torch.cat([frames, frames[-1:].expand(missing, -1, -1, -1)])
    count, channels, height, width = frames.shape
    p, m = patch_size, merge_size
    t, h, w = count // temporal_patch_size, height // p, width // p
    # axes: 0 t, 1 frame, 2 channel, 3 h/m, 4 m, 5 row, 6 w/m, 7 m, 8 column
    blocks = frames.reshape(
        t, temporal_patch_size, channels, h // m, m, p, w // m, m, p
    )
    patches = blocks.permute(0, 3, 6, 4, 7, 2, 1, 5, 8)
    return patches.reshape(t * h * w, -1), (t, h, w)


def read_options(raw, source, *, video=False):
    """Keyword arguments for picture_to_patches or video_to_patches.

    `raw` is the content of a preprocessor_config.json, `source` its name for errors.
    Raises InputError for a missing, wrong or unsupported value.
    """
    if not isinstance(raw, dict):
        raise InputError(f"{source} says {show(raw, 40)} of pictures, not an object")
    for key, value in (FIXED | (FIXED_OF_VIDEO if video else {})).items():
        said = raw.get(key, value)
        if said != value and (value or said is not None):  # null is off, as false is
            raise InputError(
                f"{source}: {key} is {show(json.dumps(raw[key]), 40)}, but only "
                f"{json.dumps(value)} is supported; was this file made for Qwen3.5?"
            )
    size = raw.get("size") or {}
    if not isinstance(size, dict):
        raise InputError(f"{source}: size is {show(size, 40)}; expected an object")
    # These two are areas despite their published names; older files say it plainly.
    for key, name in LIMITS.items():
        raw = raw | {key: raw.get(key) or size.get(name.removeprefix("size."))}
    # Without numbers for sampling, the defaults of `sample_frames` hold.
    given = [key for key in SAMPLING if video and raw.get(key) is not None]
    ranges = NUMBERS | {key: SAMPLING[key] for key in given}
    options = {
        key: number(raw.get(key), f"{source}: {LIMITS.get(key, key)}", *limits)
        for key, limits in ranges.items()
    }
    if video and raw.get("do_sample_frames") is not None:
        options["sample"] = said = raw["do_sample_frames"]
        if not isinstance(said, bool):
            raise InputError(f"{source}: do_sample_frames is {show(said, 40)}, no bool")
    in_order({"min_frames": 4, "max_frames": 768} | options, source, LIMITS)
    for key in ("mean", "std"):
        values, name = raw.get(f"image_{key}"), f"{source}: image_{key}"
        if not isinstance(values, list) or len(values) != 3:
            raise InputError(f"{name} is {show(values, 40)}; expected three numbers")
        low, over = (0, True) if key == "std" else (-100, False)
        options[key] = [number(v, name, float, low, 100, over) for v in values]
    return options


def in_order(limits, source, names=None):
    """InputError where a min_ is above its max_; `names`: what `source` calls them."""
    for what in ("pixels", "frames"):
        low, high = limits.get(f"min_{what}", 0), limits.get(f"max_{what}", 2**53)
        if low > high:
            below, above = (
                (names or {}).get(n, n) for n in (f"min_{what}", f"max_{what}")
            )
            raise InputError(
                f"{source}: {below} is {low}, above {above}, which is {high}"
            )
