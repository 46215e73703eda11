"""What messages say of pictures and films, as transformers and qwen-vl-utils read it.

Where transformers reads a key, its own functions are the truth. qwen-vl-utils 0.0.14
needs torchvision to be imported, so its answers were recorded, from `fetch_image(part,
16)`, `smart_nframes`, `calculate_video_frame_range` and the size rule of `fetch_video`.
"""

import base64
import io
import json
import re

import numpy as np
import pytest
import torch
from PIL import Image
from test_images import write_video
from test_templates import TINY, fails
from transformers import Qwen2VLImageProcessorPil
from transformers.image_utils import load_image
from transformers.processing_utils import ProcessorMixin

from minqwen.errors import InputError
from minqwen.prompt.images import read_options
from minqwen.prompt.messages import plain_messages
from minqwen.prompt.processor import Processor
from minqwen.prompt.videos import choose_frames, frame_size

TEXT = {"type": "text", "text": "x"}
WORDS = {"role": "user", "content": "x"}


def drawn(width, height, seed=0):
    levels = np.random.default_rng(seed).integers(0, 256, (height, width, 3))
    return Image.fromarray(levels.astype(np.uint8))


@pytest.fixture(scope="module")
def processor():
    return Processor.load(TINY)


def said(*parts):
    return [{"role": "user", "content": [*parts, TEXT]}]


# ---- where the picture is ----


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """{name: a part} that all hold one picture."""
    folder = tmp_path_factory.mktemp("with spaces & 100%")
    path, odd = folder / "a b#1?é.png", folder / "a%20b.png"
    drawn(70, 90).save(path)
    drawn(70, 90).save(odd)
    whole = base64.b64encode(path.read_bytes()).decode()
    lines = base64.encodebytes(path.read_bytes()).decode()
    uri = "data:image/png;base64," + whole
    return {
        "path": {"type": "image", "path": str(path)},
        "url": {"type": "image", "url": str(path)},
        "image": {"type": "image", "image": str(path)},
        "base64": {"type": "image", "base64": whole},
        "base64 in lines": {"type": "image", "image": lines},
        "data": {"type": "image", "url": uri},
        "address": {"type": "image_url", "image_url": {"url": uri}},
        "detail": {"type": "image_url", "image_url": {"url": uri, "detail": "auto"}},
        "plain address": {"type": "image_url", "image_url": str(path)},
        "file": {"type": "image_url", "image_url": {"url": path.as_uri()}},
        "host": {"type": "image", "image": "file://localhost" + path.as_uri()[7:]},
        "as it is": {"type": "image", "image": f"file://{odd}"},
        "nulls": {"type": "image", "image": str(path), "text": None, "url": None},
        "no type": {"image": str(path)},
        "no type, an address": {"image_url": {"url": path.as_uri()}},
        "counted": {"type": "image", "image": str(path), "cache_control": {}},
    }


# What transformers reads of them: it knows no file: URI, and asks for a type.
THEIRS = ("path", "url", "image", "base64", "base64 in lines", "data", "address",
          "detail", "plain address", "counted")  # fmt: skip


def test_pictures_by_any_name_equal_transformers(places, processor):
    mixin = object.__new__(ProcessorMixin)
    right = processor.chat(said({"type": "image", "image": drawn(70, 90)}))
    for name, part in places.items():
        if name in THEIRS:
            talk = [{"role": "user", "content": [dict(part)]}]
            talks, _ = mixin._normalize_conversations(talk)
            images = mixin._multimodal_inputs_from_conversations(talks, {})[0]
            assert np.array_equal(load_image(images[0][0]), drawn(70, 90)), name
        ours = processor.chat(said(part))
        assert all(torch.equal(ours[key], right[key]) for key in right), name


def test_frames_and_films_by_any_name(places, processor, tmp_path):
    frames = [drawn(64, 48, seed) for seed in range(4)]
    path = tmp_path / "a film.mp4"
    write_video(path, frames, 2)
    uri = "data:video/mp4;base64," + base64.b64encode(path.read_bytes()).decode()
    right = processor.chat(said({"type": "video", "video": str(path)}))
    for part in (
        {"type": "video", "path": str(path)}, {"type": "video", "url": path.as_uri()},
        {"type": "video_url", "video_url": {"url": uri}}, {"video": path.as_uri()},
    ):  # fmt: skip
        ours = processor.chat(said(part))
        assert all(torch.equal(ours[key], right[key]) for key in right), part
    ours = processor.chat(
        said({"type": "video", "video": [places["file"]["image_url"]["url"]] * 2})
    )
    plain = processor.chat(said({"type": "video", "video": [drawn(70, 90)] * 2}))
    assert all(torch.equal(ours[key], plain[key]) for key in plain)


def test_what_is_no_picture_is_told_in_a_sentence(processor):
    def told(words, image):
        part = {"type": "image", "image": image}
        message = fails(words, processor.chat, said(part))
        assert len(message) < 400

    for address in "http://a.org/x.png", "HTTPS://a.org/x.png", "s3://a/b", "ftp://x/y":
        told("is an address, and nothing is fetched .* download it first", address)
    told("x: no such picture file", "file:///nowhere/x")
    told("no such picture file", "x" * 300 + ".png")
    told("no such picture file", "A" * 4 * 10**6)
    told("no such picture file", "photo")  # in letters that base64 has
    told("no such picture file", "a\0b")
    told("no whole data: URI in base64", "data:image/png;base64,***")
    told("no whole data: URI in base64", "data:image/svg+xml,%3Csvg/%3E")
    told("no whole data: URI in base64", "data:," + "x" * 10**6)
    picture = base64.b64encode(b"no picture").decode()
    told("the picture of 10 bytes cannot be", f"data:image/png;base64,{picture}")
    film = {"type": "video", "video": "https://a.org/x.mp4"}
    fails("is an address, .* download it first", processor.chat, said(film))
    film = {"type": "video", "video": f"data:video/mp4;base64,{picture}"}
    fails("the video of 10 bytes cannot be read", processor.chat, said(film))


@pytest.mark.parametrize("kind", ["AVIF", "WEBP", "TIFF", "GIF", "PPM"])
def test_kinds_of_pictures(processor, tmp_path, kind):
    path = tmp_path / "a"  # told by what is in it, not by its name
    drawn(64, 64).save(path, kind)
    theirs = load_image(str(path))
    ours = processor.chat(said({"type": "image", "image": str(path)}))
    right = processor.chat(said({"type": "image", "image": theirs}))
    assert torch.equal(ours["pixel_values"], right["pixel_values"])


def test_kinds_that_cannot_be_read_are_told_which_can(processor, tmp_path):
    for content, why in (
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "it is HEIC: save it as JPEG"),
        (b"%!PS-Adobe-3.0 EPSF", "no kind that is known"),
        (b"<svg/>", "no kind that is known"),
    ):
        (tmp_path / "a").write_bytes(content)
        words = f"be read .*{why}.* kinds PNG, JPEG, WEBP, GIF, BMP, TIFF, PPM, AVIF"
        part = {"type": "image", "image": str(tmp_path / "a")}
        fails(words, processor.chat, said(part))


# ---- how it is to be read ----


def grid(processor, width, height, **asked):
    part = {"type": "image", "image": Image.new("RGB", (width, height)), **asked}
    _, h, w = processor.chat(said(part))["image_grid_thw"][0].tolist()
    return h * 16, w * 16


@pytest.mark.parametrize(
    "size, asked, expected",
    [
        ((640, 640), {"max_pixels": 128 * 128, "min_pixels": 64 * 64}, (128, 128)),
        ((640, 640), {"max_pixels": 128 * 128}, (128, 128)),
        ((1000, 600), {"max_pixels": 512 * 512}, (384, 640)),
        ((50, 70), {"min_pixels": 512 * 512}, (608, 448)),
        ((640, 640), {"resized_height": 64, "resized_width": 64}, (64, 64)),
        ((640, 640), {"resized_height": 100, "resized_width": 333}, (96, 320)),
        ((640, 640), {"resized_height": 40, "resized_width": 64}, (64, 96)),
        ((64, 64), {"resized_height": 333, "resized_width": 777, "max_pixels": 4096},
         (320, 768)),
    ],
)  # fmt: skip
def test_sizes_recorded_from_qwen_vl_utils(processor, size, asked, expected):
    assert grid(processor, *size, **asked) == expected


def test_a_limit_that_is_not_asked_for_is_the_checkpoints(processor):
    usual = processor.image_options
    assert (usual["min_pixels"], usual["max_pixels"]) == (4096, 262_144)
    assert grid(processor, 2000, 2000, min_pixels=8192) == (512, 512)
    assert grid(processor, 10, 10, max_pixels=10**6) == (64, 64)
    assert grid(processor, 640, 640, max_pixels=2048) == (32, 32)
    assert grid(processor, 640, 640, min_pixels=600_000) == (800, 800)
    assert grid(processor, 640, 640, min_pixels=None) == (512, 512)


@pytest.mark.parametrize(
    "total, fps, asked, expected",
    [
        (48, 24.0, {"fps": 1.0}, [0, 16, 31, 47]),
        (100, 10.0, {"fps": 0.5}, [0, 33, 66, 99]),
        (100, 23.976, {"nframes": 5}, [0, 33, 66, 99]),
        (9, 10.0, {"nframes": 7}, [0, 1, 2, 3, 5, 6, 7, 8]),
        (250, 30.0, {"fps": 3.3, "max_frames": 9},
         [0, 36, 71, 107, 142, 178, 213, 249]),
        (48, 24.0, {"min_frames": 5}, [0, 9, 19, 28, 38, 47]),
        (250, 24.0, {"video_start": 2.5, "video_end": 4.7, "fps": 2},
         [60, 77, 95, 112]),
        (24, 1.0, {"video_end": 4.7}, [0, 1, 3, 4]),
    ],
)  # fmt: skip
def test_frames_recorded_from_qwen_vl_utils(total, fps, asked, expected):
    (media,) = plain_messages(said({"type": "video", "video": "x", **asked}))[1]
    assert choose_frames(total, fps, media.asked) == expected


@pytest.mark.parametrize(
    "size, count, asked, expected",
    [
        ((640, 480), 4, {"max_pixels": 360 * 420}, (320, 448)),
        ((640, 480), 40, {"total_pixels": 512 * 512 * 8}, (320, 416)),
        ((50, 70), 6, {"min_pixels": 512 * 512}, (608, 448)),
        ((1000, 600), 4, {"resized_height": 100, "resized_width": 96}, (96, 96)),
        ((1000, 600), 40, {"max_pixels": 1500 * 1500}, (608, 992)),
    ],
)  # fmt: skip
def test_sizes_of_films_recorded_from_qwen_vl_utils(size, count, asked, expected):
    assert frame_size(*size[::-1], count, asked, 32) == expected


def test_a_film_is_read_as_asked(processor, tmp_path):
    frames = [drawn(64, 48, seed) for seed in range(24)]
    write_video(tmp_path / "a.mp4", frames, 8)

    def read(**asked):
        part = {"type": "video", "video": str(tmp_path / "a.mp4"), **asked}
        inputs = processor.chat(said(part))
        text = processor.decode(inputs["input_ids"][0], skip_special=False)
        times = re.findall(r"<([\d.]+) seconds>", text)
        return inputs["video_grid_thw"][0].tolist(), times

    assert read()[0][0] == 3 and read(fps=4)[0][0] == 6
    assert read(num_frames=5)[0][0] == 3
    assert read(nframes=2) == ([1, 4, 4], ["1.4"])
    assert read(nframes=2, video_start=1.5)[1] == ["2.2"]
    assert read(nframes=4, max_pixels=1024, min_pixels=1024)[0] == [2, 2, 2]
    fails("30 frames are asked of 24; ask for", read, nframes=30)
    fails("of 24 frames has none where", read, video_start=100)


def test_the_rate_of_frames_in_a_list(processor):
    frames = [drawn(64, 48, seed) for seed in range(6)]

    def times(**asked):
        inputs = processor.chat(said({"type": "video", "video": frames, **asked}))
        text = processor.decode(inputs["input_ids"][0], skip_special=False)
        return re.findall(r"<([\d.]+) seconds>", text)

    assert times(fps=2) == times(sample_fps=2.0) == ["0.2", "1.2", "2.2"]
    assert times(fps=12) == ["0.1", "0.3"]  # sampled down, to the four that are least
    assert times(sample_fps=12) == ["0.0", "0.2", "0.4"]  # they are a sample already
    assert times(num_frames=2) == ["0.1"]


@pytest.mark.parametrize(
    "part, words",
    [
        ({"type": "image", "max_pixel": 5}, 'has the key "max_pixel", which is not'),
        ({"type": "image", "fps": 2}, 'the key "fps", .*; an image may have min_pix'),
        ({"type": "video", "raw_fps": 2}, 'the key "raw_fps", .*; a video may have'),
        ({"type": "image", "max_pixels": "many"}, 'max_pixels is "many"; expected a'),
        ({"type": "image", "max_pixels": 0}, "max_pixels is 0, but must be"),
        ({"type": "image", "max_pixels": 2**40}, "max_pixels .* at most"),
        (
            {"type": "image", "max_pixels": 9, "min_pixels": 99},
            "min_pixels is 99, above",
        ),
        (
            {"type": "image", "resized_height": 64},
            "resized_height, resized_width; give",
        ),
        (
            {"type": "image", "resized_height": 8, "resized_width": 8},
            "must be .* 32 or",
        ),
        ({"type": "video", "fps": 0}, "fps is 0, but must be over 0"),
        ({"type": "video", "fps": "2"}, 'fps is "2"; expected a number'),
        ({"type": "video", "fps": 2, "nframes": 4}, "has both fps and nframes; give"),
        ({"type": "video", "num_frames": 4, "nframes": 4}, "nframes and num_frames"),
        ({"type": "video", "nframes": 1}, "nframes is 1, but must be"),
        ({"type": "video", "min_frames": 9, "max_frames": 4}, "min_frames is 9, above"),
        ({"type": "video", "video_start": 2, "video_end": 1}, "video_end is not after"),
    ],
    ids=str,
)
def test_what_is_not_followed_is_named(part, words):
    part = {**part, part["type"]: "x"}
    place = r"messages\[1\].content\[0\].*"
    fails(place + words, plain_messages, [WORDS, *said(part)])


def test_two_pictures_in_one_part_and_details():
    both = {"type": "image", "image": "a", "url": "b"}
    fails('has both "image" and "url"; give the image once', plain_messages, said(both))
    low = {"type": "image_url", "image_url": {"url": "a", "detail": "low"}}
    fails("low.* beside the url, .* give max_pixels", plain_messages, said(low))
    for kind in "audio", "input_image", "input_audio", "file", 5, ["image"]:
        fails("content\\[0\\] has the type", plain_messages, said({"type": kind}))


# ---- what the checkpoint's files say ----


def settings(**changes):
    raw = json.loads((TINY / "video_preprocessor_config.json").read_text())
    return raw | changes


def test_all_frames_where_the_file_says_so(processor):
    name = "video_preprocessor_config.json"
    for sample, expected in (False, 5), (True, 2), (None, 2):
        content = json.dumps(settings(do_sample_frames=sample)).encode()
        other = Processor(processor.files | {name: content})
        frames = [drawn(64, 64)] * 10
        inputs = other.chat(said({"type": "video", "video": frames}))
        assert inputs["video_grid_thw"][0, 0] == expected


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"do_sample_frames": "no"}, "do_sample_frames is no"),
        ({"num_frames": 8}, "num_frames is 8, but only null is supported"),
        ({"cap_pixels_per_frame": True}, "cap_pixels_per_frame is true"),
        ({"do_resize": False}, "do_resize is false"),
        ({"do_convert_rgb": False}, "do_convert_rgb is false"),
        ({"do_center_crop": True}, "do_center_crop is true"),
        ({"do_pad": True}, "do_pad is true"),
        ({"resample": 2}, "resample is 2"),
        ({"do_normalize": None}, "do_normalize is null, but only true"),
        ({"do_rescale": None}, "do_rescale is null, but only true"),
        ({"size": {"height": 64, "width": 64}}, "size.shortest_edge is None"),
    ],
    ids=str,
)
def test_settings_that_are_not_followed_are_named(changes, words):
    fails(words, read_options, settings(**changes), "p.json", video=True)


@pytest.mark.parametrize(
    "changes",
    [
        {"min_pixels": 8192, "max_pixels": 16384}, {"size": {}, "min_pixels": 4096,
         "max_pixels": 8192}, {"patch_size": 14}, {"merge_size": 1},
        {"temporal_patch_size": 1}, {"image_mean": [0.4, 0.5, 0.6]},
        {"do_resize": False}, {"do_rescale": False}, {"do_normalize": False},
        {"do_normalize": None}, {"do_rescale": None}, {"rescale_factor": 1 / 127.5},
        {"resample": 2}, {"do_convert_rgb": False}, {"do_center_crop": True},
        {"crop_size": {"height": 3, "width": 3}}, {"do_pad": None},
        {"size": {"height": 64}}, {"data_format": "channels_last"},
        {"default_to_square": True},
    ],
    ids=str,
)  # fmt: skip
def test_settings_of_pictures_are_transformers_or_refused(processor, changes):
    raw = json.loads(processor.files["preprocessor_config.json"]) | changes
    picture = drawn(270, 190)
    files = processor.files | {"preprocessor_config.json": json.dumps(raw).encode()}
    try:
        ours = Processor(files).chat(said({"type": "image", "image": picture}))
    except InputError as error:
        assert next(iter(changes)) in str(error)
        return
    theirs = Qwen2VLImageProcessorPil(**raw)(picture, return_tensors="pt")
    assert torch.equal(ours["image_grid_thw"], theirs["image_grid_thw"])
    assert torch.allclose(ours["pixel_values"], theirs["pixel_values"], atol=1e-6)


def test_settings_that_say_nothing_new():
    quiet = {"num_frames": None, "do_pad": None, "do_center_crop": False,
             "do_convert_rgb": True, "return_metadata": False, "crop_size": None,
             "cap_pixels_per_frame": None, "default_to_square": True}  # fmt: skip
    usual = read_options(settings(), "p.json", video=True)
    assert read_options(settings(**quiet), "p.json", video=True) == usual


def test_a_picture_in_memory_is_left_alone(processor):
    whole = io.BytesIO()
    drawn(64, 64).save(whole, "PNG")
    part = {"type": "image", "image": whole.getvalue(), "max_pixels": 4096}
    before = dict(part)
    processor.chat(said(part))
    assert part == before
