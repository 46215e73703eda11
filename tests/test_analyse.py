"""Causes and counts: on models and traces that were made to have a known answer."""

import math

import numpy as np
import pytest
import torch
from tiny_models import small_model

import minqwen
from minqwen import analyse
from minqwen.errors import InputError
from minqwen.model import forms, taps
from minqwen.model.delta import delta_recurrent
from minqwen.model.moe import route
from minqwen.trace import Trace
from minqwen.trace.file import check_trace, new_meta

IDS = torch.arange(5, 25)[None]
INPUTS = {"input_ids": IDS}
K = 5  # of 33 experts; layers 0 to 2 are delta layers, 3 is full


@pytest.fixture(scope="module")
def model():
    return small_model(mtp_num_hidden_layers=1).requires_grad_(False)


def heard(model, name, *blocks, call=None):
    """{layer: what it said last at a tap}, to one who hears after all blocks."""
    said = {}

    def hear(layer, **values):
        said[layer] = values

    with torch.no_grad(), taps.listen(model, last=True, **{name: hear}):
        for block in blocks:
            block.__enter__()
        try:
            (call or (lambda: model(IDS)))()
        finally:
            for block in reversed(blocks):
                block.__exit__(None, None, None)
    return said


def logits(model, *blocks):
    return heard(model, "final_norm", *blocks)[None]["x"]


# ---- causes in the routers


def test_masked_experts_are_chosen_by_none_and_the_next_best_are(model):
    want = heard(model, "router")[0]
    found = heard(model, "router", analyse.masked(model, {0: [3, 7]}))
    x = want["logits"].clone()
    x[:, [3, 7]] = -torch.inf
    weights, ids = route(x, K)
    assert torch.equal(found[0]["ids"], ids) and torch.equal(
        found[0]["weights"], weights
    )
    assert (want["ids"] == 3).any() and not torch.isin(
        found[0]["ids"], x.new_tensor([3, 7])
    ).any()
    assert (found[1]["logits"] > -torch.inf).all(), "other layers keep all"


def test_a_mask_equals_a_model_whose_router_never_had_the_expert(model):
    """The outside truth: its row taken from the router and from both stacks."""
    with torch.no_grad():
        masked = logits(model, analyse.masked(model, {1: [4], 3: [0]}))
        smaller = small_model(mtp_num_hidden_layers=1)
        for layer, gone in ((1, 4), (3, 0)):
            mlp = smaller.model.language_model.layers[layer].mlp
            kept = [e for e in range(33) if e != gone]
            for holder, name in ((mlp.gate, "weight"), (mlp.experts, "gate_up_proj"),
                                 (mlp.experts, "down_proj")):  # fmt: skip
                whole = getattr(holder, name)
                setattr(holder, name, torch.nn.Parameter(whole[kept].clone()))
        want = logits(smaller)
    assert torch.allclose(masked, want, atol=1e-5)
    assert not torch.allclose(masked, logits(model), atol=1e-3)


def test_forced_experts_come_first_of_every_token(model):
    found = heard(model, "router", analyse.forced(model, {2: [30, 1]}))[2]
    assert (found["ids"][:, :2].sort(1).values == torch.tensor([1, 30])).all()
    plain = heard(model, "router")[2]["logits"]
    want = plain.amax(1).clone() + 0.01
    assert torch.allclose(found["logits"][:, 1], want)
    assert torch.allclose(found["weights"].sum(1), torch.ones(20))


def test_a_bias_is_added_to_the_logits(model):
    plain = heard(model, "router")[0]
    found = heard(model, "router", analyse.biased(model, {0: {2: 0.5, 9: -4}}))[0]
    want = plain["logits"].double().numpy().copy()
    want[:, 2] += 0.5
    want[:, 9] -= 4
    assert np.allclose(found["logits"], want, atol=1e-6)
    best = np.argsort(-want, axis=1)[:, :K]
    assert (np.sort(found["ids"], 1) == np.sort(best, 1)).all()


def test_rerouted_tokens_go_to_the_other_expert(model):
    plain = heard(model, "router")[0]
    old = int(plain["ids"].flatten().mode().values)
    new = next(e for e in range(33) if not (plain["ids"] == e).any())
    found = heard(model, "router", analyse.rerouted(model, {0: {old: new}}))[0]
    own = (plain["ids"] == old).any(1)
    assert not (found["ids"] == old).any()
    assert torch.equal((found["ids"] == new).any(1), own)
    swapped = torch.where(plain["ids"] == old, new, plain["ids"])
    assert torch.equal(found["ids"][own], swapped[own])
    assert torch.allclose(found["weights"][own], plain["weights"][own])


def test_replay_forces_the_choice_and_weighs_it_by_the_live_router(model):
    rng = np.random.default_rng(0)
    ids = np.stack([[rng.permutation(33)[:K] for _ in range(4)] for _ in range(12)])
    found = heard(model, "router", analyse.replayed(model, ids))
    for layer in range(4):
        own = found[layer]["ids"][:12].numpy()
        assert (own == ids[:, layer]).all()
        scores = found[layer]["logits"].double().numpy()
        best = np.take_along_axis(scores[:12], own, 1)
        best = np.exp(best - best.max(1, keepdims=True))
        want = best / best.sum(1, keepdims=True)
        assert np.allclose(found[layer]["weights"][:12], want, atol=1e-6)
        rest = route(found[layer]["logits"][12:], K)[1]
        assert torch.equal(found[layer]["ids"][12:], rest), "beyond them it is free"


@pytest.mark.parametrize("draft", [0, 2])
def test_a_recording_replayed_in_another_model_makes_the_same_choices(model, draft):
    """Token by token and drafting too: the place in the sequence is the cache's."""

    def written(**options):
        with minqwen.record(model) as trace:
            list(minqwen.generate(model, INPUTS, 9, stop_ids=[], **options))
        return trace

    first, amounts = written(), {i: {0: 3.0, 1: 2.0, 2: -2.0} for i in range(4)}
    routes = analyse.routes(first)
    assert routes.shape == (28, 4, K) and routes.dtype == np.int32
    with analyse.biased(model, amounts):
        other = written()
        with analyse.replayed(model, first):
            again = written(draft=draft)
    assert (routes[:20] != other["expert_ids"][:20]).mean() > 0.2
    assert (routes == again["expert_ids"][:28]).all()
    weights = [trace["expert_weights"][:20] for trace in (first, again)]
    assert abs(weights[0] - weights[1]).max() > 0.05, "those are the live router's"


def test_what_is_recorded_is_what_came_of_the_mask_whoever_came_first(model):
    for first in (True, False):
        blocks = [minqwen.record(model), analyse.masked(model, {0: range(28)})]
        with torch.no_grad(), blocks[not first] as one, blocks[first] as two:
            model(IDS)
        trace = one if first else two
        assert (np.sort(trace["expert_ids"][:, 0]) == np.arange(28, 33)).all()
        check_trace(trace.meta, trace.tensors, "it")  # a margin without end is not kept


# ---- causes in layers and memories


def test_a_skipped_part_says_nothing_and_the_rest_goes_on(model):
    said = heard(model, "resid_post", analyse.skipped(model, layers=[2]))
    assert torch.equal(said[2]["x"], said[1]["x"])
    block = model.model.language_model.layers[3]
    for what, part in (("mixers", block.self_attn.o_proj), ("mlps", None)):
        found = logits(model, analyse.skipped(model, **{what: [3]}))
        mlp = [block.mlp.experts.down_proj, block.mlp.shared_expert.down_proj.weight]
        weights = [part.weight] if part else mlp
        assert torch.allclose(found, zeroed(weights, lambda: logits(model)), atol=1e-5)


def zeroed(weights, call, columns=slice(None)):
    """What comes of a call while some of the weights' columns are zero."""
    kept = [weight.clone() for weight in weights]
    for weight in weights:
        weight.data[..., columns] = 0
    found = call()
    for weight, old in zip(weights, kept, strict=True):
        weight.data.copy_(old)
    return found


@pytest.mark.parametrize("layer, head, width", [(0, 3, 24), (3, 2, 32)])
def test_a_skipped_head_is_missed_as_its_columns_of_the_projection(
    layer, head, width, model
):
    block = model.model.language_model.layers[layer]
    out = block.self_attn.o_proj if layer == 3 else block.linear_attn.out_proj
    columns = slice(head * width, (head + 1) * width)
    want = zeroed([out.weight], lambda: logits(model), columns)
    found = logits(model, analyse.skipped(model, heads=[(layer, head)]))
    assert torch.allclose(found, want, atol=1e-5)
    assert not torch.allclose(found, logits(model), atol=1e-3)


def fed(model, layer, *blocks):
    return {n: x.double() for n, x in heard(model, "rule", *blocks)[layer].items()}


@pytest.mark.parametrize(
    "edit", [dict(beta=0), dict(v=2), dict(k=-1), dict(k=1, beta=1)]
)
def test_an_edited_write_is_the_rule_with_that_write(edit, model):
    """Against the rule in float64 on what was fed, the one write put in by hand."""
    layer, head, token = 1, 2, 7
    edit = {n: x if n == "beta" else torch.full((16 if n == "k" else 24,), float(x))
            for n, x in edit.items()}  # fmt: skip
    plain = fed(model, layer)
    found = heard(model, "state", analyse.edited(model, (layer, head), token, **edit))
    parts = {
        n: plain[n].repeat_interleave(2, 2) if n in "qk" else plain[n] for n in plain
    }
    for name, value in edit.items():
        parts[name] = parts[name].clone()
        parts[name][0, token, head] = torch.as_tensor(value, dtype=torch.float64)
    _, want = delta_recurrent(
        parts["q"], parts["k"], parts["v"], g=parts["g"], beta=parts["beta"]
    )
    assert torch.allclose(found[layer]["state"].double(), want, atol=1e-5)
    unchanged = heard(model, "state")[layer]["state"]
    heads = zip(unchanged[0], found[layer]["state"][0], strict=True)
    same = [torch.equal(*pair) for pair in heads]
    if "k" not in edit:  # the same numbers, to the last bit, in other heads
        assert same == [True, True, False, True]


def test_an_edit_while_writing_is_the_same_edit(model):
    ids = torch.cat([IDS, torch.tensor([[33, 34]])], 1)
    with torch.no_grad(), analyse.edited(model, (0, 1), 21, beta=0):
        want = model(ids)[:, -1]
        cache = model.new_cache(1, 22)
        model(ids[:, :20], cache=cache)
        model(ids[:, 20:21], cache=cache)
        found = model(ids[:, 21:], cache=cache)[:, -1]
    assert torch.allclose(found, want, atol=1e-4)


def test_a_text_read_from_a_saved_state_goes_on_as_its_own(model, tmp_path):
    """Of delta layers alone: skip the full one, and feed no window of a convolution."""
    with torch.no_grad(), analyse.skipped(model, layers=[3]):
        cache = model.new_cache(1, 40)
        model(IDS, cache=cache)
        kept = analyse.states(cache)
        assert set(kept) == {0, 1, 2} and kept[0].shape == (1, 4, 16, 24)
        analyse.save_states(
            tmp_path / "s.safetensors", {i: s[0] for i, s in kept.items()}
        )
        loaded = analyse.load_states(tmp_path / "s.safetensors")
        assert all(torch.equal(loaded[i], kept[i][0]) for i in kept)
        for memory in cache.layers[:3]:
            memory.conv.zero_()
        cache.next_position.zero_()
        want = model(IDS, cache=cache)
        with (
            analyse.started(model, loaded),
            minqwen.record(model, states=[(1, 0)]) as trace,
        ):
            fresh = model.new_cache(2, 20)
            found = model(IDS.repeat(2, 1), cache=fresh)
    assert torch.allclose(found, want.expand_as(found), atol=1e-4)
    del trace


def test_a_gradient_reaches_a_state_that_is_started_from():
    model = small_model()
    start = {1: torch.zeros(4, 16, 24, requires_grad=True)}
    with analyse.started(model, start):
        model(IDS, cache=model.new_cache(1, 20)).sum().backward()
    assert start[1].grad.abs().sum() > 0


def test_causes_stand_within_each_other_and_leave_nothing(model):
    want = logits(model)
    with pytest.raises(RuntimeError), analyse.forced(model, {0: [1]}):  # noqa: SIM117
        with (
            analyse.masked(model, {0: [2], 1: [3]}),
            analyse.edited(model, (0, 0), 3, beta=0),
        ):
            said = heard(model, "router")
            assert (said[0]["ids"] == 1).any(1).all() and not (
                said[0]["ids"] == 2
            ).any()
            assert taps.listening(model)
            raise RuntimeError
    assert not taps.listening(model) and torch.equal(logits(model), want)
    with pytest.raises(InputError, match="one sequence, and these are 2 rows"):
        heard(
            model, "router", analyse.edited(model, (0, 0), 3, beta=0),
            call=lambda: model(IDS.repeat(2, 1)),
        )  # fmt: skip
    assert not taps.listening(model)


@torch.inference_mode()
def test_forms_of_the_whole_model_wait_while_a_cause_is_at_work(model, monkeypatch):
    monkeypatch.setattr(forms, "_kinds", dict(forms._kinds))
    kept = dict(forms._table["step"])
    forms.register_kind("mine")
    used = []
    forms.register("step", "mine", lambda model, cache, tokens: used.append(1))
    try:
        with forms.using("mine"), analyse.masked(model, {0: [1]}):
            list(minqwen.generate(model, INPUTS, 3, stop_ids=[]))
        assert not used
    finally:
        forms._table["step"].clear()
        forms._table["step"].update(kept)


# ---- counts


def made(ids, experts, **tensors):
    ids = np.asarray(ids, np.uint16)
    meta = new_meta("made", "", len(ids), ["linear_attention"] * ids.shape[1], experts)
    return Trace(meta, {"expert_ids": ids} | tensors)


def drawn(rng, tokens, rate, experts=6):
    """One layer, one choice: expert 0 with this rate, else one of the others."""
    ids = np.where(rng.random(tokens) < rate, 0, rng.integers(1, experts, tokens))
    return made(ids[:, None, None], experts)


def test_the_difference_of_rates_and_its_interval():
    """By hand; and the interval covers the true difference as often as it says."""
    a = [made([[[0]], [[0]], [[1]]], 3), made([[[0]]], 3)]
    b = [made([[[2]], [[0]]], 3), made([[[2]], [[2]]], 3)]
    assert analyse.compare(a, b).rate.tolist() == [[0.75 - 0.25, 0.25, -0.75]]
    rng, covered = np.random.default_rng(0), 0
    for _ in range(200):
        means = rng.normal([[0.6], [0.3]], 0.1, (2, 9)).clip(0, 1)
        sets = [
            [drawn(rng, int(rng.integers(20, 60)), m) for m in row] for row in means
        ]
        found = analyse.compare(*sets)
        covered += found.low[0, 0] <= 0.3 <= found.high[0, 0]
    assert 0.9 * 200 <= covered <= 0.99 * 200
    assert found.top() == [(0, 0)]


def test_the_interval_is_that_of_prompts_not_of_tokens():
    """Prompts all of one kind or all of the other tell little, however long."""
    rng = np.random.default_rng(1)
    split = [drawn(rng, 200, rate) for rate in (1, 0, 1, 0, 1, 0)]
    even = [drawn(rng, 200, 0.5) for _ in range(6)]
    wide, narrow = (analyse.compare(x, even) for x in (split, even))
    assert (wide.high - wide.low)[0, 0] > 5 * (narrow.high - narrow.low)[0, 0]


def test_specialisation_of_experts_made_for_a_label():
    labels = ["note", "sum"] * 200
    rng = np.random.default_rng(2)
    own = np.array([0 if label == "note" else 1 for label in labels])
    trace = made(np.stack([own, rng.integers(2, 4, 400)], 1)[:, None], 6)
    found = analyse.specialisation(trace, labels)
    assert found.labels == ["note", "sum"]
    assert found.lift[0, 0] == pytest.approx([(200.5 / 201) / 0.5, (0.5 / 201) / 0.5])
    assert found.lift[0, 5].tolist() == [1, 1], "never chosen"
    assert found.bits[0, :2] == pytest.approx([1, 1], abs=0.01)
    assert abs(found.bits[0, 2]) < 0.02
    assert found.bits[0, 5] == pytest.approx(0, abs=1e-12)


def test_the_bits_of_few_tokens_are_not_taken_for_something():
    """Labels that have nothing to do with it: without the correction, 0.02 bits."""
    rng, bits = np.random.default_rng(3), []
    for _ in range(300):
        trace = made(rng.integers(0, 2, (100, 1, 1)), 2)
        bits.append(analyse.specialisation(trace, rng.integers(0, 4, 100)).bits[0, 0])
    assert abs(np.mean(bits)) < 0.005


def test_coactivation_by_hand():
    trace = made([[[0, 1]], [[0, 1]], [[2, 1]], [[2, 3]]], 5)
    found = analyse.coactivation(trace)[0]
    assert found[0, 1] == found[1, 0] == pytest.approx(0.5 / (0.5 * 0.75))
    assert found[0, 2] == 0 and found[2, 2] == 2 and np.isnan(found[4]).all()


def test_half_lives_are_those_of_the_state(model):
    """A head whose g is -0.1 at every token keeps half after ln 2 / 0.1 of them."""
    T = 4
    g = np.full((T, 2, 3), -0.1, np.float32)
    g[:, 1, 2] = [0, -1, 0, -1]
    trace = made(np.zeros((T, 2, 1)), 2, state_decay=g)
    found = analyse.half_lives(trace)
    assert found[0, 1] == pytest.approx(math.log(2) / 0.1, rel=1e-3)
    assert found[1, 2] == pytest.approx(math.log(2) / 0.5)
    with (
        torch.no_grad(),
        minqwen.record(model, states=[(0, 1), (3, 0)], norms=True) as both,
    ):
        model(IDS)
    few = Trace(
        both.meta, {n: a for n, a in both.tensors.items() if n != "state_decay"}
    )
    assert set(analyse.half_lives(few)) == {(0, 1)}
    want = analyse.half_lives(both)[0, 1]
    assert analyse.half_lives(few)[0, 1] == pytest.approx(want, rel=1e-2)


# ---- the causal map


def test_the_causal_map_finds_the_expert_that_was_made_to_matter():
    """One expert's output is large, all others' of its layer are zero."""
    model = small_model(vision=False).requires_grad_(False)
    loud = int(heard(model, "router")[1]["ids"].flatten().mode().values)
    down = model.model.language_model.layers[1].mlp.experts.down_proj
    down[torch.arange(33) != loud] = 0
    found = analyse.causal_map(model, INPUTS, experts={1: range(33)})
    # Those that say nothing free a share of the weights, which goes to the next best.
    assert found.kl[1].argmax() == loud and np.isnan(found.kl[[0, 2, 3]]).all()
    assert found.kl[1, loud] > 5 * found.control[1, loud]
    unused = found.load[1] == 0
    assert unused.any() and (found.kl[1, unused] == 0).all()
    assert found.load.sum(1) == pytest.approx([K] * 4)
    want = model(IDS).log_softmax(-1).double()
    with analyse.masked(model, {1: [loud]}):
        other = model(IDS).log_softmax(-1).double()
    kl = (want.exp() * (want - other)).sum(-1).mean() / math.log(2)
    assert found.kl[1, loud] == pytest.approx(kl.item(), rel=1e-4)


def test_matched_experts_are_as_busy_others_and_differ_by_seed():
    load = np.array([[0.9, 0.8, 0.7, 0.3, 0.1, 0.0, 0.75]])
    found = [analyse.matched(load, {0: [0, 3]}, seed) for seed in range(20)]
    assert {tuple(f[0]) for f in found} > {(1, 4)}
    for each in found:
        assert each[0][0] in (1, 2, 6) and not {0, 3} & set(each[0])
        assert len(set(each[0])) == 2


# ---- what is refused


WRONG = {
    "no such layer": (lambda m: analyse.masked(m, {4: [1]}), "layer is 4, but must be"),
    "no such expert": (lambda m: analyse.masked(m, {0: [33]}), "layer 0: expert is 33"),
    "too few left": (lambda m: analyse.masked(m, {0: range(29)}), "4 experts would be"),
    "no mapping": (lambda m: analyse.masked(m, [3]), "given by layer, such as"),
    "no list": (lambda m: analyse.masked(m, {0: 3}), "give a list of experts"),
    "too many forced": (lambda m: analyse.forced(m, {0: range(6)}), "6 experts are"),
    "no bias": (lambda m: analyse.biased(m, {0: {1: "x"}}), "a bias is"),
    "no amounts": (lambda m: analyse.biased(m, {0: [3]}), "give {expert: number}"),
    "no pairs": (lambda m: analyse.rerouted(m, {0: [3]}), "give {expert: number}"),
    "mixers": (lambda m: analyse.skipped(m, mixers=3), "mixers is int, but must be"),
    "states": (lambda m: analyse.started(m, [1]), "states are given by layer"),
    "both roles": (lambda m: analyse.rerouted(m, {0: {1: 2, 2: 3}}), "give each one"),
    "goes nowhere": (lambda m: analyse.rerouted(m, {0: {1: 33}}), "expert is 33"),
    "routes of another model": (
        lambda m: analyse.replayed(m, np.zeros((3, 4, 2), int)), "this model's are"),
    "routes named twice": (
        lambda m: analyse.replayed(m, np.zeros((3, 4, 5), int)), "an expert twice"),
    "routes of floats": (lambda m: analyse.routes(np.zeros((3, 4, 5))), "are float"),
    "skipped layer": (lambda m: analyse.skipped(m, mixers=[9]), "layer is 9"),
    "skipped head": (lambda m: analyse.skipped(m, heads=[(0, 4)]), "layer 0 has no"),
    "an attention's write": (
        lambda m: analyse.edited(m, (3, 0), 2, beta=0), "holds no writes"),
    "an edit of nothing": (lambda m: analyse.edited(m, (0, 0), 2), "nothing is edited"),
    "a beta": (lambda m: analyse.edited(m, (0, 0), 2, beta=2), "beta is 2"),
    "a key's width": (
        lambda m: analyse.edited(m, (0, 0), 2, k=[1.0]), r"k is \[1\]; expected"),
    "a state's shape": (
        lambda m: analyse.started(m, {0: torch.zeros(2, 2)}), r"\[4, 16, 24\]"),
    "a state of attention": (
        lambda m: analyse.started(m, {3: torch.zeros(2)}), "has full attention"),
    "two rows": (
        lambda m: analyse.causal_map(m, IDS.repeat(2, 1)), "these are 2"),
    "labels": (lambda m: analyse.specialisation(made([[[0]]], 1), "ab"), "2 labels"),
    "one prompt": (
        lambda m: analyse.compare([made([[[0]]], 1)], []), "at least two prompts"),
    "no heads": (lambda m: analyse.half_lives(made([[[0]]], 1)), "no delta head"),
    "no others": (lambda m: analyse.matched(np.ones((1, 3)), {0: [0, 1]}), "only 1"),
}  # fmt: skip


@pytest.mark.parametrize("call, words", WRONG.values(), ids=WRONG)
def test_wrong_arguments_get_one_sentence_before_any_work(call, words, model):
    with pytest.raises(InputError, match=words):
        call(model)
    assert not taps.listening(model)


def test_more_that_is_refused(model, tmp_path):
    with pytest.raises(InputError, match="cache=model.new_cache"):
        heard(model, "router", analyse.started(model, {}))
    dense = small_model(moe=False)
    with pytest.raises(InputError, match="the model is dense"):
        analyse.masked(dense, {0: [1]})
    (tmp_path / "x.safetensors").write_bytes(b"not one")
    with pytest.raises(InputError, match="x.safetensors"):
        analyse.load_states(tmp_path / "x.safetensors")
    with pytest.raises(InputError, match="is no state; expected"):
        analyse.load_states("assets/note.safetensors")
