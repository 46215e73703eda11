"""Two traces of different texts: aligned word by word where that is sensible."""

import json

import numpy as np
import pytest
from chromium import node
from views import FRAME, mount

from minqwen.widgets.bundle import bundle
from tools.made_trace import made_trace

pytestmark = pytest.mark.slow

WORDS = (
    "The key is on the table . Now the key is in the box . Where is the key ?".split()
)
EDITED = [*WORDS[:5], "big", "red", "shelf", *WORDS[6:-2], "lamp", "?"]
SHARED = len(WORDS) - 2  # all but "table" and the second "key"


def aligned(*pairs):
    """align of each pair of lists, by the module itself."""
    script = """
    const pairs = JSON.parse(process.argv.at(-1));
    const lists = pairs.map(([a, b]) => align(a, b).map((places) => [...places]));
    console.log(JSON.stringify(lists));"""
    return json.loads(node(bundle("shared/align.mjs") + script, json.dumps(pairs)))


def longest(a, b):
    """Length of a longest common subsequence, by the plain recurrence."""
    row = [0] * (len(b) + 1)
    for x in a:
        before, row = row, [0]
        for j, y in enumerate(b):
            row.append(before[j] + 1 if x == y else max(before[j + 1], row[-1]))
    return row[-1]


def test_alignments_are_longest_common_subsequences():
    rng = np.random.default_rng(0)
    pairs = [
        [rng.integers(0, 5, n).tolist(), rng.integers(0, 5, m).tolist()]
        for n, m in [(1, 1), (0, 3), (8, 8), (20, 13), (30, 40), (25, 25)]
    ]
    pairs += [[WORDS, EDITED], [WORDS, WORDS], [WORDS, WORDS[4:]], [WORDS, ["x"] * 9]]
    for (a, b), (mine, theirs) in zip(pairs, aligned(*pairs), strict=True):
        assert [a[i] for i in mine] == [b[j] for j in theirs]
        assert all(np.diff(mine) > 0) and all(np.diff(theirs) > 0)
        assert len(mine) == longest(a, b)


def traces():
    first, second = (
        made_trace(4, 16, chosen=2, seed=s, texts=texts)
        for s, texts in [(1, WORDS), (2, EDITED)]
    )
    return with_ids(first, WORDS), with_ids(second, EDITED)


def with_ids(trace, texts):
    from test_first_view import remade

    names = sorted({*WORDS, *EDITED})
    ids = np.array([names.index(text) for text in texts], np.uint32)
    return remade(trace, token_ids=ids)


def test_edited_words_are_left_out_and_the_rest_is_compared(new_page):
    from safetensors.numpy import load

    first, second = traces()
    page = new_page()
    mount(page, "routing/view.mjs", first, second, selected={})
    assert "".join(page.locator(".t").all_inner_texts()) == "".join(
        word for i, word in enumerate(WORDS) if word != "table" and i != len(WORDS) - 2
    )
    said = page.locator(".caption").inner_text()
    assert f"Compared are the {SHARED} tokens that both texts share" in said
    assert "2 of the first and 4 of the second have no counterpart" in said
    ((mine, theirs),) = aligned([WORDS, EDITED])
    a, b = load(first)["expert_ids"][mine], load(second)["expert_ids"][theirs]
    share = 1 - (a[..., None] == b[..., None, :]).any(-1).mean()
    page.wait_for_timeout(300)
    assert (
        f"in all {100 * share:.0f} % of their choices"
        in page.locator(".says").inner_text()
    )


def test_traits_keep_the_first_texts_own_places(new_page):
    """So Memory and Experts speak of one word, though Experts counts shared ones."""
    from views import traits

    first, second = traces()
    page = new_page()
    mount(page, "routing/view.mjs", first, second, token=7, selected={"token": 7})
    ((mine, _),) = aligned([WORDS, EDITED])
    cursor = page.locator(".t.cursor")
    assert (cursor.inner_text(), cursor.get_attribute("id")) == (WORDS[7], "t6")
    page.locator("#t9").click()
    own = mine[9]
    assert traits(page, "token", "selected") == [own, {"token": own}]
    assert page.locator(".t.cursor").inner_text() == WORDS[own]
    page.locator("#t12").click(modifiers=["Shift"])
    assert traits(page, "selected") == [{"tokens": [own, mine[12] + 1]}]
    page.evaluate("model.set('token', 5)")  # "table": the next that both have
    page.evaluate("model.set('selected', { token: 5 })")
    assert page.locator(".t.cursor").inner_text() == WORDS[6]


def test_texts_with_too_little_in_common_are_not_compared(new_page):
    first, _ = traces()
    other = with_ids(
        made_trace(4, 16, chosen=2, texts=["lamp", "big", "red"] * 7 + ["."]),
        ["lamp", "big", "red"] * 7 + ["."],
    )
    page = new_page()
    mount(page, "routing/view.mjs", first, other)
    assert "share too few" in page.get_by_role("alert").inner_text()


def test_memory_is_told_beside_the_same_word(new_page):
    """After an edited word the second's state is that at the word's own place in it."""
    from test_state import made, raw

    first, second = made(T=12), made(T=15)
    ids = np.arange(12, dtype=np.uint32)
    first.tensors["token_ids"] = ids
    second.tensors["token_ids"] = np.r_[ids[:5], [90, 91, 92, 93], ids[6:]].astype(
        np.uint32
    )
    page = new_page(viewport={"width": 1200, "height": 800})
    mount(
        page, "state/view.mjs", raw(first), raw(second), head=[1, 2], token=9, probe=7
    )
    page.wait_for_function(f"{FRAME}.dataset.ready === 'true'")
    page.wait_for_timeout(200)
    parts = [second[f"delta.1.2.{n}"].astype(float) for n in ("k", "v", "g", "beta")]
    state = np.zeros((parts[0].shape[1], parts[1].shape[1]))
    for k, v, g, beta in list(zip(*parts, strict=True))[:13]:  # token 9 is its 12
        state = np.exp(g) * state
        state += np.outer(k, beta * (v - state.T @ k))
    said = page.locator(".say").inner_text()
    length = float(said.split("the memory is ")[1].split(" long")[0])
    assert length == pytest.approx(np.linalg.norm(state), rel=0.01)
    page.evaluate("model.set('token', 5)")  # has no counterpart
    page.get_by_text("its text does not have token 5").wait_for()
