"""Experts left on disk: the same logits, from exactly the bytes of the chosen ones."""

import os
import shutil
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file
from test_kernels_cpu import error
from test_weights import rewrite, split_experts
from tiny_models import small_model

import minqwen
from minqwen.errors import InputError
from minqwen.kernels import whole_on_cpu
from minqwen.kernels.cpu.decode import Decoder
from minqwen.kernels.cpu.read import PromptReader
from minqwen.model.forms import using, whole
from minqwen.weights.checkpoint import memory
from minqwen.weights.convert import convert
from minqwen.weights.disk import paged
from minqwen.weights.disk.paged import Mapped, OnDisk
from minqwen.weights.quantised.modules import places
from tools.disk_speed import Limit

pytestmark = pytest.mark.slow

ONE = 3 * 24 * 64  # parameters of an expert; 33 in each of 5 layers, 5 for a token


@pytest.fixture(scope="module", params=["fused", "single"])
def folder(request, tmp_path_factory):
    """A small bf16 checkpoint with a draft head, its experts fused or one by one."""
    folder = tmp_path_factory.mktemp(request.param)
    model = small_model(mtp_num_hidden_layers=1).to(torch.bfloat16)
    minqwen.save(model, folder)
    if request.param == "single":
        rewrite(folder, split_experts)
    else:  # the draft head's too
        rewrite(folder, lambda _: dict(model.state_dict()))
    return folder


def pages_of(model):
    return next(m.pages for m in model.modules() if hasattr(m, "pages"))


def logits(model, T=40):
    """Of a prompt, of tokens one by one after it, and of the draft head."""
    ids = torch.arange(3, 3 + T)[None] * 7 % 290
    with torch.inference_mode():
        cache = model.new_cache(1, T + 3)
        parts = [model(ids, cache=cache)]
        for token in (5, 77, 140):
            parts.append(model(torch.tensor([[token]]), cache=cache))
        hidden = model.hidden(ids)
        parts.append(model.draft(hidden[:, :-1], ids[:, 1:])[0])
    return torch.cat(parts, dim=1)


# ---- the same logits


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("slots", [1, 4, 12, 1000])
def test_logits_are_bit_equal(folder, dtype, slots):
    """Whether the cache holds less than a token's experts, or more than all."""
    if dtype == torch.float16 and slots != 12:
        return
    size = slots * ONE * dtype.itemsize
    model = minqwen.load(folder, dtype=dtype, experts="disk", expert_cache=size)
    layers = {m.layer for m in model.modules() if isinstance(m, OnDisk)}
    assert len(layers) == 5 and not pages_of(model).mapped
    assert pages_of(model).capacity == min(slots, 5 * 33)
    assert pages_of(model).cache_bytes <= size
    assert torch.equal(logits(model), logits(minqwen.load(folder, dtype=dtype)))


def test_mapped_where_all_fit(folder):
    """Fused and of the dtype asked for; else a cache with room for all of them."""
    kept = minqwen.load(folder, dtype=None)
    model = minqwen.load(folder, dtype=None, experts="disk")
    layer = model.model.language_model.layers[0].mlp.experts
    if isinstance(layer.down_proj, Mapped):
        assert pages_of(model).mapped and folder.name.startswith("fused")
    else:
        assert pages_of(model).capacity == 5 * 33
    assert torch.equal(logits(model), logits(kept))
    wide = minqwen.load(folder, experts="disk")
    assert not pages_of(wide).mapped
    assert torch.equal(logits(wide), logits(minqwen.load(folder)))


def test_the_released_layout(tmp_path):
    """Fused in the layers, which are mapped, and one by one in the draft head."""
    minqwen.save(small_model(mtp_num_hidden_layers=1).to(torch.bfloat16), tmp_path)
    model = minqwen.load(tmp_path, dtype=None, experts="disk")
    kinds = [m for m in model.modules() if hasattr(m, "pages")]
    assert len({m.layer for m in kinds if isinstance(m, Mapped)}) == 4
    head = model.mtp.layers[0].mlp.experts
    assert type(head.down_proj) is OnDisk and head.down_proj.pages.capacity == 33
    assert head.down_proj.pages.stats is kinds[0].pages.stats
    assert torch.equal(logits(model), logits(minqwen.load(tmp_path, dtype=None)))


def test_a_cache_where_they_do_not_fit(folder, monkeypatch):
    monkeypatch.setattr(paged, "available", lambda: 20 * ONE * 2)
    model = minqwen.load(folder, dtype=None, experts="disk")
    assert not pages_of(model).mapped and pages_of(model).capacity == 9  # 0.9 / 2 * 20


def test_generate_writes_the_same(folder):
    inputs = dict(input_ids=torch.arange(5, 20)[None])
    size = 12 * ONE * 4
    model = minqwen.load(folder, experts="disk", expert_cache=size)
    for draft in (0, 2):
        want, got = (
            [step.token for step in minqwen.generate(m, inputs, 20, draft=draft)]
            for m in (minqwen.load(folder), model)
        )
        assert got == want


# ---- what is read


def test_exactly_the_chosen_experts_are_read(folder):
    model = minqwen.load(folder, dtype=None, experts="disk", expert_cache=10**9)
    chosen, stats = [], pages_of(model).stats
    for i, block in enumerate(model.model.language_model.layers):

        def note(gate, x, out, i=i):
            chosen.append({(i, e) for e in out[1].flatten().tolist()})

        block.mlp.gate.register_forward_hook(note)
    ids = torch.tensor([[7]])
    with torch.inference_mode():
        model(ids)
        assert (stats.hits, stats.misses) == (0, 4 * 5)
        assert stats.bytes_read == 4 * 5 * ONE * 2
        before = set().union(*chosen)
        chosen.clear()
        old, model_again = stats - type(stats)(), model(torch.tensor([[9, 11, 200]]))
    new, now = stats - old, set().union(*chosen)
    assert new.hits == len(now & before) and new.misses == len(now - before)
    assert new.bytes_read == len(now - before) * ONE * 2
    assert 0 < new.read_seconds <= new.expert_seconds
    assert model_again.shape == (1, 3, 320)


def test_the_longest_unused_makes_room(folder):
    model = minqwen.load(folder, dtype=None, experts="disk", expert_cache=3 * ONE * 2)
    pages, layer = pages_of(model), "model.language_model.layers.0.mlp.experts"
    pages.fetch(layer, [0, 1, 2])
    pages.fetch(layer, [0])
    pages.fetch(layer, [3])  # in the place of 1
    assert {e for _, e in pages.places.of} == {0, 2, 3}
    slots = pages.fetch(layer, [3, 0, 2])
    assert pages.stats.misses == 4 and pages.stats.hits == 4
    kept = minqwen.load(folder, dtype=None).get_submodule(layer)
    for kind in ("gate_up_proj", "down_proj"):
        held = pages.slots[kind][slots]
        assert torch.equal(held, getattr(kept, kind)[[3, 0, 2]])


def test_nothing_but_the_rest_is_loaded(folder):
    model = minqwen.load(folder, experts="disk", expert_cache=ONE * 4)
    whole = minqwen.load(folder)
    assert model.num_parameters() == whole.num_parameters()
    held = sum(p.nbytes for p in model.parameters() if not p.is_meta)
    assert held == sum(p.nbytes for p in whole.parameters()) - 5 * 33 * ONE * 4


# ---- what may go wrong


def spoil(folder, tmp_path, change):
    copy = shutil.copytree(folder, tmp_path / "copy")
    rewrite(copy, lambda tensors: change(tensors) or tensors)
    return copy


@pytest.mark.parametrize("cache", [None, 12 * ONE * 2])
def test_values_that_are_no_numbers(folder, tmp_path, cache):
    """Told when the expert is chosen, the first moment anybody reads it."""

    def change(tensors):
        for name, tensor in tensors.items():
            if ".layers.2.mlp.experts." in name and "down_proj" in name:
                (tensor[:, 0] if tensor.dim() == 3 else tensor[0])[...] = torch.nan

    copy = spoil(folder, tmp_path, change)
    model = minqwen.load(copy, dtype=None, experts="disk", expert_cache=cache)
    with pytest.raises(InputError, match=r"layers\.2\.mlp.*: expert \d+ holds NaN"):
        logits(model)


@pytest.mark.parametrize("how", ["shorter", "other values"])
@pytest.mark.parametrize("cache", [None, 12 * ONE * 2])
def test_a_file_that_changes_while_it_is_in_use(folder, tmp_path, how, cache):
    copy = shutil.copytree(folder, tmp_path / "copy")
    file = copy / "model.safetensors"
    model = minqwen.load(copy, dtype=None, experts="disk", expert_cache=cache)
    logits(model, T=2)
    if how == "shorter":
        os.truncate(file, file.stat().st_size // 4)
    else:
        raw = bytearray(file.read_bytes())
        raw[-2] ^= 1
        file.write_bytes(raw)
    with pytest.raises(InputError, match="safetensors (was changed|became shorter)"):
        logits(model)
    if cache:
        assert not pages_of(model).places.of  # no slot half read is believed


def test_a_file_replaced_by_another_is_still_open(folder, tmp_path):
    """As `save` and downloads do it: a new file of the same name."""
    copy = shutil.copytree(folder, tmp_path / "copy")
    model = minqwen.load(copy, experts="disk", expert_cache=12 * ONE * 4)
    minqwen.save(small_model(seed=9, mtp_num_hidden_layers=1), copy)
    assert torch.equal(logits(model), logits(minqwen.load(folder)))


def test_bad_options(folder, tmp_path):
    for options, word in (
        (dict(expert_cache=10**6), "experts='memory'"),
        (dict(experts="disk", expert_cache=0), "number of bytes"),
        (dict(experts="disk", expert_cache=ONE * 4 - 1), str(ONE * 4)),
    ):
        with pytest.raises(InputError, match=word):
            minqwen.load(folder, **options)
    minqwen.save(small_model(moe=False), tmp_path)
    with pytest.raises(InputError, match="no experts to leave on disk"):
        minqwen.load(tmp_path, experts="disk")


def test_a_paged_model_cannot_be_saved_or_moved(folder, tmp_path):
    model = minqwen.load(folder, experts="disk", expert_cache=ONE * 4)
    with pytest.raises(InputError, match="experts='memory'"):
        minqwen.save(model, tmp_path)
    with pytest.raises(InputError, match="load the model again"):
        model.to(torch.bfloat16)


def test_a_mapped_model_cannot_write_into_its_file(folder):
    before = load_file(folder / "model.safetensors")
    model = minqwen.load(folder, dtype=None, experts="disk")
    with torch.no_grad():
        for p in model.parameters():
            p.zero_() if not p.is_meta else None
    after = load_file(folder / "model.safetensors")
    assert all(torch.equal(t, after[name]) for name, t in before.items())


def test_free_memory_is_positive_and_less_than_all_there_is():
    assert 0 < memory.available() < memory.installed()


def test_free_memory_in_a_control_group():
    """A real one, of the kind containers and schedulers use; where they may be made."""
    limit = 2**30
    try:
        held = Limit(limit)
    except (SystemExit, OSError):
        pytest.skip("control groups cannot be made here")
    code = "from minqwen.weights.checkpoint.memory import available; print(available())"
    try:
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True,
            preexec_fn=held.enter, env=os.environ | {"PYTHONPATH": ":".join(sys.path)},
        )  # fmt: skip
    finally:
        held.remove()
    assert done.returncode == 0, done.stderr
    assert limit / 4 < int(done.stdout) < limit


# ---- the compiled step


@pytest.mark.parametrize("form", ["fp32", "bf16", "int4:int8", "fp8"])
@torch.inference_mode()
def test_the_compiled_step_reads_as_the_reference_does(tmp_path, form):
    """With room for one expert, for fewer than a text chooses, and for all."""
    dtype = torch.bfloat16 if form == "bf16" else torch.float32
    folder = tmp_path / form
    minqwen.save(small_model().to(torch.bfloat16), folder)
    if form not in ("fp32", "bf16"):
        convert(folder, tmp_path / "packed", quantize=form)
        folder = tmp_path / "packed"
    kept = minqwen.load(folder, dtype=dtype)
    ids = torch.randint(0, 300, (24, 1, 1))
    want, written = kept.new_cache(1, 24), []
    want = torch.cat([kept(one, cache=want) for one in ids])
    experts = (p for n, p in places(kept).items() if ".layers.0.mlp.experts." in n)
    one = sum(p.nbytes for p in experts) // 33
    for slots in (1, 30, 4 * 33):
        model = minqwen.load(
            folder, dtype=dtype, experts="disk", expert_cache=slots * one
        )
        with using("numba"):
            cache = model.new_cache(1, 24)
            decode = whole("step", model, cache, 24)
        assert isinstance(decode, Decoder)
        written.append(torch.cat([decode(token, cache) for token in ids]))
        stats = pages_of(model).stats
        assert stats.hits + stats.misses == 24 * 4 * 5
        assert pages_of(model).capacity == slots
        assert slots == 4 * 33 or stats.misses > slots  # some were pushed out
        assert 0 < stats.wait_seconds <= stats.read_seconds <= stats.expert_seconds
        # In bf16, torch rounds where the loops do not, and chooses other experts.
        assert form == "bf16" or error(written[-1], want) < 2e-5
    assert torch.equal(written[0], written[1]) and torch.equal(written[0], written[2])
    memory = kept.new_cache(1, 24)
    memory = torch.cat([Decoder(kept)(one, memory) for one in ids])
    assert error(written[0], memory) < 2e-6


@pytest.mark.parametrize("form", ["fp32", "bf16", "int4:int8", "fp8"])
@torch.inference_mode()
def test_a_prompt_is_read_as_it_is_in_memory(tmp_path, form):
    """To the bit, however few experts there is room for; mapped, where they can be."""
    dtype, folder = torch.bfloat16 if form == "bf16" else None, tmp_path / "plain"
    model = small_model()
    minqwen.save(model if form == "fp32" else model.to(torch.bfloat16), folder)
    if form not in ("fp32", "bf16"):
        convert(folder, tmp_path / "packed", quantize=form)
        folder = tmp_path / "packed"
    kept = minqwen.load(folder, dtype=dtype)
    experts = (p for n, p in places(kept).items() if ".layers.0.mlp.experts." in n)
    one = sum(p.nbytes for p in experts) // 33
    ids = torch.randint(0, 300, (1, 40))
    read, cache = PromptReader(kept), kept.new_cache(1, 80)
    want = read(ids, cache), read(ids.flip(1), cache)
    for slots in (1, 30, None):
        model = minqwen.load(
            folder, dtype=dtype, experts="disk", expert_cache=slots and slots * one
        )
        read, cache = PromptReader(model), model.new_cache(1, 80)
        assert whole_on_cpu(model, cache, 40)
        got = read(ids, cache), read(ids.flip(1), cache)
        assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))
        stats = pages_of(model).stats
        assert stats.hits + stats.misses > 2 * 4 * 5 and stats.expert_seconds > 0


@torch.inference_mode()
def test_the_compiled_step_on_mapped_files(folder):
    model, kept = (
        minqwen.load(folder, dtype=None, experts=e) for e in ("disk", "memory")
    )
    caches = [m.new_cache(1, 9) for m in (model, kept)]
    for token in torch.randint(0, 300, (9, 1, 1)):
        got, want = (
            Decoder(m)(token, c) for m, c in zip((model, kept), caches, strict=True)
        )
        assert error(got, want) < 2e-6
