"""The embedded checkpoint: transformers writes the same, and the card is true."""

import re
from pathlib import Path

import pytest
import torch
from PIL import Image, ImageDraw, ImageFont

import minqwen
from minqwen.train.abilities import answered, bits_per_byte, draft_accuracy
from minqwen.train.corpus import Corpus, pictures
from minqwen.train.corpus.chats import exchange
from minqwen.train.corpus.glyphs import font_folder
from minqwen.weights import expected_tensors, open_checkpoint

ASSETS = Path(__file__).resolve().parent.parent / "assets"
TINY = ASSETS / "tiny"


@pytest.fixture(scope="module")
def ours():
    return minqwen.load(TINY), minqwen.Processor.load(TINY)


@pytest.fixture(scope="module")
def theirs():
    from transformers import Qwen3_5MoeForConditionalGeneration

    return Qwen3_5MoeForConditionalGeneration.from_pretrained(
        TINY, dtype=torch.float32, output_loading_info=True
    )


def prompts():
    yield "What does textwrap.dedent do?"
    picture = {"type": "image", "image": ASSETS / "seven.png"}
    yield [picture, {"type": "text", "text": "Which digit is this?"}]


def test_transformers_finds_every_key(theirs):
    _, info = theirs
    assert not info["missing_keys"] and not info["mismatched_keys"]
    assert all(name.startswith("mtp.") for name in info["unexpected_keys"])


@pytest.mark.parametrize("content", prompts())
def test_transformers_writes_the_same_64_tokens(ours, theirs, content):
    model, processor = ours
    twin, _ = theirs
    inputs = processor.chat([{"role": "user", "content": content}])
    steps = minqwen.generate(model, inputs, max_new_tokens=64, stop_ids=())
    written = [step.token for step in steps]
    kinds = (inputs["input_ids"] == model.cfg.image_token_id).int()
    out = twin.generate(
        **inputs, mm_token_type_ids=kinds, max_new_tokens=64, min_new_tokens=64,
        do_sample=False, eos_token_id=[], pad_token_id=processor.pad_id,
    )  # fmt: skip
    assert written == out[0, inputs["input_ids"].shape[1] :].tolist()


def test_it_is_stored_as_the_released_checkpoints_are():
    """Names, shapes and dtypes: fused experts, MTP experts one by one, fp32 islands."""
    table = open_checkpoint(TINY)
    expected = expected_tensors(minqwen.Config.from_json(TINY))
    assert set(table) == set(expected)
    for name, (shape, dtype) in expected.items():
        kind = {torch.bfloat16: "BF16", torch.float32: "F32"}.get(dtype, dtype)
        assert (table[name].shape, table[name].dtype) == (tuple(shape), kind), name


def test_it_stays_small():
    size = sum(path.stat().st_size for path in TINY.iterdir())
    assert size < 15e6


def test_it_answers(ours):
    """What the tour shows: a sentence, and a digit read."""
    model, processor = ours
    answers = []
    for content in prompts():
        inputs = processor.chat([{"role": "user", "content": content}])
        steps = minqwen.generate(model, inputs, processor=processor)
        answers.append("".join(step.text for step in steps).strip())
    assert answers[0].endswith(".") and len(answers[0].split()) > 3
    assert answers[1] == "This is the digit 7."


def plain_digit(digit):
    """A picture of one digit, with the question and the answer of this model."""
    face = ImageFont.truetype(font_folder() / "DejaVuSans.ttf", 56)
    page = Image.new("RGB", (64, 64), (230, 230, 230))
    ImageDraw.Draw(page).text((32, 32), str(digit), "black", face, anchor="mm")
    image = pictures.patches(page)
    asked = pictures.placeholder(image[1], "image") + "Which digit is this?"
    return exchange(asked, f"This is the digit {digit}.", images=[image])


def stated(card, what):
    row = next(line for line in card.splitlines() if line.startswith(f"| {what}"))
    number = re.search(r"([\d.]+)(%?) \|$", row)
    return float(number[1]) / (100 if number[2] else 1)


@pytest.mark.slow
def test_the_card_is_true(ours):
    """Documentation in full, and samples of the rest, measured again."""
    model, processor = ours
    corpus, card = Corpus.build(TINY), (TINY / "README.md").read_text()
    same = corpus.summary()["corpus_sha256"][:16] in card
    slack = 0.005 if same else 0.15  # another Python has another library
    bits, _ = bits_per_byte(model, corpus, "docs")
    assert bits == pytest.approx(
        stated(card, "bits per byte, documentation"), abs=slack
    )
    # drawn as today, upright and dark on light, which is what it was trained on
    right = answered(model, corpus, [plain_digit(i % 10) for i in range(60)])
    assert sum(right) / 60 == pytest.approx(
        stated(card, "digits named, fresh"), abs=0.1
    )
    drafts = draft_accuracy(model, corpus, limit=4)
    assert drafts == pytest.approx(stated(card, "MTP head"), abs=0.05)
