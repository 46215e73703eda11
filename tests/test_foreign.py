"""Other libraries' quantised files: the numbers they stand for, by those libraries."""

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
from test_paged import logits

import minqwen


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
