"""Which tokens end an answer: what config.json and generation_config.json say."""

import json

import pytest
import torch
from tiny_models import small_model

import minqwen
from minqwen.errors import InputError
from minqwen.weights.convert import convert

IDS = torch.arange(15)[None]
PROMPT = {"input_ids": IDS}


@pytest.fixture
def folder(tmp_path):
    """A checkpoint whose config.json alone names 300."""
    minqwen.save(small_model(moe=False, vision=False), tmp_path / "a")
    return tmp_path / "a"


def say(folder, **settings):
    (folder / "generation_config.json").write_text(json.dumps(settings))


@pytest.mark.parametrize(
    "said, ends",
    [(5, (300, 5)), ([7, 300, 5], (300, 7, 5)), (None, (300,)), ([], (300,))],
)
def test_load_adds_what_generation_config_says(folder, said, ends):
    say(folder, do_sample=True, eos_token_id=said)
    for path in (folder, folder / "model.safetensors"):
        assert minqwen.load(path).cfg.text.eos_token_id == ends
    say(folder, do_sample=True)
    assert minqwen.load(folder).cfg.text.eos_token_id == (300,)


def test_an_answer_ends_there_after_save_and_convert_too(folder, tmp_path):
    import transformers

    written = [s.token for s in minqwen.generate(minqwen.load(folder), PROMPT, 9)]
    end = written[4]
    say(folder, eos_token_id=[end, 300])
    model = minqwen.load(folder)
    minqwen.save(model, tmp_path / "saved")
    convert(folder, tmp_path / "bf16", "bf16")
    for path in (folder, tmp_path / "saved", tmp_path / "bf16"):
        cfg = minqwen.load(path).cfg
        assert cfg == model.cfg and cfg.text.eos_token_id == (300, end)
    *_, last = minqwen.generate(minqwen.load(tmp_path / "saved"), PROMPT, 9)
    assert (last.token, last.finish) == (end, "stop")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "saved", dtype=torch.float32
    )
    read = theirs.generate(IDS, max_new_tokens=9, do_sample=False)
    assert read[0, IDS.shape[1] :].tolist() == written[: written.index(end) + 1]


def test_ends_of_config_and_of_the_tokenizer_both_count(tmp_path):
    """A processor knows its own files alone, a model what the config names."""
    from minqwen.files import ASSETS

    processor = minqwen.Processor.load(ASSETS / "tiny")
    vocab = processor.vocab_size
    model = small_model(moe=False, vision=False, vocab_size=vocab)
    prompt = {"input_ids": torch.arange(15)[None]}
    first = [s.token for s in minqwen.generate(model, prompt, 9, stop_ids=[])]
    end = first[4]
    config = model.cfg.to_dict() | {"eos_token_id": [vocab - 1, end]}
    minqwen.save(model, tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(config))
    model = minqwen.load(tmp_path)
    for given in (None, processor):
        *_, last = minqwen.generate(model, prompt, 9, processor=given)
        assert (last.token, last.finish) == (end, "stop")


@pytest.mark.parametrize(
    "content, words",
    [
        ('{"eos_token_id": "x"}', "generation_config.json: eos_token_id is 'x'"),
        ('{"eos_token_id": ', "generation_config.json is not JSON"),
        ("[]", "generation_config.json is not a JSON object"),
    ],
)
def test_a_broken_generation_config_is_one_sentence(folder, content, words):
    (folder / "generation_config.json").write_text(content)
    with pytest.raises(InputError, match=words):
        minqwen.load(folder)
