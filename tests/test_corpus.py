"""The corpus: same every time, split cleanly, and read alike by transformers."""

import json
import shutil
import subprocess
import sys
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import torch

from minqwen.errors import InputError
from minqwen.prompt.processor import Processor
from minqwen.train.corpus import Corpus, chats, digits, write_processor
from minqwen.train.corpus.chats import exchange, one_digit, picture_chat, text_chats
from minqwen.train.corpus.digits import SIZES, TRAIN_FONTS, UNSEEN_FONTS, draw_digit
from minqwen.train.corpus.text import BUILT_IN, built_in_page, documents, paragraphs
from minqwen.train.corpus.tokenizer import MARKS, SPECIAL, VOCAB_SIZE, build_tokenizer

TINY = Path(__file__).parents[1] / "assets" / "tiny"
FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
ODD = [
    "def f(x):\n\treturn x  # caf\u00e9 \U0001f40d \u6f22\u5b57\r\n\n\n    pass",
    "it's 12345 \u0915\u094d\u0937\u093f e\u0301 \x00\x7f\u200d",
    " \n \t\n  x",
    "".join(map(chr, range(1, 256))),
]


@pytest.fixture(scope="module")
def corpus():
    return Corpus.build(TINY, seed=0)


@pytest.fixture(scope="module")
def hf_tokenizer(tmp_path_factory):
    import transformers

    folder = tmp_path_factory.mktemp("tokenizer")
    for name in FILES:
        shutil.copy(TINY / name, folder)
    (folder / "config.json").write_text(json.dumps({"model_type": "qwen3_5_moe"}))
    return transformers.AutoTokenizer.from_pretrained(folder)


@pytest.mark.slow
def test_the_split_is_disjoint_and_hides_what_it_holds_out():
    for kind in ("source", "docs"):
        sides = {True: set(), False: set()}
        for doc in documents():
            if doc.kind == kind:
                sides[doc.held_out].add(doc.text)
        assert sides[True] and not sides[True] & sides[False]
    pages = [d for d in documents() if d.path.startswith("topics/")]
    hidden = {p for d in pages if d.held_out for p in paragraphs(d.text)}
    shown = {p for d in pages if not d.held_out for p in paragraphs(d.text)}
    assert not {p for p in hidden & shown if len(p) > 60}


@pytest.mark.slow
def test_a_docstring_is_on_the_side_of_its_source():
    sides = {d.path: d.held_out for d in documents() if d.kind == "source"}
    pages = [d for d in documents() if d.kind == "docs" and d.path in sides]
    assert pages and all(d.held_out == sides[d.path] for d in pages)


def test_no_document_holds_a_special_token():
    text = "".join(d.text for d in documents())
    assert not [token for token in SPECIAL + MARKS if token in text]


@pytest.mark.slow
def test_vocabulary_has_2048_ids_with_the_special_ones_last(corpus):
    vocabulary = corpus.tokenizer.get_vocab()
    assert sorted(vocabulary.values()) == list(range(VOCAB_SIZE))
    first = VOCAB_SIZE - len(SPECIAL + MARKS)
    assert [vocabulary[t] for t in SPECIAL + MARKS] == list(range(first, VOCAB_SIZE))


def test_learning_the_merges_twice_gives_one_tokenizer():
    texts = [d.text for d in documents()][:60]
    assert build_tokenizer(texts).to_str() == build_tokenizer(texts).to_str()


@pytest.mark.parametrize("text", ODD)
def test_any_text_survives_and_transformers_gives_the_same_ids(
    corpus, hf_tokenizer, text
):
    ids = corpus.tokenizer.encode(text).ids
    assert corpus.tokenizer.decode(ids) == unicodedata.normalize("NFC", text)
    assert hf_tokenizer(text)["input_ids"] == ids
    assert sum(corpus.sizes[ids]) == len(unicodedata.normalize("NFC", text).encode())


def test_library_and_chats_get_the_same_ids_in_transformers(corpus, hf_tokenizer):
    texts = [d.text[:20_000] for d in documents() if d.held_out]
    texts += [c.prompt + c.answer for c in text_chats(np.random.default_rng(0))[:200]]
    ours = [e.ids for e in corpus.tokenizer.encode_batch(texts)]
    assert hf_tokenizer(texts)["input_ids"] == ours


def test_files_in_the_folder_are_what_write_processor_writes(tmp_path):
    shutil.copy(TINY / "tokenizer.json", tmp_path)
    write_processor(tmp_path)
    for file in tmp_path.iterdir():
        assert file.read_text() == (TINY / file.name).read_text(), file.name


def test_missing_tokenizer_is_named(tmp_path):
    with pytest.raises(InputError, match="tokenizer.json is missing"):
        Corpus.build(tmp_path)


CHATS = [
    [{"role": "user", "content": "What does len do?"}],
    [
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": [{"type": "text", "text": "Hi"}]},
        {"role": "assistant", "content": "<think>\nHm.\n</think>\n\nHello!"},
        {"role": "user", "content": [{"type": "text", "text": "And now?"}]},
    ],
    [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello!", "reasoning_content": "Hm."},
    ],
]


@pytest.mark.parametrize("thinking", [False, True])
@pytest.mark.parametrize("messages", CHATS)
def test_template_reads_alike_in_transformers(hf_tokenizer, messages, thinking):
    prompt = hf_tokenizer.apply_chat_template(
        messages, add_generation_prompt=True, tokenize=False, enable_thinking=thinking
    )
    ours = Processor.load(TINY).chat(messages, thinking=thinking)
    assert ours["input_ids"][0].tolist() == hf_tokenizer(prompt)["input_ids"]


def test_template_writes_what_the_corpus_trains_on(hf_tokenizer):
    user = {"role": "user", "content": "What does len do?"}
    for reasoning, content in (
        (None, "It counts."),
        ("len is built in.", "It counts."),
    ):
        chat = exchange(user["content"], content, reasoning)
        prompt = hf_tokenizer.apply_chat_template(
            [user],
            add_generation_prompt=True,
            tokenize=False,
            enable_thinking=reasoning is not None,
        )
        assert chat.prompt == prompt
        answer = {"role": "assistant", "content": content}
        answer["reasoning_content"] = reasoning or ""
        whole = hf_tokenizer.apply_chat_template([user, answer], tokenize=False)
        assert chat.prompt + chat.answer == whole


def test_earlier_reasoning_is_dropped(hf_tokenizer):
    prompt = hf_tokenizer.apply_chat_template(CHATS[1], tokenize=False)
    assert "Hm." not in prompt and "assistant\nHello!<|im_end|>" in prompt


@pytest.mark.parametrize(
    "messages, says",
    [
        ([{"role": "assistant", "content": "Hi"}], "no user message"),
        (CHATS[0] + [{"role": "system", "content": "Hi"}], "only come first"),
        (CHATS[0] + [{"role": "tool", "content": "Hi"}], "Unknown role"),
    ],
)
def test_template_refuses(hf_tokenizer, messages, says):
    with pytest.raises(Exception, match=says):
        hf_tokenizer.apply_chat_template(messages, tokenize=False)


def test_a_batch_depends_on_seed_and_step_alone(corpus):
    sizes = {"batch_size": 4, "seq_len": 256, "picture_share": 0.5}
    first, again = corpus.batch(3, **sizes), corpus.batch(3, **sizes)
    assert first.keys() == again.keys()
    assert all(torch.equal(first[key], again[key]) for key in first)
    other = corpus.batch(4, **sizes)
    assert not torch.equal(first["input_ids"], other["input_ids"])


@pytest.mark.parametrize("share", [0, 0.25, 1])
def test_rows_are_full_and_pads_match_the_grids(corpus, share):
    for step in range(4):
        batch = corpus.batch(step, batch_size=4, seq_len=256, picture_share=share)
        ids, targets = batch["input_ids"], batch["targets"]
        assert ids.shape == targets.shape == (4, 256) and ids.dtype == torch.int64
        shown = targets != -100
        assert torch.equal(targets[:, :-1][shown[:, :-1]], ids[:, 1:][shown[:, :-1]])
        assert ((~shown).any(1).sum() == 4 * share) and shown.any(1).all()
        for kind, pixels, grid in (
            ("image", "pixel_values", "image_grid_thw"),
            ("video", "pixel_values_videos", "video_grid_thw"),
        ):
            pad = corpus.tokenizer.token_to_id(f"<|{kind}_pad|>")
            patches = int(batch[grid].prod(1).sum()) if grid in batch else 0
            assert int((ids == pad).sum()) * 4 == patches
            assert not (targets == pad).any()
            assert patches == 0 or batch[pixels].shape == (patches, 1536)


def test_windows_visit_the_whole_stream(corpus):
    length = len(corpus.streams["docs"]) // 100
    starts = [corpus._window("docs", n, length)[:4].tobytes() for n in range(300)]
    assert len(set(starts)) > 290


def test_held_out_windows_count_the_bytes_of_their_targets(corpus):
    part = corpus.heldout("docs", 128, limit=5)
    assert part["input_ids"].shape == (5, 128)
    texts = corpus.tokenizer.decode_batch(part["targets"].tolist())
    # a window may cut a character in two, which decodes to other bytes
    assert part["bytes"] == pytest.approx(len("".join(texts).encode()), abs=20)
    everything = corpus.heldout("docs", 128)
    assert torch.equal(
        everything["input_ids"].flatten()[1:], everything["targets"].flatten()[:-1]
    )


def test_held_out_digits_point_at_the_digit(corpus):
    items = list(corpus.heldout_digits(20))
    assert sorted({item["digit"] for item in items}) == list(range(10))
    assert sum(item["unseen"] for item in items) == 10
    assert not set(TRAIN_FONTS) & set(UNSEEN_FONTS)
    for item in items:
        digit = corpus.tokenizer.decode([item["answer_ids"][item["digit_at"]]])
        assert digit == str(item["digit"]) and digit in item["answer"]


def test_a_drawn_digit_stands_out_and_has_a_size_that_is_not_resized():
    rng = np.random.default_rng(0)
    for digit in range(10):
        picture = draw_digit(digit, rng)
        assert picture.size in SIZES
        assert np.ptp(np.asarray(picture.convert("L"))) >= 90


def test_film_is_written_as_the_processor_writes_it(corpus):
    """Timestamps, vision marks and pads of a film, from the Processor's own path."""
    rng = np.random.default_rng(0)
    film = next(c for c in (picture_chat(rng) for _ in range(99)) if c.videos)
    picture = draw_digit(3, rng, size=(64, 64))
    video = {"type": "video", "video": [picture] * 4, "fps": 2}
    asked = {"type": "text", "text": "Which digits does the film show?"}
    ours = Processor.load(TINY).chat([{"role": "user", "content": [video, asked]}])
    assert ours["input_ids"][0].tolist() == corpus.tokenizer.encode(film.prompt).ids
    assert ours["video_grid_thw"][0].tolist() == list(film.videos[0][1])


def test_pictures_are_written_as_the_processor_writes_them(corpus):
    rng = np.random.default_rng(1)
    picture = draw_digit(7, np.random.default_rng(2), size=(64, 96))
    asked = {"type": "text", "text": "Which digit is this?"}
    content = [{"type": "image", "image": picture}, asked]
    ours = Processor.load(TINY).chat([{"role": "user", "content": content}])
    patches, grid = chats.patches(picture)
    assert torch.equal(ours["pixel_values"], patches) and grid == (1, 6, 4)
    chat = one_digit(7, rng, thinking=False, size=(64, 96))
    start = chat.prompt.index("<|vision_end|>")
    prompt = corpus.tokenizer.decode(
        ours["input_ids"][0].tolist(), skip_special_tokens=False
    )
    assert prompt.startswith(chat.prompt[:start])


def test_missing_fonts_are_explained(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    digits.font_folder.cache_clear()
    with pytest.raises(InputError, match="matplotlib is missing"):
        digits.font_folder()


def test_built_in_pages_are_the_same_in_a_fresh_interpreter():
    """pytest and IPython add built-in names and replace hooks; none may be learned."""
    code = (
        "from minqwen.train.corpus.text import *; print(*map(built_in_page, BUILT_IN))"
    )
    fresh = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert fresh.stdout == " ".join(map(built_in_page, BUILT_IN)) + "\n"
