"""The corpus: same every time, split cleanly, and read alike by transformers."""

import json
import re
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
from minqwen.train.corpus import Corpus, drills, words, write_processor
from minqwen.train.corpus.chats import exchange
from minqwen.train.corpus.processor import load_tokenizer
from minqwen.train.corpus.tasks import TASKS, sample
from minqwen.train.corpus.text import BUILT_IN, built_in_page, documents, paragraphs
from minqwen.train.corpus.tokenizer import (
    MARKS,
    SPECIAL,
    VOCAB_SIZE,
    build_tokenizer,
    token_sizes,
)
from minqwen.train.corpus.tools import NOTES, described

TINY = Path(__file__).parents[1] / "assets" / "tiny"
FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
ODD = [
    "def f(x):\n\treturn x  # caf\u00e9 \U0001f40d \u6f22\u5b57\r\n\n\n    pass",
    "it's 12345 \u0915\u094d\u0937\u093f e\u0301 \x00\x7f\u200d",
    " \n \t\n  x",
    "".join(map(chr, range(1, 256))),
]


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A folder with the files that training begins with."""
    folder = tmp_path_factory.mktemp("processor")
    write_processor(folder)
    (folder / "config.json").write_text(json.dumps({"model_type": "qwen3_5_moe"}))
    return folder


@pytest.fixture(scope="module")
def hf_written(written):
    import transformers

    return transformers.AutoTokenizer.from_pretrained(written)


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


def test_vocabulary_has_2048_ids_with_the_special_ones_last(written):
    vocabulary = load_tokenizer(written).get_vocab()
    assert sorted(vocabulary.values()) == list(range(VOCAB_SIZE))
    first = VOCAB_SIZE - len(SPECIAL + MARKS)
    assert [vocabulary[t] for t in SPECIAL + MARKS] == list(range(first, VOCAB_SIZE))


def test_words_of_the_tasks_are_one_token_and_digits_each_their_own(written):
    tokenizer = load_tokenizer(written)
    known = [f" {word}" for word in words.COLOURS + words.THINGS]
    known += words.DAYS  # a space before a capital is a token of its own
    whole = [len(tokenizer.encode(word).ids) == 1 for word in known]
    assert sum(whole) > 0.9 * len(whole)
    assert tokenizer.encode("4711").tokens == list("4711")
    assert max(len(name) for name in tokenizer.get_vocab() if name.isdigit()) == 1


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


def test_library_and_chats_get_the_same_ids_in_transformers(written, hf_written):
    texts = [d.text[:20_000] for d in documents() if d.held_out]
    texts += sample(40)
    tokenizer = load_tokenizer(written)
    ours = [e.ids for e in tokenizer.encode_batch(texts)]
    assert hf_written(texts)["input_ids"] == ours
    sizes = np.array(token_sizes(tokenizer))
    for text in ODD:
        plain = unicodedata.normalize("NFC", text)
        assert sum(sizes[tokenizer.encode(text).ids]) == len(plain.encode())


def test_a_tokenizer_that_is_there_stays(written, tmp_path):
    """Its ids are in the weights; all other files are written alike around it."""
    shutil.copy(written / "tokenizer.json", tmp_path)
    write_processor(tmp_path)
    for file in tmp_path.iterdir():
        assert file.read_text() == (written / file.name).read_text(), file.name


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


TOOLS = [described(NOTES, np.random.default_rng(0), unseen=False)]
CALL = {"name": "notes", "arguments": {"name": "Ann", "count": 3}}
CALLED = [
    {"role": "user", "content": "Who is Ann?"},
    {"role": "assistant", "content": "", "reasoning_content": "I call notes.",
     "tool_calls": [{"type": "function", "function": CALL}]},
    {"role": "tool", "content": "Ann is a cook."},
]  # fmt: skip


@pytest.mark.parametrize("tools", [None, TOOLS, TOOLS * 2])
@pytest.mark.parametrize("thinking", [False, True])
@pytest.mark.parametrize("messages", [*CHATS, CALLED])
def test_template_reads_alike_in_transformers(
    written, hf_written, messages, thinking, tools
):
    prompt = hf_written.apply_chat_template(
        messages, tools=tools, add_generation_prompt=True, tokenize=False,
        enable_thinking=thinking,
    )  # fmt: skip
    ours = Processor.load(written).chat(messages, thinking=thinking, tools=tools)
    assert ours["input_ids"][0].tolist() == hf_written(prompt)["input_ids"]


def test_template_writes_what_the_corpus_trains_on(hf_written):
    user = {"role": "user", "content": "What does len do?"}
    for reasoning, content in (
        (None, "It counts."),
        ("len is built in.", "It counts."),
    ):
        chat = exchange(user["content"], content, reasoning)
        prompt = hf_written.apply_chat_template(
            [user],
            add_generation_prompt=True,
            tokenize=False,
            enable_thinking=reasoning is not None,
        )
        assert chat.prompt == prompt
        answer = {"role": "assistant", "content": content}
        answer["reasoning_content"] = reasoning or ""
        whole = hf_written.apply_chat_template([user, answer], tokenize=False)
        assert chat.prompt + chat.answer == whole


def test_earlier_reasoning_is_dropped(hf_written):
    prompt = hf_written.apply_chat_template(CHATS[1], tokenize=False)
    assert "Hm." not in prompt and "assistant\nHello!<|im_end|>" in prompt


@pytest.mark.parametrize(
    "messages, says",
    [
        ([{"role": "assistant", "content": "Hi"}], "no user message"),
        (CHATS[0] + [{"role": "system", "content": "Hi"}], "only come first"),
        (CHATS[0] + [{"role": "developer", "content": "Hi"}], "Unknown role"),
    ],
)
def test_template_refuses(hf_written, messages, says):
    with pytest.raises(Exception, match=says):
        hf_written.apply_chat_template(messages, tokenize=False)


MIXED = {"notes": 2.0, "pictures": 2.0, "films": 1.0, "drills": 1.0, "source": 1.0}


def test_a_batch_depends_on_seed_and_step_alone(written):
    corpus = Corpus.build(written, seed=1)
    first, again = (corpus.batch(3, MIXED, rows=8) for _ in range(2))
    for half, same in zip(first, again, strict=True):
        assert half.keys() == same.keys()
        assert all(torch.equal(half[key], same[key]) for key in half)
    other = corpus.batch(4, MIXED, rows=8)
    assert not torch.equal(first[0]["input_ids"], other[0]["input_ids"])
    assert not torch.equal(first[0]["input_ids"], first[1]["input_ids"])


@pytest.mark.parametrize("mixture", [MIXED, {"films": 1}, {"docs": 1}, {"drills": 1}])
def test_rows_are_full_and_pads_match_the_grids(written, mixture):
    corpus = Corpus.build(written)
    for half in corpus.batch(1, mixture, rows=8, seq_len=192):
        ids, targets = half["input_ids"], half["targets"]
        assert ids.shape == targets.shape == (4, 192) and ids.dtype == torch.int64
        shown = targets != -100
        assert torch.equal(targets[:, :-1][shown[:, :-1]], ids[:, 1:][shown[:, :-1]])
        assert shown.any(1).all() and (mixture == {"docs": 1}) == bool(shown.all())
        for kind, pixels, grid in (
            ("image", "pixel_values", "image_grid_thw"),
            ("video", "pixel_values_videos", "video_grid_thw"),
        ):
            pad = corpus.tokenizer.token_to_id(f"<|{kind}_pad|>")
            patches = int(half[grid].prod(1).sum()) if grid in half else 0
            assert int((ids == pad).sum()) * 4 == patches
            assert not (targets == pad).any()
            assert patches == 0 or half[pixels].shape == (patches, 1536)


def test_little_of_a_row_is_a_chat_cut_short(corpus):
    """What does not fit is drawn again, so few tokens are read and teach nothing."""
    left = []
    for step in range(10):
        tasks = dict.fromkeys(TASKS, 1)
        for part in corpus.batch(step, tasks, rows=4, seq_len=256, level=0.5):
            for row in part["input_ids"].numpy():
                ends = np.flatnonzero(row == corpus.end)
                left.append(1 - (ends[-1] + 1) / len(row) if len(ends) else 1)
    assert np.mean(left) < 0.2


def test_a_chat_may_go_on_with_another_task(corpus):
    """Then it has more turns."""
    tasks = dict.fromkeys(("notes", "sums", "about", "tools"), 0.25)
    (start,) = corpus.tokenizer.encode("<|im_start|>").ids
    turns = {}
    for mixed in (0.0, 0.9):
        parts = corpus.batch(0, tasks, rows=8, seq_len=512, level=0.3, mixed=mixed)
        rows = torch.cat([part["input_ids"] for part in parts])
        turns[mixed] = int((rows == start).sum()) / int((rows == corpus.end).sum())
    assert turns[0.9] > 1.5 * turns[0.0]


def test_only_what_the_assistant_says_is_learned(written):
    """All of it, to the end of its turn, and nothing of anybody else's."""
    corpus = Corpus.build(written)
    start, end, think = map(
        corpus.tokenizer.token_to_id, ("<|im_start|>", "<|im_end|>", "<think>")
    )
    say = corpus.tokenizer.encode("assistant").ids
    for half in corpus.batch(0, {"notes": 1, "tools": 1}, rows=8, seq_len=256):
        for ids, targets in zip(half["input_ids"], half["targets"], strict=True):
            ids, learned = ids.tolist(), (targets >= 0).tolist()
            begins = [i for i in range(len(ids)) if ids[i] == start]
            for first, after in zip(begins, [*begins[1:], len(ids)], strict=True):
                own = ids[first + 1 : first + 1 + len(say)] == say
                turn = learned[first : after - 1]
                assert any(turn) <= own  # of other turns nothing is learned
                if own and end in ids[first:after]:
                    until = ids.index(end, first) - first
                    begins_at = len(say) + 1  # after "<|im_start|>assistant\n"
                    begins_at += 4 * (ids[first + begins_at + 1] == think)
                    assert all(turn[begins_at:until])


def test_drills_can_be_told_from_what_stands_before(corpus):
    """As before, as was said, as the key was given a value last; and sums are right."""
    tokenizer, sums, again = corpus.tokenizer, 0, 0
    for i in range(90):
        rng = np.random.default_rng(i)
        ids, known = drills.make(rng, 128, tokenizer, level=i / 90)
        assert (
            ids.shape == known.shape == (128,)
            and ids.max() < tokenizer.get_vocab_size()
        )
        assert known.any() and not known[0]
        lines = tokenizer.decode(ids.tolist()).split("\n")[:-1]
        if lines and re.fullmatch(r"\d+ ?[-+] ?\d+([-+]1)? ?=\d*", lines[0]):
            told = "".join(map(tokenizer.id_to_token, ids[known].tolist()))
            for line in lines:
                if column := re.match(r"([-+\d]+)=(\d+)", line):
                    assert eval(column[1]) == int(column[2]) and column[2] in told
            sums += 1
            continue
        if "<|im_start|>" in (marked := tokenizer.decode(ids.tolist(), False)):
            turns = marked.split("<|im_start|>")[1:]
            for asked, answer in zip(turns[:-2:2], turns[1:-1:2], strict=False):
                said = asked.removeprefix("user\nRepeat: ")
                assert answer.endswith(f"</think>\n\n{said}")
            again += 1
            continue
        for t in np.flatnonzero(known):
            assert ids[t] in ids[:t]
    assert 20 < sums < 55 and 10 < again < 40


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


def test_built_in_pages_are_the_same_in_a_fresh_interpreter():
    """pytest and IPython add built-in names and replace hooks; none may be learned."""
    code = (
        "from minqwen.train.corpus.text import *; print(*map(built_in_page, BUILT_IN))"
    )
    fresh = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert fresh.stdout == " ".join(map(built_in_page, BUILT_IN)) + "\n"
