"""GGUF files: every key with every wrong type and value, and headers that lie."""

import struct
from functools import partial

import gguf_files
import numpy as np
import torch
from gguf import GGUFReader

import minqwen

from . import NAMES, TINY, Case
from .configs import IDS, small

U32, I32, F32, BOOL, TEXT, LIST, U64 = 4, 5, 6, 7, 8, 9, 10
FREE = ("context_length", "expert_used_count")  # of which no tensor tells
UNREAD = ("padding_token_id", "eos_token_id", "file_type", "quantization_version")
BROKEN = ("no UTF-8", "a terabyte", "lists", "a list of all", "texts of all")


def string(text):
    raw = text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")
    return struct.pack("<Q", len(raw)) + raw


def listed(kind, count, raw):
    return LIST, struct.pack("<IQ", kind, count) + raw


def u32(number):
    return struct.pack("<I", number)


def f32(number):
    return F32, struct.pack("<f", number)


# Of any key: (type, bytes) that no key of a model has.
WRONG = {
    "a text": (TEXT, string("4")), "an escape": (TEXT, string("\x1b[2J\n")),
    "a megabyte": (TEXT, string("A" * 10**6)), "no UTF-8": (TEXT, string(b"\xff\xfe")),
    "a terabyte": (TEXT, struct.pack("<Q", 10**12)), "NaN": f32(np.nan),
    "infinity": f32(np.inf), "-4.5": f32(-4.5), "-1": (I32, struct.pack("<i", -1)),
    "2**63": (U64, struct.pack("<Q", 2**63)), "truth": (BOOL, b"\1"),
    "a list": listed(I32, 1, u32(4)), "an empty list": listed(I32, 0, b""),
    "a list of texts": listed(TEXT, 1, string("4")), "lists": listed(LIST, 1,
            u32(4) * 4),
    "a list of all": listed(I32, 2**62, b""), "texts of all": listed(TEXT, 2**61, b""),
    "a type 13": (13, b"\0" * 8), "a type 2**32 - 1": (2**32 - 1, b""),
}  # fmt: skip


class File:
    """A file's parts, to be joined again with some of them changed."""

    def __init__(self, path):
        reader = GGUFReader(path)
        self.keys = {
            name: (int.from_bytes(field.parts[2].tobytes(), "little"),
                   b"".join(part.tobytes() for part in field.parts[3:]))
            for name, field in reader.fields.items() if not name.startswith("GGUF.")
        }  # fmt: skip
        start = min(t.data_offset for t in reader.tensors)
        self.tensors = {
            t.name: (t.shape.tolist(), int(t.tensor_type), t.data_offset - start)
            for t in reader.tensors
        }
        self.data = path.read_bytes()[start:]

    def joined(
        self, keys=None, tensors=None, data=None, version=3, counts=None, align=32
    ):
        """The bytes. keys, tensors: pairs of a name and what is told of it."""
        keys = list((self.keys if keys is None else keys).items())
        tensors = list((self.tensors if tensors is None else tensors).items())
        counts = counts or (len(tensors), len(keys))
        raw = b"GGUF" + struct.pack("<IQQ", version, *counts)
        for name, (kind, value) in keys:
            raw += string(name.strip("\n")) + struct.pack("<I", kind) + value
        for name, (shape, kind, offset) in tensors:
            raw += string(name.strip("\n")) + struct.pack("<I", len(shape))
            raw += struct.pack(f"<{len(shape)}QIQ", *shape, kind, offset)
        return raw + b"\0" * (-len(raw) % align) + (self.data if data is None else data)


def cases(folder):
    model = small(vision=False, mtp_num_hidden_layers=1)
    gguf_files.write(model, folder / "model.gguf")
    bare = File(folder / "model.gguf")
    processor = minqwen.Processor.load(TINY)
    one = small(vision=False, vocab_size=2048)
    gguf_files.write(one, folder / "text.gguf", tokenizer=processor)
    text = File(folder / "text.gguf")
    question = "The key is in the box."
    with torch.no_grad():
        logits = minqwen.load(folder / "model.gguf")(IDS)

    def load(raw, same=True):
        (folder / "x.gguf").write_bytes(raw)
        with torch.no_grad():
            found = minqwen.load(folder / "x.gguf")(IDS)
        assert found.isfinite().all() and (not same or found.equal(logits))

    def read(raw, same=True):
        (folder / "x.gguf").write_bytes(raw)
        found = minqwen.Processor.load(folder / "x.gguf")
        assert found.encode(question) == processor.encode(question) and found.stop_ids
        if found.templates:
            found.chat([{"role": "user", "content": "x"}])

    found = []

    def add(name, run, raw, *words, expect="refused"):
        run = partial(run, raw, expect != "either")
        found.append(Case(name, run, ("x.gguf", *words), expect))

    for name, raw, expect, *word in keys(bare, ""):
        add(name, load, raw, *word, expect=expect)
    for name, raw, expect, *word in keys(text, "tokenizer."):
        add(name, read, raw, *word, expect=expect)
    for name, raw in texts(text):
        add(name, read, raw)
    for name, raw in files(bare):
        add(name, load, raw)
    for key, kind, raw in (
        ("general.name", TEXT, string("\x1b[2J")), ("a", *WRONG["a list of texts"]),
        ("qwen35moe.new", TEXT, string("\x1b[2J")), ("split.count", U32, u32(1)),
        ("qwen35moe.expert_gating_func", U32, u32(1)),
        ("qwen35moe.rope.scaling.type", TEXT, string("none")),
    ):  # fmt: skip
        raw = bare.joined(bare.keys | {key: (kind, raw)})
        add(f"right: {key}", load, raw, expect="accepted")
    turned = bare.joined(dict(reversed(bare.keys.items())), version=2)
    add("right: keys from the end", load, turned, expect="accepted")
    return found + [*towers(folder, bare)]


def towers(folder, bare):
    """Cases of a tower in the file, as Ollama has it, and of one beside, an mmproj."""
    model = small()

    def named(writer):
        writer.add_token_list([f"<|{i}|>" for i in range(301)] + ["<|image_pad|>",
            "<|video_pad|>", "<|vision_start|>", "<|vision_end|>"])  # fmt: skip

    def ollama(writer):
        named(writer)
        gguf_files.as_ollama(model)(writer)

    for form, name, change in ("within", "x.gguf", ollama), ("beside", "b", named):
        there = folder / form
        there.mkdir()
        gguf_files.write(model, there / "x.gguf", change=change)
        if form == "beside":
            gguf_files.write_tower(model, there / name)
        assert minqwen.load(there / "x.gguf").cfg.vision  # it is one
        file = File(there / name)

        def load(raw, there=there, name=name):
            (there / name).write_bytes(raw)
            with torch.no_grad():
                assert minqwen.load(there / "x.gguf")(IDS).isfinite().all()

        told = [(what, raw) for what, raw, *_ in keys(file, "", bare.keys)]
        told += files(file) if form == "beside" else []
        for what, raw in told:
            run = partial(load, raw)
            yield Case(f"{form}: {what}", run, (name.removesuffix(".gguf"),), "either")


def keys(file, prefix, known=()):
    """(name, bytes, expected, key) for every key with every wrong value.

    But for what is `known`, key -> value.
    """
    for key, (kind, good) in file.keys.items():
        if not key.startswith(prefix) or key in known and known[key] == (kind, good):
            continue
        free = key.endswith(UNREAD)
        for label, value in WRONG.items():
            broken = label in BROKEN or value[0] > 12
            text = key.endswith("chat_template") and value[0] == TEXT
            expect = "either" if (free or text) and not broken else "refused"
            raw = file.joined(file.keys | {key: value})
            word = [] if broken else [key.removesuffix("s")]  # tokens, or token_type
            yield f"{key} is {label}", raw, expect, *word
        lost = file.joined({k: v for k, v in file.keys.items() if k != key})
        needless = "value_length", "chat_template", "nextn_predict_layers", *UNREAD
        needless += ("full_attention_interval",)  # the tensors tell
        expect = "either" if key.endswith(needless) else "refused"
        yield f"{key} is missing", lost, expect, *([key] * (expect == "refused"))
        if kind == U32 and not free:
            number = struct.unpack("<I", good)[0]
            for other in (0, number + 1, 2 * number, 2**31, 2**32 - 1):
                expect = "either" if key.endswith(FREE) and other else "refused"
                expect = "either" if other == number else expect
                value = file.keys | {key: (U32, u32(other))}
                yield f"{key} is {other}", file.joined(value), expect


def texts(file):
    """Tokenizers whose lists do not agree."""
    types = file.keys["tokenizer.ggml.token_type"][1]
    merges = "a b c", "ab", "", "\u4e00 \u4e01", "\x1b[2J \x1b"
    for key, told in (
        ("token_type", listed(I32, 2047, types[12:-4])),
        ("token_type", listed(I32, 2048, u32(9) * 2048)),
        ("token_type", listed(F32, 2048, f32(1)[1] * 2048)),
        ("tokens", listed(TEXT, 2048, string("a") * 2048)),
        *(("merges", listed(TEXT, 1, string(merge))) for merge in merges),
    ):
        value = file.keys | {"tokenizer.ggml." + key: told}
        yield f"{key} {told[1][:20]}", file.joined(value)
    for template in ("{% if %}", "{{ x", "{% for %}", "{% include 'x' %}", "{{ 1/0 }}"):
        value = file.keys | {"tokenizer.chat_template": (TEXT, string(template))}
        yield f"template {template}", file.joined(value)


def files(file):
    """(name, bytes) of headers that lie, and of files cut short or longer."""
    raw, (name, (shape, kind, offset)) = file.joined(), next(iter(file.tensors.items()))
    for size in (0, 1, 3, 4, 8, 23, 24, 30, 1000, len(raw) // 2, len(raw) - 1):
        yield f"cut to {size}", raw[:size]
    for more in (32, 10_000):
        yield f"{more} bytes more", raw + bytes(more)
    for magic in (b"GGML", b"gguf", b"FUGG", b"\x1b[2J", b"\0\0\0\0", b"PK\x03\x04"):
        yield f"magic {magic}", magic + raw[4:]
    for version in (0, 1, 4, 2**32 - 1, 3 << 24):
        yield f"version {version}", file.joined(version=version)
    tensors, known = len(file.tensors), len(file.keys)
    for more in (-1, 1, 10**6, 2**31, 2**63):
        yield f"{more} more tensors", file.joined(counts=(tensors + more, known))
        yield f"{more} more keys", file.joined(counts=(tensors, known + more))
    for told in (
        ([], kind, offset), ([*shape, 1, 1, 1], kind, offset), ([2**40] * 2, kind,
                offset),
        ([2**63, 2], kind, offset), ([0, *shape[1:]], kind, offset), (shape, 4, offset),
        (shape[::-1], kind, offset), (shape, 99, offset), (shape, 2**32 - 1, offset),
        (shape, 2, offset), (shape, 12, offset), (shape, 1, offset), (shape, 24,
                offset),
        (shape, kind, offset + 1), (shape, kind, offset + 32), (shape, kind, 2**63),
    ):  # fmt: skip
        yield f"tensor {told}", file.joined(tensors=file.tensors | {name: told})
    names = list(file.tensors)
    both = file.tensors | {names[1]: file.tensors[names[0]]}
    yield "one place for two", file.joined(tensors=both)
    twice = file.tensors | {name + "\n": both[name]}  # of which the end is not written
    yield "a tensor twice", file.joined(tensors=twice)
    yield "a tensor less", file.joined(tensors={n: file.tensors[n] for n in names[:-1]})
    for label, other in NAMES.items():
        renamed = {other if n == name else n: t for n, t in file.tensors.items()}
        yield f"a tensor named {label}", file.joined(tensors=renamed)
    odd = file.keys | {NAMES["half a pair"]: WRONG["-1"]}
    yield "a key of no UTF-8", file.joined(odd)
    for key in list(file.keys)[:3]:
        yield f"{key} twice", file.joined(file.keys | {key + "\n": file.keys[key]})
    for align in (0, 3, 33, 2**31, 64):
        key = {"general.alignment": (U32, u32(align))}
        yield f"alignment {align}", file.joined(file.keys | key)
    for at in (100, len(file.data) // 8 * 4, len(file.data) - 64):
        for number in (np.nan, np.inf):
            data = file.data[:at] + f32(number)[1] + file.data[at + 4 :]
            yield f"{number} at {at}", file.joined(data=data)
    for key in ("rope.scaling.type", "rope.scaling.factor", "attention.causal",
                "rope.scaling.attn_factor", "expert_gating_func",
                "expert_weights_scale",
                "expert_weights_norm", "rope.scale_linear", "vocab_size"):  # fmt: skip
        for label in ("a text", "-4.5", "2**63", "a list", "an empty list", "NaN"):
            told = file.keys | {"qwen35moe." + key: WRONG[label]}
            yield f"{key} is {label}", file.joined(told)
    for count in (2, 2**31):
        told = file.keys | {"split.count": (U32, u32(count))}
        yield f"split.count {count}", file.joined(told)
