"""Pictures and videos against transformers' processors on the same pictures.

Pictures: bit for bit against Qwen2VLImageProcessorPil, which needs no torchvision.
Videos: transformers' processor needs torchvision, which has no build for every torch.
Where it is there, we compare with it; everywhere, with a form written here on loops
and with sizes that transformers' own smart_resize gave (recorded from 5.23).
"""

import io
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from transformers import Qwen2VLImageProcessorPil

from minqwen.errors import InputError
from minqwen.prompt.images import (
    open_picture,
    picture_to_patches,
    read_options,
    smart_resize,
)
from minqwen.prompt.videos import (
    frame_seconds,
    read_video,
    sample_frames,
    video_to_patches,
)

LEVEL = 2 / 255  # one grey level after normalisation
LIMITS = {"min_pixels": 4_096, "max_pixels": 200_000}


def hf_options(**limits):
    limits = LIMITS | limits
    return {
        "size": {
            "shortest_edge": limits["min_pixels"],
            "longest_edge": limits["max_pixels"],
        },
        "patch_size": 16,
        "temporal_patch_size": 2,
        "merge_size": 2,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
    }


def hf_picture(image, **limits):
    out = Qwen2VLImageProcessorPil(**hf_options(**limits))(image, return_tensors="pt")
    return out["pixel_values"], tuple(out["image_grid_thw"][0].tolist())


def sample(name):
    """A picture that matplotlib brings along."""
    import matplotlib

    return Image.open(Path(matplotlib.get_data_path()) / "sample_data" / name)


def drawn(mode, size=(150, 97)):
    grain = np.random.default_rng(0).integers(0, 60, (size[1], size[0], 3))
    ramp = np.asarray(Image.linear_gradient("L").resize(size))[..., None] * 0.75
    picture = Image.fromarray((ramp + grain).astype(np.uint8))
    draw = ImageDraw.Draw(picture)
    draw.ellipse((20, 10, 90, 80), fill=(200, 30, 90), outline=(0, 80, 255), width=5)
    draw.text((5, 70), "Qwen", fill=(255, 255, 0))
    if mode in ("RGBA", "LA"):
        picture.putalpha(Image.radial_gradient("L").resize(size))
    if mode == "P+transparency":
        picture = picture.convert("P")
        picture.info["transparency"] = picture.getpixel((50, 40))
        return picture
    return picture.convert(mode)


def same_as_hf(picture, **limits):
    patches, grid = picture_to_patches(picture, **LIMITS | limits)
    expected, expected_grid = hf_picture(picture, **limits)
    assert patches.dtype == torch.float32 and grid == expected_grid
    assert torch.equal(patches, expected)
    return grid


# ---- pictures ----


def test_photo_bit_for_bit():
    assert same_as_hf(sample("grace_hopper.jpg")) == (1, 30, 24)


@pytest.mark.parametrize("name", ["Minduka_Present_Blue_Pack.png", "logo2.png"])
def test_bundled_pictures_bit_for_bit(name):
    same_as_hf(sample(name))


@pytest.mark.parametrize(
    "mode", ["RGB", "RGBA", "L", "LA", "P", "P+transparency", "1", "CMYK", "I;16"]
)
def test_modes_bit_for_bit(mode):
    same_as_hf(drawn(mode))


@pytest.mark.parametrize(
    "size",
    [(1, 1), (3, 2), (31, 33), (64, 64), (48, 80), (333, 77), (900, 5), (7, 1400)],
)
def test_sizes_bit_for_bit(size):
    same_as_hf(drawn("RGB").resize(size))


def test_limits_of_the_published_file():
    grid = same_as_hf(
        sample("grace_hopper.jpg"), min_pixels=65_536, max_pixels=16_777_216
    )
    assert grid == (1, 38, 32)


def test_other_mean_and_std_bit_for_bit():
    mean, std = [0.48, 0.46, 0.41], [0.27, 0.26, 0.28]
    options = hf_options() | {"image_mean": mean, "image_std": std}
    expected = Qwen2VLImageProcessorPil(**options)(drawn("RGB"), return_tensors="pt")
    patches, _ = picture_to_patches(drawn("RGB"), mean=mean, std=std, **LIMITS)
    assert torch.equal(patches, expected["pixel_values"])


def test_path_bytes_array_and_picture_are_one(tmp_path):
    picture = drawn("RGB")
    path = tmp_path / "drawn.png"
    picture.save(path)
    expected, _ = hf_picture(str(path))
    array = np.asarray(picture)
    for image in (path, str(path), path.read_bytes(), picture, array):
        assert torch.equal(picture_to_patches(image, **LIMITS)[0], expected)
    channels_first = array.transpose(2, 0, 1)
    assert torch.equal(picture_to_patches(channels_first, **LIMITS)[0], expected)
    tensor = torch.from_numpy(array.copy())
    assert torch.equal(picture_to_patches(tensor, **LIMITS)[0], expected)


def test_rgba_array_within_one_level():
    # transformers blends an array in floating point, Pillow a picture in integers
    array = np.asarray(drawn("RGBA"))
    patches, _ = picture_to_patches(array, **LIMITS)
    assert (patches - hf_picture(array)[0]).abs().max() <= LEVEL * 1.001


def test_file_is_turned_upright_like_transformers_does(tmp_path):
    path = tmp_path / "turned.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    drawn("RGB").save(path, exif=exif)
    patches, grid = picture_to_patches(path, **LIMITS)
    expected, expected_grid = hf_picture(
        Qwen2VLImageProcessorPil().fetch_images(str(path))
    )
    assert grid == expected_grid and torch.equal(patches, expected)
    assert open_picture(path).size == (97, 150)


def test_transparent_file_is_laid_on_white(tmp_path):
    # transformers' file loader drops alpha and shows what was hidden; its processor,
    # given the opened picture, lays it on white. A file and its picture agree here.
    path = tmp_path / "clear.png"
    Image.new("RGBA", (40, 40), (0, 0, 0, 0)).save(path)
    assert open_picture(path).getpixel((20, 20)) == (255, 255, 255)
    with Image.open(path) as picture:
        expected, _ = hf_picture(picture)
    assert torch.equal(picture_to_patches(path, **LIMITS)[0], expected)


def test_patch_layout_by_hand():
    # a picture whose red counts pixels from the left and green from the top
    y, x = np.mgrid[0:64, 0:96]
    array = np.stack([x, y, np.zeros_like(x)], axis=-1).astype(np.uint8)
    patches, grid = picture_to_patches(array, min_pixels=1024, max_pixels=10**6)
    assert grid == (1, 4, 6) and patches.shape == (24, 1536)
    blocks = patches.view(2, 3, 2, 2, 3, 2, 16, 16)  # h/2 w/2 2 2 C frame row column
    levels = ((blocks + 1) * 127.5).round()
    assert levels[1, 2, 0, 1, 0, 1, 5, 7] == (2 * 2 + 1) * 16 + 7  # red: column
    assert levels[1, 2, 0, 1, 1, 0, 5, 7] == (1 * 2 + 0) * 16 + 5  # green: row


# ---- videos ----

# (frames, height, width, min_pixels, max_pixels) -> height, width
RECORDED_SIZES = [
    ((2, 50, 70, 4_096, 200_000), (64, 64)),
    ((3, 90, 50, 4_096, 200_000), (96, 64)),
    ((5, 300, 20, 4_096, 200_000), (480, 32)),
    ((6, 8, 8, 4_096, 200_000), (32, 32)),
    ((7, 480, 640, 4_096, 1_000_000), (320, 416)),
    ((5, 480, 640, 4_096, 1_000_000), (384, 512)),
    ((4, 1, 1, 131_072, 786_432), (192, 192)),
    ((9, 10, 1500, 4_096, 100_000), (32, 1280)),
]


@pytest.mark.parametrize("given, expected", RECORDED_SIZES)
def test_video_sizes_recorded_from_transformers(given, expected):
    frames, height, width, low, high = given
    picture = Image.new("RGB", (width, height))
    _, (_, h, w), _ = video_to_patches(
        [picture] * frames, 2, min_pixels=low, max_pixels=high
    )
    assert (h * 16, w * 16) == expected


def moving(count, size):
    photo = drawn("RGB").resize(size)
    return [photo.rotate(9 * i) for i in range(count)]


def video_in_loops(frames, size):
    """Patches cut by plain loops; bicubic along rows, then columns, as torch does
    for bytes, which are rounded and clamped after each of the two."""
    frames = frames + frames[-1:] * (len(frames) % 2)
    levels = torch.stack([torch.from_numpy(np.array(f)) for f in frames])
    levels = levels.permute(0, 3, 1, 2).double()  # [T, C, H, W]
    for next_size in (levels.shape[2], size[1]), size:
        levels = torch.nn.functional.interpolate(
            levels, next_size, mode="bicubic", antialias=True
        )
        levels = levels.round().clamp(0, 255)
    resized = levels.numpy() / 127.5 - 1
    rows = []
    for t in range(0, len(frames), 2):
        for top in range(0, size[0], 32):
            for left in range(0, size[1], 32):
                for dy in (0, 16):
                    for dx in (0, 16):
                        y, x = top + dy, left + dx
                        cube = resized[t : t + 2, :, y : y + 16, x : x + 16]
                        rows.append([cube[:, c].ravel() for c in range(3)])
    return np.array(rows).reshape(len(rows), -1)


VIDEOS = [(2, (70, 50)), (3, (50, 90)), (7, (200, 120)), (5, (20, 300)), (6, (8, 8))]


@pytest.mark.parametrize("count, size", VIDEOS)
def test_video_against_loops_within_one_level(count, size):
    frames = moving(count, size)
    patches, (t, h, w), seconds = video_to_patches(frames, 2, **LIMITS)
    assert t == len(seconds) == (count + 1) // 2
    expected = video_in_loops(frames, (h * 16, w * 16))
    assert patches.shape == expected.shape
    assert np.abs(patches.numpy() - expected).max() <= LEVEL * 1.001


def hf_video_processor():
    try:
        import torchvision  # noqa: F401
    except Exception as error:  # a build for another torch breaks while importing
        pytest.skip(f"transformers' video processor needs torchvision: {error}")
    from transformers import Qwen3VLVideoProcessor

    return Qwen3VLVideoProcessor(**hf_options())


@pytest.mark.parametrize("fps", [2, 3, 10])
@pytest.mark.parametrize("count, size", [*VIDEOS, (30, (64, 64))])
def test_video_equals_transformers(count, size, fps):
    frames = moving(count, size)
    ours, grid, _ = video_to_patches(frames, fps, **LIMITS)
    theirs = hf_video_processor()(
        videos=[np.stack(frames)],
        video_metadata=[{"total_num_frames": count, "fps": fps}],
        return_tensors="pt",
    )
    assert [list(grid)] == theirs["video_grid_thw"].tolist()
    assert (ours - theirs["pixel_values_videos"]).abs().max() < 1e-6


@pytest.mark.parametrize(
    "total, fps, expected",
    [
        (9, 3, [0, 2, 3, 5, 6, 8]),
        (30, 10, [0, 6, 12, 17, 23, 29]),
        (8, 24, [0, 2, 5, 7]),
        (3, 24, [0, 1, 2]),
    ],
)
def test_sampling_recorded_from_transformers(total, fps, expected):
    assert sample_frames(total, fps) == expected


def test_sampling_is_bounded():
    assert len(sample_frames(100_000, 25)) == 768
    assert sample_frames(100_000, 25)[-1] == 99_999


def test_seconds_equal_transformers():
    from transformers.models.qwen3_vl.processing_qwen3_vl import Qwen3VLProcessor

    theirs = object.__new__(Qwen3VLProcessor)._calculate_timestamps
    for indices, fps in ([0, 1, 2], 2), ([0, 6, 12, 17], 10), ([0, 5, 11], 23.976):
        assert frame_seconds(indices, fps) == theirs(list(indices), fps)
    assert frame_seconds([0, 1, 2], 2) == [0.25, 1.0]  # by hand


def write_video(path, frames, rate):
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=rate)
        stream.width, stream.height = frames[0].size
        stream.pix_fmt = "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_image(frame)))
        container.mux(stream.encode(None))


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])  # mkv does not store the count
def test_video_file_equals_transformers_decoder(tmp_path, suffix):
    from transformers.video_utils import read_video_pyav

    path = tmp_path / f"moving{suffix}"
    write_video(path, moving(25, (64, 48)), Fraction(10))
    pictures, indices, fps = read_video(path)
    assert fps == 10 and indices == [0, 6, 12, 18, 24]
    if suffix == ".mkv":  # transformers takes the missing count for no frames
        return
    theirs, _ = read_video_pyav(str(path), lambda metadata: np.array(indices))
    assert np.array_equal(np.stack(pictures), theirs)
    ours = video_to_patches(path, **LIMITS)
    again = video_to_patches(moving(25, (64, 48)), 10, **LIMITS)
    assert ours[1] == again[1] and ours[2] == again[2] == [0.3, 1.5, 2.4]


# ---- bad input ----


def fails(match, function, *args, **options):
    with pytest.raises(InputError, match=match) as caught:
        function(*args, **options)
    assert "\n" not in str(caught.value)


def test_what_is_no_picture(tmp_path):
    text = tmp_path / "notes.png"
    text.write_text("not a picture")
    fails("notes.png cannot be read as a picture", picture_to_patches, text)
    fails("picture of 3 bytes cannot be read", picture_to_patches, b"abc")
    fails("absent.png: no such picture file", picture_to_patches, "absent.png")
    fails("cannot be made from int", picture_to_patches, 7)
    whole = io.BytesIO()
    drawn("RGB").save(whole, "JPEG")
    cut = whole.getvalue()[:900]
    fails("cannot be read as a picture .*truncated", picture_to_patches, cut)


def test_arrays_that_are_no_pictures():
    fails("float64 .*uint8", picture_to_patches, np.zeros((9, 9, 3)))
    fails(r"\[9, 9, 2\]", picture_to_patches, np.zeros((9, 9, 2), np.uint8))
    fails(r"\[0, 9, 3\]", picture_to_patches, np.zeros((0, 9, 3), np.uint8))


def test_ratio_over_200():
    same_as_hf(Image.new("RGB", (600, 3)))
    fails("side ratio of 201", picture_to_patches, Image.new("RGB", (603, 3)))
    fails("side ratio of 300", smart_resize, 1, 300, factor=32, **LIMITS)


def test_videos_that_are_none(tmp_path):
    one = [drawn("RGB")]
    fails("1 frames .* give a single frame as a picture", video_to_patches, one)
    fails("0 frames", video_to_patches, [])
    fails("one size", video_to_patches, [drawn("RGB"), drawn("RGB", (64, 64))])
    fails("fps is 0", video_to_patches, one * 2, 0)
    fails('fps is "fast"', video_to_patches, one * 2, "fast")
    fails("cannot be made from int", video_to_patches, 7)
    fails("absent.mp4: no such video file", video_to_patches, tmp_path / "absent.mp4")
    text = tmp_path / "notes.mp4"
    text.write_text("not a video")
    fails("notes.mp4 cannot be read as a video", video_to_patches, text)


def test_video_file_without_decoder(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)  # as if not installed
    fails(r"needs the package `av`.*minqwen\[video\]", read_video, tmp_path / "a.mp4")


def test_preprocessor_file_with_faults():
    raw = hf_options()
    options = read_options(raw, "preprocessor_config.json")
    assert options["max_pixels"] == 200_000 and options["mean"] == [0.5] * 3
    for key in raw:
        lacking = {k: v for k, v in raw.items() if k != key}
        fails(
            f"preprocessor_config.json: {key}",
            read_options,
            lacking,
            "preprocessor_config.json",
        )
    fails("do_resize is false", read_options, raw | {"do_resize": False}, "p.json")
    fails('patch_size is "16"', read_options, raw | {"patch_size": "16"}, "p.json")
    for change, words in (
        ({"patch_size": 10**9}, "at most 256"), ({"merge_size": True}, "a number"),
        ({"temporal_patch_size": 10**6}, "at most 32"),
        ({"size": {"shortest_edge": 10**12, "longest_edge": 10**12}}, "at most"),
        ({"size": 5}, "expected an object"), ({"image_mean": [10**400] * 3}, "out of"),
        ({"image_std": [1, 0, 1]}, "over 0"), ({"image_std": ["1"] * 3}, "a number"),
        ({"image_mean": 0.5}, "three numbers"), ({"image_mean": [1]}, "three numbers"),
        ({"min_frames": 1.5}, "whole number"), ({"fps": 0}, "over 0"),
        ({"max_frames": 10**9}, "at most"), ({"fps": float("nan")}, "out of range"),
    ):  # fmt: skip
        fails(words, read_options, raw | change, "p.json", video=True)
    fails("not an object", read_options, "x", "p.json")
