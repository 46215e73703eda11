"""The largest model's whole layout, 806.8 GB in sparse files of a few MB."""

import re
import time
from types import SimpleNamespace

import pytest
import torch
from gguf_files import WHOLE
from test_paged import pages_of
from tiny_models import small_config

import minqwen
from minqwen.cli import commands as cli
from minqwen.model.config import Config
from minqwen.plan.contents import describe
from minqwen.weights import expected_tensors, open_checkpoint
from minqwen.weights.checkpoint.layout import skeleton
from minqwen.weights.checkpoint.match import match_tensors
from minqwen.weights.gguf.header import read_gguf
from tools import full_gguf
from tools.full_size import TOKEN, make, run, steer


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("397B")
    try:
        make(folder, Config.named("397B-A17B"))
    except OSError:
        pytest.skip("this file system has no sparse files of 17 GB")
    if sum(file.stat().st_blocks for file in folder.iterdir()) * 512 > 100e6:
        pytest.skip("this file system has no sparse files")
    return folder


def test_info_of_all_94_shards(folder, capsys):
    """Every header checked, every tensor matched; about a second, most of it torch."""
    begun = time.perf_counter()
    assert cli.main(["info", str(folder)]) == 0
    print(f"{time.perf_counter() - begun:.2f} s")
    text, by_name = capsys.readouterr().out, describe("397B-A17B")
    assert "403,397,928,944" in text and "806,795,875,168" in text
    same = [line for line in by_name.splitlines() if not line.startswith("config")]
    assert same == [line for line in text.splitlines() if line in same]


def test_the_layout_is_what_the_model_wants(folder):
    table, cfg = open_checkpoint(folder), Config.from_json(folder)
    names = {entry.file.name for entry in table.values()}
    assert len(names) == 94 and "model.safetensors-00001-of-00094.safetensors" in names
    assert {n: e.shape for n, e in table.items()} == {
        n: shape for n, (shape, _) in expected_tensors(cfg).items()}  # fmt: skip
    _, plan = match_tensors(folder, skeleton(cfg, torch.bfloat16), table)
    assert len(plan) == len(table) == 2924


def test_steering(tmp_path):
    """In a small one of the same make, the token visits just the experts it should."""
    cfg = small_config(mtp_num_hidden_layers=1)
    chosen, visited = steer(make(tmp_path, cfg, shards=5), cfg), []
    assert len(list(tmp_path.glob("*.safetensors"))) == 5
    model = minqwen.load(tmp_path, dtype=None, experts="disk", expert_cache=10**6)
    for block in model.model.language_model.layers:
        block.mlp.gate.register_forward_hook(
            lambda _, __, out: visited.append(sorted(out[1].flatten().tolist()))
        )
    with torch.inference_mode():
        model(torch.tensor([[TOKEN]]))
    assert visited == chosen
    assert pages_of(model).stats.misses == 4 * 5


@pytest.mark.slow
def test_a_small_one_as_gguf_takes_the_same_way(tmp_path, capsys):
    """In several parts and types; the run itself asserts where the token went."""
    widths = WHOLE | {"num_experts": 9, "num_attention_heads": 8}
    cfg = small_config(vision=False, **widths)
    file = full_gguf.make(tmp_path, cfg, part=500_000)
    chosen, table = full_gguf.steer(file, cfg), read_gguf(file).tensors
    assert len(list(tmp_path.iterdir())) > 2
    assert {"F32", "Q4_K", "Q6_K"} == {e.dtype for e in table.values()}
    sizes = [e.nbytes // 9 for name, e in table.items() if "_exps." in name]
    run(file, SimpleNamespace(cache=600_000), chosen, 2 * sum(sizes))
    told = capsys.readouterr().out
    read, predicted = re.search(r"as chosen: (.*), predicted (.*)", told).groups()
    assert read == predicted and "waiting for experts" in told
