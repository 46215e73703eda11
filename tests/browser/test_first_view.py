"""What the routing explorer shows at first: where it opens, what it finds, what fits in
sight; and what its colours mean, of which the reader chooses one."""

import json
import re

import numpy as np
import pytest
from safetensors.numpy import load, save
from test_explore import SAMPLE
from views import mount, violations

from minqwen.trace import Trace
from minqwen.widgets.bundle import bundle
from minqwen.widgets.explore import page as page_of
from minqwen.widgets.explore import write_html
from minqwen.widgets.routing_explorer import opens_at
from tools.made_trace import made_trace

pytestmark = pytest.mark.slow

PICTURE = SAMPLE.read_bytes()
VIEW = "routing/view.mjs"


def remade(trace, meta=None, **changed):
    data = load(trace) | changed
    header = json.loads(trace[8 : 8 + int.from_bytes(trace[:8], "little")])
    told = json.loads(header["__metadata__"]["minqwen_trace"]) | (meta or {})
    return save(data, {"minqwen_trace": json.dumps(told)})


def finding(page):
    page.wait_for_timeout(600)
    found = page.locator(".finding")
    return found.inner_text() if found.is_visible() else None


def legend(page):
    return page.locator(".legend").inner_text().replace("\n", " ")


def colour(page, name):
    page.get_by_label("What colour means").select_option(name)
    page.wait_for_timeout(200)


def choose(page, **selected):
    page.evaluate("what => model.set('selected', what)", selected)
    page.wait_for_timeout(200)


# ---- where it opens


@pytest.mark.parametrize("name, word", [("picture", "7"), ("film", " left")])
def test_opens_at_the_answers_last_content_word(new_page, name, word):
    path = SAMPLE.parent / f"{name}.safetensors"
    page = new_page(viewport={"width": 1200, "height": 720})
    mount(page, VIEW, path.read_bytes())
    at = page.locator(".t.cursor")
    assert at.inner_text() == word
    trace = Trace.load(path)
    assert opens_at(trace) == int(at.get_attribute("id")[1:])

    def in_sight():
        box, end = page.locator(".text").bounding_box(), at.bounding_box()
        return end["y"] + end["height"] <= box["y"] + box["height"]

    # The whole of prompt and answer is in sight at once, or scrolled to its end, as
    # soon as the picture is there.
    for _ in range(50):
        if not in_sight():
            page.wait_for_timeout(100)
    assert in_sight()


def test_without_words_it_opens_at_the_last_token(new_page):
    bare = made_trace(2, 8, chosen=2, texts=["<|im_end|>", ".", "\n", "!"])
    page = new_page()
    mount(page, VIEW, bare)
    assert page.locator(".t.cursor").get_attribute("id") == "t3"
    mount(
        page, VIEW, remade(bare, {"prompt_length": 2, "tokens": ["a", " b", ".", "!"]})
    )
    assert page.locator(".t.cursor").get_attribute("id") == "t1"


def test_memory_opens_where_the_trace_says_and_experts_at_the_word(new_page, tmp_path):
    path = tmp_path / "page.html"
    write_html(path, [Trace.load(SAMPLE.parent / "note.safetensors")])
    page = new_page()
    page.goto(path.as_uri())
    page.wait_for_selector("html[data-ready]")
    assert "48 of 51" in page.locator("[role=tabpanel] .frame").inner_text()
    page.get_by_role("tab", name="Experts").click()
    assert page.locator(".t.cursor").inner_text() == " box"


# ---- what it finds


def test_the_finding_is_true_and_can_be_seen(new_page):
    page = new_page(viewport={"width": 1200, "height": 720})
    film = (SAMPLE.parent / "film.safetensors").read_bytes()
    mount(page, VIEW, film)
    said = finding(page)
    expert, layer, share, times, of_all = map(int, re.search(
        r"Expert (\d+) of layer (\d+) reads the picture: (\d+) % of its (\d+) tokens "
        r"are patches, of all tokens (\d+) %", said).groups())  # fmt: skip
    ids = load(film)["expert_ids"]
    mine = (ids[:, layer] == expert).any(1)
    patches = np.zeros(len(ids), bool)
    for start in (11, 25, 39):
        patches[start : start + 6] = True
    assert times == mine.sum() and of_all == round(100 * patches.mean())
    assert share == round(100 * patches[mine].mean())
    button = page.locator(".finding button")
    button.focus()
    page.keyboard.press("Enter")
    assert page.evaluate("model.get('selected')") == {"layer": layer, "expert": expert}
    assert button.inner_text() == "Back to the token"
    assert button.evaluate("b => b.getRootNode().activeElement === b")
    page.keyboard.press("Enter")
    assert "token" in page.evaluate("model.get('selected')")
    assert button.inner_text() == "Show it"


def test_a_finding_of_few_tokens_says_that_it_may_be_chance(new_page):
    page = new_page()
    mount(page, VIEW, PICTURE)
    assert "may read the picture" in finding(page)
    assert "can be chance" in finding(page)


def test_what_its_layer_leans_on_is_the_second_best(new_page):
    rng = np.random.default_rng(3)
    ids = np.argsort(rng.random((60, 4, 16)), 2)[..., :2].astype(np.uint16)
    taken = (ids[:50, 2] == 5).any(1)
    ids[:50, 2, 0] = np.where(taken, ids[:50, 2, 0], 5)
    flat = made_trace(4, 16, 60, 2, weights=False)
    page = new_page()
    mount(page, VIEW, remade(flat, {"tokens": None}, expert_ids=ids))
    times = (ids[:, 2] == 5).any(1).mean()
    said = f"Layer 2 leans on expert 5: chosen by {100 * times:.0f} % of tokens, "
    assert f"{said}{times * 8:.1f} times the even share" in finding(page)


def test_where_nothing_is_clear_nothing_is_claimed(new_page):
    rng = np.random.default_rng(4)
    ids = np.argsort(rng.random((300, 4, 16)), 2)[..., :2].astype(np.uint16)
    page = new_page()
    mount(page, VIEW, remade(made_trace(4, 16, 300, 2, weights=False), expert_ids=ids))
    assert finding(page) is None


def test_of_two_traces_it_finds_where_they_differ_most(new_page):
    texts = [" a", " b", "."] * 20
    first, second = (
        made_trace(6, 16, chosen=2, seed=3, texts=texts, changed=by) for by in (0, 0.5)
    )
    page = new_page()
    mount(page, VIEW, first, second)
    a, b = (np.sort(load(t)["expert_ids"], 2) for t in (first, second))
    kept = (a[..., None] == b[..., None, :]).any(-1)  # [T, L, K]
    lost = 1 - kept.mean((0, 2))
    said = finding(page)
    assert f"most in layer {lost.argmax()}, {100 * lost.max():.0f} %" in said
    assert f"differ in {100 * (1 - kept.mean()):.0f} % of" in said


# ---- what is in sight


@pytest.mark.parametrize("size", [(1280, 720), (680, 520)])
def test_map_and_text_are_beside_each_other_above_the_fold(new_page, tmp_path, size):
    path = tmp_path / "page.html"
    file = tmp_path / "large.safetensors"
    file.write_bytes(made_trace(tokens=100))  # of 60 layers and 512 experts
    write_html(path, [Trace.load(file)])
    page = new_page(viewport=dict(zip(("width", "height"), size, strict=True)))
    page.goto(path.as_uri())
    page.wait_for_selector("html[data-ready]")
    assert finding(page)
    text, box = (page.locator(s).bounding_box() for s in (".text", ".map"))
    assert (
        text["x"] + text["width"] <= box["x"] and text["y"] < box["y"] + box["height"]
    )
    assert box["y"] + box["height"] <= size[1]
    assert page.evaluate("document.documentElement.scrollWidth") <= size[0]


# ---- what colour means


def test_the_legend_says_what_shades_mean_with_unit_and_range(new_page):
    page = new_page(viewport={"width": 1200, "height": 720})
    mount(page, VIEW, PICTURE)
    data = load(PICTURE)
    ids = data["expert_ids"].astype(int)
    counts = np.stack(
        [np.bincount(ids[:, la].ravel(), minlength=16) for la in range(8)]
    )
    assert legend(page).startswith("weight, of 1 0 0.50 1.00")  # two add up to 1
    offered = page.get_by_label("What colour means").locator("option").all()
    assert [o.get_attribute("value") for o in offered] == [
        "weight", "load", "lift", "kind", "margin",
    ]  # fmt: skip
    colour(page, "load")
    top = f"{100 * counts.max() / len(ids):.0f} %"
    assert re.match(rf"chosen for, of all tokens 0 % \d+ % {top}", legend(page))
    choose(page, layer=2, expert=11)
    assert "of these tokens 0 % 50 % 100 %" in legend(page)
    colour(page, "lift")
    assert legend(page).startswith("times its share of the text ¼ 1 8 +")
    choose(page)
    assert legend(page).startswith("times an even share ¼ 1 8 +")
    colour(page, "margin")
    assert re.match(r"mean margin in logits 0\.\d\d \+ 0\.\d\d 0, close", legend(page))
    colour(page, "kind")
    assert legend(page).startswith("reads most, more than others do: picture patch")
    assert legend(page).endswith("no kind full attention")
    assert page.evaluate("model.get('colour')") == "kind"
    assert not violations(page)
    page.evaluate("model.set('colour', 'nonsense')")  # none: what fits
    assert page.get_by_label("What colour means").input_value() == "lift"


SHADES = """async ([colour, selected]) => {
  const [{ parseTrace }, { readRouting }, { cellsOf }] = modules;
  const reading = readRouting(parseTrace(model.get("trace")), null);
  return cellsOf(reading, selected, colour).map((c) => [c.layer, c.expert, c.shade]);
}"""


def test_shades_follow_what_colour_means(new_page):
    """A shade grows with its number, whichever was chosen: against NumPy's."""
    page = new_page()
    mount(page, VIEW, PICTURE)
    give_modules(page, "shared/trace.mjs", "routing/reading.mjs", "routing/colour.mjs")
    data = load(PICTURE)
    ids, T = data["expert_ids"].astype(int), len(data["expert_ids"])
    hit = ids[..., None] == np.arange(16)  # [T, L, K, E]
    counts = hit.any(2).sum(0)
    mine = (ids[:, 2] == 11).any(1)
    some = hit[mine].any(2).sum(0)
    weights = (data["expert_weights"][..., None].astype(float) * hit).sum(2)
    margins = np.where(hit.any(2), data["router_margin"].astype(float)[..., None], 0)
    part = {"layer": 2, "expert": 11}
    with np.errstate(invalid="ignore", divide="ignore"):
        for name, selected, value in [
            ("load", {}, counts / T), ("lift", {}, counts / T),
            ("load", part, some / mine.sum()),
            ("lift", part, (some / mine.sum()) / (counts / T)),
            ("weight", part, weights[mine].sum(0) / some),
            ("margin", part, -margins[mine].sum(0) / some),
            ("weight", {"token": 9}, weights[9]), ("load", {"token": 9}, counts / T),
        ]:  # fmt: skip
            cells = page.evaluate(SHADES, [name, selected])
            order = sorted((value[la, e], shade) for la, e, shade in cells)
            shades = [shade for _, shade in order]
            assert len(set(shades)) > 2, name
            # Equal but for what float16 and bytes of 255 round.
            assert all(
                b >= a - 0.02 for a, b in zip(shades, shades[1:], strict=False)
            ), name


def give_modules(page, *names):
    page.evaluate(
        """async (sources) => {
      window.modules = await Promise.all(sources.map((source) =>
        import(URL.createObjectURL(new Blob([source], { type: "text/javascript" })))));
    }""",
        [bundle(name) for name in names],
    )


ROWS = """async () => {
  const [{ parseTrace }, { readRouting }, { cellsOf, colourOf }] = modules;
  const reading = readRouting(parseTrace(model.get("trace")), null);
  const order = "by specialisation";
  const { expertAt } = reading.order(order);
  const cells = cellsOf(reading, {}, colourOf(reading, { order, selected: {} }));
  const kind = new Map(cells.map((c) => [c.layer * reading.E + c.expert, c.kind]));
  const { bits } = reading.special();
  return Array.from({ length: reading.L }, (_, l) =>
    Array.from({ length: reading.E }, (_, column) => {
      const cell = l * reading.E + expertAt[l * reading.E + column];
      return [kind.get(cell) ?? null, bits[cell]];
    }));
}"""


def test_sorted_by_specialisation_kinds_stand_together(new_page):
    """From left to right kind by kind, in each the most particular first."""
    page = new_page()
    mount(page, VIEW, PICTURE)
    give_modules(page, "shared/trace.mjs", "routing/reading.mjs", "routing/colour.mjs")
    page.get_by_label("Order of experts").select_option("by specialisation")
    assert page.get_by_label("What colour means").input_value() == "kind"
    rows = page.evaluate(ROWS)
    for row in rows:
        kinds = [kind for kind, _ in row if kind is not None]
        assert kinds == sorted(kinds)
        for kind in set(kinds) - {8}:
            bits = [b for k, b in row if k == kind]
            assert bits == sorted(bits, reverse=True) and bits[-1] >= 0.05
    assert len({kind for row in rows for kind, _ in row}) > 4


def test_a_page_says_its_title_once(new_page, tmp_path):
    path = tmp_path / "page.html"
    path.write_text(page_of([Trace.load(SAMPLE)]))
    page = new_page()
    page.goto(path.as_uri())
    page.wait_for_selector("html[data-ready]")
    assert page.get_by_role("heading", name="Experts of").bounding_box()["width"] <= 1
