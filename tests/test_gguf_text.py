"""The tokenizer inside a GGUF file: the same ids and prompts as the folder's files."""

import json
from pathlib import Path

import gguf_files
import pytest
import torch
from test_gguf import with_value, without
from tiny_models import small_model

import minqwen
from minqwen.errors import InputError
from minqwen.prompt.processor import Processor

TINY = Path(__file__).resolve().parent.parent / "assets" / "tiny"
TEXTS = [
    "", "def f(x):\n    return x ** 2\n", "don't WE'RE 3.14 a\t b  \n\n  c",
    "naïve e\u0301 देवनागरी 日本語 \u0000 \U0001f999", "<|im_start|>user\nHi<|im_end|>",
    "<think>\n\n</think>\n\n", "<|endoftext|><|image_pad|>x",
]  # fmt: skip


@pytest.fixture(scope="module")
def folder():
    return Processor.load(TINY)


@pytest.fixture(scope="module")
def model():
    return small_model(moe=False, vision=False, vocab_size=2060)


@pytest.fixture(scope="module")
def path(tmp_path_factory, folder, model):
    """A model with twelve ids more than the tokenizer has, as released ones do."""
    path = tmp_path_factory.mktemp("text") / "x.gguf"
    gguf_files.write(model, path, tokenizer=folder)
    return path


def test_same_ids_and_text(path, folder):
    processor = Processor.load(path)
    for text in TEXTS:
        ids = folder.encode(text)
        assert processor.encode(text) == ids
        for skip in (True, False):
            assert processor.decode(ids, skip) == folder.decode(ids, skip)
    for token in range(2060):
        assert processor.token_bytes(token) == folder.token_bytes(token)
    assert processor.tokenizer.get_vocab() == folder.tokenizer.get_vocab()
    assert processor.vocab_size == folder.vocab_size


def test_same_prompt_and_ends(path, folder):
    processor = Processor.load(path)
    messages = [{"role": "system", "content": "Be short."},
                {"role": "user", "content": "What is a list?"}]  # fmt: skip
    for thinking in (True, False):
        ours, theirs = (p.chat(messages, thinking) for p in (processor, folder))
        assert torch.equal(ours["input_ids"], theirs["input_ids"])
    assert processor.pad_id == folder.pad_id
    assert processor.stop_ids == folder.stop_ids


def test_its_files_are_a_tokenizer_for_a_folder(path, folder, tmp_path):
    Processor.load(path).save(tmp_path)
    names = {file.name for file in tmp_path.iterdir()}
    assert names == {"tokenizer.json", "tokenizer_config.json", "chat_template.jinja"}
    assert Processor.load(tmp_path).encode(TEXTS[3]) == folder.encode(TEXTS[3])


def test_a_picture_needs_the_tower_which_is_elsewhere(path):
    picture = {"type": "image", "image": str(TINY.parent / "seven.png")}
    with pytest.raises(InputError, match="reads text only"):
        Processor.load(path).chat([{"role": "user", "content": [picture]}])


def test_generate_from_one_file(path, model, run):
    """The command writes what the model it was made from would write."""
    words = ["--prompt", "Hello", "--max-new-tokens", 8, "--json"]
    code, out, err = run("generate", path, *words)
    assert code == 0, err
    minqwen_ids = json.loads(out)["token_ids"]
    processor = Processor.load(TINY)
    inputs = processor.chat([{"role": "user", "content": "Hello"}])
    steps = minqwen.generate(model, inputs, max_new_tokens=8)
    assert minqwen_ids == [step.token for step in steps]


def spoilt(tmp_path, folder, model, change):
    gguf_files.write(model, tmp_path / "x.gguf", tokenizer=folder, change=change)
    return tmp_path / "x.gguf"


def test_a_tokenizer_of_another_kind(tmp_path, folder, model, run):
    change = with_value("tokenizer.ggml.pre", "llama-bpe", "add_string")
    path = spoilt(tmp_path, folder, model, change)
    words = ["--prompt", "Hello", "--max-new-tokens", 2]
    code, out, err = run("generate", path, *words)
    assert code == 1 and err.count("\n") == 1 and out == ""
    assert "x.gguf holds no tokenizer of Qwen3.5's kind" in err
    assert "pre is llama-bpe" in err and "--tokenizer" in err
    code, out, err = run("generate", path, *words, "--tokenizer", TINY)
    assert code == 0 and "2 written" in err


T = "tokenizer.ggml."


@pytest.mark.parametrize(
    "change, word",
    [
        (without(T + "model"), "model is None"),
        (with_value(T + "add_bos_token", True, "add_bool"), "no tokenizer of Qwen3.5"),
        (without(T + "tokens"), "tokens is not a list of strings"),
        (with_value(T + "tokens", 7), "tokens is not a list of strings"),
        (with_value(T + "tokens", ["a", "b"], "add_array"), "each of its 2 tokens"),
        (with_value(T + "tokens", ["a"] * 2060, "add_array"), "0 and 1 are both"),
        (without(T + "token_type"), "token_type must name"),
        (with_value(T + "token_type", [6] * 2060, "add_array"), "token_type must name"),
        (with_value(T + "merges", ["abc"], "add_array"), "merges holds abc"),
        (with_value(T + "merges", ["q\u1234 b"], "add_array"), "tokenizer.json"),
    ],
)
def test_damaged(tmp_path, folder, model, change, word):
    path = spoilt(tmp_path, folder, model, change)
    with pytest.raises(InputError) as caught:
        Processor.load(path)
    assert "x.gguf" in str(caught.value) and word in str(caught.value)
    assert "\n" not in str(caught.value)
    assert minqwen.load(path)  # the weights do not depend on it


@pytest.mark.parametrize("value", [2**32 - 1, "x", [1]])
def test_ids_that_are_none(tmp_path, folder, model, value):
    add = {str: "add_string", list: "add_array"}.get(type(value), "add_uint32")
    change = with_value(T + "eos_token_id", value, add)
    path = spoilt(tmp_path, folder, model, change)
    processor = Processor.load(path)
    assert "eos_token" not in processor.settings
    assert processor.stop_ids == folder.stop_ids  # by their names
    if not isinstance(value, int):  # which config.json could not say either
        assert minqwen.load(path).cfg.text.eos_token_id == ()


def test_without_a_template(tmp_path, folder, model):
    path = spoilt(tmp_path, folder, model, without("tokenizer.chat_template"))
    processor = Processor.load(path)
    assert processor.encode("x") == folder.encode("x")
    with pytest.raises(InputError, match="no chat template"):
        processor.chat([{"role": "user", "content": "x"}])
