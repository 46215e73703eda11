"""The trainer learns, goes on after a kill as if nothing had happened, and is exact."""

import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from tiny_models import small_config

from minqwen.errors import InputError
from minqwen.model.deltanet import GatedDeltaNet
from minqwen.model.qwen import Qwen
from minqwen.train.corpus import Corpus
from minqwen.train.loop import (
    Recipe,
    long_memories,
    losses,
    optimizer_for,
    rate,
    row_loss,
    teach_tower,
    tiny_config,
    train,
)

pytestmark = pytest.mark.slow

TINY = Path(__file__).resolve().parent.parent / "assets" / "tiny"
SHORT = Recipe(
    steps=8, batch_size=2, seq_len=192, picture_share=0.5, warmup=2, tower_steps=3
)  # fmt: skip
SCRIPT = """
import os, signal, sys, torch
from pathlib import Path
import minqwen.train.loop as t
from minqwen.train.loop import Recipe, train
keep = t.keep
def keep_and_die(*args):
    keep(*args)
    if args[-2] == int(sys.argv[3]):
        os.kill(os.getpid(), signal.SIGKILL)
t.keep = keep_and_die
torch.set_num_threads(1)
recipe = Recipe(**eval(sys.argv[2]))
model, _ = train(Path(sys.argv[1]), recipe, resume=True, save_every=3)
torch.save(model.state_dict(), sys.argv[1] + "/done.pt")
"""


def folder_with_tokenizer(path):
    path.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (path / name).write_bytes((TINY / name).read_bytes())
    return path


def test_delta_heads_begin_with_long_and_short_memories():
    torch.manual_seed(0)
    model = Qwen(tiny_config())
    long_memories(model)
    layers = [m for m in model.modules() if isinstance(m, GatedDeltaNet)]
    steps = torch.cat([F.softplus(m.dt_bias) for m in layers])
    assert 1e-3 <= steps.min() < 2e-3 and 0.05 < steps.max() <= 0.1
    rates = torch.cat([m.A_log.exp() * F.softplus(m.dt_bias) for m in layers])
    half_lives = math.log(2) / rates
    assert half_lives.median() > 5 and (half_lives > 100).any()
    assert (half_lives < 2).any()


def start(folder, die_at=-1):
    """Train in a process of its own, which may kill itself after a checkpoint."""
    recipe = {k: getattr(SHORT, k) for k in SHORT.__dataclass_fields__}
    command = [sys.executable, "-c", SCRIPT, str(folder), repr(recipe), str(die_at)]
    return subprocess.Popen(command, env=os.environ | {"OMP_NUM_THREADS": "1"})


def test_killed_and_resumed_is_the_uninterrupted_run(tmp_path):
    """SIGKILL before the first batch, and again later: the weights are bit for bit."""
    straight = folder_with_tokenizer(tmp_path / "straight")
    killed = folder_with_tokenizer(tmp_path / "killed")
    assert start(straight).wait() == 0
    for die_at in (0, 3):
        assert start(killed, die_at).wait() == -signal.SIGKILL
    assert start(killed).wait() == 0
    a, b = (torch.load(f / "done.pt", weights_only=True) for f in (straight, killed))
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_resume_of_another_recipe_is_refused(tmp_path):
    folder = folder_with_tokenizer(tmp_path / "run")
    (folder / "resume.pt").parent.mkdir(exist_ok=True)
    torch.save({"recipe": {"steps": 1}, "step": 1}, folder / "resume.pt")
    with pytest.raises(InputError, match="another recipe"):
        train(folder, SHORT, resume=True)


def test_every_weight_learns_and_a_page_is_learned_by_heart():
    """One batch again and again: the loss falls far, and no parameter is left out."""
    torch.manual_seed(0)
    model = Qwen(small_config(mtp_num_hidden_layers=1))
    ids = torch.randint(0, 300, (2, 40))
    ids[:, 5:11] = torch.tensor([303, 301, 301, 301, 301, 304])
    targets = ids.roll(-1, dims=1)
    targets[:, -1] = -100
    batch = {"input_ids": ids, "targets": targets, "pixel_values": torch.rand(32, 1536),
             "image_grid_thw": torch.tensor([[1, 4, 4]] * 2)}  # fmt: skip
    recipe = Recipe(lr=1e-2)
    optimizer = optimizer_for(model, recipe)
    first, before = None, {n: p.detach().clone() for n, p in model.named_parameters()}
    for _ in range(40):
        loss = losses(model, batch, recipe)
        first = first or loss["next"].item()
        (loss["next"] + loss["mtp"] + 0.01 * loss["balance"]).backward()
        optimizer.step()
        optimizer.zero_grad()
    assert loss["next"].item() < first / 4
    assert loss["mtp"].item() < first / 2
    still = [n for n, p in model.named_parameters() if torch.equal(p, before[n])]
    assert not still


def test_row_loss_counts_rows_alike():
    logits = torch.zeros(2, 4, 8)
    logits[0, 0, 1] = 50.0  # certain and right: loss 0
    targets = torch.full((2, 4), -100)
    targets[0, 0] = 1
    targets[1] = 3  # four targets of ln 8 each
    even, pictured = torch.ones(2), torch.tensor([1.0, 8.0])
    assert row_loss(logits, targets, even).item() == pytest.approx(2.0794415 / 2)
    assert row_loss(logits, targets, pictured).item() == pytest.approx(4 * 2.0794415)


def test_the_tower_sees_before_it_speaks():
    """Alone first: its outputs become as long as token embeddings, and its alone."""
    torch.manual_seed(0)
    model = Qwen(tiny_config())
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    corpus = Corpus.build(TINY)
    teach_tower(model, corpus, SHORT)
    moved = [n for n, p in model.named_parameters() if not torch.equal(p, before[n])]
    assert moved and all(n.startswith("model.visual.") for n in moved)
    pixels, grids, _ = corpus.digits(SHORT.tower_steps - 1, 32)
    with torch.no_grad():
        long = model.model.visual(pixels, grids).norm(dim=1).mean()
    wanted = model.model.language_model.embed_tokens.weight.norm(dim=1).mean()
    assert long.item() == pytest.approx(wanted.item(), rel=0.5)  # one step on


def test_rate_warms_up_and_comes_down():
    recipe = Recipe(steps=1000, warmup=100, lr=1.0)
    rates = [rate(step, recipe) for step in range(1000)]
    assert rates[0] == 0.01 and rates[99] == 1.0 == max(rates)
    assert rates[999] == pytest.approx(0.02, abs=1e-4)
    assert rates[100:] == sorted(rates[100:], reverse=True)
    last = [rate(step, recipe) for step in range(1000, recipe.all_steps)]
    assert len(last) == 166 and last == sorted(last, reverse=True)
    assert last[0] == 0.2 and last[-1] == pytest.approx(0.2 / 166)
