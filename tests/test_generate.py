"""Writing: the distributions, the text, and that nothing but speed depends on how."""

import math
import time
from itertools import zip_longest
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_models import small_model

from minqwen.engine.generate import generate, guess, read_drafting
from minqwen.engine.prefill import cuts, pieces, prefill
from minqwen.engine.sampling import draw, penalise, probabilities
from minqwen.engine.stream import TextStream
from minqwen.errors import InputError
from minqwen.prompt.processor import Processor

TINY = Path(__file__).resolve().parent.parent / "assets" / "tiny"
IMAGE, VIDEO, START, END = 301, 302, 303, 304  # as in tiny_models.small_config
FILTERS = [
    dict(),
    dict(temperature=0.6),
    dict(temperature=1.7, top_k=20),
    dict(top_k=1),
    dict(top_k=10_000),
    dict(top_p=0.8),
    dict(top_p=1e-6),
    dict(min_p=0.05),
    dict(temperature=0.7, top_k=40, top_p=0.9, min_p=0.02),
]


@pytest.fixture(scope="module")
def model():
    return small_model(mtp_num_hidden_layers=1)


@pytest.fixture(scope="module")
def processor():
    return Processor.load(TINY)


@pytest.fixture(scope="module")
def writer(processor):
    """A model for the processor's ids, with as many ids again that mean nothing."""
    size = 2 * processor.vocab_size
    return small_model(moe=False, vision=False, vocab_size=size, num_hidden_layers=2)


def prompt(length, seed=0, size=300):
    g = torch.Generator().manual_seed(seed)
    return torch.randint(0, size, (1, length), generator=g)


def tokens(*args, **options):
    return [step.token for step in generate(*args, **options)]


# ---- sampling, against NumPy in float64 and against transformers


def filtered(logits, temperature=1.0, top_k=0, top_p=1.0, min_p=0.0):
    """The same distribution, id by id in order of likelihood."""
    logits = np.asarray(logits, np.float64) / temperature
    p = np.exp(logits - logits.max())
    order = np.argsort(-p, kind="stable")[: top_k or None]
    total, kept, mass = p[order].sum(), [], 0.0
    for i in order:
        if mass < top_p and p[i] >= min_p * p[order[0]]:
            kept.append(i)
        mass += p[i] / total
    out = np.zeros_like(p)
    out[kept] = p[kept] / p[kept].sum()
    return out


@pytest.mark.parametrize("options", FILTERS, ids=str)
def test_probabilities_equal_numpy(options):
    logits = torch.randn(500, generator=torch.Generator().manual_seed(5)) * 3
    ours = probabilities(logits, **options)
    assert ours.dtype == torch.float64
    np.testing.assert_allclose(ours, filtered(logits, **options), atol=1e-14)


@pytest.mark.parametrize("options", FILTERS, ids=str)
def test_probabilities_equal_transformers(options):
    from transformers.generation import logits_process as hf

    logits = torch.randn(500, generator=torch.Generator().manual_seed(6)).double() * 3
    scores, none = logits[None], torch.zeros(1, 0, dtype=torch.long)
    scores = hf.TemperatureLogitsWarper(options.get("temperature", 1.0))(none, scores)
    if "top_k" in options:
        scores = hf.TopKLogitsWarper(options["top_k"])(none, scores)
    if "top_p" in options:
        scores = hf.TopPLogitsWarper(options["top_p"])(none, scores)
    if "min_p" in options:
        scores = hf.MinPLogitsWarper(options["min_p"])(none, scores)
    theirs = scores[0].softmax(-1)
    np.testing.assert_allclose(probabilities(logits, **options), theirs, atol=1e-14)


def test_draws_follow_the_distribution():
    p = torch.tensor([0.5, 0.0, 0.25, 0.15, 0.06, 0.0, 0.04], dtype=torch.float64)
    g, n = torch.Generator().manual_seed(1), 20_000
    seen = np.bincount([draw(p, g) for _ in range(n)], minlength=7)
    assert seen[1] == seen[5] == 0
    alive = p.numpy() > 0
    expected = n * p.numpy()[alive]
    chi_square = ((seen[alive] - expected) ** 2 / expected).sum()
    assert chi_square < 18.47  # 99.9 % of true samplers, 4 degrees of freedom


def test_sampled_tokens_follow_the_filtered_distribution(model):
    options = dict(temperature=1.3, top_k=6, top_p=0.9, min_p=0.05)
    ids, n = prompt(9, seed=2), 1500
    with torch.no_grad():
        p = filtered(model(ids)[0, -1].numpy(), **options)
    # A batch of equal prompts is as many samples, each row with its own stream.
    inputs = {"input_ids": ids.expand(n, -1)}
    (steps,) = generate(model, inputs, max_new_tokens=1, seed=7, **options)
    seen = np.bincount([s.token for s in steps], minlength=len(p))
    alive = p > 0
    assert 2 < alive.sum() <= 6 and not seen[~alive].any()
    chi_square = ((seen[alive] - n * p[alive]) ** 2 / (n * p[alive])).sum()
    assert chi_square < 20.52  # 99.9 %, 5 degrees of freedom


def test_presence_penalty_counts_a_token_once(model):
    seen = torch.tensor([True, False, True])
    assert penalise(torch.ones(3), seen, 1.5).tolist() == [-0.5, 1.0, -0.5]
    # So large that nothing may come twice, until everything has come.
    written = tokens(model, {"input_ids": prompt(5)}, 200, presence_penalty=1e4)
    assert len(set(written)) == len(written)
    assert len(set(tokens(model, {"input_ids": prompt(5)}, 200))) < 200


def test_extreme_options_stay_finite():
    logits = torch.tensor([3e38, -3e38, 0.0, -torch.inf])
    assert probabilities(logits, temperature=1e-300).tolist() == [1, 0, 0, 0]
    even = probabilities(torch.zeros(8), top_k=3, top_p=0.5, min_p=1.0)
    assert even.count_nonzero() == 2 and math.isclose(even.sum(), 1)


def test_seed_decides(model):
    def written(seed):
        inputs = {"input_ids": prompt(6)}
        return tokens(model, inputs, 12, temperature=1.0, seed=seed)

    assert written(4) == written(4) != written(5)


# ---- the loop


def test_greedy_equals_whole_forwards_without_a_cache(model):
    ids = prompt(11)
    written = tokens(model, {"input_ids": ids}, 12)
    with torch.no_grad():
        for _ in range(12):
            ids = torch.cat([ids, model(ids)[:, -1:].argmax(-1)], 1)
    assert written == ids[0, 11:].tolist()


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_rows_of_a_batch_write_what_they_would_alone(model, temperature):
    alone = [prompt(n, seed=n) for n in (4, 19, 11)]
    options = dict(max_new_tokens=14, temperature=temperature, top_k=8)
    want = [
        tokens(model, {"input_ids": ids}, seed=3 + i, stop_ids=(), **options)
        for i, ids in enumerate(alone)
    ]
    stop = {want[0][2], want[1][7]}  # rows 0 and 1 end early, row 2 perhaps not
    want = [
        tokens(model, {"input_ids": ids}, seed=3 + i, stop_ids=stop, **options)
        for i, ids in enumerate(alone)
    ]
    batch = {
        "input_ids": torch.cat([left_pad(ids, 19) for ids in alone]),
        "attention_mask": torch.cat([left_pad(torch.ones_like(x), 19) for x in alone]),
    }
    steps = list(generate(model, batch, seed=3, stop_ids=stop, **options))
    rows = [[s and s.token for s in column] for column in zip(*steps, strict=True)]
    longest = max(map(len, want))
    assert rows == [row + [None] * (longest - len(row)) for row in want]
    last = [[s for s in column if s][-1] for column in zip(*steps, strict=True)]
    assert {s.finish for s in last} <= {"stop", "length"} and last[0].finish == "stop"


def left_pad(ids, length):
    return torch.nn.functional.pad(ids, (length - ids.shape[1], 0))


def test_one_row_may_come_padded(model):
    ids = prompt(8)
    mask = left_pad(torch.ones_like(ids), 12)
    padded = {"input_ids": left_pad(ids, 12), "attention_mask": mask}
    want = tokens(model, {"input_ids": ids}, 6)
    for draft in (0, 2):
        assert tokens(model, padded, 6, draft=draft) == want


def test_ends_where_it_should(model):
    small = small_model(moe=False, vision=False, max_position_embeddings=20)
    *_, last = generate(small, {"input_ids": prompt(15)}, 64, stop_ids=())
    assert last.finish == "context"
    assert len(tokens(small, {"input_ids": prompt(15)}, 64, stop_ids=())) == 5
    *_, last = generate(small, {"input_ids": prompt(15)}, 5, stop_ids=())
    assert last.finish == "length"
    with pytest.raises(InputError, match="20 tokens long.*end at 20.*max_position"):
        generate(small, {"input_ids": prompt(20)})
    written = tokens(model, {"input_ids": prompt(15)}, 9, stop_ids=())
    *_, last = generate(model, {"input_ids": prompt(15)}, 9, stop_ids={written[4]})
    assert last.token == written[4] and last.finish == "stop"


def test_each_end_of_the_config_ends_without_a_processor():
    model = small_model(moe=False, vision=False)
    inputs = {"input_ids": prompt(15)}
    written = tokens(model, inputs, 9, stop_ids=())
    for ends in ((written[4],), (319, written[4])):
        model.cfg = model.cfg.replace(eos_token_id=ends)
        *_, last = generate(model, inputs, 9)
        assert (last.token, last.finish) == (written[4], "stop")
    model.cfg = model.cfg.replace(eos_token_id=())
    assert tokens(model, inputs, 9) == written
    with pytest.raises(InputError, match="eos_token_id is 7; expected a tuple"):
        model.cfg.replace(eos_token_id=7)


@pytest.mark.parametrize(
    "options, words",
    [
        (dict(temperature=-1), "temperature is -1, but must be 0 or more"),
        (dict(temperature=math.nan), "temperature is nan"),
        (dict(top_k=-1), "top_k"),
        (dict(top_p=0), "top_p is 0, but must be over 0"),
        (dict(min_p=1.5), "min_p"),
        (dict(presence_penalty=math.inf), "presence_penalty"),
        (dict(seed=-1), "seed"),
        (dict(max_new_tokens=0), "max_new_tokens"),
        (dict(draft=-1), "draft"),
        (dict(stop=("",)), "stop strings"),
        (dict(stop="x"), "stop strings"),
        (dict(stop=5), "stop is int, but must be a list"),
        (dict(stop=[5]), "stop strings"),
        (dict(stop_ids=5), "stop_ids is int, but must be a list"),
        (dict(stop_ids=["a"]), 'one of stop_ids is "a"; expected a number'),
        (dict(temperature="1"), 'temperature is "1"; expected a number'),
        (dict(temperature=None), "temperature is None; expected a number"),
        (dict(top_k=1.5), "top_k is 1.5; expected a whole number"),
        (dict(seed=10**400), "seed is 10+.*, out of range: it must be a whole number"),
        (dict(seed=True), "seed is True; expected a number"),
        (dict(max_new_tokens="4"), 'max_new_tokens is "4"; expected a number'),
        (dict(max_new_tokens=2**60), "max_new_tokens"),
        (dict(draft=0.5), "draft is 0.5; expected a whole number"),
    ],
    ids=str,
)
def test_bad_options_are_named_before_any_work(model, options, words):
    with pytest.raises(InputError, match=words):
        generate(model, {"input_ids": prompt(3)}, **options)


def test_bad_inputs_are_named(model):
    ids, mask = prompt(4), torch.tensor([[1, 1, 1, 0]])
    for inputs, words in (
        ({}, "input_ids"),
        ({"input_ids": ids[0]}, "input_ids"),
        ({"input_ids": ids[:, :0]}, "at least one"),
        ({"input_ids": ids, "attention_mask": mask}, "on the left"),
        ({"input_ids": ids, "attention_mask": mask[:, :2]}, "attention_mask"),
        ({"input_ids": ids, "labels": ids}, "does not take labels"),
        ({5: ids}, "does not take 5"),
        ({"input_ids": ids.float()}, "input_ids are torch.float32; expected whole"),
        ({"input_ids": [[1, 2], [3]]}, "input_ids is list that holds no numbers"),
        ("some text", "inputs is str that holds no numbers"),
        (None, "inputs is NoneType"),
        ([[[1]]], "input_ids"),
        ([2**70], "inputs is list"),
        ([-1], "token id -1 is outside the vocabulary"),
    ):
        with pytest.raises(InputError, match=words):
            generate(model, inputs)
    plain = small_model(moe=False, vision=False)
    with pytest.raises(InputError, match="multi-token-prediction head"):
        generate(plain, {"input_ids": ids}, draft=1)
    with pytest.raises(InputError, match="draft takes one sequence, not 2"):
        generate(model, {"input_ids": ids.expand(2, -1)}, draft=1)


def test_ids_may_come_as_tensor_array_or_list(model):
    ids = prompt(4)
    want = tokens(model, {"input_ids": ids}, max_new_tokens=3)
    for given in (ids[0], ids, ids.int(), ids.numpy(), ids.tolist(), ids[0].tolist()):
        assert tokens(model, given, max_new_tokens=3) == want
        for mask in (np.ones((1, 4), bool), [[1, 1, 1, 1]]):
            whole = {"input_ids": ids, "attention_mask": mask}
            assert tokens(model, whole, max_new_tokens=3) == want


def test_pictures_that_are_none_are_refused(model):
    inputs = picture_prompt(model.cfg)
    grid, pixels = inputs["image_grid_thw"], inputs["pixel_values"]
    spoilt = pixels.clone()
    spoilt[3, 5] = math.nan
    for change, words in (
        ({"pixel_values": spoilt}, "pixel_values hold a value that is NaN or infinite"),
        ({"pixel_values": pixels / 0}, "pixel_values hold a value that is NaN"),
        ({"pixel_values": pixels[0]}, "pixel_values are torch.float32 .1536."),
        ({"pixel_values": (pixels * 9).long()}, "pixel_values are torch.int64"),
        ({"pixel_values": "a.png"}, "pixel_values is str that holds no numbers"),
        ({"image_grid_thw": grid * 10**9}, "count all 24 patches"),
        ({"image_grid_thw": -grid}, "count all 24 patches"),
        ({"image_grid_thw": grid[0]}, "image_grid_thw must be"),
        ({"image_grid_thw": grid.float()}, "image_grid_thw are torch.float32"),
        ({"image_grid_thw": torch.tensor([[2**62, 4, 6]])}, "image_grid_thw must be"),
    ):
        with pytest.raises(InputError, match=words):
            generate(model, inputs | change)


@pytest.mark.parametrize("draft", [0, 2])
@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_logits_that_are_no_numbers_end_it(value, temperature, draft):
    model = small_model(moe=False, vision=False, mtp_num_hidden_layers=1)
    model.lm_head.weight.data[7] = value
    options = dict(temperature=temperature, top_p=0.9, draft=draft)
    with pytest.raises(InputError, match="logits are not finite"):
        list(generate(model, prompt(4), **options))


# ---- the prompt, in pieces


def picture_prompt(cfg, seed=0):
    """Text, a picture of 4 x 6, a film of 3 frame pairs of 2 x 4, text: [1, T]."""
    g = torch.Generator().manual_seed(seed)
    text = prompt(30, seed)[0].tolist()
    frame = [*text[20:23], START, *[VIDEO] * 2, END]
    row = [*text[:9], START, *[IMAGE] * 6, END, *frame * 3, *text[:5]]
    return {
        "input_ids": torch.tensor([row]),
        "pixel_values": torch.randn(24, 1536, generator=g),
        "image_grid_thw": torch.tensor([[1, 4, 6]]),
        "pixel_values_videos": torch.randn(24, 1536, generator=g),
        "video_grid_thw": torch.tensor([[3, 2, 4]]),
    }


def two_picture_rows(cfg):
    """Two such prompts as a batch, the second shorter, padded on the left."""
    a, b = picture_prompt(cfg, 1), picture_prompt(cfg, 2)
    short = b["input_ids"][:, 5:]
    width = a["input_ids"].shape[1]
    batch = {k: torch.cat([a[k], b[k]]) for k in a if k != "input_ids"}
    real = torch.cat([torch.ones(1, width), left_pad(torch.ones_like(short), width)])
    ids = torch.cat([a["input_ids"], left_pad(short, width)])
    return batch | {"input_ids": ids, "attention_mask": real.long()}


@pytest.mark.parametrize("size", [1, 7, 16, 1000])
@pytest.mark.parametrize("make", [picture_prompt, two_picture_rows])
def test_prefill_in_pieces_equals_one_forward(model, make, size):
    inputs = make(model.cfg)
    rows, length = inputs["input_ids"].shape
    cache = model.new_cache(rows, length)
    with torch.no_grad():
        want = model(**inputs)[:, -1:]
        got = prefill(model, inputs, cache, size)
    assert cache.length == length
    torch.testing.assert_close(got, want, rtol=0, atol=1e-5 * want.abs().max().item())
    parts = pieces(model.cfg, inputs, size)
    assert (len(parts) == 1) == (size >= length)
    if size == 7:  # the longest picture has 6 tokens, so no piece need be longer
        assert max(p["input_ids"].shape[1] for p in parts) <= (7 if rows == 1 else 14)


def test_cuts_spare_pictures():
    row = [1, 1, 1, 9, 9, 9, 9, 9, 1, 8, 8, 1, 1]
    ids, vision = torch.tensor([row]), torch.tensor([8, 9])
    assert cuts(ids, 4, vision) == [3, 8, 12, 13]  # the 1s may be parted, 9s not
    assert cuts(ids, 1, vision) == [1, 2, 3, 8, 9, 11, 12, 13]
    both = torch.tensor([row, [9] * 4 + [1] * 9])
    assert cuts(both, 4, vision) == [8, 12, 13]
    assert cuts(ids, 99, vision) == [13]


def test_pieces_leave_mismatched_pictures_to_the_model(model):
    inputs = picture_prompt(model.cfg)
    inputs["input_ids"][inputs["input_ids"] == IMAGE] = 7
    with pytest.raises(InputError, match="image"):
        prefill(model, inputs, model.new_cache(1, 99), 7)


# ---- text


SAYINGS = (
    "def f(x):\n\treturn x  # plain",
    "naïve café — “quotes” … ½ §",
    "日本語の文字と中文、한국어, हिन्दी, العربية",
    "👩‍👩‍👧 families, 🇯🇵 flags, 🙂🙃",
)


@pytest.mark.parametrize("text", SAYINGS)
def test_stream_never_shows_half_a_character(processor, text):
    stream = TextStream(processor)
    parts = [stream.push(token) for token in processor.encode(text)]
    assert "".join(parts) + stream.flush() == text
    assert not any("\ufffd" in part for part in parts)


def test_stream_drops_what_never_became_a_character(processor):
    ids = processor.encode("a👩")
    stream = TextStream(processor)
    shown = "".join(map(stream.push, ids[:-1]))
    assert len(ids) > 2 and shown + stream.flush() == "a"
    # Bytes that no character can start with are shown as such, once that is certain.
    lone = [token for token in range(256) if processor.token_bytes(token) == b"\x9f"]
    assert "".join(map(TextStream(processor).push, lone + ids)) == "\ufffda👩"


@pytest.mark.parametrize("stop", [("ab",), ("aab", "ba"), ("abab",), ("bb", "abba")])
def test_stop_strings_against_every_short_text(processor, stop):
    a, b = processor.encode("a") + processor.encode("b")
    for n in range(2**9):
        letters = f"{n:09b}".replace("0", "a").replace("1", "b")
        stream, shown = TextStream(processor, stop=stop), ""
        for end, letter in enumerate(letters, 1):
            shown += stream.push(a if letter == "a" else b)
            text = letters[:end]
            met = min((text.find(s) for s in stop if s in text), default=None)
            if met is not None:
                assert stream.stopped and shown == text[:met]
                break
            # All that is certain is shown, and nothing that may turn out a stop.
            begun = [k for s in stop for k in range(1, len(s)) if text.endswith(s[:k])]
            assert shown == text[: end - max(begun, default=0)]
        else:
            assert not stream.stopped and shown + stream.flush() == letters


def test_long_stop_strings_take_no_longer(processor):
    """Of stop strings of a hundred thousand letters the text holds nearly all."""
    a, b = processor.encode("a") + processor.encode("b")
    stream = TextStream(processor, stop=("a" * 10**5 + "b", "ab" * 10**5))
    begun = time.perf_counter()
    shown = "".join(stream.push(a) for _ in range(3000))
    assert time.perf_counter() - begun < 30  # checking each beginning took minutes
    assert shown == "" and stream.flush() == "a" * 3000
    assert stream.push(b) == "b"


def test_thinking_is_kept_apart(processor):
    ids = processor.encode("<think>\nstop here\n</think>\n\nno stop")
    stream, parts = TextStream(processor, stop=["stop"]), {True: "", False: ""}
    for token in ids:
        thinking = stream.thinking
        parts[thinking] += stream.push(token)
    assert parts == {True: "stop here\n", False: "no "} and stream.stopped
    # The prompt may have opened it; what an earlier turn wrote does not count.
    opened = processor.encode("<|im_start|>assistant\n<think>\n")
    closed = [*opened, *processor.encode("\n</think>\n\n")]
    before = [*opened, *processor.encode("x<|im_end|>\n<|im_start|>assistant\n")]
    states = [TextStream(processor, ids).thinking for ids in (opened, closed, before)]
    assert states == [True, False, False]


def test_generated_text_is_the_decoded_tokens(writer, processor):
    chat = [{"role": "user", "content": "Hello"}]
    stream = TextStream(processor)
    for thinking in (False, True):
        inputs = processor.chat(chat, thinking=thinking)
        steps = list(
            generate(
                writer, inputs, 120, temperature=2.0, seed=1, processor=processor,
                stop_ids=(),
            )
        )  # fmt: skip
        assert steps[0].thinking == thinking
        ids = [s.token for s in steps if s.token not in stream.marks]
        text = "".join(s.text for s in steps)
        whole = processor.decode(ids)
        assert text.replace("\ufffd", "") == whole.replace("\ufffd", "")


def test_stop_string_ends_generation_and_is_not_shown(writer, processor):
    inputs = processor.chat([{"role": "user", "content": "Hello"}])
    options = dict(temperature=1.5, seed=3, processor=processor, stop_ids=())
    text = "".join(s.text for s in generate(writer, inputs, 60, **options))
    stop = text[40:44]
    steps = list(generate(writer, inputs, 60, stop=stop, **options))
    assert "".join(s.text for s in steps) == text[: text.find(stop)]
    assert steps[-1].finish == "stop" and len(steps) < 60


def test_ids_that_only_fill_the_table_are_never_drawn(writer, processor):
    inputs = processor.chat([{"role": "user", "content": "Hello"}])
    options = dict(max_new_tokens=60, temperature=50.0, stop_ids=())
    free = tokens(writer, inputs, **options)
    kept = tokens(writer, inputs, processor=processor, **options)
    assert max(free) >= processor.vocab_size > max(kept)


# ---- drafting


@pytest.fixture(scope="module")
def guesser():
    """So few words that a head which was taught nothing is often right."""
    return small_model(
        seed=4, vocab_size=306, mtp_num_hidden_layers=1, num_hidden_layers=4
    )


def few_words(model, words=5):
    """Let the model write only `words` different tokens."""

    class Few(Processor):
        vocab_size = words

        def __init__(self):
            self.stop_ids = set()

        def encode(self, text):
            return []

        def token_bytes(self, token):
            return b"abcdefgh"[token : token + 1]

    return Few()


@pytest.mark.parametrize("draft", [1, 2, 3, 7])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_drafting_changes_no_token(guesser, draft, temperature):
    inputs = picture_prompt(guesser.cfg)
    options = dict(
        max_new_tokens=41, temperature=temperature, top_k=4, seed=2,
        presence_penalty=0.1, processor=few_words(guesser),
    )  # fmt: skip
    want = list(generate(guesser, inputs, **options))
    got = list(generate(guesser, inputs, draft=draft, **options))
    assert [s.token for s in got] == [s.token for s in want]
    assert "".join(s.text for s in got) == "".join(s.text for s in want)
    assert got[-1].finish == "length"
    accepted = sum(s.drafted for s in got)
    assert 0 < accepted < len(got) - 1  # some guesses held and some were taken back


def test_drafts_are_those_of_a_head_that_read_everything_anew(guesser):
    """After any number of accepted and rejected guesses its cache is as if new."""
    inputs, few = picture_prompt(guesser.cfg), few_words(guesser)
    steps = list(generate(guesser, inputs, 30, temperature=1.0, processor=few, draft=1))
    written = [s.token for s in steps]
    at, drafted = 1, []
    while at < len(written) - 1:  # every round guesses the token after the last
        longer = torch.tensor([written[: at - 1]], dtype=torch.long)
        anew = inputs | {"input_ids": torch.cat([inputs["input_ids"], longer], 1)}
        with torch.no_grad():
            cache = guesser.new_cache(1, 200)
            hidden, place = read_drafting(guesser, anew, cache)
            (guessed,) = guess(guesser, cache, hidden, [written[at - 1]], place, 1, 5)
        held = guessed == written[at]
        drafted += [(at, held)]
        at += 2 if held else 1
    assert [steps[i].drafted for i, _ in drafted] == [held for _, held in drafted]
    assert {held for _, held in drafted} == {True, False}


def test_drafting_stops_within_accepted_guesses(guesser):
    inputs, few = {"input_ids": prompt(12)}, few_words(guesser)
    options = dict(max_new_tokens=60, temperature=1.0, seed=5, processor=few)
    text = "".join(s.text for s in generate(guesser, inputs, **options))
    for stop in (text[7:9], text[20:24]):
        plain = list(generate(guesser, inputs, stop=stop, **options))
        ahead = list(generate(guesser, inputs, stop=stop, draft=3, **options))
        for one, other in zip_longest(plain, ahead):
            assert (one.token, one.text, one.finish) == (
                other.token,
                other.text,
                other.finish,
            )
