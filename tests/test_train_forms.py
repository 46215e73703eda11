"""The trainer's forms beside float64, with all their gradients."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import torch.nn.functional as F

from minqwen.kernels import installed
from minqwen.model import forms
from minqwen.model.delta import delta_recurrent
from minqwen.model.deltanet import GatedDeltaNet, remember
from minqwen.model.norm import gated_rms_norm, rms_norm
from minqwen.model.qwen import Qwen
from minqwen.model.taps import listen
from minqwen.train.loop import losses
from minqwen.train.recipe import tiny_config
from minqwen.train.start import start
from tests.tiny_models import small_config

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not installed("numba"), reason="needs numba"),
]
BOUND = 5e-6


def error(mine, reference):
    return ((mine - reference).abs().max() / reference.abs().max()).item()


def results(function, inputs):
    """What a function returns, and the gradients of a sum of it with odd weights."""
    out = function(*inputs)
    out = [y for y in (out if isinstance(out, tuple) else (out,)) if y.requires_grad]
    total = sum(
        (y * torch.linspace(-1, 2, y.numel(), dtype=y.dtype).view(y.shape)).sum()
        for y in out
    )
    return [*out, *torch.autograd.grad(total, inputs)]


def compare(function, reference, inputs):
    """`function` in the kind "train" beside `reference` in float64."""
    wide = [x.detach().double().requires_grad_() for x in inputs]
    want = results(reference, wide)
    with forms.using("train"):
        got = results(function, [x.requires_grad_() for x in inputs])
    assert len(got) == len(want) and all(torch.isfinite(x).all() for x in got)
    errors = [error(*pair) for pair in zip(got, want, strict=True)]
    assert max(errors) < BOUND, errors


@pytest.mark.parametrize("shape", [(1, 1, 8), (2, 7, 128), (3, 5, 4, 20)])
def test_rms_norm(shape):
    torch.manual_seed(0)
    x, weight = torch.randn(shape) * 3, torch.randn(shape[-1])

    def reference(x, weight):
        return x * (x.square().mean(-1, keepdim=True) + 1e-6).rsqrt() * (1 + weight)

    compare(lambda x, w: rms_norm(x, w, 1e-6), reference, [x, weight])
    # As a slice of something wider, which is how heads come.
    wider = torch.randn(*shape[:-1], 2 * shape[-1])
    compare(
        lambda x, w: rms_norm(x.chunk(2, -1)[0], w, 1e-6),
        lambda x, w: reference(x.chunk(2, -1)[0], w),
        [wider, weight],
    )


@pytest.mark.parametrize("shape", [(1, 1, 1, 8), (2, 9, 3, 32), (2, 5, 2, 20)])
def test_gated_rms_norm(shape):
    torch.manual_seed(0)
    x, z, weight = torch.randn(shape), torch.randn(shape) * 4, torch.randn(shape[-1])

    def reference(x, z, weight):
        x = x * (x.square().mean(-1, keepdim=True) + 1e-6).rsqrt()
        return x * weight * F.silu(z)

    compare(lambda *inputs: gated_rms_norm(*inputs, 1e-6), reference, [x, z, weight])


def rule_inputs(B, T, Hk, K, H, V, W=4, seed=0):
    """qkv, weight, g, beta: of heads that forget nothing and all, believe none and all.

    Of a token in each row q, k and v are nearly zero, as padding's are.
    """
    torch.manual_seed(seed)
    qkv = torch.randn(B, T, 2 * Hk * K + H * V)
    qkv[:, T // 2] *= 1e-4
    weight = torch.randn(qkv.shape[-1], 1, W)
    g = -(torch.rand(B, T, H) * 12 - 8).exp()  # from -0.0003 to -55
    beta = (torch.randn(B, T, H) * 4).sigmoid()
    return [qkv, weight, g, beta]


def rule_reference(Hk, K, H, V):
    """What `Memory` computes, by the loop over tokens, in its inputs' dtype."""

    def unit(x):
        return x * (x.square().sum(-1, keepdim=True) + 1e-6).rsqrt()

    def reference(qkv, weight, g, beta):
        x = F.pad(qkv.mT, (weight.shape[-1] - 1, 0))
        x = F.silu(F.conv1d(x, weight, groups=len(weight))).mT
        q, k, v = x.split([Hk * K, Hk * K, H * V], dim=-1)
        q, k = (unit(y.unflatten(-1, (Hk, K))) for y in (q, k))
        v = v.unflatten(-1, (H, V))
        return delta_recurrent(q * K**-0.5, k, v, g=g, beta=beta)

    return reference


def memory(*sizes):
    from minqwen.kernels.train.memory import Memory

    return lambda *inputs: Memory.apply(*inputs, sizes)


@pytest.mark.parametrize(
    "B, T, sizes",
    [
        (1, 1, (1, 32, 1, 32)),
        (2, 2, (2, 32, 4, 32)),
        (1, 16, (1, 16, 3, 24)),
        (3, 17, (2, 8, 2, 20)),
        (2, 77, (4, 32, 8, 32)),
        (1, 160, (1, 20, 2, 7)),
    ],
)
def test_memory(B, T, sizes):
    inputs = rule_inputs(B, T, *sizes)
    compare(memory(*sizes), rule_reference(*sizes), inputs)
    compare(memory(*sizes), rule_reference(*sizes), rule_inputs(B, T, *sizes, W=2))


def layer():
    torch.manual_seed(0)
    mixer = GatedDeltaNet(small_config().text)
    with torch.no_grad():
        for p in mixer.parameters():
            p.add_(torch.randn_like(p) * 0.2)
    return mixer, torch.randn(2, 21, mixer.in_proj_b.in_features)


def test_remember_is_the_torch_form():
    mixer, x = layer()

    def everything(kind):
        with forms.using(kind):
            o, window, state = remember(mixer.in_proj_qkv(x), x, mixer)
        learning = [p for n, p in mixer.named_parameters() if n.split(".")[0]
                    not in ("in_proj_z", "norm", "out_proj")]  # fmt: skip
        total = o.sin().sum() + window.sin().sum() + state.sin().sum()
        return o, window, state, *torch.autograd.grad(total, learning)

    pairs = zip(everything("train"), everything("torch"), strict=True)
    assert max(error(*pair) for pair in pairs) < 1e-5
    with forms.using("train"):
        short = remember(mixer.in_proj_qkv(x[:, :2]), x[:, :2], mixer)[1]
    assert torch.equal(short[:, :1], torch.zeros_like(short[:, :1]))


def test_other_calls_are_left_to_torch():
    mixer, x = layer()
    qkv = mixer.in_proj_qkv(x)
    state = torch.zeros(2, mixer.heads, mixer.head_k_dim, mixer.head_v_dim)
    wide = GatedDeltaNet(small_config(linear_key_head_dim=40).text)
    norm = x, torch.ones(x.shape[-1]), 1e-6
    with forms.using("train"):
        assert forms.chosen("remember", qkv, x, mixer)
        assert forms.chosen("rms_norm", *norm)
        assert not forms.chosen("remember", qkv, x, mixer, None, state)
        assert not forms.chosen("remember", qkv, x, wide)
        assert not forms.chosen("remember", qkv.double(), x.double(), mixer)
        assert not forms.chosen("rms_norm", x.bfloat16(), *norm[1:])
        assert not forms.chosen("gated_rms_norm", x, x.bfloat16(), *norm[1:])
    assert not forms.chosen("rms_norm", *norm), "nobody asked for it"


@pytest.fixture(scope="module")
def learner():
    """The small model of the trainer, and a batch."""
    torch.manual_seed(0)
    model = Qwen(tiny_config()).train()
    start(model)
    return model, torch.randint(0, 2000, (4, 50))


def gradient(model, kind, loss):
    with forms.using(kind):
        loss = loss()
        found = torch.autograd.grad(loss, [*model.parameters()], allow_unused=True)
    return [loss, *(x for x in found if x is not None)]


def test_a_whole_model_learns_the_same(learner):
    model, ids = learner

    def loss():
        batch = dict(input_ids=ids[:, :-1], targets=ids[:, 1:])
        return sum(losses(model, batch).values())

    pairs = zip(
        gradient(model, "train", loss), gradient(model, "torch", loss), strict=True
    )
    assert max(error(*pair) for pair in pairs) < 1e-4


def test_listeners_hear_the_rule(learner):
    model, ids = learner
    heard = []
    with listen(model, rule=lambda layer, **_: heard.append(layer)):
        with forms.using("train"):
            model(ids)
    assert heard


def test_the_same_bits_again_and_from_two_threads(learner):
    model, ids = learner

    def of(rows):
        return gradient(model, "train", lambda: model(rows).square().mean())

    halves = ids.chunk(2)
    want = [of(rows) for rows in halves]
    with ThreadPoolExecutor(2) as pool:
        for found in [*pool.map(of, halves), *pool.map(of, halves)]:
            expected = want.pop(0)
            assert all(map(torch.equal, found, expected))
            want.append(expected)
