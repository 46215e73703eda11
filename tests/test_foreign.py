"""Other libraries' quantised files: the numbers they stand for, by those libraries."""

import json
import random
from dataclasses import replace

import pytest
import torch
from foreign_files import (
    CT,
    fp8_by,
    gptq,
    modelopt_nvfp4,
    packed_by,
    save_source,
    write,
)
from loading import refused
from safetensors.torch import load_file, save_file
from test_bad_weights import edit, edit_json
from test_paged import logits, pages_of
from tiny_models import small_config

import minqwen
from minqwen.errors import InputError
from minqwen.files import Reader
from minqwen.plan.contents import describe
from minqwen.plan.forms import quantisation
from minqwen.plan.page import advise
from minqwen.units import human
from minqwen.weights.checkpoint.header import read_table
from minqwen.weights.convert import convert
from minqwen.weights.quantised.foreign import TURNED, Foreign
from minqwen.weights.quantised.modules import Packed
from minqwen.weights.quantised.settings import PLAIN, READ, SIZES, Scheme, read_scheme


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return save_source(tmp_path_factory.mktemp("bf16"))


def said(method, **more):
    return {"quant_method": method} | more


MODELOPT = said("modelopt", quant_algo="NVFP4", group_size=16)
GPTQ = said("gptq", bits=4, group_size=32, sym=True, desc_act=False)
FORMS = {
    "modelopt NVFP4": (lambda: modelopt_nvfp4, MODELOPT),
    "modelopt FP8": (lambda: fp8_by(0, 0, one=()), said("modelopt", quant_algo="FP8")),
    "NVFP4": (lambda: packed_by("NVFP4", "nvfp4-pack-quantized"), said(CT)),
    "MXFP4": (lambda: packed_by("MXFP4", "mxfp4-pack-quantized"), said(CT)),
    "int4": (lambda: packed_by("W4A16", "pack-quantized", group_size=32),
             said(CT, config_groups={"group_0": {"weights": {"num_bits": 4}}})),
    "int4 asym": (lambda: packed_by("W4A16_ASYM", "pack-quantized", group_size=32),
                  said(CT)),
    "int8 packed": (lambda: packed_by("W8A16", "pack-quantized", group_size=32),
                    said(CT, config_groups={"g": {"weights": {"num_bits": 8}}})),
    "int8": (lambda: packed_by("INT8", "int-quantized"), said(CT)),
    "fp8 channel": (lambda: packed_by("FP8_DYNAMIC", "float-quantized"), said(CT)),
    "fp8 tensor": (lambda: packed_by("FP8", "float-quantized"), said(CT)),
    "fp8 block": (lambda: packed_by("FP8_BLOCK", "float-quantized",
                                    block_structure=[32, 32]), said(CT)),
    "GPTQ": (gptq, GPTQ),
    "GPTQ by activation": (lambda: gptq(order=True), GPTQ | {"desc_act": True}),
    "GPTQ asymmetric": (lambda: gptq(sym=False), GPTQ | {"sym": False}),
    "GPTQ v2": (lambda: gptq(sym=False, order=True, version=2),
                GPTQ | {"checkpoint_format": "gptq_v2"}),
    "GPTQ bare": (lambda: gptq(-1, 8, index=False),
                  said("gptq", bits=8, group_size=-1)),
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_same_as_widened_by_its_own_library(source, tmp_path, form):
    encode, config = FORMS[form]
    write(source, tmp_path, encode(), config)
    # Widened to bf16, as compressed-tensors gives them
    dtype = torch.bfloat16 if config["quant_method"] == CT else torch.float32
    model = minqwen.load(tmp_path, dtype=dtype)
    wide = minqwen.load(tmp_path / "wide", dtype=dtype)
    for (name, ours), theirs in zip(
        model.named_parameters(), wide.parameters(), strict=True
    ):
        assert torch.equal(ours, theirs), name
    assert torch.equal(logits(model), logits(wide))


# ---- bytes by hand


def one(tmp_path, kind, shape, parts, short=0):
    """The matrix that parts in a file stand for; its last row is the same alone."""
    file = tmp_path / "one.safetensors"
    save_file({suffix or "w": part for suffix, part in parts.items()}, file)
    table = read_table(file)
    held = {TURNED.get(n, n).strip("w"): replace(e, name=n) for n, e in table.items()}
    bits = 4 if kind in ("INT4", "GPTQ") else 0
    made = Foreign("x.weight", kind, held, shape, bits, Scheme(short=short))
    with Reader(file) as reader:
        whole = made.read({file: reader}, 0, 0, shape[0])
        last = made.read({file: reader}, 0, shape[0] - 1, shape[0])
    assert torch.equal(whole[-1:], last)
    return whole.tolist()


def test_nvfp4_by_hand(tmp_path):
    """0x2A is 1 and, above it, -1; 0xF7 is 6 and -6; both libraries' global scale."""
    codes = torch.tensor([[0x21, 0xF7] + [0] * 6], dtype=torch.uint8)
    scale = torch.tensor([[0x40]], dtype=torch.uint8).view(torch.float8_e4m3fn)  # 2
    first = [0.5, 1, 6, -6] + [0] * 12
    theirs = {"": codes, "_scale": scale, "_scale_2": torch.tensor(0.25)}
    assert one(tmp_path, "NVFP4", (1, 16), theirs) == [[x * 0.5 for x in first]]
    others = {"_packed": codes, "_scale": scale, "_global_scale": torch.tensor([4.0])}
    assert one(tmp_path, "NVFP4", (1, 16), others) == [[x * 0.5 for x in first]]


def test_mxfp4_by_hand(tmp_path):
    """128 is 2, 126 a half."""
    codes = torch.full((2, 16), 0x23, dtype=torch.uint8)
    scales = torch.tensor([[128], [126]], dtype=torch.uint8)
    parts = {"_packed": codes, "_scale": scales}
    assert one(tmp_path, "MXFP4", (2, 32), parts) == [[3, 2] * 16, [0.75, 0.5] * 16]


def test_int4_by_hand(tmp_path):
    """0x76543210 is 0 to 7, the first column lowest, less 8."""
    parts = {"_packed": torch.tensor([[0x76543210]] * 2, dtype=torch.int32),
             "_scale": torch.tensor([[1.0], [0.5]])}  # fmt: skip
    want = [[x - 8.0 for x in range(8)], [(x - 8) / 2 for x in range(8)]]
    assert one(tmp_path, "INT4", (2, 8), parts) == want
    parts["_zero_point"] = torch.tensor([[0x31]], dtype=torch.int32)  # rows' 1 and 3
    want = [[x - 1.0 for x in range(8)], [(x - 3) / 2 for x in range(8)]]
    assert one(tmp_path, "INT4", (2, 8), parts) == want


def test_int4_in_the_order_of_activations(tmp_path):
    parts = {"_packed": torch.tensor([[0x76543210]], dtype=torch.int32),
             "_scale": torch.tensor([[1.0, 10.0]]),
             "_g_idx": torch.tensor([1, 0] * 4, dtype=torch.int32),
             "_shape": torch.tensor([1, 8])}  # fmt: skip
    want = [[(x - 8.0) * (1 if x % 2 else 10) for x in range(8)]]
    assert one(tmp_path, "INT4", (1, 8), parts) == want
    beyond = torch.tensor([2, 0] * 4, dtype=torch.int32)
    for spoilt in ({"_shape": torch.tensor([8, 1])}, {"_g_idx": beyond}):
        with pytest.raises(InputError, match=next(iter(spoilt))):
            one(tmp_path, "INT4", (1, 8), parts | spoilt)


def test_gptq_by_hand(tmp_path):
    """A column of words is a row of the matrix; files of version 1 say zero - 1."""
    parts = {"qweight": torch.tensor([[0x76543210, -1]], dtype=torch.int32),
             "qzeros": torch.tensor([[0x72]] * 2, dtype=torch.int32),
             "scales": torch.tensor([[1.0, 2.0], [10.0, 20.0]]),
             "g_idx": torch.tensor([0, 1] * 4, dtype=torch.int32)}  # fmt: skip
    by = [1.0, 10.0] * 4
    for short in (0, 1):
        zeros = 2 + short, 7 + short
        want = [[(x - zeros[0]) * by[x] for x in range(8)],
                [(15 - zeros[1]) * 2 * by[x] for x in range(8)]]  # fmt: skip
        assert one(tmp_path, "GPTQ", (2, 8), parts, short) == want


# ---- what a config says, and what the files hold


LAYER = "model.language_model.layers."
Q_PROJ = LAYER + "3.self_attn.q_proj"
EXPERT = LAYER + "1.mlp.experts.4.up_proj"


@pytest.fixture(scope="module")
def nvfp4(source, tmp_path_factory):
    return write(source, tmp_path_factory.mktemp("nvfp4"), modelopt_nvfp4, MODELOPT)


@pytest.fixture(scope="module")
def want(nvfp4):
    return logits(minqwen.load(nvfp4 / "wide"))


def copied(folder, to):
    to.mkdir()
    for file in ("model.safetensors", "config.json"):
        (to / file).write_bytes((folder / file).read_bytes())
    return to


def config(folder, **values):
    edit_json(folder / "config.json",
              lambda c: c["quantization_config"].update(values))  # fmt: skip


@pytest.mark.parametrize("names", [
    ["lm_head", "mtp*", "model.visual*"], ["mtp.fc"], [], ["re:.*self_attn.*"],
    ["model.language_model.layers.0.mlp.gate", "layers.0.mlp.gate"],
])  # fmt: skip
def test_no_list_decides(nvfp4, want, tmp_path, names):
    """Patterns, other prefixes, nothing of the draft head that was left in bf16."""
    one = copied(nvfp4, tmp_path / "one")
    config(one, ignore=names)
    assert torch.equal(logits(minqwen.load(one)), want)


def test_a_list_that_is_wrong_is_told(nvfp4, want, tmp_path):
    one = copied(nvfp4, tmp_path / "one")
    config(one, ignore=["lm_head", Q_PROJ.replace("model.language_model.", "model.")])
    with pytest.warns(UserWarning, match="q_proj.*not quantised, but"):
        model = minqwen.load(one)
    assert torch.equal(logits(model), want)


@pytest.mark.parametrize("shape", [(), (1,), (1, 1), (1, 1, 1)])
def test_one_scale_of_any_shape(nvfp4, want, tmp_path, shape):
    """modelopt's is a scalar, others write [1]; scales of activations say nothing."""
    one = copied(nvfp4, tmp_path / "one")

    def change(tensors):
        for name in [n for n in tensors if n.endswith("_scale_2")]:
            tensors[name] = tensors[name].reshape(shape)
        tensors[Q_PROJ + ".input_global_scale"] = torch.ones(1)
        tensors[Q_PROJ.replace("q_proj", "k_proj") + ".k_scale"] = torch.ones(())

    edit(one, change)
    with pytest.warns(UserWarning, match="left aside.*k_scale"):
        model = minqwen.load(one)
    assert torch.equal(logits(model), want)


def test_said_in_a_file_beside(nvfp4, want, tmp_path):
    """As modelopt wrote it before transformers read it."""
    one = copied(nvfp4, tmp_path / "one")
    edit_json(one / "config.json", lambda c: c.pop("quantization_config"))
    refused(one, "U8", "no quantization_config")
    said = {"producer": {"name": "modelopt"}, "quantization": {"quant_algo": "NVFP4"}}
    (one / "hf_quant_config.json").write_text(json.dumps(said))
    assert torch.equal(logits(minqwen.load(one)), want)


@pytest.mark.parametrize("form, word", [("GPTQ", "qweight"), ("int4", "weight_packed")])
def test_said_nowhere(source, tmp_path, form, word):
    """Which version GPTQ's zeros are of, no tensor tells."""
    write(source, tmp_path, FORMS[form][0](), {})
    edit_json(tmp_path / "config.json", lambda c: c.pop("quantization_config"))
    refused(tmp_path, word, "no quantization_config says how")
    told = describe(str(tmp_path))
    assert "yes, but config.json is silent" in told
    assert "loads        no: " in told and max(map(len, told.splitlines())) < 200


def test_two_forms_and_plain_ones_in_one_file(source, tmp_path):
    """Attention in FP8, experts in NVFP4 but one, the head quantised as well."""

    def by_name(name):
        return modelopt_nvfp4 if "experts" in name else fp8_by(0, 0, one=(1,))

    def pick(name):
        kinds = "q_proj", "o_proj", "out_proj", "lm_head", ".experts."
        return any(kind in name for kind in kinds) and not name.startswith(EXPERT)

    said = {"quant_method": "modelopt", "quant_algo": "MIXED_PRECISION"}
    write(source, tmp_path, by_name, said, pick)
    assert torch.equal(
        logits(minqwen.load(tmp_path)), logits(minqwen.load(tmp_path / "wide"))
    )
    told = describe(str(tmp_path))
    assert "FP8: delta layers, full layers, output head" in " ".join(told.split())
    assert "NVFP4: routed experts" in told


def test_blocks_by_any_name_stay_packed(source, tmp_path):
    """`.weight_scale` in blocks of 128 is what the release calls `_scale_inv`."""
    said = {"quant_method": CT, "format": "float-quantized"}
    write(source, tmp_path, fp8_by(128, 128, "_scale"), said)
    model = minqwen.load(tmp_path)
    assert {m.form for m in model.modules() if isinstance(m, Packed)} == {"fp8 f32"}
    assert torch.equal(logits(model), logits(minqwen.load(tmp_path / "wide")))


def test_gptq_labels_that_are_wrong(source, tmp_path):
    """Zeros of the other version are told by the middle; a g_idx of zeros is none."""
    write(source, tmp_path / "2", gptq(version=2), GPTQ)
    refused(tmp_path / "2", "in_proj_qkv.qzeros", "is of gptq_v2")
    config(tmp_path / "2", checkpoint_format="gptq_v2")
    wide = logits(minqwen.load(tmp_path / "2" / "wide"))
    assert torch.equal(logits(minqwen.load(tmp_path / "2")), wide)
    write(source, tmp_path / "1", gptq(), GPTQ | {"checkpoint_format": "gptq_v2"})
    refused(tmp_path / "1", "qzeros is of gptq, and")
    config(tmp_path / "1", checkpoint_format="gptq")
    edit(tmp_path / "1", lambda t: [p.zero_() for n, p in t.items() if "g_idx" in n])
    assert torch.equal(logits(minqwen.load(tmp_path / "1")), wide)


def test_a_scale_by_two_names(nvfp4, tmp_path):
    one = copied(nvfp4, tmp_path / "one")
    edit(one, lambda t: t.update({Q_PROJ + ".weight_scale_inv": torch.ones(2, 1)}))
    refused(one, Q_PROJ + ".weight")


def test_codes_that_are_no_matrix(nvfp4, tmp_path):
    one = copied(nvfp4, tmp_path / "one")
    codes = torch.zeros((), dtype=torch.uint8)
    edit(one, lambda t: t.update({Q_PROJ + ".weight": codes}))
    refused(one, Q_PROJ + ".weight is []")


@pytest.mark.parametrize("encode, more", [
    (fp8_by(128, 128, "_scale_inv"), dict(weight_block_size=[128, 128])),
    (fp8_by(32, 32, "_scale_inv"), dict(weight_block_size=[32, 32])),
    (fp8_by(0, 0, "_scale_inv", one=()), dict(weight_block_size=None)),
    (fp8_by(1, 0, "_scale", torch.bfloat16), dict(ignored_layers=["lm_head"])),
], ids=["128", "32", "one", "rows"])  # fmt: skip
def test_fp8_as_transformers_writes_it(source, tmp_path, encode, more):
    """Without `fmt`, static or not, in blocks or not."""
    said = {"quant_method": "fp8", "activation_scheme": "static"} | more
    write(source, tmp_path, encode, said)
    edit(tmp_path, lambda t: t.update({Q_PROJ + ".activation_scale": torch.ones(())}))
    wide = minqwen.load(tmp_path / "wide")
    assert torch.equal(logits(minqwen.load(tmp_path)), logits(wide))


@pytest.mark.parametrize("encode, blocks", [
    (fp8_by(32, 32, "_scale_inv"), [32, 32]),
    (fp8_by(0, 0, "_scale_inv", one=()), None),
], ids=["32", "one"])  # fmt: skip
def test_transformers_reads_the_same_numbers(tmp_path, encode, blocks):
    """In bf16, as it does without a GPU, experts stacked."""
    from transformers import AutoModelForCausalLM

    source = save_source(tmp_path / "s", vision=False, mtp_num_hidden_layers=0)
    plain = ["lm_head", "in_proj_a", "in_proj_b", "mlp.gate", "shared_expert_gate"]
    said = {"quant_method": "fp8", "weight_block_size": blocks}
    folder = write(source, tmp_path / "q", encode, said | {PLAIN[0]: plain})
    dtype = torch.bfloat16
    theirs = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
    theirs, count = dict(theirs.named_parameters()), 0
    for name, ours in minqwen.load(folder, dtype=dtype).named_parameters():
        if ours.dim() > 1:
            count += 1
            name = name.replace("language_model.", "")
            assert torch.equal(ours, theirs[name]), name
    assert count == 52  # all matrices


@pytest.mark.slow
def test_transformers_reads_these_int4_files(tmp_path):
    """With compressed-tensors, by its own config: as the widened ones."""
    from compressed_tensors.quantization import (
        QuantizationConfig,
        preset_name_to_scheme,
    )
    from transformers import AutoModelForCausalLM

    source = save_source(tmp_path / "s", vision=False, mtp_num_hidden_layers=0)
    scheme = preset_name_to_scheme("W4A16", ["Linear"])
    scheme.weights.group_size = 32
    said = QuantizationConfig(
        config_groups={"group_0": scheme}, format="pack-quantized",
        ignore=["lm_head", "re:.*in_proj_[ab]$", "re:.*gate$"],
        quantization_status="compressed",
    ).model_dump(mode="json")  # fmt: skip
    encode = packed_by("W4A16", "pack-quantized", group_size=32)
    folder = write(source, tmp_path / "q", encode, said | {"quant_method": CT})
    ids, found = torch.arange(3, 30)[None], []
    for at in (folder, folder / "wide"):
        theirs = AutoModelForCausalLM.from_pretrained(at, dtype=torch.bfloat16)
        with torch.no_grad():
            found.append(theirs.eval()(ids).logits)
    assert torch.equal(*found)
    ours = [minqwen.load(at, dtype=torch.bfloat16) for at in (folder, folder / "wide")]
    with torch.no_grad():
        assert torch.equal(ours[0](ids), ours[1](ids))


def test_fp8_experts_stacked_by_transformers(source, tmp_path):
    """gate and up in one block; scales that are powers of two."""
    tensors = load_file(source / "model.safetensors")
    wide = dict(tensors)
    for name in [n for n in tensors if n.endswith(("gate_up_proj", "down_proj"))]:
        codes = (tensors[name].float() * 8).to(torch.float8_e4m3fn)
        scales = torch.full((len(codes), 1, 1), 124, dtype=torch.uint8)
        scales[0] = 126
        tensors |= {name: codes, name + "_scale_inv": scales.view(torch.float8_e8m0fnu)}
        wide[name] = codes.float() / 8
        wide[name][0] *= 4
    said = {"quant_method": "fp8", "scale_fmt": "ue8m0", "weight_block_size": [64, 64]}
    cfg = json.loads((source / "config.json").read_text())
    for at, held, more in ((tmp_path / "a", tensors, {"quantization_config": said}),
                           (tmp_path / "b", wide, {})):  # fmt: skip
        at.mkdir()
        save_file(held, at / "model.safetensors")
        (at / "config.json").write_text(json.dumps(cfg | more))
    same = logits(minqwen.load(tmp_path / "a")), logits(minqwen.load(tmp_path / "b"))
    assert torch.equal(*same)


VALUES = [None, True, 0, -1, 4, 128, 2**40, 0.5, "", "x", "gptq", "A" * 10**4, [], [1],
          [128, 128], ["a"], [[1]], [{}], {}, {"format": "dense"}, {"format": [1]},
          {"weights": {"num_bits": 4}}, {"weights": None}]  # fmt: skip
KEYS = ["quant_method", "bits", "group_size", "fmt", "expert_dtype", "config_groups",
        "checkpoint_format", "format", "sparsity_config", "quant_algo", "desc_act",
        "load_in_4bit", "experts", "rest", *PLAIN, *SIZES]  # fmt: skip


def test_whatever_a_config_says():
    """A Scheme or an InputError, and lines that say so."""
    cfg, rng, opened = small_config(), random.Random(1), 0
    for _ in range(4000):
        said = {key: rng.choice(VALUES) for key in rng.sample(KEYS, 4)}
        said["quant_method"] = rng.choice([*READ, "minqwen", "awq", None])
        asked = replace(cfg, extra={"quantization_config": said})
        lines = dict(quantisation("nowhere", asked, {}))
        try:
            read_scheme(asked)
            opened += said["quant_method"] in READ
            assert lines["loads"].startswith("yes") or said["quant_method"] == "minqwen"
        except InputError as error:
            assert lines["loads"] == f"no: {error}" and lines["loads"].isprintable()
    assert opened > 500


# ---- into what it is turned


def test_convert_writes_what_was_widened(nvfp4, tmp_path):
    for form in ("bf16", "int8", "int4:int8"):
        for folder in (nvfp4, nvfp4 / "wide"):
            convert(folder, tmp_path / form / folder.name, form)
        found = [
            minqwen.load(tmp_path / form / f.name) for f in (nvfp4, nvfp4 / "wide")
        ]
        assert torch.equal(*map(logits, found))


def test_quantised_while_loading(nvfp4):
    model = minqwen.load(nvfp4, quantize="int8")
    same = minqwen.load(nvfp4 / "wide", quantize="int8")
    assert torch.equal(logits(model), logits(same))


def test_experts_on_disk(nvfp4, want, source, tmp_path):
    """Widened one by one, as they are chosen."""
    model = minqwen.load(nvfp4, experts="disk", expert_cache=10**5)
    assert torch.equal(logits(model), want)
    assert pages_of(model).stats.misses
    write(source, tmp_path, gptq(order=True), GPTQ)
    model = minqwen.load(tmp_path, experts="disk", expert_cache=10**5)
    assert torch.equal(logits(model), logits(minqwen.load(tmp_path / "wide")))


# ---- refusals


@pytest.mark.parametrize("said, words", [
    (dict(quant_method="awq", bits=4, group_size=128), ["awq", "AWQ"]),
    (dict(load_in_4bit=True), ["bitsandbytes"]),
    (dict(quant_method="quark"), ["quark", "Quark"]),
    (dict(bits=4, group_size=64, mode="affine"), ["mlx", "MLX"]),
    (dict(quant_method="auto-round", bits=4), ["auto-round", "AutoRound"]),
    (dict(quant_method="hqq"), ["hqq"]),
    (dict(quant_method=["gptq"]), ["gptq"]),
    (dict(quant_method="gptq", checkpoint_format="marlin"), ["marlin", "gptq_v2"]),
    (dict(quant_method=CT, transform_config={"groups": {}}), ["transform_config"]),
    (dict(quant_method=CT, sparsity_config={"format": "bitmask"}), ["bitmask"]),
    (dict(quant_method="gptq", bits=4), ["gptq", "none is GPTQ"]),
    (dict(quant_method="fp8", weight_block_size="128"), ["weight_block_size"]),
    (dict(quant_method="modelopt", ignore="lm_head"), ["ignore", "list of names"]),
])  # fmt: skip
def test_forms_that_are_not_read(nvfp4, tmp_path, said, words):
    """One sentence, which `info` gives too, beside what the config tells."""
    one = copied(nvfp4, tmp_path / "one")
    edit_json(one / "config.json", lambda c: c.update(quantization_config=said))
    message = refused(one, "config.json", *words)
    told = " ".join(describe(str(one)).split())
    assert f"loads no: {message}" in told


def spoilt(tensors, rng):
    """Damage a part of one matrix; what was done, and the module's name."""
    names = [n for n in tensors if Q_PROJ in n or EXPERT in n]
    name = rng.choice([n for n in names if not n.endswith(("input_scale", "_shape"))])
    part, kind = (
        tensors[name],
        rng.choice(["lost", "rows", "columns", "dtype", "value"]),
    )
    if kind == "lost":
        del tensors[name]
    elif kind in ("rows", "columns") and part.dim() > 1:
        cut = part[:-1] if kind == "rows" else part[:, :-1]
        tensors[name] = cut.contiguous()
    elif kind == "dtype" and part.element_size() > 1:
        tensors[name] = part.double() if part.is_floating_point() else part.short()
    elif part.dtype == torch.float8_e4m3fn:
        part.view(torch.uint8)[..., -1:] = rng.choice([0x7F, 0xFF, 0x80 + 8])
    elif "scale" in name:
        part[...] = rng.choice([torch.nan, torch.inf, -torch.inf, 0.0])
    else:
        kind = "nothing"
    return kind, name.rpartition(".")[0]


@pytest.mark.parametrize(
    "form", ["modelopt NVFP4", "NVFP4", "int4", "GPTQ", "fp8 rows"]
)
def test_spoilt_at_random(source, tmp_path, form):
    """Refused by the module's name; nothing else, and never other numbers."""
    encode, said = FORMS.get(form, (lambda: fp8_by(1, 0), {"quant_method": CT}))
    write(source, tmp_path, encode(), said | {"desc_act": True})
    good, rng = load_file(tmp_path / "model.safetensors"), random.Random(form)
    for _ in range(12):
        tensors = {name: part.clone() for name, part in good.items()}
        kind, module = spoilt(tensors, rng)
        if kind == "nothing":
            continue
        save_file(tensors, tmp_path / "model.safetensors")
        with pytest.raises(InputError, match=module.replace(".", r"\.")) as caught:
            minqwen.load(tmp_path)
            pytest.fail(f"{kind} of {module} loads")
        assert "\n" not in str(caught.value)


def test_plan_says_what_info_says(nvfp4, tmp_path):
    lines = iter(advise(nvfp4).splitlines())
    loads = next(line for line in lines if line.startswith("loads: "))
    assert "NVFP4 widened to bfloat16" in loads
    assert loads.replace(":", "", 1) in " ".join(describe(str(nvfp4)).split())
    size = sum(p.nbytes for p in minqwen.load(nvfp4, dtype=None).parameters())
    assert human(size) in loads
    one = copied(nvfp4, tmp_path / "one")
    config(one, quant_method="awq")
    assert "loads: no: config.json: quant_method is awq" in advise(one)
