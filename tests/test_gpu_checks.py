"""What of tools/gpu_checks.py can be known without a GPU."""

import json

import pytest
import torch

from minqwen.model.config import FULL
from minqwen.model.qwen import Qwen
from tools import gpu_checks


def test_it_says_what_it_would_do(capsys):
    assert gpu_checks.main(["bench", "--dry-run"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["would run"] == ["rule", "token", "experts", "packed", "slice"]
    assert all(callable(getattr(gpu_checks, name)) for name in plan["would run"])
    assert plan["installed"]["torch"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="of machines without a GPU")
@pytest.mark.parametrize("call", ["tests", "bench"])
def test_it_needs_a_gpu(call, capsys):
    assert gpu_checks.main([call]) == 1
    out, err = capsys.readouterr()
    assert not out and err.count("\n") == 1 and "needs an NVIDIA GPU" in err


def test_growth_is_1_where_time_is_linear():
    assert gpu_checks.growth({1024: 2.0, 4096: 8.0}) == 1
    assert gpu_checks.growth({1024: 1.0, 2048: 9.0, 4096: 6.0}) == 1.5


def test_slices_are_as_large_as_was_reckoned():
    assert [gpu_checks.layers_that_fit(x * 2**30) for x in (40, 79, 140, 180)] == [
        0, 4, 8, 8]  # fmt: skip
    sizes = {}
    for layers in (4, 8):
        with torch.device("meta"):
            model = Qwen(gpu_checks.slice_config(layers))
        sizes[layers] = 2 * sum(p.numel() for p in model.parameters())
    layer = (sizes[8] - sizes[4]) / 4
    assert abs(layer / gpu_checks.LAYER_BYTES - 1) < 0.02
    assert abs((sizes[4] - 4 * layer) / gpu_checks.ENDS_BYTES - 1) < 0.02
    full = gpu_checks.slice_config(4, full=True).text
    assert full.layer_types == (FULL,) * 4
