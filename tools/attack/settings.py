"""The small files beside weights: what tokenizer, template and pictures are told."""

import json
from functools import partial

import numpy as np
from PIL import Image

from minqwen.errors import show
from minqwen.files import FILES
from minqwen.prompt.processor import Processor

from . import NAMES, NO_COUNTS, NO_NUMBERS, ODD, TINY, Case
from .configs import SPECIAL, put, special

TOKENS, ENDS = "tokenizer_config.json", "generation_config.json"
IMAGE, VIDEO = "preprocessor_config.json", "video_preprocessor_config.json"
BOTH, JINJA, BPE = "processor_config.json", "chat_template.jinja", "tokenizer.json"
NUMBERS, COUNTS = NO_NUMBERS.values(), NO_COUNTS.values()
PICTURE = Image.fromarray(np.arange(64 * 64 * 3, dtype=np.uint8).reshape(64, 64, 3))
CHAT = [{"role": "user", "content": [
    {"type": "image", "image": PICTURE},
    {"type": "video", "video": [PICTURE, PICTURE]},
    {"type": "text", "text": "x" * 40 + " What is it? \u00e9\U0001f600"},
]}]  # fmt: skip
SHORT = """{% for message in messages %}{% for part in message.content %}
{% if part.type == "text" %}{{ part.text }}{% else %}
<|vision_start|><|{{ part.type }}_pad|><|vision_end|>{% endif %}
{% endfor %}{% endfor %}"""  # is compiled in a moment
FAILING = """{% if %} | {{ x | {% for %} | {{ x.y.z }} | {{ 1 / 0 }} | {% x %}
| {{ messages[99].content }} | {% include 'x' %} | {% extends 'x' %} | {{ {}.a.b }}
| {{ messages.append(1) }} | {{ raise_exception('no\x1b[2J') }} | {{ strftime_now(5) }}
| {{ raise_exception('A' * 9**6) }} | {{ ''.__class__.__mro__ }} | {{ 'a'.x.y }}
| {{ cycler.__init__.__globals__ }} | {{ messages is nothing }} | {{ range(1000000) }}
| {% macro f() %}{{ f() }}{% endmacro %}{{ f() }} | {{ 10 ** (10 ** 9) }}
| {% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}
| {% set n = namespace(x='a') %}{% for i in range(40) %}{% set n.x = n.x ~ n.x %}
{% endfor %} | {{ 'a' * (3 * 10 ** 9) }} | {{ 'x'.ljust(1000000000) }}
| {{ '%1000000000d' % 5 }} | {{ '{:1000000000}'.format(5) }} | {{ lipsum(n=1000000) }}
| {{ ('a' * 9999).replace('a', 'b' * 999999) }} | {{ [[1] * 99999] * 99999 }}
| {% filter center(1000000000) %}x{% endfilter %}"""
BLIND = "no pictures | {{ {}[[]] }} | {% if false %}{{ 10 ** (10 ** 9) }}{% endif %}"


def cases(folder):
    good = {n: (TINY / n).read_bytes() for n in FILES if (TINY / n).is_file()}
    good |= {"config.json": (TINY / "config.json").read_bytes(), JINJA: SHORT.encode()}
    base = Processor(good).chat(CHAT)

    def write(files):
        for file in folder.iterdir():
            file.unlink()
        for name, content in files.items():
            (folder / name).write_bytes(content)

    def use(name, content, without, same):
        raw = content if isinstance(content, bytes) else json.dumps(content).encode()
        write({n: c for n, c in good.items() if n not in without} | {name: raw})
        processor = Processor.load(folder)
        found = processor.chat(CHAT)
        assert processor.decode(found["input_ids"][0])
        assert found["pixel_values"].isfinite().all()
        assert not same or all(found[n].equal(base[n]) for n in base)

    def strange(name, make):
        write(good)
        special(folder / name, make, partial(Processor.load, folder))

    found = []
    for name, title, content, words, expect in (*fields(good), *raws(good)):
        without = {JINJA} if name == TOKENS and "template" in title else ()
        without = {IMAGE, VIDEO} if name == BOTH else without
        run = partial(use, name, content, without, expect == "accepted")
        found.append(Case(f"{name}: {title}", run, words, expect))
    for name in (TOKENS, IMAGE, JINJA, BPE):
        for title, make in SPECIAL.items():
            if title not in ("missing", "a link to nothing", "a link to itself"):
                found.append(
                    Case(f"{name}: {title}", partial(strange, name, make), (name,))
                )
    return found


def fields(good):
    """(file, what is changed, content, what is named, expected) of single fields."""
    values = {n: json.loads(raw) for n, raw in good.items() if n.endswith(".json")}

    def each(name, key, wrong, *words, expect="refused"):
        for value in wrong:
            content = put(values.get(name, {}), key, value)
            yield name, f"{key} is {show(value, 40)}", content, (name, *words), expect

    lists = [0.5], [0.5] * 4, [[0.5]] * 3, [1e9] * 3, *([v, 0.5, 0.5] for v in NUMBERS)
    counts = *COUNTS, 0, 10**9, None
    for name in (IMAGE, VIDEO):
        for key in ("patch_size", "temporal_patch_size", "merge_size"):
            yield from each(name, key, counts, key)
        for key, older in (
            ("shortest_edge", "min_pixels"),
            ("longest_edge", "max_pixels"),
        ):
            yield from each(name, "size." + key, counts, key)
            yield from each(name, older, ("4", [1]), "size")  # where others have it
        yield from each(name, "image_mean", (*ODD, *lists), "image_mean")
        yield from each(name, "image_std", (*ODD, *lists, [0, 1, 1]), "image_std")
        yield from each(name, "size", (5, "x", [1], {"height": 224}), "size")
        ends = {"shortest_edge": 2**20, "longest_edge": 4096}
        for key, value in {"do_resize": False, "do_rescale": False,
                           "do_normalize": False,
                           "resample": 2, "rescale_factor": 1.0,
                           "size": ends}.items():  # fmt: skip
            yield from each(name, key, [value], key)
        yield from each(name, "new", [None, 5], expect="accepted")
    yield from each(VIDEO, "fps", (*NUMBERS, 0, -2, 1e9), "fps")
    yield from each(VIDEO, "min_frames", (*COUNTS, 0, 10**9, 1000), "min_frames")
    yield from each(VIDEO, "max_frames", (*COUNTS, 0, 10**9, 1), "max_frames")
    for key in ("image_processor", "video_processor"):
        yield from each(BOTH, key, (*ODD[2:6], {"size": 5}, {"patch_size": 16}))
    for key in ("eos_token", "pad_token", "bos_token", "unk_token"):
        wrong = 5, True, ["a"], {"a": 1}, {"content": 5}, {"content": ["a"]}
        yield from each(TOKENS, key, wrong)
        yield from each(TOKENS, key, [{"content": "<|im_end|>"}], expect="accepted")
    named = {"name": "default", "template": good[JINJA].decode()}
    yield from each(TOKENS, "chat_template", (5, True, ["x"], [{"template": "x"}],
                                              {"a": "b"},
                    [named | {"template": 5}], "{% if %}", "{{ x"))  # fmt: skip
    yield from each(
        TOKENS, "chat_template", (named["template"], [named]), expect="accepted"
    )
    ends = (
        *(v for v in COUNTS if v not in ([], [4])),
        *ODD[7:],
        [[1]],
        [None],
        [-1],
        [1.5],
    )
    yield from each(ENDS, "eos_token_id", ends, "eos_token_id")
    for key in ("image_token_id", "vision_end_token_id"):
        yield from each("config.json", key, [7], key)
    for key in ("model", "pre_tokenizer", "normalizer", "decoder", "added_tokens"):
        yield from each(BPE, key, (5, "x", [1], {"type": "x"}, {"type": []}))
    pairs = [["a"]], [["a", "b", "c"]], {"a": "b"}, {"a": -1}
    names = ({name: 0} for label, name in NAMES.items() if label != "half a pair")
    yield from each(BPE, "model.vocab", (5, "x", [1], None, *pairs, *names))
    yield from each(BPE, "model.merges", (5, "x", [1], None, *pairs))
    yield from each(BPE, "model.type", (*ODD[2:], "WordPiece", "Unigram", "WordLevel"))
    for text in ("(x", "[z-a]", "(x+x+)+y", "(?<n>", "\\"):
        cut = {"type": "Split", "pattern": {"Regex": text}, "behavior": "Isolated",
               "invert": False}  # fmt: skip
        for name, title, content, _, expect in each(BPE, "pre_tokenizer", [cut]):
            yield name, title + text, content, ("tokenizer",), expect
    for told in ("", "/////w==", "AAAA", 5):
        told = {"type": "Precompiled", "precompiled_charsmap": told}
        yield from each(BPE, "normalizer", [told])


def raws(good):
    """The same of whole files: no JSON, and templates that are no use."""
    for name in (TOKENS, ENDS, IMAGE, VIDEO, BOTH, BPE, "config.json"):
        text = good.get(name, b'{"a": 1}').decode()
        for raw in ("", "null", "[]", "5", "{", "[" * 10**5, text[: len(text) // 2],
                    text + "}", "\ufeff" + text, "\udcff" + text,
                    text.replace("{", '{"a": 1, "a": 1,', 1)):  # fmt: skip
            raw = raw.encode(errors="surrogateescape")  # one of them is no UTF-8
            yield name, f"{show(raw, 20)} {len(raw)}", raw, (name,), "refused"
    for word, texts in ("template", FAILING), ("<|image_pad|>", BLIND):
        for text in " ".join(texts.split("\n")).split(" | "):
            yield JINJA, text, text.encode(), (word,), "refused"
    yield JINJA, "no UTF-8", b"\xff" + good[JINJA], (), "either"
