"""The two seams: what runs is chosen by the table alone, and taps hear every model."""

import importlib.util

import pytest
import torch
from tap_names import expected, hear_all
from tiny_models import small_model

import minqwen
from minqwen.errors import InputError
from minqwen.model import forms, taps
from minqwen.model.attention import attend
from minqwen.model.delta import delta_rule
from minqwen.model.deltanet import causal_conv, remember
from minqwen.model.moe import experts, route
from minqwen.model.norm import gated_rms_norm, rms_norm

OPERATIONS = [rms_norm, gated_rms_norm, causal_conv, delta_rule, remember, attend,
              route, experts, forms.linear, forms.embed]  # fmt: skip
IDS = torch.arange(5, 14)[None]


@pytest.fixture(scope="module")
def model():
    return small_model(mtp_num_hidden_layers=1).requires_grad_(False)


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("seams")
    minqwen.save(model, folder)
    return folder


# ---- seam one: forms of operations ----


@pytest.fixture
def own_kind(monkeypatch):
    """A kind of forms of our own, gone again after the test."""
    monkeypatch.setattr(forms, "_kinds", dict(forms._kinds))
    kept = {name: dict(kinds) for name, kinds in forms._table.items()}
    forms.register_kind("mine")
    yield "mine"
    for name, kinds in forms._table.items():
        kinds.clear()
        kinds.update(kept.get(name, {}))


def test_the_table_has_every_operation():
    assert {op.__name__ for op in OPERATIONS} | {"step", "read"} == set(forms._table)


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda op: op.__name__)
def test_each_operation_runs_in_the_form_that_is_chosen(operation, model, own_kind):
    """Registered by name, it is called, and what it returns is what the model uses."""
    calls = []

    def mine(*args, **kwargs):
        calls.append(args)
        out = operation.__wrapped__(*args, **kwargs)
        first, *rest = out if isinstance(out, tuple) else (out,)
        return (first * 2, *rest) if isinstance(out, tuple) else first * 2

    want = model(IDS)
    forms.register(operation.__name__, own_kind, mine)
    assert torch.equal(model(IDS), want) and not calls, "nobody asked for it"
    with forms.using(own_kind):
        assert not torch.equal(model(IDS), want) and calls
    calls.clear()
    forms.register(
        operation.__name__, own_kind, mine, fits=lambda *args, **kwargs: False
    )
    with forms.using(own_kind):
        assert torch.equal(model(IDS), want) and not calls, "it does not fit"
    forms.register(
        operation.__name__, own_kind, mine, auto=lambda *args, **kwargs: True
    )
    assert not torch.equal(model(IDS), want) and calls, "auto takes it"


def test_what_is_registered_by_name_is_there():
    for name, kinds in forms._table.items():
        for kind, form in kinds.items():
            library = kind if kind in ("numba", "triton") else "torch"
            if importlib.util.find_spec(library):
                assert callable(form.load()), (name, kind)


def test_a_form_may_be_named_and_is_imported_when_taken(model, own_kind):
    forms.register("rms_norm", own_kind, "minqwen.no_such_module:rms_norm")
    model(IDS)
    with forms.using(own_kind), pytest.raises(ModuleNotFoundError):
        model(IDS)


@pytest.mark.parametrize("name", ["step", "read"])
@torch.inference_mode()
def test_forms_of_the_whole_model_run_when_nobody_listens(name, model, own_kind):
    def form(model, cache, tokens):
        def run(ids, cache):
            used.append(ids.shape[1])
            return model(ids, cache=cache, last_only=True)

        return run

    used, inputs = [], {"input_ids": IDS}
    forms.register(name, own_kind, form)
    with forms.using(own_kind):
        list(minqwen.generate(model, inputs, 4, stop_ids=[]))
        assert used == {"step": [1, 1, 1], "read": [9]}[name]
        with taps.listen(model, resid_post=lambda layer, x: None):
            list(minqwen.generate(model, inputs, 4, stop_ids=[]))
        assert len(used) == {"step": 3, "read": 1}[name]


def test_a_stored_weight_chooses_its_own_forms(model, own_kind):
    """A weight that is no tensor: here, one that is kept as its negative."""

    class Negative(forms.Stored):
        def __init__(self, weight):
            super().__init__("negative", weight.shape, weight.dtype)
            self.negated = -weight.detach()

    forms.register("linear", "negative", lambda x, w: -forms.linear(x, w.negated))
    layer = forms.Linear(6, 4)
    x = torch.randn(3, 6)
    want = layer(x)
    Negative(layer.weight).take_place(layer, "weight")
    assert torch.allclose(layer(x), want) and not list(layer.parameters())


# ---- seam two: taps ----


KINDS = {
    "plain": {},
    "int4": dict(quantize="int4"),
    "on disk": dict(experts="disk", expert_cache=1 << 20),
    "mapped": dict(experts="disk", dtype=None),
    "numba": dict(kernels="numba"),
}


@pytest.mark.parametrize("options", KINDS.values(), ids=KINDS)
@torch.no_grad()
def test_every_tap_of_every_kind_of_model_is_heard(options, folder):
    model = minqwen.load(folder, **options)
    assert hear_all(model, lambda m: m(IDS)) == expected(model)
    inputs = {"input_ids": IDS}
    told = hear_all(model, lambda m: list(minqwen.generate(m, inputs, 3, stop_ids=[])))
    assert told == 3 * expected(model), "also while it writes"


def test_the_draft_head_says_which_layer_it_is(model):
    hidden = model.hidden(IDS)
    said = hear_all(model, lambda m: m.draft(hidden[:, :-1], IDS[:, 1:]))
    assert ("qkv", "mtp") in said and {layer for _, layer in said} == {"mtp"}


REPLACED = {
    "resid_pre": "x", "qkv": "v", "rule": "v", "state": "state", "head_out": "x",
    "attn_out": "x", "router": "weights", "shared_gate": "logit", "mlp_out": "x",
    "resid_post": "x", "final_norm": "x",
}  # fmt: skip


@pytest.mark.parametrize("name", REPLACED)
def test_what_a_listener_returns_replaces_what_was_said(name, model):
    def halve(layer, **values):
        return {REPLACED[name]: values[REPLACED[name]] / 2}

    def twice():
        cache = model.new_cache(1, 20)
        return torch.cat([model(IDS, cache=cache), model(IDS[:, :1], cache=cache)], 1)

    want = twice()
    with taps.listen(model, **{name: halve}):
        assert not torch.allclose(twice(), want)
        with taps.listen(model, **{name: halve}):  # each gets what the last one left
            quarter = twice()
    assert torch.equal(twice(), want)
    with taps.listen(
        model, **{name: lambda layer, **v: {REPLACED[name]: v[REPLACED[name]] / 4}}
    ):
        assert torch.equal(twice(), quarter)


def test_tokens_may_be_replaced(model):
    with taps.listen(model, tokens=lambda layer, **_: {"input_ids": IDS + 1}):
        assert torch.equal(model(IDS), model(IDS + 1))


def test_an_expert_is_switched_off(model):
    """What the explorer will do: no token is sent to expert 3 of layer 1."""
    chosen = []

    def without(layer, weights, ids, logits):
        if layer == 1:
            logits = logits.clone()
            logits[:, 3] = -torch.inf
            weights, ids = route(logits, ids.shape[1])
            chosen.append(ids)
            return {"weights": weights, "ids": ids}

    with taps.listen(model, router=without):
        model(IDS.expand(8, -1))
    assert not (torch.cat(chosen) == 3).any()


def test_listeners_of_one_model_do_not_hear_another(model):
    other, said = small_model(), []
    with taps.listen(model, tokens=lambda *_, **__: said.append(1)):
        other(IDS)
        assert not said and not taps.listening(other) and taps.listening(model)
        model(IDS)
    model(IDS)
    assert said == [1] and not taps.listening(model)


def test_what_is_no_tap_is_named(model):
    with pytest.raises(
        InputError, match="there is no tap 'residual'; there are tokens"
    ):
        with taps.listen(model, residual=print):
            pass


def test_every_level_can_be_called_and_its_hooks_fire(model):
    core, fired, hooks = model.model, [], []
    for module in (core, core.language_model, core.language_model.layers[0]):
        hook = module.register_forward_hook(
            lambda m, *_: fired.append(type(m).__name__)
        )
        hooks.append(hook)
    want = model.hidden(IDS)
    assert fired == ["Block", "LanguageModel", "Multimodal"]
    assert torch.equal(core(IDS), want)
    for hook in hooks:
        hook.remove()
