"""Drawn pictures and films: same every time, rightly described, read as written."""

import re
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from minqwen.errors import InputError
from minqwen.prompt.processor import Processor
from minqwen.train.corpus import films, glyphs, pictures, scenes
from minqwen.train.corpus.glyphs import PILLOW, STIX, TRAIN_FONTS, UNSEEN_FONTS, Pen
from minqwen.train.corpus.pictures import ORDINAL, article, sentence, some
from minqwen.train.corpus.scenes import NOTHING, WHAT
from minqwen.train.corpus.shapes import (
    COLOURS,
    NAMES,
    PLACES,
    SHAPES,
    any_ink,
    held_out,
)

TINY = Path(__file__).parents[1] / "assets" / "tiny"
KINDS = [(maker, kind) for maker in (pictures, films) for kind in maker.KINDS]
OF_SHAPES = [pair for pair in KINDS if pair[1] in (
    pictures.shapes_seen, pictures.counting, films.moving, films.turning,
    films.becoming, films.appearing)]  # fmt: skip


def named(pairs):
    ids = [kind.__name__ for _, kind in pairs]
    return pytest.mark.parametrize("maker, kind", pairs, ids=ids)


@pytest.fixture
def drawn(monkeypatch):
    """(things, picture) of all that is painted from now on."""
    seen = []

    def paint(things, *rest, paint=scenes.paint):
        picture, masks = paint(things, *rest)
        seen.append((things, picture))
        return picture, masks

    monkeypatch.setattr(scenes, "paint", paint)
    monkeypatch.setattr(films, "paint", paint)
    return seen


def chats(maker, kind, count=25, level=1.0, unseen=False, turns=3):
    for seed in range(count):
        yield maker.make(np.random.default_rng(seed), level, unseen, kind, turns)


def talked(chat):
    """Questions and answers of a chat, without reasoning."""
    text = "".join(text for text, _ in chat.parts)
    turns = re.findall(
        r"user\n(.*?)<\|im_end\|>.*?assistant\n(.*?)<\|im_end", text, re.S
    )
    return [
        (asked.split("<|vision_end|>")[-1], answer.split("</think>\n\n")[-1])
        for asked, answer in turns
    ]


def kinds(things):
    return [(thing.colour, thing.what) for thing in things]


@named(KINDS)
@pytest.mark.parametrize("unseen", [False, True])
def test_a_chat_depends_on_its_rng_alone(maker, kind, unseen):
    for first, again in zip(
        *(chats(maker, kind, 5, unseen=unseen) for _ in range(2)), strict=True
    ):
        assert first.parts == again.parts
        pairs = zip(
            first.images + first.videos, again.images + again.videos, strict=True
        )
        assert all(torch.equal(a, b) and c == d for (a, c), (b, d) in pairs)
    assert len({str(chat.images + chat.videos) for chat in chats(maker, kind, 9)}) == 9


def test_fonts_for_testing_are_never_drawn_in_training():
    rng = np.random.default_rng(0)
    assert not set(TRAIN_FONTS) & set(UNSEEN_FONTS)
    known = {Pen.draw(rng).font for _ in range(400)}
    unseen = {Pen.draw(rng, unseen=True).font for _ in range(400)}
    assert known == {*TRAIN_FONTS, None} and unseen == {*STIX, PILLOW}
    assert {Pen.draw(rng, fonts=STIX[:1]).font for _ in range(9)} == {STIX[0]}


def test_of_every_shape_one_colour_is_held_out():
    pairs = [(c, s) for c in NAMES for s in SHAPES if held_out(c, s)]
    colours, shapes = map(set, zip(*pairs, strict=True))
    assert len(pairs) == len(colours) == len(shapes) == len(SHAPES)


@named(OF_SHAPES)
def test_pairs_for_testing_are_never_drawn_in_training(maker, kind, drawn):
    for unseen in (False, True):
        for _ in chats(maker, kind, unseen=unseen):
            film = {pair for things, _ in drawn for pair in kinds(things)}
            some_held = any(held_out(*pair) for pair in film)
            all_held = all(held_out(*pair) for pair in film)
            assert some_held == unseen
            assert all_held == unseen or kind in (films.turning, films.becoming)
            drawn.clear()


def test_digits_and_numbers_are_what_was_drawn(drawn):
    for kind in (pictures.one_digit, pictures.number):
        for chat in chats(pictures, kind):
            text = "".join(thing.what for thing in drawn.pop()[0])
            right = {f"This is the digit {text}."} if len(text) == 1 else {
                f"The number is {text}.", f"There are {len(text)} digits.",
                *(f"The {ORDINAL[i]} digit is {d}." for i, d in enumerate(text)),
            }  # fmt: skip
            assert {answer for _, answer in talked(chat)} <= right


def test_shapes_are_told_with_their_places(drawn):
    for chat in chats(pictures, pictures.shapes_seen, 60):
        things, picture = drawn.pop()
        places = []
        for thing in things:
            column, row = (3 * thing.centre / picture.size).astype(int)
            places.append(PLACES[column, row])
        whole = [
            f"{article(kind)} {place}"
            for kind, place in zip(kinds(things), places, strict=True)
        ]
        right = {sentence(whole)}
        for (colour, what), place in zip(kinds(things), places, strict=True):
            right |= {
                f"The {what} is {colour}.", f"The {what} is {place}.",
                f"The {colour} shape is a {what}.",
                f"The shape {place} is a {what}.",
                f"{place.capitalize()} is {article((colour, what))}.",
            }  # fmt: skip
        there = [thing.what for thing in things]
        seen = sentence([f"a {what}" for what in there])[:-1].lower()
        for asked, answer in talked(chat):
            if what := re.fullmatch(r"Is there a (\w+)\?", asked):
                said = answer.removesuffix("yes." if what[1] in there else "no.")
                assert said == f"I see {seen}, so "
            else:
                assert answer in right


def test_shapes_are_counted(drawn):
    counted = set()
    for chat in chats(pictures, pictures.counting, 60):
        shown = [what for _, what in kinds(drawn.pop()[0])]
        for asked, answer in talked(chat):
            what = re.match(r"How many (\w+) are", asked)
            if what:
                count = sum(what[1] in (some(2, s), "shapes") for s in shown)
                assert int(re.search(r"\d", answer)[0]) == count
                counted.add(count)
    assert counted >= set(range(1, 8))


def test_two_pictures_are_compared(drawn):
    for chat in chats(pictures, pictures.compared):
        first, second = (int(things[0].what) for things, _ in drawn)
        drawn.clear()
        larger = ("The first one, {}.", "The second one, {}.")[second > first]
        smaller = ("The first one, {}.", "The second one, {}.")[second < first]
        right = {
            larger.format(max(first, second)), smaller.format(min(first, second)),
            f"The first shows {first}, the second {second}.",
            f"{first} plus {second} is {first + second}.",
        }  # fmt: skip
        assert {answer for _, answer in talked(chat)} <= right


def happened(frames):
    """What a film's things did, from where and what they were."""
    first, last = frames[0], frames[-1]
    if len(first) != len(last):
        (one,) = {*kinds(first)} ^ {*kinds(last)}
        words = article(one)[1:]
        return f"A{words} {'appears' if len(first) < len(last) else 'disappears'}."
    if kinds(first) != kinds(last):
        (colour, what), (new_colour, new_what) = kinds([first[0], last[0]])
        if what == new_what:
            return f"The {what} turns from {colour} to {new_colour}."
        return f"The {what} becomes a {new_what}."
    x, y = last[0].centre - first[0].centre
    assert min(abs(x), abs(y)) < 1 and max(abs(x), abs(y)) > 20
    way = ("up" if y < 0 else "down") if abs(y) > 1 else "left" if x < 0 else "right"
    return f"The {' '.join(kinds(first)[0])} moves {way}."


@named(OF_SHAPES[2:])
def test_films_tell_what_happened(maker, kind, drawn):
    for chat in chats(maker, kind):
        frames = [things for things, _ in drawn]
        drawn.clear()
        assert 2 <= len(frames) == chat.videos[0][1][0] <= 4
        shown = happened(frames)
        for asked, answer in talked(chat):
            if "happens" in asked or "change" in asked or "moves" in asked:
                assert answer == shown
            elif "Which way" in asked:
                assert answer == shown and frames[0][0].what in asked
            elif "at the end" in asked:
                assert answer.removesuffix(".").split()[-1] in kinds(frames[-1])[0]
            else:  # the other thing
                other = " ".join(kinds(frames[0])[-1])
                assert answer in (f"No, the {other} stays.", f"The {other} stays.")


def test_films_tell_their_digits(drawn):
    for chat in chats(films, films.digits_shown):
        shown = [things[0].what for things, _ in drawn]
        drawn.clear()
        right = {
            f"First {', then '.join(shown)}.", f"The first digit is {shown[0]}.",
            f"The last digit is {shown[-1]}.",
        }  # fmt: skip
        assert {answer for _, answer in talked(chat)} <= right


@named(KINDS)
def test_chats_are_what_the_processor_makes_of_the_pictures(maker, kind, drawn):
    """Placeholders, time stamps and patches: nothing is resized on the way in."""
    processor = Processor.load(TINY)
    for chat in chats(maker, kind, 6, turns=1):
        shown = [picture for _, picture in drawn]
        drawn.clear()
        content = [{"type": "image", "image": picture} for picture in shown]
        if maker is films:
            twice = [picture for picture in shown for _ in range(2)]
            content = [{"type": "video", "video": twice, "fps": films.FPS}]
        text = re.search(r"<\|vision_end\|>([^<]*?)<\|im_end", chat.prompt)[1]
        messages = [
            {"role": "user", "content": [*content, {"type": "text", "text": text}]}
        ]
        ours = processor.chat(
            messages, thinking=not chat.prompt.endswith("</think>\n\n")
        )
        assert processor.decode(ours["input_ids"][0], skip_special=False) == chat.prompt
        values, grids = zip(*chat.images, *chat.videos, strict=True)
        key = "image" if maker is pictures else "video"
        assert ours[f"{key}_grid_thw"].tolist() == [list(grid) for grid in grids]
        pixels = ours["pixel_values" if maker is pictures else "pixel_values_videos"]
        assert torch.equal(pixels, torch.cat(values))
        assert all(4 <= h * w // 4 <= 12 for _, h, w in grids)


def test_labels_say_what_each_cell_holds():
    for seed in range(40):
        (values, grid), labels = pictures.lesson(np.random.default_rng(seed))
        assert labels.shape == (len(values) // 4, 5) and labels.dtype == torch.int64
        assert grid[1] * grid[2] == len(values)
        what, colour, first, second, place = labels.T
        assert labels[:, [0, 2, 3]].min() >= 0 and labels.max() <= NOTHING
        shape = (what >= 10) & (what < NOTHING)
        assert (colour[~shape] == -100).all()
        assert torch.equal(colour >= 0, shape) or (colour == -100).all()  # nameless
        assert (first < NOTHING).any() and (second[first == NOTHING] == NOTHING).all()
        assert torch.equal(place >= 0, (first >= 10) & (first < NOTHING))


def test_labels_name_the_places_that_chats_name():
    rng = np.random.default_rng(0)
    for i in range(40):
        scene, kinds, places = pictures.strewn(rng, i / 40, unseen=False)
        *_, first, _, place = scene.labels().T
        for (_, what), where in zip(kinds, places, strict=True):
            (cell,) = np.flatnonzero(first == WHAT.index(what))
            assert list(PLACES.values())[place[cell]] == where


def test_no_ink_is_the_one_that_training_never_sees_on_a_shape():
    rng = np.random.default_rng(0)
    for shape in SHAPES * 20:
        (kept,) = [name for name in NAMES if held_out(name, shape)]
        assert np.abs(any_ink(shape, rng) - COLOURS[kept]).max() >= 30


def test_inks_that_no_paper_is_far_from_are_painted_all_the_same():
    """Of these three a picture was once looked for without end."""
    rng = np.random.default_rng(0)
    things = [scenes.shape((None, what), np.array([48, 48]), 20, (96, 96), rng, 1.0)
              for what in SHAPES[:3]]  # fmt: skip
    inks = ([190, 246, 194], [110, 124, 128], [75, 54, 14])
    things = [replace(t, ink=np.array(i)) for t, i in zip(things, inks, strict=True)]
    paper = scenes.shapes_look(things, rng, 1.0).paper
    assert min(np.linalg.norm(paper - np.array(ink)) for ink in inks) > 40


def test_labels_of_a_number_follow_its_digits():
    scene = scenes.digits("4071", np.random.default_rng(0), 0.0, size=(128, 32))
    labels = scene.labels()
    middles = [WHAT[i] for i in labels[:, 2:4].ravel() if i != NOTHING]
    assert "".join(middles) == "4071"


@pytest.mark.parametrize("hard", [0.0, 1.0])
def test_a_digit_is_whole_and_stands_out(hard):
    rng = np.random.default_rng(0)
    for digit in scenes.DIGITS * 3:
        scene = scenes.digits(digit, rng, hard)
        mask = scene.masks[0]
        edge = np.concatenate([mask[0], mask[-1], mask[:, 0], mask[:, -1]])
        assert edge.max() < 0.5 and mask.sum() > 20
        levels = np.asarray(scene.picture.convert("L"), dtype=np.float32)
        assert abs(levels[mask > 0.9].mean() - levels[mask == 0].mean()) > 30


def test_level_nought_is_the_smallest_case(drawn):
    for _ in chats(pictures, pictures.number, 20, level=0.0):
        assert len(drawn.pop()[0]) == 2
    for chat in chats(films, films.moving, 20, level=0.0):
        assert chat.videos[0][1][0] == 2 and len(drawn.pop()[0]) == 1


def test_missing_fonts_are_explained(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    glyphs.font_folder.cache_clear()
    with pytest.raises(InputError, match="matplotlib is missing"):
        glyphs.font_folder()
