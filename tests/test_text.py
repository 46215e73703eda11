"""Ids, prompts and placeholders against transformers on the same folder.

The tokenizer is learnt here, from a text with combining marks, so that a wrong
pre-tokeniser shows; the template is written here in the manner of the published ones.
transformers' processor object needs torchvision to be built, for videos alone, so it
is put together from its parts; its own code then does the work.
"""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    trainers,
)
from transformers import (
    AutoTokenizer,
    PreTrainedTokenizerFast,
    Qwen2VLImageProcessorPil,
)
from transformers.models.qwen3_5.tokenization_qwen3_5 import Qwen3_5Tokenizer
from transformers.models.qwen3_vl.processing_qwen3_vl import Qwen3VLProcessor

from minqwen.errors import InputError
from minqwen.prompt.processor import Processor
from minqwen.prompt.template import template_environment
from minqwen.prompt.videos import sample_frames

SPECIAL = [
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
]
MARKS = ["<tool_call>", "</tool_call>", "<think>", "</think>"]
CUT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}"
    r"| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
LEARNT = "The quick brown fox doesn't jump. हिन्दी में क्षत्रिय लिखते हैं।\n" * 20

TEMPLATE = """\
{%- macro show(content) %}
    {%- if content is string %}{{ content }}
    {%- elif content is not none %}
        {%- for item in content %}
            {%- if item.type == 'image' %}
                {%- set ns.pictures = ns.pictures + 1 %}
                {%- if add_vision_id %}{{ 'Picture ' ~ ns.pictures ~ ': ' }}{% endif %}
                {{- '<|vision_start|><|image_pad|><|vision_end|>' }}
            {%- elif item.type == 'video' %}
                {{- '<|vision_start|><|video_pad|><|vision_end|>' }}
            {%- else %}{{ item.text }}
            {%- endif %}
        {%- endfor %}
    {%- endif %}
{%- endmacro %}
{%- set ns = namespace(pictures=0, last=-1) %}
{%- for message in messages %}
    {%- if message.role == 'user' %}{% set ns.last = loop.index0 %}{% endif %}
{%- endfor %}
{%- if ns.last < 0 %}
    {{- raise_exception('No user query found in messages.') }}
{%- endif %}
{%- if tools %}
    {{- '<|im_start|>system\\n# Tools\\n\\n<tools>' }}
    {%- for tool in tools %}{{ '\\n' ~ (tool | tojson) }}{% endfor %}
    {{- '\\n</tools>' }}
    {%- if messages[0].role == 'system' %}
        {{- '\\n\\n' ~ show(messages[0].content) }}
    {%- endif %}
    {{- '<|im_end|>\\n' }}
{%- elif messages[0].role == 'system' %}
    {{- '<|im_start|>system\\n' ~ show(messages[0].content) ~ '<|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
    {%- if message.role == 'system' %}{% continue %}{% endif %}
    {%- if message.role == 'tool' %}
        {{- '<|im_start|>user\\n<tool_response>\\n' ~ show(message.content) }}
        {{- '\\n</tool_response><|im_end|>\\n' }}
        {%- continue %}
    {%- endif %}
    {{- '<|im_start|>' ~ message.role ~ '\\n' }}
    {%- if message.role == 'assistant' %}
        {%- generation %}
        {%- set text = show(message.content) %}
        {%- if loop.index0 > ns.last and message.reasoning_content %}
            {{- '<think>\\n' ~ message.reasoning_content | trim ~ '\\n</think>\\n\\n' }}
        {%- endif %}
        {{- text }}
        {%- for call in message.tool_calls or [] %}
            {{- '<tool_call>\\n<function=' ~ call.function.name ~ '>\\n' }}
            {%- for name, value in call.function.arguments | items %}
                {{- '<parameter=' ~ name ~ '>\\n' }}
                {{- (value if value is string else value | tojson) ~ '\\n' }}
                {{- '</parameter>\\n' }}
            {%- endfor %}
            {{- '</function>\\n</tool_call>' }}
        {%- endfor %}
        {%- endgeneration %}
    {%- else %}{{ show(message.content) }}
    {%- endif %}
    {{- '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n<think>\\n' }}
    {%- if not enable_thinking %}{{ '\\n</think>\\n\\n' }}{% endif %}
{%- endif %}
"""
PICTURES = {
    "size": {"shortest_edge": 4_096, "longest_edge": 100_000},
    "patch_size": 16,
    "temporal_patch_size": 2,
    "merge_size": 2,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
}
SETTINGS = {
    "tokenizer_class": "Qwen2Tokenizer",
    "eos_token": "<|im_end|>",
    "pad_token": {"content": "<|endoftext|>", "__type": "AddedToken"},
    "add_bos_token": False,
}


@pytest.fixture(scope="session")
def made_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(CUT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=500, initial_alphabet=letters, show_progress=False
    )
    tokenizer.train_from_iterator([LEARNT, TEMPLATE], trainer)
    tokenizer.add_special_tokens([AddedToken(t, normalized=False) for t in SPECIAL])
    tokenizer.add_tokens([AddedToken(t, normalized=False) for t in MARKS])
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(SETTINGS))
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    for name in "preprocessor_config.json", "video_preprocessor_config.json":
        (folder / name).write_text(json.dumps(PICTURES))
    return folder


@pytest.fixture
def folder(made_folder, tmp_path):
    return Path(shutil.copytree(made_folder, tmp_path / "checkpoint"))


@pytest.fixture
def processor(made_folder):
    return Processor.load(made_folder)


@pytest.fixture
def hf_tokenizer(made_folder):
    return PreTrainedTokenizerFast(
        tokenizer_file=str(made_folder / "tokenizer.json"),
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        chat_template=TEMPLATE,
        padding_side="left",
    )


@pytest.fixture
def hf_processor(hf_tokenizer):
    processor = object.__new__(Qwen3VLProcessor)
    processor.tokenizer = hf_tokenizer
    processor.chat_template = TEMPLATE
    processor.image_processor = Qwen2VLImageProcessorPil(**PICTURES)
    processor.video_processor = SimpleNamespace(merge_size=2, temporal_patch_size=2)
    for name in "image", "video":
        setattr(processor, f"{name}_token", f"<|{name}_pad|>")
        ids = hf_tokenizer.convert_tokens_to_ids(f"<|{name}_pad|>")
        setattr(processor, f"{name}_token_id", ids)
    processor.vision_start_token = "<|vision_start|>"
    processor.vision_end_token = "<|vision_end|>"
    return processor


# ---- text ----

TEXTS = [
    "The quick brown fox doesn't jump 12345 times.",
    "हिन्दी में क्षत्रिय",
    "cafe\u0301 \u00e9 \u1e9b\u0323",
    "日本語 🤷🏽\u200d♀️ ก\u0e33",
    " \r\n  \n\n\ttabs   and spaces  ",
    "I'LL!!! <|im_end|>\n<think>x</think><|vision_start|>",
    "",
]


@pytest.mark.parametrize("text", TEXTS)
def test_ids_and_text_equal_transformers(processor, made_folder, hf_tokenizer, text):
    ids = processor.encode(text)
    assert ids == hf_tokenizer(text)["input_ids"]
    # this class ignores the file's pre-tokeniser and builds Qwen3.5's own
    assert ids == Qwen3_5Tokenizer.from_pretrained(made_folder)(text)["input_ids"]
    for skip in True, False:
        expected = hf_tokenizer.decode(ids, skip_special_tokens=skip)
        assert processor.decode(ids, skip) == expected


def test_tiny_checkpoint_equals_transformers():
    folder = Path(__file__).parents[1] / "assets" / "tiny"
    processor, theirs = Processor.load(folder), AutoTokenizer.from_pretrained(folder)
    assert all(processor.encode(text) == theirs(text)["input_ids"] for text in TEXTS)
    for thinking in True, False:
        expected = theirs.apply_chat_template(
            [ASK], add_generation_prompt=True, enable_thinking=thinking, tokenize=False
        )
        assert processor.chat_text([ASK], thinking) == expected


@pytest.mark.parametrize("text", TEXTS)
def test_token_bytes_join_to_the_text(processor, text):
    ids = processor.encode(text)
    joined = b"".join(map(processor.token_bytes, ids)).decode()
    assert joined == processor.decode(ids)


def test_every_byte_has_a_token(processor):
    singles = {processor.token_bytes(i) for i in range(processor.vocab_size)}
    assert {bytes([b]) for b in range(256)} <= singles
    assert processor.token_bytes(processor.vocab_size + 5) == b""


def test_ids_that_config_gives_otherwise(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "other")
    said = {"image_token_id": "\x1b[31m" * 5000}
    (tmp_path / "other" / "config.json").write_text(json.dumps(said))
    with pytest.raises(InputError, match="says image_token_id is ") as told:
        Processor.load(tmp_path / "other")
    assert "\x1b" not in str(told.value) and len(str(told.value)) < 500


def test_stop_ids(processor, folder):
    of = processor.tokenizer.token_to_id
    assert processor.stop_ids == {of("<|im_end|>"), of("<|endoftext|>")}
    (folder / "generation_config.json").write_text('{"eos_token_id": [3, 4]}')
    assert Processor.load(folder).stop_ids == processor.stop_ids | {3, 4}


# ---- prompts ----

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "description": "Today's <weather> in a city & more",
            "parameters": {
                "type": "object",
                "properties": {"city": {"type": "string"}},
            },
        },
    }
]
ASK = {"role": "user", "content": "What is 2 < 3 in Köln?"}
CALL = {
    "role": "assistant",
    "content": "",
    "reasoning_content": "\nI must look.\n",
    "tool_calls": [
        {"function": {"name": "weather", "arguments": {"city": "Köln", "days": [1]}}}
    ],
}
CONVERSATIONS = {
    "question": [ASK],
    "system": [{"role": "system", "content": "Be brief."}, ASK],
    "past reasoning": [ASK, {**CALL, "content": "Wait."}, ASK],
    "tool result": [ASK, CALL, {"role": "tool", "content": "rain"}],
    "no content": [ASK, {**CALL, "content": None}],
    "text items": [
        {
            "role": "user",
            "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}],
        }
    ],
}


@pytest.mark.parametrize("name", CONVERSATIONS)
@pytest.mark.parametrize("thinking", [True, False])
@pytest.mark.parametrize("tools", [None, TOOLS])
def test_prompt_equals_transformers(processor, hf_tokenizer, name, thinking, tools):
    messages = CONVERSATIONS[name]
    expected = hf_tokenizer.apply_chat_template(
        messages,
        tools=tools,
        add_generation_prompt=True,
        enable_thinking=thinking,
        tokenize=False,
    )
    assert processor.chat_text(messages, thinking, tools) == expected
    ids = processor.chat(messages, thinking, tools)["input_ids"]
    assert ids.dtype == torch.int64
    assert ids[0].tolist() == hf_tokenizer(expected)["input_ids"]


def test_thinking_and_other_variables_reach_the_template(processor):
    assert processor.chat_text([ASK], thinking=True).endswith("assistant\n<think>\n")
    assert processor.chat_text([ASK]).endswith("<think>\n\n</think>\n\n")
    ends = processor.chat_text([ASK], add_generation_prompt=False)
    assert ends.endswith("Köln?<|im_end|>\n")


def test_batch_is_padded_on_the_left_like_transformers(processor, hf_tokenizer):
    batch = [[ASK], CONVERSATIONS["tool result"], [{**ASK, "content": "?"}]]
    ours = processor.chat(batch)
    prompts = [processor.chat_text(messages) for messages in batch]
    theirs = hf_tokenizer(prompts, padding=True, return_tensors="pt")
    assert torch.equal(ours["input_ids"], theirs["input_ids"])
    assert torch.equal(ours["attention_mask"], theirs["attention_mask"])


def test_template_language():
    def render(text, **variables):
        return template_environment().from_string(text).render(**variables)

    assert render("{{ x | tojson }}", x={"é": "<&>'"}) == '{"é": "<&>\'"}'
    assert render("{{ x | tojson(indent=1) }}", x=[1]) == "[\n 1\n]"
    assert len(render("{{ strftime_now('%Y') }}")) == 4
    assert render("{% for i in x %}{% break %}{% endfor %}ok", x=[1]) == "ok"
    # what is set inside a generation block ends with it, as in transformers
    text = "{% set a = 1 %}{% generation %}{% set a = 2 %}b{% endgeneration %}{{ a }}"
    assert render(text) == "b1"


@pytest.mark.parametrize(
    "template",
    [
        "{{ messages.__class__.__mro__ }}",
        "{{ lipsum.__globals__ }}",
        "{{ (''|attr('format')).__globals__ }}",
        "{{ 1 / 0 }}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    ],
)
def test_template_cannot_reach_python_or_break_it(folder, template):
    (folder / "chat_template.jinja").write_text(template)
    try:
        text = Processor.load(folder).chat_text([ASK])
    except InputError as error:
        assert "refuses these messages" in str(error) and "\n" not in str(error)
    else:  # what jinja's sandbox hides is undefined, and prints as nothing
        assert text == ""


# ---- pictures and videos in prompts ----


def picture(width, height, seed=0):
    levels = np.random.default_rng(seed).integers(0, 256, (height, width, 3))
    return Image.fromarray(levels.astype(np.uint8))


def image_item(*size):
    return {"type": "image", "image": picture(*size)}


LOOK = [
    {
        "role": "user",
        "content": [
            image_item(90, 200),
            {"type": "text", "text": "and"},
            image_item(300, 64),
            image_item(10, 10),
            {"type": "text", "text": "differ how?"},
        ],
    }
]


def hf_inputs(hf_processor, processor, batch):
    items = [p for m in batch for turn in m for p in turn["content"] if "image" in p]
    return hf_processor(
        text=[processor.chat_text(messages) for messages in batch],
        images=[item["image"] for item in items],
        padding=True,
        return_tensors="pt",
    )


def test_pictures_equal_transformers_bit_for_bit(processor, hf_processor):
    theirs = hf_inputs(hf_processor, processor, [LOOK])
    ours = processor.chat(LOOK)
    assert set(ours) == set(theirs) - {"mm_token_type_ids"}
    for name, tensor in ours.items():
        assert torch.equal(tensor, theirs[name]), name
    assert ours["image_grid_thw"].tolist()[0] == [1, 12, 6]


def test_batch_with_pictures_equals_transformers(processor, hf_processor):
    short = [{"role": "user", "content": [image_item(64, 64)]}]
    theirs = hf_inputs(hf_processor, processor, [short, LOOK])
    for name, tensor in processor.chat([short, LOOK]).items():
        assert torch.equal(tensor, theirs[name]), name


def test_add_vision_id(processor):
    text = processor.chat_text(LOOK, add_vision_id=True)
    assert text.count("Picture ") == 3 and "Picture 2: <|vision_start|>" in text


def film(count, fps=None):
    frames = [picture(80, 48, seed) for seed in range(count)]
    item = {"type": "video", "video": frames}
    return item if fps is None else {**item, "fps": fps}


@pytest.mark.parametrize(
    "count, fps", [(2, 2), (5, 2), (30, 10), (9, 23.976), (8, None)]
)
def test_video_prompt_equals_transformers(processor, hf_processor, count, fps):
    messages = [{"role": "user", "content": [film(count, fps), film(4, 2)]}]
    ours = processor.chat(messages)
    grids = ours["video_grid_thw"]
    metadata = [
        SimpleNamespace(fps=fps, frames_indices=sample_frames(count, fps or 24)),
        SimpleNamespace(fps=2, frames_indices=[0, 1, 2, 3]),
    ]
    inputs = {"video_grid_thw": grids, "video_metadata": metadata}
    fill = [hf_processor.replace_video_token(inputs, i) for i in range(2)]
    (text,), _ = hf_processor.get_text_with_replacements(
        [processor.chat_text(messages)], videos_replacements=fill
    )
    assert ours["input_ids"][0].tolist() == hf_processor.tokenizer(text)["input_ids"]
    pads = (ours["input_ids"] == hf_processor.video_token_id).sum()
    assert pads == grids.prod(-1).sum() // 4 == len(ours["pixel_values_videos"]) // 4


def test_video_prompt_by_hand(made_folder):
    messages = [{"role": "user", "content": [film(4, 2)]}]
    for outer_pair in True, False:
        processor = Processor.load(made_folder, video_outer_pair=outer_pair)
        inputs = processor.chat(messages)
        _, h, w = inputs["video_grid_thw"][0].tolist()
        pads = "<|video_pad|>" * (h * w // 4)
        inner = "".join(
            f"<{time} seconds><|vision_start|>{pads}<|vision_end|>"
            for time in ("0.2", "1.2")
        )
        outer = f"<|vision_start|>{inner}<|vision_end|>" if outer_pair else inner
        text = processor.decode(inputs["input_ids"][0], skip_special=False)
        assert text.startswith(f"<|im_start|>user\n{outer}<|im_end|>")


def test_pictures_and_videos_together(processor):
    content = [film(4, 2), image_item(64, 64), {"type": "text", "text": "?"}]
    inputs = processor.chat([{"role": "user", "content": content}])
    assert len(inputs["pixel_values"]) == inputs["image_grid_thw"].prod()
    assert len(inputs["pixel_values_videos"]) == inputs["video_grid_thw"].prod()


def test_whole_conversation_equals_transformers(made_folder, processor, hf_tokenizer):
    try:
        import torchvision  # noqa: F401
    except Exception as error:  # a build for another torch breaks while importing
        pytest.skip(f"transformers' whole processor needs torchvision: {error}")
    from transformers import Qwen3VLVideoProcessor

    whole = Qwen3VLProcessor(
        Qwen2VLImageProcessorPil(**PICTURES),
        hf_tokenizer,
        Qwen3VLVideoProcessor(**PICTURES),
        chat_template=TEMPLATE,
    )
    video, image = film(9, 3), image_item(90, 200)
    messages = [{"role": "user", "content": [video, image, video]}]
    theirs = whole.apply_chat_template(
        messages,
        add_generation_prompt=True,
        enable_thinking=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        processor_kwargs={"video_metadata": [{"total_num_frames": 9, "fps": 3}] * 2},
    )
    for name, tensor in processor.chat(messages, thinking=True).items():
        assert tensor.shape == theirs[name].shape, name
        assert (tensor - theirs[name]).abs().max() < 1e-6, name


# ---- folders ----


def test_save_and_load(processor, tmp_path):
    processor.save(tmp_path / "copy")
    again = Processor.load(tmp_path / "copy")
    assert again.files == processor.files
    ours, theirs = processor.chat(LOOK), again.chat(LOOK)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert not list((tmp_path / "copy").glob("*.new"))


def test_template_inside_other_files(processor, folder):
    (folder / "chat_template.jinja").unlink()
    for content in TEMPLATE, [{"name": "default", "template": TEMPLATE}]:
        settings = SETTINGS | {"chat_template": content}
        (folder / "tokenizer_config.json").write_text(json.dumps(settings))
        assert Processor.load(folder).chat_text([ASK]) == processor.chat_text([ASK])


def test_folder_as_transformers_5_saves_it(processor, folder):
    for name in "preprocessor_config.json", "video_preprocessor_config.json":
        (folder / name).unlink()
    both = {"image_processor": PICTURES, "video_processor": PICTURES}
    (folder / "processor_config.json").write_text(json.dumps(both))
    ours, theirs = processor.chat(LOOK), Processor.load(folder).chat(LOOK)
    assert torch.equal(ours["pixel_values"], theirs["pixel_values"])


# ---- bad input ----


def fails(match, function, *args, **options):
    with pytest.raises(InputError, match=match) as caught:
        function(*args, **options)
    assert "\n" not in str(caught.value)


def test_missing_and_broken_files(folder):
    for name in "tokenizer_config.json", "preprocessor_config.json":
        content = (folder / name).read_bytes()
        (folder / name).write_text("{broken")
        fails(f"{name} is not JSON", Processor.load, folder)
        (folder / name).write_bytes(content)
    (folder / "chat_template.jinja").write_text("a\n{% if %}")
    fails(
        r"chat_template.jinja is not a Jinja template \(line 2", Processor.load, folder
    )
    (folder / "tokenizer.json").write_text("{}")
    fails("tokenizer.json cannot be read", Processor.load, folder)
    (folder / "tokenizer.json").unlink()
    fails("has no tokenizer.json", Processor.load, folder)


@pytest.mark.parametrize(
    "name, change, words",
    [
        ("tokenizer_config.json", {"eos_token": 5}, "says 5 of a special token"),
        ("tokenizer_config.json", {"eos_token": {"a": 1}}, "of a special token"),
        ("tokenizer_config.json", {"pad_token": ["a"]}, "of a special token"),
        ("tokenizer_config.json", {"pad_token": {"content": 5}}, "special token"),
        ("tokenizer_config.json", {"chat_template": 5}, "chat_template in .* not text"),
        ("tokenizer_config.json", {"chat_template": ["x"]}, "without name and text"),
        ("tokenizer_config.json", {"chat_template": [{"template": "x"}]}, "name and"),
        ("generation_config.json", {"eos_token_id": {"a": 1}}, "expected token ids"),
        ("generation_config.json", {"eos_token_id": [[1]]}, "expected token ids"),
        ("generation_config.json", {"eos_token_id": -1}, "expected token ids"),
        ("preprocessor_config.json", {"size": 5}, "expected an object"),
        ("processor_config.json", {"image_processor": "x"}, "not an object"),
    ],
    ids=str,
)
def test_settings_of_another_type(processor, name, change, words):
    files = dict(processor.files)
    if "chat_template" in change:
        del files["chat_template.jinja"]
    content = json.loads(files.get(name, b"{}")) | change
    fails(words, Processor, files | {name: json.dumps(content).encode()})


def test_ids_unlike_the_config(folder):
    (folder / "config.json").write_text('{"image_token_id": 248056}')
    fails("image_token_id is 248056, but in tokenizer.json", Processor.load, folder)


def test_pictures_for_a_checkpoint_of_text(folder):
    for name in "preprocessor_config.json", "video_preprocessor_config.json":
        (folder / name).unlink()
    processor = Processor.load(folder)
    fails("hold images, but .* has no preprocessor_config.json", processor.chat, LOOK)
    messages = [{"role": "user", "content": [film(2)]}]
    fails("has no video_preprocessor_config.json", processor.chat, messages)
    assert processor.chat([ASK])["input_ids"].shape[0] == 1


def test_no_template(folder):
    (folder / "chat_template.jinja").unlink()
    fails("has no chat template", Processor.load(folder).chat, [ASK])


def test_placeholders_unlike_pictures(processor, folder):
    typed = [{"role": "user", "content": "what is <|image_pad|>?"}]
    fails(r"1 <\|image_pad\|> placeholders for 0 images", processor.chat, typed)
    content = [*LOOK[0]["content"], {"type": "text", "text": "<|image_pad|>"}]
    typed = [{"role": "user", "content": content}]
    fails(r"4 <\|image_pad\|> placeholders for 3 images", processor.chat, typed)
    typed = [{"role": "user", "content": "<|video_pad|>"}]
    fails(r"1 <\|video_pad\|> placeholders for 0 videos", processor.chat, typed)
    (folder / "chat_template.jinja").write_text("forgets pictures")
    fails("0 .* placeholders for 3 images", Processor.load(folder).chat, LOOK)


def test_unknown_content(processor):
    def chat(content):
        processor.chat([ASK, {"role": "user", "content": content}])

    fails(r'messages\[1\].content\[0\] has the type "audio"', chat, [{"type": "audio"}])
    fails(r"content\[0\] has the type null", chat, ["words"])
    deep = []
    for _ in range(100_000):
        deep = [deep]
    fails(
        r"messages\[1\] is not plain JSON",
        chat,
        [{"type": "text", "text": "", "x": deep}],
    )
    fails("has the type", chat, [{"type": deep}])
    fails("a tool is not plain JSON", processor.chat, [ASK], tools=[deep])
    fails("a template variable is not plain", processor.chat, [ASK], x=deep)
    fails(r'type "image", so it must have a key "image"', chat, [{"type": "image"}])
    fails(r'must have a key "text"', chat, [{"type": "text", "text": 7}])
    fails(r"messages\[1\] has content of type int", chat, 7)
    fails("absent.png: no such", chat, [{"type": "image", "image": "absent.png"}])


def test_messages_that_are_none(processor):
    fails("messages are list of length 0", processor.chat, [])
    fails("messages are str", processor.chat, "Hello")
    fails(r"messages\[0\] is Hello, but a dict", processor.chat, ["Hello"])
    fails(r"messages\[0\] .*\"role\"", processor.chat, [{"content": "Hello"}])
    odd = [{**ASK, "name": object()}]
    fails(r"messages\[0\] is not plain JSON", processor.chat, odd)
    fails("a tool is not plain JSON", processor.chat, [ASK], tools=[print])


def test_template_that_refuses(processor):
    system = [{"role": "system", "content": "Be brief."}]
    fails("refuses these messages: No user query found", processor.chat, system)


def test_text_that_is_no_unicode(processor):
    fails("not valid Unicode at character 1", processor.encode, "a\ud800")
