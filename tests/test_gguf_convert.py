"""`minqwen convert` from GGUF: a folder that transformers reads, with its tokenizer."""

import gguf_files
import pytest
import torch
from gguf_files import BLOCKS, Kind
from test_gguf_forms import both, equal, named, picture
from tiny_models import small_model

import minqwen
from minqwen.errors import InputError
from minqwen.weights.convert import convert
from minqwen.weights.gguf import load

IDS = torch.arange(40)[None]


def in_bf16(model):
    """The same numbers as bf16 keeps them, but for the fp32 islands."""
    return model.to(torch.bfloat16).float()


@pytest.mark.parametrize("layout", ["llama.cpp", "ollama", "fused"])
@pytest.mark.parametrize("moe", [True, False])
def test_folder_with_the_same_numbers(tmp_path, monkeypatch, layout, moe):
    """Whatever the layout, and however small the pieces."""
    few = dict(num_experts=4, num_experts_per_tok=2) if moe else {}
    model = small_model(moe=moe, **few, mtp_num_hidden_layers=int(layout != "ollama"))
    ollama = layout == "ollama"
    change = both(named, gguf_files.as_ollama(model)) if ollama else named
    gguf_files.write(model, tmp_path / "x.gguf", fused=layout == "fused", change=change)
    if not ollama:
        gguf_files.write_tower(model, tmp_path / "mmproj.gguf")
    monkeypatch.setattr(load, "BUFFER", 1000)
    convert(tmp_path / "x.gguf", tmp_path / "out")
    back, read = minqwen.load(tmp_path / "out"), minqwen.load(tmp_path / "x.gguf")
    assert back.cfg.vision == read.cfg.vision and back.cfg.text == read.cfg.text
    read = in_bf16(read)
    for (name, p), (_, q) in zip(
        back.named_parameters(), read.named_parameters(), strict=True
    ):
        assert torch.equal(p, q), name


@pytest.mark.parametrize("vision", [True, False])
def test_transformers_reads_it(tmp_path, vision):
    import transformers as tf

    model = small_model(vocab_size=2048, vision=vision, **BLOCKS | dict(
        num_experts=3, num_experts_per_tok=2, moe_intermediate_size=256,
        shared_expert_intermediate_size=256))  # fmt: skip
    processor = minqwen.Processor.load("assets/tiny")
    gguf_files.write(model, tmp_path / "x", Kind.Q8_0, tokenizer=processor)
    if vision:
        gguf_files.write_tower(model, tmp_path / "mmproj", Kind.F16)
    convert(tmp_path / "x", tmp_path / "out")
    kind = tf.AutoModelForImageTextToText if vision else tf.AutoModelForCausalLM
    twin = kind.from_pretrained(tmp_path / "out", dtype=torch.float32).eval()
    tokenizer = tf.AutoTokenizer.from_pretrained(tmp_path / "out")
    text = "The key is in the box. 12 + 30 = 42"
    assert tokenizer(text)["input_ids"] == processor.encode(text)
    back = minqwen.load(tmp_path / "out")
    inputs = dict(input_ids=IDS)
    if vision:
        inputs = picture()
        old, new = (303, 301, 304), (back.cfg.vision_start_token_id,
                    back.cfg.image_token_id, back.cfg.vision_end_token_id)  # fmt: skip
        for was, now in zip(old, new, strict=True):
            inputs["input_ids"][inputs["input_ids"] == was] = now
    more = {}
    if vision:
        more["mm_token_type_ids"] = (
            inputs["input_ids"] == back.cfg.image_token_id
        ).int()
    with torch.no_grad():
        ours, theirs = back(**inputs), twin(**inputs, **more).logits
    torch.testing.assert_close(ours, theirs, atol=2e-4, rtol=0)
    own = minqwen.Processor.load(tmp_path / "out")
    assert own.image_options == minqwen.Processor.load(tmp_path / "x").image_options


def test_quantised_further_and_beside_its_source(tmp_path, run):
    model = small_model(vision=False, moe=False)
    gguf_files.write(model, tmp_path / "x.gguf", Kind.BF16)
    code, _, _ = run("convert", tmp_path / "x.gguf", tmp_path / "out")
    assert code == 0
    equal(in_bf16(minqwen.load(tmp_path / "x.gguf")), minqwen.load(tmp_path / "out"))
    convert(tmp_path / "x.gguf", tmp_path / "int8", "int8")
    other = minqwen.load(tmp_path / "out", quantize="int8")
    again = minqwen.load(tmp_path / "int8")
    with torch.no_grad():
        assert torch.equal(again(IDS), other(IDS))
    with pytest.raises(InputError, match="source's own folder"):
        convert(tmp_path / "x.gguf", tmp_path)
