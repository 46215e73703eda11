"""The routing explorer in a real browser: pixels, every way to select, every key."""

import base64
import json
import re

import numpy as np
import pytest
from lab import lab
from safetensors.numpy import load, save
from served import Served
from views import violations

from tools.made_trace import made_trace

pytestmark = pytest.mark.slow

TEXTS = ["<|im_start|>", "user", "\n", *[""] * 6, "Which", " digit", " is", " this"]
TEXTS += ["?"]
TEXTS += ["\n", " It", " is", " a", " 7", "."] * 9
PICTURES = [(3, 2, 3)]  # six patches, where the texts are empty
SMALL = made_trace(8, 32, chosen=4, seed=3, texts=TEXTS, pictures=PICTURES)
OTHER = made_trace(8, 32, chosen=4, seed=3, texts=TEXTS, pictures=PICTURES, changed=0.3)
BARE = made_trace(8, 32, chosen=4, seed=3, texts=TEXTS, weights=False)
LARGE = made_trace(60, 512, 300, 10, seed=1)

# The canvas' pixels, and the cells' rectangles by the drawing's own geometry.
READ = """async ({ layers, experts, sides, halves }) => {
  const { geometry } = await import("/routing/draw.mjs");
  const canvas = explorer(".map");
  const g = geometry({ width: canvas.clientWidth, L: layers, E: experts, sides, halves,
    view: { zoom: 1, x: 0, y: 0 }, scale: devicePixelRatio });
  const boxes = [];
  for (const half of halves ? [1, 2] : [0])
    for (let l = 0; l < layers; l++)
      for (let e = 0; e < experts; e++) {
        const { x, y, w, h } = g.box(e, l, half);
        boxes.push([half, l, e, x, y, w, h]);
      }
  const { data, width, height } = canvas.getContext("2d")
    .getImageData(0, 0, canvas.width, canvas.height);
  let text = "";
  for (let i = 0; i < data.length; i += 8192)
    text += String.fromCharCode(...data.subarray(i, i + 8192));
  return { boxes, plot: g.plot, width, height, pixels: btoa(text) };
}"""


@pytest.fixture(scope="module")
def server():
    with Served() as server:
        yield server
        server.shutdown()


@pytest.fixture
def explore(server, new_page):
    """explore(trace, other, width=, theme=, **traits): a page with the explorer."""

    def explore(
        trace=SMALL, other=b"", width=1200, theme="light", motion=None, **traits
    ):
        traits.setdefault("selected", {"token": traits.get("token", 12)})
        server.show("routing/view.mjs", trace, other, order="as numbered", **traits)
        options = {"viewport": {"width": width, "height": 900}, "color_scheme": theme}
        page = new_page(reduced_motion=motion, **options)
        page.add_init_script(
            "window.explorer = (s) => document.querySelector('#view > div')"
            ".shadowRoot.querySelector(s)"
        )
        page.goto(server.url)
        page.wait_for_selector("body[data-ready]", timeout=30_000)
        settled(page)
        return page

    return explore


def settled(page):
    """Past the moments in which tints and neighbours follow the selection."""
    page.wait_for_timeout(500)


def selected(page):
    return page.evaluate("model.get('selected')")


def says(page):
    return page.locator(".says").inner_text()


def tensors(trace):
    return load(trace)


def lit(page, layers=8, experts=32, sides=2, halves=False, ring=None):
    """What the canvas shows: {(half, layer, expert): colour} of the cells that are lit.

    Fails if a pixel of the map is neither ground nor mark nor inside a lit cell, or if
    a cell is lit in part only. A cell in a `ring` is left out, with those around it.
    """
    read = page.evaluate(
        READ, {"layers": layers, "experts": experts, "sides": sides, "halves": halves}
    )
    image = pixels(read).astype(int)
    theme = page.evaluate("explorer('.frame').dataset.theme")
    ground = {
        "light": [(255, 255, 255), (245, 246, 248), (184, 60, 0)],
        "dark": [(20, 23, 28), (29, 33, 40), (255, 171, 112)],
    }[theme]
    plot = {name: round(value) for name, value in read["plot"].items()}
    coloured = np.ones(image.shape[:2], bool)
    for colour in ground:
        coloured &= (image != colour).any(-1)
    inside = np.zeros_like(coloured)
    inside[plot["y"] : plot["y"] + plot["h"], plot["x"] : plot["x"] + plot["w"]] = True
    coloured &= inside
    found = {}
    for half, layer, expert, *box in read["boxes"]:
        x, y, w, h = map(round, box)
        if ring and abs(layer - ring[0]) < 2 and abs(expert - ring[1]) < 2:
            coloured[y : y + h + 1, x : x + w + 1] = False
            continue
        part = coloured[y : y + h, x : x + w]
        if part.size and part.all():
            found[half, layer, expert] = tuple(image[y + h // 2, x + w // 2].tolist())
            coloured[y : y + h, x : x + w] = False
    assert not coloured.any(), "pixels are coloured outside the lit cells"
    return found


def pixels(read):
    raw = np.frombuffer(base64.b64decode(read["pixels"]), np.uint8)
    return raw.reshape(read["height"], read["width"], 4)[..., :3]


def chosen(trace, tokens):
    """The cells that a token, or any of several, chose."""
    ids = np.atleast_3d(tensors(trace)["expert_ids"][tokens].T).T  # [n, L, K]
    return {(0, la, int(e)) for row in ids for la in range(len(row)) for e in row[la]}


def brightness(colour):
    return sum(colour)


# ---- what is drawn


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [800, 1200])
def test_a_tokens_cells_are_lit_where_and_only_where_chosen(explore, width, theme):
    page = explore(width=width, theme=theme, token=12)
    assert set(lit(page)) == chosen(SMALL, 12)
    page.evaluate("model.set('token', 40)")
    assert set(lit(page)) == chosen(SMALL, 40)


def test_sixty_layers_of_512_experts_are_lit_where_and_only_where_chosen(explore):
    page = explore(LARGE, width=2200, token=100)  # wide enough for cells of two pixels
    assert set(lit(page, 60, 512)) == chosen(LARGE, 100)


def test_a_larger_weight_is_stronger(explore):
    page = explore(token=12)
    colours, data = lit(page), tensors(SMALL)
    for layer in range(8):
        order = [colours[0, layer, int(e)] for e in data["expert_ids"][12, layer]]
        light = [brightness(colour) for colour in order]
        assert light == sorted(light), f"layer {layer}: the best should be darkest"


def test_an_expert_lights_what_its_tokens_chose(explore):
    page = explore(selected={"layer": 3, "expert": 5})
    ids = tensors(SMALL)["expert_ids"]
    tokens = (ids[:, 3] == 5).any(1)
    # The ring that marks the expert covers some of its neighbours.
    beside = {(0, la, e) for la in (2, 3, 4) for e in (4, 5, 6)}
    assert set(lit(page, sides=3, ring=(3, 5))) == chosen(SMALL, tokens) - beside


def test_several_tokens_light_what_any_of_them_chose(explore):
    page = explore(selected={"tokens": [0, 30]})
    assert set(lit(page, sides=3)) == chosen(SMALL, slice(0, 30))


def test_orders_move_columns_and_nothing_else(explore):
    page = explore(token=12)
    ids = tensors(SMALL)["expert_ids"]
    load = np.zeros((8, 32), int)
    for layer in range(8):
        load[layer] = np.bincount(ids[:, layer].flatten(), minlength=32)
    page.get_by_label("Order of experts").select_option("by load")
    places = np.argsort(-load, axis=1, kind="stable").argsort(1)
    want = {(0, la, int(places[la, e])) for _, la, e in chosen(SMALL, 12)}
    assert set(lit(page)) == want
    assert page.evaluate("model.get('order')") == "by load"
    page.get_by_label("What colour means").select_option("weight")
    page.get_by_label("Order of experts").select_option("by specialisation")
    assert len(lit(page)) == 32


def test_two_traces_differing_choices_are_marked(explore):
    page = explore(SMALL, OTHER, token=12)
    colours = lit(page, sides=3, halves=True)
    first, second = ({c[1:] for c in chosen(t, 12)} for t in (SMALL, OTHER))
    assert {c[1:] for c in colours if c[0] == 1} == first
    assert {c[1:] for c in colours if c[0] == 2} == second
    assert first != second
    for (half, *cell), (red, green, blue) in colours.items():
        cell = tuple(cell)
        if cell in first & second:
            assert max(red, green, blue) - min(red, green, blue) < 12  # grey
        elif half == 1:
            assert blue > red + 50
        else:
            assert red > blue + 50
    differ = len(first - second)
    text = page.locator(".panel").inner_text()
    assert f"{differ} of this token's 32 choices differ" in text


def test_a_second_trace_of_a_longer_text_is_compared_as_far_as_both_go(explore):
    longer = made_trace(8, 32, chosen=4, seed=3, texts=[*TEXTS, "more"])
    page = explore(SMALL, longer)
    assert f"of {len(TEXTS)}" in page.locator(".place").inner_text()
    assert "one of them ends there" in page.locator(".caption").inner_text()


def test_a_second_trace_that_does_not_fit_leaves_the_first_standing(explore):
    page = explore(SMALL, LARGE, token=12)
    assert "the two traces differ in layers" in page.get_by_role("alert").inner_text()
    assert set(lit(page)) == chosen(SMALL, 12)
    page = explore(SMALL, remade(OTHER, token_ids=ids_from(1000)), token=12)
    assert "begin with different tokens" in page.get_by_role("alert").inner_text()
    assert set(lit(page)) == chosen(SMALL, 12)


def remade(trace, meta=None, **changed):
    """The trace with other tensors (None: without) and other metadata."""
    data = {k: v for k, v in (tensors(trace) | changed).items() if v is not None}
    header = json.loads(trace[8 : 8 + int.from_bytes(trace[:8], "little")])
    told = json.loads(header["__metadata__"]["minqwen_trace"]) | (meta or {})
    return save(data, {"minqwen_trace": json.dumps(told)})


def ids_from(start):
    return np.arange(start, start + len(TEXTS), dtype=np.uint32)


def test_texts_that_part_are_compared_as_far_and_it_is_said(explore):
    parted = ids_from(0)
    parted[40:] += 1000
    page = explore(SMALL, remade(OTHER, token_ids=parted), token=12)
    assert "of 40" in page.locator(".place").inner_text()
    said = page.locator(".caption").inner_text()
    assert (
        "the 40 tokens with which both texts begin; from there on they differ" in said
    )
    page = explore(SMALL, remade(OTHER, {"tokens": None}, token_ids=None), token=12)
    said = page.locator(".caption").inner_text()
    assert "cannot tell whether both are of the same text" in said
    assert f"of {len(TEXTS)}" in page.locator(".place").inner_text()


def test_traces_have_names(explore):
    names = ["bf16", "<b>fp8\u202e"]
    page = explore(SMALL, OTHER, token=12, names=names)
    for place in (".caption", ".legend", ".says"):
        assert "“<b>fp8⟨U+202E⟩”" in page.locator(place).inner_text(), place
    assert "“bf16”" in page.locator(".legend").inner_text()
    page = explore(SMALL, remade(OTHER, {"model": "another"}), token=12)
    assert "“another”" in page.locator(".says").inner_text()
    page = explore(SMALL, OTHER, token=12)
    assert "In the second trace: " in says(page)


def test_ids_alone_are_enough(explore):
    page = explore(BARE, token=12)
    assert set(lit(page, sides=0)) == chosen(BARE, 12)
    page.get_by_role("button", name="Whole text").click()
    settled(page)
    assert "entropy" in says(page)


@pytest.mark.parametrize("what", [{"token": 12}, {"layer": 3, "expert": 5}, {}])
def test_of_an_unknown_text_no_kinds_are_claimed(explore, what):
    """Numbers in brackets are no punctuation, and places no texts that repeat."""
    unknown = remade(BARE, {"tokens": None, "pictures": []}, token_ids=None)
    unknown = remade(unknown, **{"picture.0": None})
    page = explore(unknown, selected=what)
    panel = page.locator(".panel").inner_text()
    assert not re.search("punctuation|word|number|particular|in common", panel)
    orders = page.get_by_label("Order of experts").inner_text()
    assert "by load" in orders and "specialisation" not in orders


# ---- a comparison's colours are shares


def test_a_cell_is_coloured_by_the_share_that_differs(explore):
    """One difference in many leaves a cell grey; where all differ it is full."""
    ids = tensors(SMALL)["expert_ids"].copy()
    counts = np.bincount(ids[:, 2].ravel(), minlength=32)
    much, few = (int(e) for e in np.argsort(-counts)[[0, 20]])
    gone = {much: 1, few: int(counts[few])}
    for expert, times in gone.items():
        places = np.argwhere(ids[:, 2] == expert)[:times]
        for t, k in places:
            taken = {much, few, *ids[t, 2].tolist()}
            ids[t, 2, k] = min(set(range(32)) - taken)
    page = explore(SMALL, remade(SMALL, expert_ids=ids), selected={})
    found = lit(page, sides=4, halves=True)
    chroma = {cell: max(colour) - min(colour) for cell, colour in found.items()}
    assert chroma[1, 2, few] > 60 and counts[much] > 15
    assert chroma[1, 2, much] < 20  # the grey itself has 9
    assert all(value < 12 for (_, layer, _), value in chroma.items() if layer != 2)
    legend = page.locator(".legend").inner_text()
    assert "of them in the first trace only" in legend and "all" in legend


def test_a_map_of_few_differences_is_not_full_of_colour(explore):
    nearly = made_trace(60, 512, 300, 10, seed=1, changed=0.1)
    page = explore(LARGE, nearly, selected={}, width=2200)
    found = lit(page, 60, 512, sides=4, halves=True)
    chroma = np.array([max(colour) - min(colour) for colour in found.values()])
    assert 0 < chroma.mean() < 25  # of 150, where 7 % of choices differ
    share = re.search(r"in all ([\d.]+) %", says(page))[1]
    assert 5 < float(share) < 10


def test_weights_are_not_compared_with_ranks(explore):
    """Of two traces of which one has ranks alone, both are drawn by rank."""
    page = explore(SMALL, remade(SMALL, expert_weights=None), token=12)
    colours = lit(page, sides=3, halves=True)
    assert page.locator(".legend").inner_text().startswith("rank")
    assert "higher its rank" in page.locator(".caption").inner_text()
    for (half, *cell), colour in colours.items():
        assert half == 2 or colours[2, *cell] == colour


def test_a_search_outlines_the_experts_that_half_of_the_found_chose(explore):
    page = explore(token=12, find="digit is")
    before = lit(explore(token=12))
    ids = tensors(SMALL)["expert_ids"][[TEXTS.index(" digit"), TEXTS.index(" is")]]
    wanted = {(la, int(e)) for row in ids for la in range(8) for e in row[la]}
    read = page.evaluate(
        READ, {"layers": 8, "experts": 32, "sides": 2, "halves": False}
    )
    image, found = pixels(read), set()
    for _, layer, expert, x, y, w, _ in read["boxes"]:
        edge = image[round(y) + 1, round(x) + 2 : round(x + w) - 2]
        if (edge == (27, 31, 36)).all():
            found.add((layer, expert))
    assert found == wanted and {c[1:] for c in before} != wanted


# ---- what panels and bars say


def test_a_spans_panel_is_of_the_span(explore):
    page = explore(SMALL, OTHER, selected={"tokens": [9, 20]})
    page.get_by_text("Chosen here more than in the whole text").wait_for()
    ids, theirs = (tensors(t)["expert_ids"][9:20] for t in (SMALL, OTHER))
    lost = sum(
        len(set(a.tolist()) - set(b.tolist()))
        for a, b in zip(ids.reshape(-1, 4), theirs.reshape(-1, 4), strict=True)
    )
    panel = page.locator(".panel").inner_text()
    assert (
        f"{lost}, {percent(lost / ids.size)}; in" in panel and "of 11 tokens" in panel
    )
    assert f"in all {percent(lost / ids.size)} of their choices differ" in says(page)
    counts = np.stack(
        [np.bincount(ids[:, la].ravel(), minlength=32) for la in range(8)]
    )
    whole = tensors(SMALL)["expert_ids"]
    all_of = np.stack(
        [np.bincount(whole[:, la].ravel(), minlength=32) for la in range(8)]
    )
    more = counts / 11 - all_of / len(whole)
    layer, expert = np.unravel_index(more.argmax(), more.shape)
    first = page.locator(".panel tbody tr").first.inner_text()
    assert first.startswith(
        f"{layer} · {expert}\t{percent(counts[layer, expert] / 11)}"
    )
    assert "particular" not in panel


def percent(share):
    return f"{100 * share:.{0 if share >= 0.0995 else 1}f} %"


def test_panels_know_the_second_trace(explore):
    page = explore(SMALL, OTHER, selected={"layer": 3, "expert": 5})
    mine, theirs = (
        set(np.flatnonzero((tensors(t)["expert_ids"][:, 3] == 5).any(1)).tolist())
        for t in (SMALL, OTHER)
    )
    told = f"In the second trace: by {len(theirs)}, {len(mine & theirs)} of them"
    assert told in page.locator(".panel").inner_text()
    page.evaluate("model.set('selected', {layer: 3})")
    settled(page)
    counts = np.bincount(tensors(OTHER)["expert_ids"][:, 3].ravel(), minlength=32)
    share = counts[counts > 0] / counts.sum()
    panel = page.locator(".panel").inner_text()
    assert f"In the second trace: {-(share * np.log2(share)).sum():.2f} bits" in panel
    assert f"In the second trace: expert {counts.argmax()}, " in panel


@pytest.mark.parametrize("margin, close", [(0.0999, True), (0.1001, False)])
def test_a_close_choice_is_one_under_a_stated_margin(explore, margin, close):
    margins = np.full((len(TEXTS), 8), margin, np.float32)
    page = explore(remade(SMALL, router_margin=margins), token=12)
    panel = page.locator(".panel").inner_text()
    assert ("a close choice, under 0.1: " in panel) == close
    assert "the next would weigh 90 % as much" in panel


def test_the_routers_own_entropy_is_beside_that_of_the_choices(explore):
    bits = np.linspace(0, 5, len(TEXTS) * 8, dtype=np.float32).reshape(-1, 8)
    page = explore(remade(SMALL, {"version": 2}, router_entropy=bits), token=12)
    assert f"the router's own entropy {bits[12, 0]:.2f} bits" in says(page)
    assert f"{bits[12, 0]:.2f} of 5.00 bits" in page.locator(".panel").inner_text()
    page.evaluate("model.set('selected', {layer: 3})")
    settled(page)
    assert f"the router's own entropy {bits[:, 3].mean():.2f} bits" in says(page)
    assert "Entropy of its choices" in page.locator(".panel").inner_text()


def test_bars_have_numbers_and_those_that_go_on_are_marked(explore):
    margins = np.full((len(TEXTS), 8), 0.25, np.float32)
    margins[12, 5] = 4.0  # the full bar is three times the typical margin
    page = explore(remade(SMALL, router_margin=margins), token=13)
    page.evaluate("""() => {
      window.printed = [];
      const plain = CanvasRenderingContext2D.prototype.fillText;
      CanvasRenderingContext2D.prototype.fillText = function (...args) {
        window.printed.push(args[0]);
        plain.apply(this, args);
      };
    }""")
    page.evaluate("model.set('token', 12)")
    settled(page)
    printed = page.evaluate("window.printed")
    assert {"4.00", "0.25", "0 to 0.75 ▸"} <= set(map(str, printed))
    gates = tensors(SMALL)["shared_gate"][12].astype(float)
    assert {f"{gate:.2f}" for gate in gates} <= set(map(str, printed))
    read = page.evaluate(READ, dict(layers=8, experts=32, sides=2, halves=False))
    image, plot = pixels(read), read["plot"]
    ink = (image == (27, 31, 36)).all(-1)[:, round(plot["x"] + plot["w"]) :]
    _, _, _, _, y, _, h = next(b for b in read["boxes"] if b[1:3] == [5, 0])
    rows = np.flatnonzero(ink.any(1))
    assert rows.size and (rows >= y).all() and (rows <= y + h).all()


def test_what_is_under_the_pointer_is_said_at_the_pointer(explore):
    page = explore(SMALL, OTHER, selected={"tokens": [9, 20]})
    x, y = cell_at(page, 3, int(tensors(SMALL)["expert_ids"][12, 3, 0]), 4)
    page.mouse.move(x, y)
    tip = page.locator(".tip").bounding_box()
    assert 0 < tip["x"] - x < 30 and -10 < tip["y"] - y < 40
    assert "of 11 tokens; in the second trace by" in page.locator(".tip").inner_text()
    page.mouse.move(5, 5)
    assert not page.locator(".tip").is_visible()


# ---- selecting


def cell_at(page, layer, expert, sides=2):
    """A point of the page inside a cell."""
    read = page.evaluate(
        READ, {"layers": 8, "experts": 32, "sides": sides, "halves": False}
    )
    _, _, _, x, y, w, h = next(
        b for b in read["boxes"] if b[1] == layer and b[2] == expert
    )
    box = page.locator(".map").bounding_box()
    return box["x"] + x + w / 2, box["y"] + y + h / 2


def test_select_from_the_text(explore):
    page = explore()
    page.locator("#t10").click()
    assert selected(page) == {"token": 10}
    assert page.evaluate("model.get('token')") == 10
    assert set(lit(page)) == chosen(SMALL, 10)
    assert page.locator("#t10").get_attribute("aria-selected") == "true"


def test_select_a_patch_of_a_picture(explore):
    page = explore()
    page.locator("#t7").click()
    assert selected(page) == {"token": 7}
    assert "patch of image, row 2, column 2" in says(page)
    assert "picture patch" in page.locator(".panel").inner_text()


def test_the_text_scrolls_to_the_token_be_it_a_patch(explore):
    page = explore(width=400, token=len(TEXTS) - 1)
    box = page.locator(".text").bounding_box()
    for token in (0, 7, 8, 40, len(TEXTS) - 1, 5):
        page.evaluate(f"model.set('token', {token})")
        at = page.locator(f"#t{token}").bounding_box()
        assert box["y"] <= at["y"] + at["height"] / 2 <= box["y"] + box["height"]


def test_select_several_tokens_by_dragging(explore):
    page = explore()
    page.locator("#t10").hover()
    page.mouse.down()
    page.locator("#t12").hover()
    page.mouse.up()
    assert selected(page) == {"tokens": [10, 13]}
    settled(page)
    assert "Tokens 10 to 12" in page.locator(".panel").inner_text()


def test_select_an_expert_on_the_map_and_see_who_chose_it(explore):
    page = explore(token=12)
    data = tensors(SMALL)
    expert = int(data["expert_ids"][12, 3, 0])
    page.mouse.click(*cell_at(page, 3, expert))
    assert selected(page) == {"layer": 3, "expert": expert}
    settled(page)
    tokens = np.flatnonzero((data["expert_ids"][:, 3] == expert).any(1)).tolist()
    tinted = page.evaluate(
        "[...explorer('.text').querySelectorAll('.t')]"
        ".filter((t) => t.style.backgroundColor).map((t) => t.token)"
    )
    assert tinted == tokens
    assert f"chosen by {len(tokens)} of {len(TEXTS)} tokens" in says(page)
    assert page.locator(".lines li").count() == min(8, len(tokens))
    page.locator(".lines button").first.click()
    assert selected(page)["token"] in tokens


def test_select_a_layer_by_its_number(explore):
    page = explore()
    box = page.locator(".map").bounding_box()
    _, y = cell_at(page, 5, 0)
    page.mouse.click(box["x"] + 10, y)
    assert selected(page) == {"layer": 5}
    counts = np.bincount(tensors(SMALL)["expert_ids"][:, 5].flatten(), minlength=32)
    share = counts[counts > 0] / counts.sum()
    entropy = -(share * np.log2(share)).sum()
    assert f"entropy {entropy:.2f} bits" in says(page)
    assert f"{(counts > 0).sum()} of 32 experts chosen" in says(page)


def test_the_pointer_snaps_to_a_lit_cell_nearby(explore):
    page = explore(LARGE, token=100)
    ids = tensors(LARGE)["expert_ids"][100]
    read = page.evaluate(
        READ, {"layers": 60, "experts": 512, "sides": 2, "halves": False}
    )
    _, _, _, x, y, w, h = next(
        b for b in read["boxes"] if b[1] == 30 and b[2] == int(ids[30, 0])
    )
    box = page.locator(".map").bounding_box()
    page.mouse.move(box["x"] + x + w / 2 + 1, box["y"] + y + h / 2 + 1)
    told = page.locator(".tip").inner_text()
    assert f"Layer 30, expert {ids[30, 0]}: rank 1 of 10" in told
    page.mouse.down()
    page.mouse.up()
    assert selected(page) == {"layer": 30, "expert": int(ids[30, 0])}


def test_select_by_number_and_from_python(explore):
    page = explore()
    page.get_by_label("Layer", exact=True).fill("6")
    page.keyboard.press("Enter")
    page.get_by_label("Expert", exact=True).fill("20")
    page.keyboard.press("Enter")
    assert selected(page) == {"layer": 6, "expert": 20}
    page.evaluate("model.set('token', 3)")  # moves the reader, keeps the selection
    assert "token 3" in says(page) and selected(page) == {"layer": 6, "expert": 20}
    page.evaluate("model.set('selected', {token: 9})")
    assert says(page).startswith(f"Token 9 of {len(TEXTS)}")
    page.evaluate("model.set('selected', {token: 9999})")  # not in this trace: ignored
    assert says(page).startswith(f"Token 9 of {len(TEXTS)}")


# ---- the keyboard, and the text line


def test_the_text_by_keyboard(explore):
    page = explore(token=10)
    page.locator(".text").focus()
    page.keyboard.press("ArrowRight")
    assert selected(page) == {"token": 11}
    page.keyboard.press("Shift+ArrowRight")
    page.keyboard.press("Shift+ArrowRight")
    assert selected(page) == {"tokens": [11, 14]}
    page.keyboard.press("End")
    assert selected(page) == {"token": len(TEXTS) - 1}
    page.keyboard.press("ArrowUp")
    above = selected(page)["token"]
    assert above < len(TEXTS) - 1
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Home")
    assert selected(page) == {"token": 0}
    active = page.locator(".text").get_attribute("aria-activedescendant")
    assert active == "t0"


def test_the_map_by_keyboard_reaches_every_lit_cell_and_says_it(explore):
    page = explore(token=12)
    data = tensors(SMALL)
    page.locator(".map").focus()
    page.keyboard.press("Home")
    for layer in range(8):
        experts = data["expert_ids"][12, layer]
        weights = data["expert_weights"][12, layer]
        listed = ", ".join(
            f"{e} ({w / 255:.2f})" for e, w in zip(experts, weights, strict=True)
        )
        assert f"layer {layer}" in says(page)
        assert f"chose experts {listed}" in says(page)
        assert f"before {data['runner_up'][12, layer]}" in says(page)
        assert f"shared expert {data['shared_gate'][12, layer]:.2f}" in says(page)
        page.keyboard.press("Home")
        for expert in sorted(map(int, experts)):
            assert f"At expert {expert}." in says(page)
            page.keyboard.press("ArrowRight")
        page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    chosen_by_keyboard = selected(page)
    assert chosen_by_keyboard["layer"] == 7 and "expert" in chosen_by_keyboard
    at = page.evaluate("model.get('token')")
    page.keyboard.press("n")
    after = page.evaluate("model.get('token')")
    reads = (data["expert_ids"][:, 7] == chosen_by_keyboard["expert"]).any(1)
    assert after > at and reads[after] and not reads[at + 1 : after].any()
    assert selected(page) == chosen_by_keyboard
    page.keyboard.press("l")
    assert selected(page) == {"layer": 7}
    page.keyboard.press("Escape")
    assert selected(page) == {"token": after}
    page.keyboard.press("a")
    assert selected(page) == {}


def test_zoom_and_order_by_keyboard(explore):
    page = explore(LARGE, token=100)
    page.locator(".map").focus()
    before = page.evaluate("explorer('.map').toDataURL()")
    page.keyboard.press("+")
    assert page.evaluate("explorer('.map').toDataURL()") != before
    page.keyboard.press("0")
    assert page.evaluate("explorer('.map').toDataURL()") == before
    page.keyboard.press("s")
    assert page.evaluate("model.get('order')") == "by load"


def test_the_next_difference(explore):
    page = explore(SMALL, OTHER, token=0)
    page.locator(".text").focus()
    page.keyboard.press("d")
    ids, theirs = tensors(SMALL)["expert_ids"], tensors(OTHER)["expert_ids"]
    differ = [t for t in range(1, len(TEXTS)) if set_of(ids[t]) != set_of(theirs[t])]
    assert selected(page) == {"token": differ[0]}


def set_of(rows):
    return [frozenset(row.tolist()) for row in rows]


def test_play_stops_at_the_end_and_is_slow_where_motion_is_reduced(explore):
    page = explore(token=len(TEXTS) - 4)
    page.get_by_label("Tokens a second").select_option("60 a second")
    page.get_by_role("button", name="Play").click()
    page.wait_for_function(f"model.get('token') === {len(TEXTS) - 1}")
    page.get_by_role("button", name="Play").wait_for()
    page = explore(token=0, motion="reduce")
    page.get_by_label("Tokens a second").select_option("60 a second")
    page.locator(".map").focus()
    page.keyboard.press("Space")
    page.wait_for_timeout(1300)
    page.keyboard.press("Space")
    assert page.evaluate("model.get('token')") <= 4


# ---- for everyone, everywhere


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize(
    "what",
    [{"token": 12}, {"layer": 3, "expert": 5}, {"layer": 3}, {}, {"tokens": [2, 9]}],
)
def test_no_accessibility_violation(explore, theme, what):
    page = explore(theme=theme, selected=what)
    page.get_by_text("Keys", exact=True).click()
    if page.locator(".panel details").count():
        page.locator(".panel summary").click()
    assert not violations(page)


@pytest.mark.parametrize("other", [b"", OTHER], ids=["ids", "two"])
def test_no_accessibility_violation_without_weights_or_with_two_traces(explore, other):
    page = explore(SMALL if other else BARE, other, width=400)
    page.locator(".panel summary").click()
    assert not violations(page)


@pytest.mark.parametrize("trace", [SMALL, LARGE], ids=["8x32", "60x512"])
@pytest.mark.parametrize("width", [400, 800, 1600])
def test_nothing_is_wider_than_the_page(explore, width, trace):
    page = explore(trace, width=width)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    wide = page.evaluate(
        "[...explorer('.frame').querySelectorAll('*')].filter((e) => {"
        "const box = e.getBoundingClientRect();"
        "return box.width && !e.closest('.lines, .unseen') && box.right >"
        "explorer('.frame').getBoundingClientRect().right + 1}).map((e) => e.className)"
    )
    assert not wide
    assert page.locator(".map").bounding_box()["width"] > width * 0.5


def test_the_theme_follows_jupyterlab_before_the_system(explore):
    page = explore(theme="dark")
    page.evaluate("document.body.dataset.jpThemeLight = 'true'")
    page.wait_for_function("explorer('.frame').dataset.theme === 'light'")
    assert set(lit(page)) == chosen(SMALL, 12)
    page.evaluate("document.body.dataset.jpThemeLight = 'false'")
    page.wait_for_function("explorer('.frame').dataset.theme === 'dark'")
    assert set(lit(page)) == chosen(SMALL, 12)


HOSTILE = [
    "<script>alert(1)</script>", "</script><script>alert(2)</script>",
    '"><img src=x onerror=alert(3)>', "<style>*{display:none}</style>", "${alert(4)}",
    "&lt;b&gt;", "<!--", "]]>", "javascript:alert(5)", "' onmouseover='alert(6)",
    "\u202eright to left\u202c", "שלום", "مرحبا", "e\u0301\u0302\u0303", "\u0301",
    "\u200b\ufeff", "\x00\x1b[31m", "👩\u200d💻", "\ufffd", "__proto__", "constructor",
    "  ", "\t", "\n\n",
]  # fmt: skip


def test_hostile_and_unusual_texts_are_shown_literally_everywhere(explore):
    texts = HOSTILE * 3
    trace = made_trace(8, 32, chosen=4, texts=texts)
    page = explore(trace, token=0)
    for t in range(len(HOSTILE)):
        page.evaluate(f"model.set('selected', {{token: {t}}})")
        settled(page)
        shown = page.locator(f"#t{t}").text_content()
        plain = re.sub("[\u202a-\u202e\u200b\ufeff\x00\x1b]", named, texts[t])
        assert shown == plain
        quoted = plain.replace("\n", "⏎").replace("\t", "⇥").replace(" ", "␣")
        for place in (".says", ".caption", ".panel h3"):
            assert quoted in page.locator(place).first.text_content(), place
        slider = page.get_by_label("Token", exact=True).get_attribute("aria-valuetext")
        assert quoted in slider
    for layer in range(8):
        for expert in range(0, 32, 7):
            place = json.dumps({"layer": layer, "expert": expert})
            page.evaluate(f"model.set('selected', {place})")
            page.wait_for_timeout(130)
    assert not page.evaluate("Boolean(explorer('script, img, style, iframe, a, svg'))")


def named(match):
    return f"⟨U+{ord(match[0]):04X}⟩"


def test_a_model_without_experts_and_a_damaged_file_get_one_sentence(explore):
    page = explore(SMALL[:-5])
    assert page.get_by_role("alert").inner_text().count(".") == 1
    assert "damaged" in page.get_by_role("alert").inner_text()
    data = {k: v for k, v in tensors(SMALL).items() if not k.startswith("expert")}
    header = json.loads(SMALL[8 : 8 + int.from_bytes(SMALL[:8], "little")])
    for name in ("runner_up", "router_margin", "shared_gate"):
        data.pop(name)
    page = explore(save(data, header["__metadata__"]))
    assert "no experts" in page.get_by_role("alert").inner_text()


def test_unmounting_leaves_nothing_behind(explore):
    page = explore()
    page.get_by_role("button", name="Play").click()
    page.evaluate("unmount()")
    assert page.evaluate("document.getElementById('view').childElementCount") == 0
    page.evaluate("model.set('token', 5); model.set('selected', {layer: 1})")
    settled(page)


def test_64000_tokens_load_and_scrub(explore):
    """60 layers, 512 experts, 10 chosen: 115 MB, whose text is shown in pages."""
    data = tensors(LARGE)
    times = 64_000 // len(data["expert_ids"]) + 1
    long = {
        name: np.tile(array, (times,) + (1,) * (array.ndim - 1))[:64_000]
        for name, array in data.items()
    }
    header = json.loads(LARGE[8 : 8 + int.from_bytes(LARGE[:8], "little")])
    meta = json.loads(header["__metadata__"]["minqwen_trace"])
    meta |= {"length": 64_000, "tokens": (meta["tokens"] * times)[:64_000]}
    page = explore(save(long, {"minqwen_trace": json.dumps(meta)}), token=63_000)
    page.wait_for_timeout(1500)
    for token in (63_000, 100, 40_123, 40_124):
        page.evaluate(f"model.set('token', {token})")
        want = data["expert_ids"][token % 300]
        assert {c[1:] for c in lit_near(page, want)} == {
            (la, int(e)) for la, row in enumerate(want) for e in row
        }
    assert page.locator(".t").count() <= 1024
    page.locator(".text").focus()
    page.keyboard.press("End")
    assert selected(page) == {"token": 63_999}
    assert "tokens 63,488 to 63,999 of 64,000" in page.locator(".pages").inner_text()


def lit_near(page, want):
    """The wanted cells that are coloured; all are too narrow here to be told apart."""
    read = page.evaluate(
        READ, {"layers": 60, "experts": 512, "sides": 2, "halves": False}
    )
    image = pixels(read)
    wanted = {(la, int(e)) for la, row in enumerate(want) for e in row}
    for half, layer, expert, x, y, _, h in read["boxes"]:
        if (layer, expert) in wanted and image[round(y + h / 2), round(x)].min() < 200:
            yield half, layer, expert


# ---- in JupyterLab

CELLS = (
    """import minqwen
trace = minqwen.Trace.load("trace.safetensors")
explorer = minqwen.widgets.RoutingExplorer(trace, token=12)
explorer""",
    "print('selected', explorer.selected, len(explorer.tokens))",
)


def test_in_jupyterlab_both_ways_and_without_a_request_to_anyone(new_page, tmp_path):
    (tmp_path / "trace.safetensors").write_bytes(SMALL)
    page = new_page(viewport={"width": 1400, "height": 1600})
    with lab(page, tmp_path, *CELLS):
        page.locator(".map").wait_for()
        settled(page)
        ids = tensors(SMALL)["expert_ids"]
        expert = int(ids[12, 0, 0])
        assert f"layer 0 (delta rule) chose experts {expert} " in says(page)

        # Letters and arrows are the explorer's, not Lab's: no cell comes or goes.
        page.locator(".map").focus()
        for key in ["ArrowDown", "ArrowDown", "a", "b", "d", "d", "Escape", "ArrowUp"]:
            page.keyboard.press(key)
        assert page.locator(".jp-Notebook .jp-Cell").count() == len(CELLS)
        assert "layer 1 (delta rule)" in says(page)

        # What is selected here, Python has.
        for key in ["ArrowUp", "Home", "Enter"]:
            page.keyboard.press(key)
        settled(page)
        first = min(map(int, ids[12, 0]))
        tokens = (ids[:, 0] == first).any(1).sum()
        wanted = f"selected {{'layer': 0, 'expert': {first}}} {tokens}"
        assert wanted in run_last_cell(page, CELLS[1])

        # And what Python selects, is shown here.
        run_last_cell(page, "explorer.selected = {'token': 40}; print('selected')")
        page.locator(".says", has_text=f"Token 40 of {len(TEXTS)}").wait_for()
        assert run_last_cell(page, CELLS[1]).split(" ", 1)[1] == "{'token': 40} 1"
    assert not page.foreign


def run_last_cell(page, source):
    """Puts `source` into the notebook's last cell and runs it; what it prints."""
    cell = page.locator(".jp-Notebook .jp-Cell").nth(len(CELLS) - 1)
    number = cell.locator(".jp-InputPrompt").inner_text()
    cell.locator(".cm-content").click()
    page.keyboard.press("ControlOrMeta+a")
    page.keyboard.insert_text(source)
    page.keyboard.press("ControlOrMeta+Enter")
    page.wait_for_function(
        "([n, was]) => {"
        "const all = document.querySelectorAll('.jp-Notebook .jp-Cell');"
        "const prompt = all[n].querySelector('.jp-InputPrompt').innerText;"
        "return prompt !== was && /\\d/.test(prompt) }",
        arg=[len(CELLS) - 1, number],
    )
    output = cell.locator(".jp-OutputArea-output", has_text="selected").last
    output.wait_for()
    return output.inner_text().strip()
