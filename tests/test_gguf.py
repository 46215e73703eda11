"""GGUF files: written by llama.cpp's own package, read by us, and the other way round.

`tools/llama_parity.py` compares logits with llama.cpp itself.
"""

import struct
import subprocess
import sys

import gguf_files
import numpy as np
import pytest
import torch
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFReader, quants
from gguf_files import Kind
from loading import measured, refused
from tiny_models import small_model

import minqwen
from minqwen.errors import InputError
from minqwen.model.config import FULL, LINEAR
from minqwen.units import human
from minqwen.weights import open_checkpoint
from minqwen.weights.gguf.header import TYPES, read_gguf
from minqwen.weights.gguf.load import open_gguf

SHAPES = {
    "moe": dict(),
    "moe 1:4": dict(linear_num_key_heads=1, linear_num_value_heads=4),
    "dense": dict(moe=False),
    "dense 1:1": dict(moe=False, linear_num_key_heads=4),
    "tied": dict(moe=False, tie_word_embeddings=True),
}
# Rows of whole K blocks, as in every real model: all kinds can be used.
WIDE = {True: gguf_files.WHOLE, False: gguf_files.BLOCKS | dict(intermediate_size=512)}


def text_model(seed=0, **kw):
    return small_model(seed, vision=False, **kw)


def same(model, other):
    """Equal, but for what the format loses in the last bit of A_log and of norms."""
    ours, theirs = gguf_files.numbers(model), gguf_files.numbers(other)
    assert ours.keys() == theirs.keys()
    for name, p in ours.items():
        if name.endswith("A_log"):
            torch.testing.assert_close(theirs[name], p, atol=3e-7, rtol=3e-7)
        elif "norm" in name and not name.endswith("linear_attn.norm.weight"):
            assert torch.equal(theirs[name] + 1, p + 1), name  # all that is used of it
        else:
            assert torch.equal(theirs[name], p), name


# ---- what is read ----


def test_types_are_those_of_the_package():
    for number, (name, weights, size) in TYPES.items():
        kind = GGMLQuantizationType(number)
        assert kind.name == name and GGML_QUANT_SIZES[kind] == (weights, size)
        quants.dequantize(np.zeros((1, size), np.uint8), kind)  # it can be read


@pytest.mark.parametrize("kind", [Kind.F16, Kind.Q8_0])
def test_header_agrees_with_the_package(tmp_path, kind):
    path = tmp_path / "x.gguf"
    processor = minqwen.Processor.load("assets/tiny")
    gguf_files.write(text_model(vocab_size=2048), path, kind, tokenizer=processor)
    ours, theirs = read_gguf(path), GGUFReader(path)
    assert len(ours.tensors) == len(theirs.tensors) > 50
    for tensor in theirs.tensors:
        entry = ours.tensors[tensor.name]
        assert entry.dtype == tensor.tensor_type.name
        assert entry.shape == tuple(reversed(tensor.shape.tolist()))
        span = tensor.data_offset, tensor.data_offset + tensor.n_bytes
        assert (entry.start, entry.end) == span
    names = [name for name in theirs.fields if not name.startswith("GGUF.")]
    assert names == list(ours.keys)
    for name, value in ours.keys.items():
        value = value.tolist() if isinstance(value, np.ndarray) else value
        assert theirs.get_field(name).contents() == pytest.approx(value)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("mtp", [0, 1])
def test_round_trip(tmp_path, shape, mtp):
    model = text_model(mtp_num_hidden_layers=mtp, **SHAPES[shape])
    gguf_files.write(model, tmp_path / "x.gguf")
    back = minqwen.load(tmp_path / "x.gguf")
    assert back.cfg == model.cfg.replace(eos_token_id=()) and not back.training
    same(model, back)
    ids = torch.arange(60).view(2, 30)
    with torch.no_grad():
        torch.testing.assert_close(back(ids), model(ids), atol=1e-4, rtol=0)


def test_experts_stored_fused(tmp_path):
    model = text_model(mtp_num_hidden_layers=1)
    gguf_files.write(model, tmp_path / "x.gguf", fused=True)
    assert "blk.4.ffn_gate_up_exps.weight" in read_gguf(tmp_path / "x.gguf").tensors
    same(model, minqwen.load(tmp_path / "x.gguf"))


@pytest.mark.parametrize("kind", [Kind.F16, Kind.BF16])
def test_round_trip_in_two_bytes(tmp_path, kind):
    """A model of that dtype comes back bit for bit, and is loaded as it is stored."""
    dtype = {Kind.F16: torch.float16, Kind.BF16: torch.bfloat16}[kind]
    model = text_model(mtp_num_hidden_layers=1).to(dtype)
    gguf_files.write(model, tmp_path / "x.gguf", kind)
    same(model.float(), minqwen.load(tmp_path / "x.gguf"))
    back = minqwen.load(tmp_path / "x.gguf", dtype=None)
    assert back.lm_head.weight.dtype == dtype
    assert back.model.language_model.layers[0].linear_attn.A_log.dtype == torch.float32


@pytest.mark.parametrize("moe", [True, False])
def test_eight_bits_are_within_their_step(tmp_path, moe):
    model = text_model(moe=moe, mtp_num_hidden_layers=1)
    gguf_files.write(model, tmp_path / "x.gguf", Kind.Q8_0)
    back = gguf_files.numbers(minqwen.load(tmp_path / "x.gguf"))
    kinds = {entry.dtype for entry in read_gguf(tmp_path / "x.gguf").tensors.values()}
    assert kinds == {"F32", "Q8_0"}
    for name, p in model.named_parameters():
        step = p.abs().max() / 127
        # Half a step, and up to 127 half last bits of its own fp16.
        assert (back[name] - p).abs().max() < (0.5 + 127 * 2**-11) * step, name


@pytest.mark.parametrize(
    "kind", [Kind.Q4_0, Kind.Q8_0, Kind.Q4_K, Kind.Q5_K, Kind.Q6_K]
)
@pytest.mark.parametrize("moe", [True, False])
def test_written_again_the_stored_values_come_out(tmp_path, kind, moe):
    model = text_model(moe=moe, mtp_num_hidden_layers=1, **WIDE[moe])
    stored = gguf_files.write(model, tmp_path / "x.gguf", kind)
    kinds = [e.dtype for e in read_gguf(tmp_path / "x.gguf").tensors.values()]
    assert kinds.count(kind.name) > 30
    again = dict(gguf_files.tensors(minqwen.load(tmp_path / "x.gguf")))
    assert again.keys() == stored.keys()
    for name, values in stored.items():
        near = dict(rtol=3e-7) if name.endswith("ssm_a") else dict(rtol=0)
        np.testing.assert_allclose(again[name], values, atol=0, err_msg=name, **near)


def test_quantised_weights_are_used_in_bf16_unless_asked(tmp_path):
    gguf_files.write(text_model(moe=False), tmp_path / "x.gguf", Kind.Q8_0)
    model = minqwen.load(tmp_path / "x.gguf", dtype=None)
    assert model.lm_head.weight.dtype == torch.bfloat16


def test_what_stays_as_it_is_stored_is_told(tmp_path, run):
    """And its memory: that of the file, but for what is widened."""
    path, model = tmp_path / "x.gguf", text_model(**WIDE[True])
    gguf_files.write(model, path, [Kind.Q4_K, Kind.Q6_K, Kind.Q4_0])
    held = minqwen.load(path, dtype=None)
    size = sum(t.nbytes for t in (*held.parameters(), *held.buffers()))
    code, out, _ = run("info", path)
    told = " ".join(out.split())
    assert code == 0 and "quantised GGUF: Q4_0, Q4_K, Q6_K loads yes: " in told
    assert "yes: Q4_K, Q6_K kept as they are, activations rounded if asked" in told
    assert f"; Q4_0 widened to bfloat16; {human(size)} of memory" in told


@pytest.mark.parametrize(
    "kinds, fused",
    [([Kind.Q4_K, Kind.Q6_K, Kind.Q8_0], True), (Kind.Q5_K, False), (Kind.F16, False)],
)
def test_experts_are_left_on_disk(tmp_path, kinds, fused):
    """In different forms where they are fused, with room for one to six of twelve."""
    path, ids = tmp_path / "x.gguf", torch.randint(0, 300, (2, 9))
    gguf_files.write(text_model(**WIDE[True]), path, kinds, fused)
    whole = minqwen.load(path)
    paged = minqwen.load(path, experts="disk", expert_cache=800_000)
    with torch.inference_mode():
        assert torch.equal(paged(ids), whole(ids))
    pages = next(m.pages for m in paged.modules() if hasattr(m, "pages"))
    assert pages.stats.misses > pages.capacity and pages.stats.bytes_read


@pytest.mark.parametrize("kinds", [Kind.Q4_0, [Kind.F32, Kind.Q5_K]])
def test_experts_that_disk_cannot_use_are_refused(tmp_path, kinds):
    gguf_files.write(text_model(**WIDE[True]), tmp_path / "x.gguf", kinds, fused=True)
    with pytest.raises(InputError, match="_exps.weight is [FQ].*experts='disk' cannot"):
        minqwen.load(tmp_path / "x.gguf", experts="disk")


def test_in_parts(tmp_path):
    model = text_model()
    gguf_files.write(model, tmp_path / "x.gguf", split=20)
    parts = sorted(tmp_path.iterdir())
    assert len(parts) == 4 and parts[0].name == "x-00001-of-00004.gguf"
    same(model, minqwen.load(parts[0]))
    same(model, minqwen.load(parts[1]))  # any part will do, and their folder
    same(model, minqwen.load(tmp_path))
    parts[3].rename(tmp_path / "aside")
    refused(parts[0], "x-00004-of-00004.gguf is missing from")
    parts[2].rename(parts[3])
    (tmp_path / "aside").rename(parts[2])
    same(model, minqwen.load(parts[0]))  # each says itself what it holds
    parts[3].write_bytes(parts[2].read_bytes())
    refused(parts[0], "x-00004-of-00004.gguf holds", "an earlier part")
    parts[0].rename(tmp_path / "first.gguf")
    refused(tmp_path / "first.gguf", "one of 4 parts")


# ---- the keys ----


def yarn(**text):
    rope = dict(rope_type="yarn", rope_theta=1e7, partial_rotary_factor=0.25,
                mrope_section=[2, 1, 1], factor=4.0, beta_fast=24.0, beta_slow=2.0,
                original_max_position_embeddings=1024)  # fmt: skip
    return text | dict(rope_parameters=rope, vision=False)


def test_yarn(tmp_path):
    model = small_model(**yarn())
    gguf_files.write(model, tmp_path / "x.gguf")
    rope = open_gguf(tmp_path / "x.gguf")[0].text.rope
    assert rope == model.cfg.text.rope and rope.factor == 4.0 and rope.beta_slow == 2.0


def test_layers_of_another_rhythm(tmp_path):
    """Told one by one: the list counts the draft head's layer too."""
    kinds = [FULL, LINEAR, LINEAR, FULL]
    model = text_model(layer_types=kinds, mtp_num_hidden_layers=1)
    linear = [kind == LINEAR for kind in kinds]
    path = tmp_path / "x.gguf"
    for told in (linear, [*linear, True], [*linear, False]):
        add = with_value("qwen35moe.attention.recurrent_layers", told, "add_array")
        gguf_files.write(model, path, change=add)
        if told[-1] or len(told) == 4:
            refused(path, "qwen35moe.attention.recurrent_layers is")
    same(model, minqwen.load(path))  # the last of them


def without(key):
    return lambda writer: writer.kv_data[0].pop(key)


def with_value(key, value, add="add_uint32"):
    def change(writer):
        writer.kv_data[0].pop(key, None)
        getattr(writer, add)(key, value)

    return change


ARCH = "qwen35moe."
INNER = ARCH + "ssm.inner_size"


@pytest.mark.parametrize(
    "change, words",
    [
        (without("general.architecture"), ["general.architecture is None"]),
        (with_value("general.architecture", "llama", "add_string"), ["llama"]),
        (with_value("general.architecture", [1], "add_array"), ["not a Qwen3.5"]),
        (without(INNER), [INNER + " is missing"]),
        (without(ARCH + "expert_count"), [ARCH + "expert_count is missing"]),
        (without(ARCH + "rope.dimension_sections"), ["dimension_sections is missing"]),
        (with_value(INNER, 97), ["ssm.inner_size is 97", "multiple"]),
        (with_value(ARCH + "block_count", 2**32 - 1), ["expected the 4 it holds"]),
        (with_value(ARCH + "block_count", 3), ["unexpected blk.3."]),
        (with_value(ARCH + "block_count", 5), ["is 5; expected the 4 it holds"]),
        (with_value(ARCH + "expert_count", 32), ["the keys ask for [32, 24, 64]"]),
        (with_value(ARCH + "expert_count", [2, 3], "add_array"), ["[2 3]", "number"]),
        (with_value(ARCH + "embedding_length", 2**31), ["2147483648"]),
        (with_value(ARCH + "ssm.state_size", 2**31), ["2147483648", "at most 16384"]),
        (with_value(INNER, 2**63 - 4, "add_uint64"), ["out of range"]),
        (with_value(INNER, 2**55 - 32, "add_uint64"), [INNER, "at most 65536"]),
        (with_value(ARCH + "attention.head_count_kv", 0), ["head_count_kv is 0"]),
        (with_value(ARCH + "attention.head_count_kv", "2", "add_string"), ["a number"]),
        (with_value(ARCH + "attention.key_length", 0), ["key_length is 0"]),
        (with_value(ARCH + "attention.value_length", 16), ["expected 32"]),
        (with_value(ARCH + "full_attention_interval", 0), ["interval is 0"]),
        (with_value(ARCH + "nextn_predict_layers", 2), ["layers is 2", "at most 1"]),
        (with_value(ARCH + "rope.scaling.type", "longrope", "add_string"), ["yarn"]),
        (with_value(ARCH + "rope.scaling.factor", 4.0, "add_float32"), ["factor is 4"]),
        (with_value(ARCH + "rope.scaling.type", "yarn", "add_string"), ["factor is"]),
        (with_value(ARCH + "rope.scaling.attn_factor", 2.0, "add_float32"), ["1.0"]),
        (with_value(ARCH + "rope.odd", 1), [ARCH + "rope.odd", "turn"]),
        (with_value(ARCH + "expert_gating_func", 2), ["expert_gating_func is 2"]),
        (with_value(ARCH + "vocab_size", 321), ["vocab_size is 321; expected 320"]),
        (with_value("general.alignment", 24), ["alignment 24", "power of two"]),
        (with_value("general.alignment", "8", "add_string"), ["power of two"]),
    ],
)
def test_keys_that_do_not_fit(tmp_path, change, words):
    gguf_files.write(text_model(), tmp_path / "x.gguf", change=change)
    refused(tmp_path / "x.gguf", "x.gguf", *words)


def test_keys_nobody_reads_are_told(tmp_path, run):
    change = with_value(ARCH + "surprise", 7)
    gguf_files.write(text_model(mtp_num_hidden_layers=1), tmp_path / "x.gguf",
                     Kind.Q8_0, change=change)  # fmt: skip
    code, out, _ = run("info", tmp_path / "x.gguf")
    model = minqwen.load(tmp_path / "x.gguf")
    assert code == 0 and "unknown keys qwen35moe.surprise" in out
    assert f"{model.num_parameters()['mtp']:,} mtp" in out
    assert f"{model.num_parameters()['active']:,} active" in out
    size = sum(e.end - e.start for e in read_gguf(tmp_path / "x.gguf").tensors.values())
    assert f"{size:,}" in out and "Q8_0" in out


# ---- the tensors ----


def rename(old, new):
    def change(writer):
        writer.tensors[0][new] = writer.tensors[0].pop(old)

    return change


@pytest.mark.parametrize(
    "change, words",
    [
        (rename("blk.1.ssm_a", "surprise"), ["missing blk.1.ssm_a", "2 tensors do"]),
        (rename("blk.1.ssm_a", "surprise"), ["unexpected surprise in x.gguf"]),
        (rename("token_embd.weight", "other"), ["no token_embd.weight"]),
        (rename("output.weight", "output_b"), ["unexpected output_b"]),
        (rename("blk.3.attn_q.weight", "blk.3.attn_qkv.weight"), ["attn_q.weight"]),
        (rename("blk.0.ffn_up_exps.weight", "a"), ["missing blk.0.ffn_up_exps.weight"]),
    ],
)
def test_tensors_that_do_not_fit(tmp_path, change, words):
    gguf_files.write(text_model(), tmp_path / "x.gguf", change=change)
    refused(tmp_path / "x.gguf", *words)


@pytest.mark.parametrize("value, word", [(0.5, "below zero"), (float("nan"), "below")])
def test_rates_that_no_model_has(tmp_path, value, word):
    def change(writer):
        writer.tensors[0]["blk.0.ssm_a"].tensor[0] = value

    gguf_files.write(text_model(), tmp_path / "x.gguf", change=change)
    refused(tmp_path / "x.gguf", "x.gguf: blk.0.ssm_a", word)


def test_nan_in_the_scale_of_a_block(tmp_path):
    def change(writer):
        writer.tensors[0]["output.weight"].tensor.reshape(-1)[:2] = 0, 0x7E

    gguf_files.write(text_model(), tmp_path / "x.gguf", Kind.Q8_0, change=change)
    refused(tmp_path / "x.gguf", "x.gguf: output.weight", "NaN")


# ---- damaged files ----


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    path = tmp_path_factory.mktemp("good") / "x.gguf"
    gguf_files.write(text_model(moe=False), path)
    return path.read_bytes()


def at(good, name):
    """Where a name's length stands in the file."""
    return good.index(struct.pack("<Q", len(name)) + name.encode())


def patch(place, raw):
    return lambda good: good[:place] + raw + good[place + len(raw) :]


def after(name, skip, letters, *values):
    """Change numbers that stand `skip` bytes behind a name."""

    def change(good):
        place = at(good, name) + 8 + len(name) + skip
        return patch(place, struct.pack("<" + letters, *values))(good)

    return change


TENSOR, KEY = "blk.0.attn_qkv.weight", "qwen35.block_count"
RULES = {
    "empty": (lambda good: b"", "begins with"),
    "magic": (patch(0, b"GGML"), "not with GGUF"),
    "safetensors": (lambda good: b"\x40\0\0\0\0\0\0\0{}", "not with GGUF"),
    "version 1": (patch(4, b"\1"), "version 1"),
    "version 9": (patch(4, b"\t"), "version 9"),
    "big-endian": (patch(4, b"\0\0\0\3"), "big-endian"),
    "in the counts": (lambda good: good[:20], "ends before"),
    "in the keys": (lambda good: good[:200], "cut short"),
    "in the tensors": (lambda good: good[:3000], "cut short"),
    "in the data": (lambda good: good[:-4000], "cut short"),
    "longer": (lambda good: good + bytes(64), "64 bytes that no tensor owns"),
    "many tensors": (patch(8, b"\xff" * 7), "tensors, above"),
    "many keys": (patch(16, b"\xff" * 7), "keys, above"),
    "long name": (patch(24, struct.pack("<Q", 2**60)), f"{2**60} bytes"),
    "unlike UTF-8": (patch(32, b"\xff\xfe"), "not UTF-8"),
    "key's type": (after(KEY, 0, "I", 77), "unknown type 77"),
    "array in array": (after(KEY, 0, "II", 9, 9), "unknown type 9"),
    "long array": (after("qwen35.rope.dimension_sections", 8, "Q", 2**61), "bytes for"),
    "key twice": (lambda g: g.replace(b"key_length", b"head_count"), "twice"),
    "tensor twice": (lambda g: g.replace(b"0.attn_qkv", b"0.ssm_beta"), "twice"),
    "no dimension": (after(TENSOR, 0, "I", 0), "0 dimensions"),
    "5 dimensions": (after(TENSOR, 0, "I", 5), "5 dimensions"),
    "2^32 dimensions": (after(TENSOR, 0, "I", 2**32 - 1), "dimensions"),
    "size": (after(TENSOR, 4, "Q", 2**63), "cut short"),
    "wrapping sizes": (after(TENSOR, 4, "QQ", 2**32, 2**32), "cut short"),
    "type": (after(TENSOR, 20, "I", 99), "of type 99"),
    "removed type": (after(TENSOR, 20, "I", 4), "of type 4"),
    "type of blocks": (after("blk.0.ssm_conv1d.weight", 20, "I", 12), "blocks of 256"),
    "offset": (after(TENSOR, 24, "Q", 2**60), "leaves a gap"),
    "unaligned": (after(TENSOR, 24, "Q", 33), "instead of"),
}


@pytest.mark.parametrize("rule", RULES)
def test_damaged(tmp_path, good, rule):
    change, word = RULES[rule]
    (tmp_path / "x.gguf").write_bytes(change(good))
    refused(tmp_path / "x.gguf", "x.gguf", word)


# ---- memory, and the package ----


MEASURE = """
minqwen.load(sys.argv[2])  # so that code loaded on first use is in the base line
before = peak()
model = minqwen.load(sys.argv[1], dtype=torch.bfloat16)
held = [*model.parameters(), *model.buffers()]
print(peak() - before, sum(tensor.nbytes for tensor in held))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("kind, least", [(Kind.Q8_0, 200e6), (Kind.Q4_0, 400e6)])
def test_peak_memory_is_the_model_and_a_piece(tmp_path, kind, least):
    """A piece is 1 MB as stored, and some times that on its way into numbers."""
    sizes = dict(hidden_size=1024, moe_intermediate_size=512, vocab_size=16384)
    large, small = tmp_path / "large.gguf", tmp_path / "small.gguf"
    gguf_files.write(text_model(**sizes), large, kind)
    gguf_files.write(text_model(moe=False), small, kind)
    took, size = measured(MEASURE, large, small)
    assert size > least
    assert size < 1.1 * large.stat().st_size or kind != Kind.Q8_0
    print(f"{size / 1e6:.0f} MB of weights, loaded with a peak of {took / size:.3f}x")
    assert took < size + 50e6


WITHOUT = """
import sys
sys.modules["gguf"] = None  # as if it were not installed
import minqwen
try:
    minqwen.load(sys.argv[1])
    print("loaded")
except minqwen.InputError as error:
    print(error)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind, word",
    [(Kind.Q8_0, "loaded"), (Kind.Q4_0, 'pip install "minqwen[gguf]"')],
)
def test_only_widened_weights_need_the_package(tmp_path, kind, word):
    gguf_files.write(text_model(moe=False), tmp_path / "x.gguf", kind)
    command = [sys.executable, "-c", WITHOUT, tmp_path / "x.gguf"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert word in result.stdout and not result.stderr, result.stderr


def test_options_that_need_safetensors(tmp_path):
    gguf_files.write(text_model(moe=False), tmp_path / "x.gguf")
    with pytest.raises(InputError, match="no experts to leave on disk"):
        minqwen.load(tmp_path / "x.gguf", experts="disk")
    with pytest.raises(InputError, match="absent.gguf does not exist"):
        minqwen.load(tmp_path / "absent.gguf")
    with pytest.raises(InputError, match="no .safetensors file"):
        open_checkpoint(tmp_path)
    (tmp_path / "folder.gguf").mkdir()
    refused(tmp_path / "folder.gguf", "no .safetensors file")
