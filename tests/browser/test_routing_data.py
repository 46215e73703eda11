"""What the explorer counts, run under Node, beside NumPy's own counts."""

import json

import chromium
import numpy as np
import pytest
from safetensors.numpy import load

from minqwen.widgets.bundle import bundle
from tools.made_trace import made_trace

T, L, E, K = 80, 3, 16, 4
FIRST = load(made_trace(L, E, T, K, seed=5))
SECOND = load(made_trace(L, E, T, K, seed=5, changed=0.5))
KINDS = (np.arange(T) % 3).tolist()
LAYER, EXPERT, TOKEN = 1, 6, 30
SPANS = [[a, b] for a in (0, 1, 7) for b in (71, 75, 79, T)]


@pytest.fixture(scope="module")
def told():
    """Every count of the module, by name."""
    sizes = f"T: {T}, L: {L}, E: {E}, K: {K}, expertWeights: null"
    script = f"""
      const m = module_routing_data;
      const trace = (ids) => ({{ {sizes}, expertIds: Uint16Array.from(ids) }});
      const a = trace({listed(FIRST["expert_ids"])});
      const b = trace({listed(SECOND["expert_ids"])});
      const margins = Float32Array.from({listed(FIRST["router_margin"].astype(float))});
      const counts = m.countChoices(a, m.range(0, {T}));
      const pairs = m.coactivation(a, {LAYER});
      const told = {{
        counts, some: m.countChoices(a, [3, 5]),
        spans: {SPANS}.map(([from, to]) => m.countChoices(a, m.range(from, to))),
        by: m.chosenBy(a, {LAYER}, {EXPERT}),
        spread: m.spread(counts, {LAYER}, {E}), carried: m.carriedOver(a),
        overlap: m.overlap(a, {TOKEN}, 0, {T}), differ: m.differences(a, b),
        only: m.countOnly(a, b, m.range(0, {T})),
        onlySpans: {SPANS}.map(([from, to]) => m.countOnly(a, b, m.range(from, to))),
        onlySome: m.countOnly(a, b, [3, 5]), order: m.arrange({L}, {E}, counts),
        together: pairs,
        pairs: m.strongest(pairs, counts, {LAYER}, {T}, 5),
        mine: m.strongest(pairs, counts, {LAYER}, {T}, 3, {EXPERT}),
        special: m.specialisation(a, Uint8Array.from({KINDS}), 3, counts),
        typical: m.typical(margins, {LAYER}, {L}),
      }};
      const plain = (key, value) => (ArrayBuffer.isView(value) ? [...value] : value);
      console.log(JSON.stringify(told, plain));"""
    return json.loads(chromium.node(bundle("routing/data.mjs") + script))


def listed(array):
    return array.flatten().tolist()


def lit(ids):
    """[T, L, E], 1 where chosen."""
    return (ids[..., None] == np.arange(E)).any(2).astype(int)


def test_counts_and_orders(told):
    counts = lit(FIRST["expert_ids"]).sum(0)
    assert told["counts"] == counts.flatten().tolist()
    some = lit(FIRST["expert_ids"])[[3, 5]].sum(0)
    assert told["some"] == some.flatten().tolist()
    for (start, end), span in zip(SPANS, told["spans"], strict=True):
        assert span == lit(FIRST["expert_ids"])[start:end].sum(0).flatten().tolist()
    order = np.argsort(-counts, axis=1, kind="stable")
    assert told["order"]["expertAt"] == order.flatten().tolist()
    assert told["order"]["columnOf"] == order.argsort(1).flatten().tolist()


def test_who_chose_an_expert(told):
    at, rank = np.nonzero(FIRST["expert_ids"][:, LAYER] == EXPERT)
    assert told["by"] == {
        "tokens": at.tolist(),
        "ranks": rank.tolist(),
        "weights": None,
    }


def test_how_even_a_layer_is(told):
    share = lit(FIRST["expert_ids"]).sum(0)[LAYER] / (T * K)
    used = share[share > 0]
    bits = -(used * np.log2(used)).sum()
    assert told["spread"]["bits"] == pytest.approx(bits)
    assert told["spread"]["effective"] == pytest.approx(2**bits)
    assert told["spread"]["used"] == len(used)
    assert told["spread"]["busiest"] == share.argmax()
    assert told["spread"]["peak"] == pytest.approx(share.max() * E)


def test_what_tokens_share(told):
    cells = lit(FIRST["expert_ids"]).reshape(T, -1)
    shared = cells @ cells.T / (L * K)
    assert np.allclose(told["overlap"], shared[TOKEN])
    assert told["carried"] == pytest.approx(np.diagonal(shared, 1).mean())


def test_where_two_traces_differ(told):
    first, second = lit(FIRST["expert_ids"]), lit(SECOND["expert_ids"])
    only = first * (1 - second)
    assert told["differ"]["perRow"] == only.sum(2).flatten().tolist()
    assert told["differ"]["perToken"] == only.sum((1, 2)).tolist()
    assert told["differ"]["perLayer"] == only.sum((0, 2)).tolist()
    assert told["differ"]["share"] == pytest.approx(only.sum() / (T * L * K))
    assert told["only"] == only.sum(0).flatten().tolist()
    assert only.sum() > 0 and told["onlySome"] == only[[3, 5]].sum(0).flatten().tolist()
    for (start, end), span in zip(SPANS, told["onlySpans"], strict=True):
        assert span == only[start:end].sum(0).flatten().tolist()


def test_which_experts_go_together(told):
    cells = lit(FIRST["expert_ids"])[:, LAYER]
    together = cells.T @ cells
    assert told["together"] == together.flatten().tolist()
    chance = np.outer(cells.sum(0), cells.sum(0)) / T
    a, b = np.triu_indices(E, 1)
    excess = (together - chance)[a, b]
    said = [pair["excess"] for pair in told["pairs"]]
    assert said == pytest.approx(sorted(excess)[-5:][::-1])
    best = told["pairs"][0]
    pair = best["a"], best["b"]
    assert best["times"] == together[pair]
    assert best["lift"] == pytest.approx(together[pair] / chance[pair])
    with_it = (a == EXPERT) | (b == EXPERT)
    said = [pair["excess"] for pair in told["mine"]]
    assert said == pytest.approx(
        sorted(excess[with_it & (together[a, b] > 0)])[-3:][::-1]
    )
    assert all(EXPERT in (pair["a"], pair["b"]) for pair in told["mine"])


def test_specialisation_is_the_smoothed_divergence(told):
    kinds = np.eye(3)[KINDS]  # [T, 3]
    overall = kinds.mean(0)
    by_kind = np.einsum("tle,tk->lek", lit(FIRST["expert_ids"]), kinds)
    share = (by_kind + 8 * overall) / (by_kind.sum(2, keepdims=True) + 8)
    parts = share * np.log2(share / overall)
    assert np.allclose(told["special"]["bits"], parts.sum(2).flatten(), atol=1e-6)
    assert told["special"]["leading"] == parts.argmax(2).flatten().tolist()


def test_the_typical_margin(told):
    margins = np.sort(FIRST["router_margin"][:, LAYER].astype(np.float32))
    assert told["typical"] == pytest.approx(margins[T // 2])
