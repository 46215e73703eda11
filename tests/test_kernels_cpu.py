"""The numba loops beside the torch forms they stand for."""

import os
import subprocess
import sys

import numba
import pytest
import torch

import minqwen
from minqwen import kernels, terminal
from minqwen.engine.generate import decoder
from minqwen.engine.prefill import prefill, reader
from minqwen.kernels import cpu
from minqwen.kernels.cpu import read, read_mlp
from minqwen.kernels.cpu.decode import Decoder
from minqwen.kernels.cpu.read import PromptReader
from minqwen.model import forms
from minqwen.model.delta import delta_recurrent
from minqwen.model.deltanet import causal_conv
from minqwen.model.taps import listen
from minqwen.weights.quantised.modules import pack
from tests.tiny_models import scatter, small_config, small_model

pytestmark = pytest.mark.slow

TINY = "assets/tiny"


def rule_inputs(T, H=8, Hk=2, K=32, V=24, B=2, seed=0):
    g = torch.Generator().manual_seed(seed)
    q, k = (torch.randn(B, T, Hk, K, generator=g) for _ in range(2))
    v = torch.randn(B, T, H, V, generator=g)
    rates = -torch.rand(B, T, H, generator=g) * 3
    beta = torch.rand(B, T, H, generator=g)
    state = torch.randn(B, H, K, V, generator=g)
    unit = [x / x.norm(dim=-1, keepdim=True) for x in (q, k)]
    return *unit, v, {"g": rates, "beta": beta}, state


def error(mine, reference):
    return ((mine - reference).abs().max() / reference.abs().max()).item()


@pytest.mark.parametrize("T", [1, 2, 65, 333])
@pytest.mark.parametrize("started", [False, True])
def test_delta_rule(T, started):
    q, k, v, gates, state = rule_inputs(T)
    state = state if started else None
    kept = None if state is None else state.clone()
    o, last = cpu.delta_rule(q, k, v, **gates, state=state)
    o64, last64 = delta_recurrent(
        *(x.double() for x in (q, k, v)),
        **{name: x.double() for name, x in gates.items()},
        state=None if state is None else state.double(),
    )
    assert error(o, o64) < 1e-6 and error(last, last64) < 1e-6
    assert kept is None or torch.equal(state, kept)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("W", [3, 4])
def test_causal_conv(dtype, W):
    x, weight = torch.randn(2, 37, 40).to(dtype), torch.randn(40, 1, W).to(dtype)
    window = torch.randn(2, W - 1, 40).to(dtype)
    for start in (None, window):
        (mine, kept), (reference, kept2) = (
            form(x, weight, start) for form in (cpu.causal_conv, causal_conv)
        )
        assert mine.dtype == dtype and torch.equal(kept, kept2)
        assert error(mine.float(), reference.float()) < (
            1e-6 if dtype == torch.float32 else 1e-2
        )
    one = cpu.causal_conv(x[:, :1], weight, window)[0].float()
    assert error(one, causal_conv(x[:, :1], weight, window)[0].float()) < 1e-2


MODELS = {
    "moe": {},
    "dense": {"moe": False},
    "tied": {"moe": False, "tie_word_embeddings": True, "vision": False},
    "conv of 3": {"linear_conv_kernel_dim": 3},
}


@pytest.mark.parametrize("name", MODELS)
@torch.inference_mode()
def test_decoder_is_the_model(name):
    model = small_model(**MODELS[name])
    ids = torch.randint(0, 300, (1, 300))
    ours, reference = model.new_cache(1, 340), model.new_cache(1, 340)
    for cache in (ours, reference):
        model(ids, cache=cache)
    decode = Decoder(model)
    for token in torch.randint(0, 300, (20, 1, 1)):
        mine, theirs = decode(token, ours), model(token, cache=reference)
        assert error(mine, theirs) < 2e-5
    assert same_memory(ours, reference) < 2e-5
    assert ours.length == reference.length == 320
    # what it leaves behind is a cache like any other
    more = torch.randint(0, 300, (1, 5))
    assert error(model(more, cache=ours), model(more, cache=reference)) < 2e-5


def same_memory(ours, reference):
    """The largest difference; keys and values as far as they are written."""

    def held(layer):
        for name, x in vars(layer).items():
            if torch.is_tensor(x):
                yield (x[:, :, : layer.length] if name in "kv" else x).float()

    mine, theirs = (
        [x for layer in cache.layers for x in held(layer)]
        for cache in (ours, reference)
    )
    return max(error(a, b) for a, b in zip(mine, theirs, strict=True))


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("name", [*MODELS, "ends in a delta layer"])
def test_reader_is_the_model(name, threads, monkeypatch):
    """Ragged pieces, after tokens that the cache holds, by one thread and by three."""
    monkeypatch.setattr(read, "PIECE", 100)
    monkeypatch.setattr(read, "SCORE_ROWS", 20)
    monkeypatch.setattr(read, "SCORE_KEYS", 64)
    monkeypatch.setattr(read_mlp, "LUMP", 30)
    changes = MODELS.get(name, {"num_hidden_layers": 3})
    model = small_model(full_attention_interval=2, **changes)
    ids, start = torch.randint(0, 300, (1, 333)), torch.randint(0, 300, (1, 7))
    ours, reference = model.new_cache(1, 400), model.new_cache(1, 400)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    with torch.no_grad():  # as well as in inference mode, where the threads are
        for cache in (ours, reference):
            model(start, cache=cache)
        mine = PromptReader(model)(ids, ours)
        assert torch.get_num_threads() == threads
        theirs = model(ids, cache=reference, last_only=True)
        assert error(mine, theirs) < 1e-5
        assert same_memory(ours, reference) < 1e-5
        assert ours.length == reference.length == 340
        assert torch.equal(ours.next_position, reference.next_position)
        more = torch.randint(0, 300, (1, 5))
        assert error(model(more, cache=ours), model(more, cache=reference)) < 1e-5
    torch.set_num_threads(before)


@torch.inference_mode()
def test_reader_reads_bfloat16():
    """No farther from the same weights' fp32 answer than torch's own bf16."""
    torch.manual_seed(0)
    model = small_model(moe=False).to(torch.bfloat16)
    exact = scatter(minqwen.Qwen(small_config(moe=False)))
    exact.load_state_dict({k: v.float() for k, v in model.state_dict().items()})
    mine, rival = [], []
    for length in range(40, 60):
        ids = torch.randint(0, 300, (1, length))
        true = exact.eval()(ids, last_only=True)
        mine.append(error(PromptReader(model)(ids, model.new_cache(1, 60)), true))
        rival.append(error(model(ids, last_only=True).float(), true))
    assert max(mine) < 3e-2 and sum(mine) < sum(rival)


@torch.inference_mode()
def test_who_reads_a_prompt(monkeypatch):
    model = small_model()
    ids = torch.randint(0, 300, (1, kernels.ENOUGH))
    mask, padded = torch.ones_like(ids), torch.ones_like(ids)
    padded[:, 0] = 0
    cache = model.new_cache(1, kernels.ENOUGH)

    def chosen(**inputs):
        return reader(model, {"input_ids": ids} | inputs, cache)

    assert isinstance(chosen(), PromptReader)
    assert isinstance(chosen(attention_mask=mask), PromptReader)
    assert chosen(attention_mask=padded) is None
    assert chosen(pixel_values=torch.zeros(4, 6)) is None
    assert chosen(input_ids=ids[:, 1:]) is None, "too little to wait for numba"
    assert chosen(input_ids=ids.expand(2, -1)) is None
    with forms.using("torch"):
        assert chosen() is None
    with pytest.raises(minqwen.InputError, match="outside the vocabulary"):
        prefill(model, {"input_ids": ids + 300}, cache)
    assert error(prefill(model, {"input_ids": ids}, cache), model(ids)[:, -1:]) < 1e-5


@torch.inference_mode()
def test_decoder_reads_bfloat16():
    """Weights that are bf16 numbers, computed in fp32: nearer than torch's own bf16."""
    torch.manual_seed(0)
    model = small_model(moe=False).to(torch.bfloat16)
    exact = scatter(minqwen.Qwen(small_config(moe=False)))
    exact.load_state_dict({k: v.float() for k, v in model.state_dict().items()})
    ours, theirs, true = (m.new_cache(1, 30) for m in (model, model, exact))
    decode = Decoder(model)
    mine, rival = [], []
    for token in torch.randint(0, 300, (30, 1, 1)):
        reference = exact.eval()(token, cache=true)
        mine.append(error(decode(token, ours), reference))
        rival.append(error(model(token, cache=theirs).float(), reference))
    assert max(mine) < 1e-2 and sum(mine) < sum(rival)


def test_decoder_after_a_picture():
    """Positions go on from where the picture's end."""
    model, processor = minqwen.load(TINY), minqwen.Processor.load(TINY)
    content = [{"type": "image", "image": "assets/seven.png"},
               {"type": "text", "text": "Which digit is this?"}]  # fmt: skip
    inputs = processor.chat([{"role": "user", "content": content}])
    written = {}
    for kind in ("torch", "numba"):
        with forms.using(kind):
            steps = minqwen.generate(model, inputs, processor=processor)
            written[kind] = [step.token for step in steps]
    assert written["numba"] == written["torch"]


@torch.inference_mode()
def test_a_long_answer_changes_over_without_a_seam(monkeypatch):
    """Unasked, the model writes the first tokens, and the loops the rest."""
    used = []
    step = Decoder.__call__
    monkeypatch.setattr(
        Decoder, "__call__", lambda *a: used.append(a[2].length) or step(*a)
    )
    model, inputs = small_model(), {"input_ids": torch.arange(5)[None]}
    written = {}
    for kind in ("auto", "torch"):
        with forms.using(kind):
            steps = minqwen.generate(model, inputs, kernels.ENOUGH, stop_ids=())
            written[kind] = [step.token for step in steps]
    assert written["auto"] == written["torch"]
    assert used == list(range(5 + kernels.PATIENCE, 5 + kernels.ENOUGH - 1))


def test_auto_does_not_wait_where_a_token_is_long(monkeypatch):
    """Of a large or a packed model, few tokens take longer than compiling does."""
    model, cache = small_model(), small_model().new_cache(1, 9)
    active = model.num_parameters()["active"]
    with torch.no_grad():
        assert forms.whole("step", model, cache, 8) is None
        monkeypatch.setattr(kernels, "MUCH", 8 * active)
        assert forms.whole("step", model, cache, 7) is None
        assert isinstance(forms.whole("step", model, cache, 8), Decoder)
        assert isinstance(forms.whole("read", model, cache, 8), PromptReader)
    pack(model, lambda name: "int4" if ".experts." in name else None)
    monkeypatch.setattr(kernels, "MUCH", 2 * kernels.UNPACKING * active)
    assert kernels.heavy(model, 2) and not kernels.heavy(model, 1)


def test_threads_stay_as_torch_has_them():
    """numba's start sets OpenMP's number of threads, which is torch's too."""
    code = (
        "import torch; torch.set_num_threads(1)\n"
        "import numba; from minqwen.kernels import cpu\n"
        "cpu.causal_conv(torch.ones(1, 9, 4), torch.ones(4, 1, 4))\n"
        "print(torch.get_num_threads(), numba.get_num_threads())"
    )
    env = os.environ | {"NUMBA_NUM_THREADS": "2"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True
    )
    assert done.stdout.split() == ["1", "1"], done.stderr


# ---- the choice


def test_what_is_picked():
    x = torch.zeros(1, kernels.ENOUGH, 2, 4)
    with torch.no_grad():
        assert forms.chosen("delta_rule", x) is cpu.delta_rule
        assert forms.chosen("causal_conv", x[:, 1:]) is None
        with forms.using("numba"):
            assert forms.chosen("causal_conv", x[:, :1]) is cpu.causal_conv
            with forms.using("auto"):  # asks for nothing, so the outer one counts
                assert forms.chosen("causal_conv", x[:, :1]) is cpu.causal_conv
        with forms.using("torch"):
            assert forms.chosen("causal_conv", x) is None
    assert forms.chosen("causal_conv", x) is None, "numba has no gradients"


@torch.no_grad()
def test_who_may_be_decoded_so():
    def suits(model):
        with forms.using("numba"):
            form = forms.whole("step", model, model.new_cache(1, 9), 1)
        return isinstance(form, Decoder)

    model = small_model()
    assert suits(model) and suits(model.to(torch.bfloat16))
    with listen(model, resid_post=print):
        assert not suits(model), "a listener must hear"
    assert suits(model) and not suits(model.to(torch.float64))
    model = small_model()
    padded = model.new_cache(1, 9)
    ids, mask = torch.ones(1, 4, dtype=torch.long), torch.tensor([[0, 1, 1, 1]])
    model(ids, mask, cache=padded)
    fresh = model.new_cache(1, 9)
    with forms.using("numba"):
        assert isinstance(decoder(model, fresh, 1), Decoder)
        assert not isinstance(decoder(model, padded, 1), Decoder)
        two = model.new_cache(2, 9)
        assert not isinstance(decoder(model, two, 1), Decoder)
    assert not isinstance(decoder(model, fresh, 1), Decoder)


def test_a_wrong_choice_is_one_sentence():
    with pytest.raises(minqwen.InputError, match="'cuda' is not one of auto, torch"):
        with forms.using("cuda"):
            pass
    with pytest.raises(minqwen.InputError, match="not one of"):
        minqwen.load(TINY, kernels="fast")
    env = os.environ | {"MINQWEN_KERNELS": "magic"}
    command = [sys.executable, "-m", "minqwen", "generate", TINY, "--prompt", "hello"]
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert done.returncode != 0 and "Traceback" not in done.stderr
    assert "magic" in done.stderr and "not one of auto" in done.stderr


def test_without_numba_nothing_is_missing(monkeypatch):
    monkeypatch.setattr(kernels, "installed", lambda library: False)
    x = torch.zeros(1, kernels.ENOUGH, 2, 4)
    with torch.no_grad():
        assert forms.chosen("causal_conv", x) is None
    with pytest.raises(minqwen.InputError, match="needs numba: pip install"):
        forms.known("numba")


def test_a_command_says_why_it_waits_for_the_compiler(capsys, monkeypatch):
    monkeypatch.setattr(cpu.WAIT, "said", False)
    numba.njit(lambda x: x + 1)(1)  # compiles, and is not kept on disk
    assert capsys.readouterr() == ("", "")  # of a library nobody asks it
    cpu.WAIT.said = False
    with terminal.aloud():
        numba.njit(lambda x: x + 2)(1)
        numba.njit(lambda x: x + 3)(1)
    assert capsys.readouterr() == ("", f"[{cpu.COMPILING}]\n")
