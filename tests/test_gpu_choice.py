"""Who chooses Triton, what a model computes with it, and that nothing needs a GPU."""

import math
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

import minqwen
from minqwen import kernels
from minqwen.engine.generate import decoder
from minqwen.model import forms
from minqwen.model.taps import listen
from tests.gpu_forms import DEVICE, error
from tests.tiny_models import small_model

pytestmark = pytest.mark.slow

gpu = pytest.importorskip("minqwen.kernels.gpu")
TINY = "assets/tiny"


def twins(**changes):
    """A model as it is and the same with its operations in Triton."""
    few = {} if "moe" in changes else dict(num_experts=9, num_experts_per_tok=2)
    changes |= dict(vision=False) | few
    pair = small_model(**changes).to(DEVICE), small_model(**changes).to(DEVICE)
    for model, kind in zip(pair, ("torch", "triton"), strict=True):
        model.kernels = kind
    return pair


@torch.inference_mode()
def test_a_fast_model_is_the_model():
    plain, fast = twins()
    ids = torch.randint(0, 300, (2, 4), device=DEVICE)
    mask = torch.ones_like(ids)
    mask[1, :2] = 0
    ours, theirs = fast.new_cache(2, 20), plain.new_cache(2, 20)
    mine, reference = fast(ids, mask, cache=ours), plain(ids, mask, cache=theirs)
    assert error(mine[mask.bool()], reference[mask.bool()]) < 2e-5
    for token in ids.T[:1, :, None]:
        mine, reference = fast(token, cache=ours), plain(token, cache=theirs)
        assert error(mine, reference) < 2e-5


@torch.inference_mode()
def test_listeners_hear_the_same():
    plain, fast = twins()
    ids = torch.randint(0, 300, (1, 3), device=DEVICE)
    traces = []
    for model in (plain, fast):
        with minqwen.record(model, states=[(1, 2)]) as trace:
            model(ids)
        traces.append(trace.tensors)
    for name, mine in traces[1].items():
        apart = np.abs(mine.astype(float) - traces[0][name].astype(float)).max()
        weights = mine.dtype == np.uint8  # 1 is the last digit of what is stored
        assert apart <= weights if mine.dtype.kind in "iu" else apart < 1e-2, name


def test_a_fast_model_has_gradients():
    plain, fast = twins(moe=False)
    ids = torch.randint(0, 300, (1, 6), device=DEVICE)
    for model in (plain, fast):
        model(ids).float().logsumexp(-1).mean().backward()
    others = dict(fast.named_parameters())
    for name, p in plain.named_parameters():
        if p.grad is not None:
            assert error(others[name].grad, p.grad) < 1e-4, name


@torch.inference_mode()
def test_a_step_of_fixed_shape_is_the_model():
    """All of a CUDA graph but the recording, which wants a GPU."""
    from minqwen.kernels.gpu.graph import RecordedStep

    plain, fast = twins()
    ids = torch.randint(0, 300, (1, 3), device=DEVICE)
    ours, theirs = fast.new_cache(1, 20), plain.new_cache(1, 20)
    for model, cache in ((fast, ours), (plain, theirs)):
        model(ids, cache=cache)
    kv = ours.layers[-1]
    kv.k[:, :, 3:], kv.v[:, :, 3:] = math.nan, math.nan  # as memory may come
    step = RecordedStep(fast, ours, span=16)
    for token in (3, 200):
        step.id.fill_(token)
        step.position.copy_(theirs.next_position)
        step.length.fill_(theirs.length)
        reference = plain(torch.tensor([[token]], device=DEVICE), cache=theirs)
        assert error(step(), reference) < 2e-5


@pytest.mark.skipif(DEVICE == "cpu", reason="CUDA graphs need a GPU")
@torch.inference_mode()
def test_a_recorded_answer_is_the_model():
    from minqwen.kernels.gpu import graph

    plain, fast = twins()
    ids = torch.randint(0, 300, (1, 9), device=DEVICE)
    ours, theirs = fast.new_cache(1, 60), plain.new_cache(1, 60)
    for model, cache in ((fast, ours), (plain, theirs)):
        model(ids, cache=cache)
    decode = decoder(fast, ours, 50)
    assert isinstance(decode, graph.Decoder)
    for token in torch.randint(0, 300, (40, 1, 1), device=DEVICE):
        assert error(decode(token, ours), plain(token, cache=theirs)) < 1e-4
    again = ours.copy()  # other addresses: recorded anew
    assert error(decode(token, again), plain(token, cache=theirs)) < 1e-4


@torch.inference_mode()
def test_a_listener_hears_a_model_that_would_be_recorded():
    """With a listener no graph is recorded, so every layer is heard in every step."""
    _, fast = twins()
    prompt, heard = {"input_ids": torch.arange(5, 14, device=DEVICE)[None]}, []
    with listen(fast, resid_post=lambda layer, x: heard.append(layer)):
        list(minqwen.generate(fast, prompt, kernels.RECORDED, stop_ids=[]))
    layers = list(range(fast.cfg.text.num_hidden_layers))
    assert heard == kernels.RECORDED * layers


def test_what_is_picked(monkeypatch):
    x = torch.zeros(1, 300, 2, 4, device=DEVICE)
    with forms.using("triton"):
        assert forms.chosen("delta_rule", x) is gpu.delta_rule
        assert forms.chosen("causal_conv", x) is None, "gradients are wanted"
        with torch.no_grad():
            assert forms.chosen("causal_conv", x) is gpu.causal_conv
        assert forms.chosen("delta_rule", x.double()) is None
        assert forms.chosen("delta_rule", x.to("meta")) is None
    if DEVICE == "cuda":
        assert forms.chosen("delta_rule", x) is gpu.delta_rule
    # Triton and fla may be installed where there is no GPU: left alone, nothing asks.
    monkeypatch.setattr(kernels, "installed", lambda library: library != "numba")
    assert forms.chosen("delta_rule", x[:, :1].cpu()) is None
    assert forms.chosen("delta_rule", x.cpu()) is None


@pytest.mark.skipif(DEVICE == "cuda", reason="of machines without a GPU")
def test_without_a_gpu_a_wrong_choice_is_one_sentence(monkeypatch):
    env = os.environ | {"MINQWEN_KERNELS": "triton"}
    del env["TRITON_INTERPRET"]
    command = [sys.executable, "-m", "minqwen", "generate", TINY, "--prompt", "hello"]
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert done.returncode != 0 and "Traceback" not in done.stderr
    assert "kernels='triton' needs an NVIDIA GPU" in done.stderr
    with pytest.raises(minqwen.InputError, match="pip install flash-linear-attention"):
        forms.known("fla")
    monkeypatch.setattr(kernels, "installed", lambda library: True)
    with pytest.raises(minqwen.InputError, match="kernels='fla' needs an NVIDIA GPU"):
        minqwen.load(TINY, kernels="fla")
    assert forms.known("triton") == "triton", "its interpreter is there"
    monkeypatch.delenv("TRITON_INTERPRET")
    with pytest.raises(minqwen.InputError, match="needs an NVIDIA GPU"):
        forms.known("triton")


@pytest.mark.skipif(DEVICE == "cuda", reason="of machines without a GPU")
def test_triton_installed_and_no_gpu_to_run_it(tmp_path):
    """And an fla that would fail at once, should anything but a name import it."""
    (tmp_path / "fla").mkdir()
    (tmp_path / "fla/__init__.py").write_text("raise RuntimeError('0 active drivers')")
    env = os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{os.getcwd()}"}
    del env["TRITON_INTERPRET"]
    code = (
        "import triton, minqwen; from minqwen import kernels;"
        "assert kernels.installed('fla') and kernels.installed('triton');"
        f"m = minqwen.load({TINY!r}); p = minqwen.Processor.load({TINY!r});"
        "i = p.chat([{'role': 'user', 'content': 'hello'}]);"
        "print(len(list(minqwen.generate(m, i, 4, processor=p))))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
