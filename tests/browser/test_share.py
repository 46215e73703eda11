"""What a page shows is kept in its address, and goes where an address leads."""

import csv
import io
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image
from test_explore import SAMPLE, serving
from test_page import READY, file_of
from views import violations

from minqwen.trace import Trace
from minqwen.trace.labels import labelled
from minqwen.widgets.explore import write_html

pytestmark = pytest.mark.slow

ALERT = "body > div > .frame > [role=alert]"


@pytest.fixture(scope="module")
def trace():
    return Trace.load(SAMPLE)


def at(new_page, path, address="", **options):
    page = new_page(viewport={"width": 1280, "height": 800}, **options)
    page.goto(f"{path.as_uri()}#{address}")
    page.wait_for_selector(READY)
    return page


def address(page):
    page.wait_for_timeout(450)
    return page.evaluate("location.hash")


def says(page):
    return page.locator(".says").inner_text()


def test_a_page_opens_where_its_address_leads_and_keeps_it_there(
    new_page, trace, tmp_path
):
    path = file_of(trace, tmp_path)
    page = at(new_page, path, "layer=6,expert=9,token=5,order=by-load")
    assert says(page).startswith("Layer 6, expert 9: chosen by")
    assert page.get_by_label("Order of experts").input_value() == "by load"
    page.get_by_role("button", name="Next token").click()
    assert address(page) == "#token=6,order=by-load"
    page.evaluate("location.hash = 'tokens=3-9'")
    page.locator(".says", has_text="Tokens 3 to 9;").wait_for()
    page.evaluate("location.hash = 'view=memory,token=7'")
    memory = page.get_by_role("tab", name="Memory")
    page.wait_for_function("location.hash.includes('memory')")
    assert memory.get_attribute("aria-selected") == "true"
    assert page.get_by_role("tabpanel").get_by_role("slider").first.input_value() == "7"
    again = at(new_page, path, address(page)[1:])
    tab = again.get_by_role("tab", name="Memory")
    assert tab.get_attribute("aria-selected") == "true"


def test_select_opens_a_file_and_a_served_page(new_page, trace, tmp_path):
    path = tmp_path / "page.html"
    write_html(path, [trace], select="layer=3,expert=2")
    assert says(at(new_page, path)).startswith("Layer 3, expert 2")
    assert says(at(new_page, path, "layer=4")).startswith("Layer 4 ")
    with serving(SAMPLE, "--select", "tokens=2-4") as (_, url):
        page = new_page()
        page.goto(url + "?embed")
        page.wait_for_selector(READY)
        assert says(page).startswith("Tokens 2 to 4;")


def test_an_address_of_two_traces_says_that_one_is_missing(new_page, trace, tmp_path):
    page = at(new_page, file_of(trace, tmp_path), "token=3,other")
    assert "second trace" in page.locator(ALERT).inner_text()
    page = at(new_page, file_of(trace, tmp_path, trace), "token=3,other")
    assert page.locator(ALERT).inner_text() == ""
    page.get_by_role("button", name="Next token").click()
    assert address(page) == "#token=4,other"


HOSTILE = [
    "layer=999999999,expert=0", "token=999999999", "tokens=0-999999999", "find=%",
    "find=%3Cimg%20src%3Dx%20onerror%3Dalert(1)%3E", "order=constructor", "<b>,token=",
    "view=%3Cscript%3E", "colour=__proto__", "head=9999.9999,view=memory", "step=alert",
]  # fmt: skip


def test_no_address_breaks_the_page(new_page, trace, tmp_path):
    path = file_of(trace, tmp_path)
    page = at(new_page, path)
    for text in HOSTILE:
        page.goto("about:blank")
        page.goto(f"{path.as_uri()}#{text}")
        page.wait_for_selector(READY)
        page.evaluate("location.hash = 'token=3'")
        page.evaluate("text => location.hash = text", text)
        page.wait_for_timeout(100)
        assert not page.locator("img, svg, [onerror]").count(), text
        assert page.get_by_role("tabpanel").locator("canvas:visible").count(), text


# ---- search


def test_search_marks_text_map_and_strip_and_the_keyboard_walks_it(
    new_page, trace, tmp_path
):
    page = at(new_page, file_of(trace, tmp_path), "token=0")
    page.locator(".map").focus()
    page.keyboard.press("/")
    page.keyboard.type("DIG")  # capitals count
    says = page.locator(".find [role=status]")
    assert says.inner_text() == "not in the text"
    page.keyboard.press("ControlOrMeta+a")
    page.keyboard.type("h digit")  # over the end of a token
    assert says.inner_text().startswith("1 found; outlined")
    first = trace.tokens.index(" digit")
    assert page.locator(".t.found").all_inner_texts() == ["Which", " digit"]
    page.keyboard.press("Enter")
    assert says.inner_text().startswith("1 of 1 found")
    assert address(page) == f"#token={first - 1},find=h%20digit"
    page.keyboard.press("ControlOrMeta+a")
    page.keyboard.type("digit")
    places = [t for t, text in enumerate(trace.tokens) if text == " digit"]
    for key, place in [("Enter", 0), ("Enter", 1), ("Enter", 0), ("Shift+Enter", 1)]:
        page.keyboard.press(key)
        assert address(page) == f"#token={places[place]},find=digit"
    path = file_of(trace, tmp_path)
    again = at(new_page, path, "token=0,find=digit", bypass_csp=True)
    assert again.locator(".t.found").count() == 2
    assert violations(again) == []
    again.get_by_role("searchbox").fill("")
    assert again.locator(".t.found").count() == 0


HOSTILE_WORDS = [
    "<img src=x onerror=alert(1)>",
    "</script><b>",
    "\u202eabc",
    "%",
    "(a+)+$",
]


def test_what_is_typed_stays_text(new_page, trace, tmp_path):
    page = at(new_page, file_of(trace, tmp_path))
    for words in HOSTILE_WORDS:
        page.get_by_role("searchbox").fill(words)
        page.get_by_text("not in the text").wait_for()
        kept = address(page)
        assert "<" not in kept and " " not in kept
        page.evaluate("location.hash = 'find=digit'")
        page.locator(".find", has_text="2 found").wait_for()
        page.evaluate("kept => location.hash = kept", kept)
        page.get_by_text("not in the text").wait_for()
        assert page.get_by_role("searchbox").input_value() == words
        assert not page.locator("img, svg, [onerror]").count()


def test_arrows_move_a_selected_expert_and_a_selected_layer(new_page, trace, tmp_path):
    page = at(new_page, file_of(trace, tmp_path), "layer=2,expert=11,token=0")
    page.locator(".map").focus()
    page.keyboard.press("ArrowRight")
    tokens = (trace["expert_ids"][:, 2] == 11).any(1)
    lit = np.unique(trace["expert_ids"][tokens, 2])
    assert says(page).startswith(f"Layer 2, expert {lit[lit > 11][0]}: ")
    page.keyboard.press("l")
    page.keyboard.press("ArrowDown")
    assert says(page).startswith("Layer 3 ")


# ---- labels


def test_labels_take_the_place_of_kinds_and_stay_texts(new_page, trace, tmp_path):
    names = ["<img src=x onerror=alert(1)>", "\u202etask", "sum"]
    labels = [names[t % 3] for t in range(trace.length)]
    path = file_of(labelled(trace, labels), tmp_path)
    page = at(new_page, path, "layer=3,colour=kind", bypass_csp=True)
    table = page.locator(".panel table", has_text="experts, as in the map")
    shown = [name.replace("\u202e", "⟨U+202E⟩") for name in names]
    rows = table.locator("tbody tr td:first-child").all_inner_texts()
    assert sorted(rows) == sorted(shown)
    ids = trace["expert_ids"][:, 3]
    for row in table.locator("tbody tr").all():
        name = row.locator("td").first.inner_text()
        own = np.array([label == names[shown.index(name)] for label in labels])
        lift = [
            (own & (ids == e).any(1)).sum() / max(1, (ids == e).sum()) / own.mean()
            for e in range(16)
        ]
        best = int(np.argmax(lift))
        said = f"most in expert {best}, {lift[best]:.1f} times the usual"
        assert row.get_by_role("img").get_attribute("aria-label") == said
    assert violations(page) == []
    page.evaluate("location.hash = 'token=4'")
    page.locator(".panel", has_text=shown[1]).wait_for()
    assert not page.locator("img, svg, [onerror]").count()


# ---- saved, printed, embedded


def saved(page, name):
    """What the button of this name saves: its file's name and bytes."""
    if not page.get_by_role("button", name=name).count():
        page.locator(".save:visible summary").click()
    with page.expect_download() as download:
        page.get_by_role("button", name=name).click()
    return download.value.suggested_filename, open(download.value.path(), "rb").read()


def as_drawn(new_page, svg):
    """An SVG's pixels, drawn as a picture."""
    page = new_page()
    page.set_content(f"<body style='margin: 0'>{svg}")
    box = page.locator("svg").bounding_box()
    shot = page.locator("svg").screenshot()
    return Image.open(io.BytesIO(shot)).convert("RGB"), box


@pytest.mark.parametrize("what", ["token=28", "layer=3,expert=9", "all,find=digit"])
def test_the_svg_of_the_map_is_its_png(new_page, trace, tmp_path, what):
    page = at(new_page, file_of(trace, tmp_path), what)
    name, png = saved(page, "experts, PNG")
    picture = Image.open(io.BytesIO(png)).convert("RGB")
    svg_name, svg = saved(page, "experts, SVG")
    assert (name, svg_name) == ("experts.png", "experts.svg")
    drawn, box = as_drawn(new_page, svg.decode())
    assert picture.size == drawn.size == (box["width"], box["height"])
    far = np.abs(np.asarray(picture, int) - np.asarray(drawn, int)).max(-1) > 40
    assert (
        far[34:].mean() < 0.02 and np.ptp(np.asarray(picture)) > 200
    )  # edges of letters
    page.wait_for_timeout(100)
    again = saved(page, "experts, PNG")[1]
    assert again == png  # nothing was left drawn elsewhere


def test_the_numbers_are_those_of_the_map(new_page, trace, tmp_path):
    page = at(new_page, file_of(trace, tmp_path, trace), "tokens=3-9")
    name, data = saved(page, "numbers, CSV")
    head, *rows = list(csv.reader(data.decode().splitlines()))
    assert name == "experts.csv" and head == [
        "trace",
        "layer",
        "expert",
        "tokens",
        "of",
    ]
    ids = trace["expert_ids"][3:10]
    wanted = {
        (layer, expert): (ids[:, layer] == expert).any(1).sum()
        for layer in range(8) for expert in range(16)
    }  # fmt: skip
    told = {(int(la), int(e)): int(n) for one, la, e, n, _ in rows if one == "1"}
    assert told == {cell: n for cell, n in wanted.items() if n}
    assert len(rows) == 2 * len(told) and {row[4] for row in rows} == {"7"}
    page.evaluate("location.hash = 'token=4'")
    page.wait_for_timeout(100)
    head, first, *_ = list(
        csv.reader(saved(page, "numbers, CSV")[1].decode().splitlines())
    )
    assert head[3:] == ["rank", "weight"]
    assert int(first[2]) == trace["expert_ids"][4, 0, 0]
    assert abs(float(first[4]) - trace["expert_weights"][4, 0, 0]) < 0.003


def test_every_picture_of_memory_can_be_saved(new_page, tmp_path):
    attack = Trace.load(SAMPLE.with_name("note.safetensors"))
    attack.meta["tokens"] = [f'<b onload="a">&{t}' for t in range(attack.length)]
    page = at(new_page, file_of(attack, tmp_path), "view=memory")
    page.wait_for_timeout(800)
    page.locator(".save:visible summary").click()
    page.get_by_role("button", name="memory, PNG").wait_for()
    names = [b.inner_text() for b in page.locator(".save:visible button").all()]
    assert len(names) >= 10 and names[0] == "memory, PNG"
    for name in names:
        data = saved(page, name)[1]
        if name.endswith("SVG"):
            ElementTree.fromstring(data)  # text in it is text
            assert b"<b" not in data and len(as_drawn(new_page, data.decode())) == 2
        else:
            assert np.ptp(np.asarray(Image.open(io.BytesIO(data)))) > 0


def test_print_is_light_and_embed_has_no_head(new_page, trace, tmp_path):
    page = at(new_page, file_of(trace, tmp_path), "token=3,embed", color_scheme="dark")
    assert not page.locator("header").is_visible() and page.locator(".map").is_visible()
    frame = page.get_by_role("tabpanel").locator(".frame")
    for event, theme in [("beforeprint", "light"), ("afterprint", "dark")]:
        page.evaluate(f"dispatchEvent(new Event('{event}'))")
        assert frame.get_attribute("data-theme") == theme
    page.emulate_media(media="print")
    assert not page.get_by_role("button", name="Play").is_visible()
    assert page.locator(".panel .link").first.is_visible()  # numbers in tables
