"""The explorer's page in Chromium: as a file, served, and empty; and under attack."""

import sys

import pytest
from test_explore import SAMPLE, serving
from test_trace import changed
from views import violations

from minqwen.model.shapes import LINEAR
from minqwen.trace import Trace
from minqwen.widgets.explore import page as page_of
from minqwen.widgets.explore import write_html
from tools.made_trace import made_trace

pytestmark = pytest.mark.slow

READY = "html[data-ready]"
ATTACKS = [
    "<script>alert(1)</script>", "</script><script>alert(2)</script>", "<!--", "-->",
    '"><img src=x onerror=alert(3)>', "'><svg onload=alert(4)>", "{{7*7}}", "]]>",
    "javascript:alert(6)", "</style><b>", "&lt;&amp;", "\u202eright to left", "${a}",
    "e\u0301\u0302", "שלום", "\x00\x1b[31m", "\u2028",
]  # fmt: skip


@pytest.fixture(scope="module")
def trace():
    return Trace.load(SAMPLE)


def opened(new_page, path, **options):
    page = new_page(**options)
    page.goto(path.as_uri())
    page.wait_for_selector(READY)
    return page


def file_of(trace, tmp_path, *others, names=()):
    path = tmp_path / "page.html"
    write_html(path, [trace, *others], names)
    return path


def has_drawn(page):
    """Whether every canvas that is seen has more than one colour."""
    return page.locator("canvas:visible").evaluate_all("""all => all.length > 0 &&
        all.every((canvas) => {
          const { width, height } = canvas;
          const data = canvas.getContext("2d").getImageData(0, 0, width, height).data;
          return new Set(new Uint32Array(data.buffer)).size > 1;
        })""")


# ---- three kinds of page


def test_a_file_opens_from_disk(new_page, trace, tmp_path):
    page = opened(new_page, file_of(trace, tmp_path))
    assert page.title() == "assets/tiny: minqwen explorer"
    assert f"{trace.length} tokens, 8 layers, 2 of 16 experts" in page.inner_text(
        "header"
    )
    page.wait_for_timeout(300)
    assert has_drawn(page)
    experts, memory = page.get_by_role("tab").all()
    assert experts.get_attribute("aria-selected") == "true"
    experts.focus()
    page.keyboard.press("ArrowRight")
    assert memory.get_attribute("aria-selected") == "true"
    assert memory.evaluate("tab => tab.getRootNode().activeElement === tab")
    page.wait_for_timeout(300)
    assert has_drawn(page) and page.get_by_role("tabpanel").count() == 1


def test_a_trace_opens_where_it_says(new_page, trace, tmp_path):
    kinds = trace.meta["layer_types"]
    layer, head = next(place for place in trace.heads if kinds[place[0]] == LINEAR)
    meta = trace.meta | {"opens": {"token": 12, "head": [layer, head], "probe": 3}}
    page = opened(new_page, file_of(Trace(meta, trace.tensors), tmp_path))
    experts, memory = page.get_by_role("tab").all()
    assert memory.get_attribute("aria-selected") == "true"
    shown = page.get_by_role("tabpanel")
    assert (
        f"layer {layer}, head {head}"
        in shown.get_by_role("combobox").first.inner_text()
    )
    assert shown.get_by_role("slider").first.input_value() == "12"
    experts.click()  # where memory opens is no place to see experts best
    assert "“7”" in page.locator(".caption").first.inner_text()
    meta = trace.meta | {"opens": {"token": 12}}
    page = opened(new_page, file_of(Trace(meta, trace.tensors), tmp_path))
    word = trace.tokens[12].replace(" ", "␣").replace("\n", "↵")
    assert f"“{word}”" in page.locator(".caption").first.inner_text()


def test_the_policy_holds(new_page, trace, tmp_path):
    """Nothing but the page's own script may run, and nobody may be asked."""
    page = opened(new_page, file_of(trace, tmp_path))
    page.evaluate("""() => {
      const script = document.createElement("script");
      script.textContent = "window.ran = true";
      document.body.append(script);
      document.body.insertAdjacentHTML("beforeend", "<b onclick='window.ran = true'>");
      document.body.lastElementChild.click();
      return fetch("http://127.0.0.1:9/").catch(() => {});
    }""")
    assert page.evaluate("window.ran") is None and page.errors
    page.errors.clear()


def test_the_served_page_asks_its_server_alone(new_page, trace):
    page = new_page()
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    with serving(SAMPLE, "--other", SAMPLE) as (_, url):
        page.goto(url)
        page.wait_for_selector(READY)
        assert "beside “picture.safetensors”" in page.inner_text("header")
        page.wait_for_timeout(300)
        assert has_drawn(page)
    kept = [u for u in asked if not u.startswith("data:")]
    assert kept == [url, f"{url}trace", f"{url}other"]


def test_an_empty_page_reads_any_trace(new_page, trace, tmp_path):
    (tmp_path / "empty.html").write_text(page_of())
    page = opened(new_page, tmp_path / "empty.html")
    assert "minqwen trace PATH" in page.inner_text("main")
    assert not page.get_by_role("tab").count()
    first, second = page.locator("input[type=file]").all()
    alert = page.locator("body > div > .frame > [role=alert]")
    second.set_input_files(SAMPLE)
    alert.filter(has_text="open a trace first").wait_for()
    bad = tmp_path / "<b>bad.safetensors"
    bad.write_bytes(changed(trace, lambda m, t: m.update(length=3)))
    first.set_input_files(bad)
    alert.filter(has_text="<b>bad.safetensors: the trace's length is wrong").wait_for()
    first.set_input_files(SAMPLE)
    page.get_by_role("tab").first.wait_for()
    assert alert.inner_text() == "" and "assets/tiny" in page.inner_text("header")
    strange = tmp_path / "strange.safetensors"
    strange.write_bytes(made_trace(4, 16, 20, 2))
    second.set_input_files(strange)  # what does not fit changes nothing
    alert.filter(has_text="strange.safetensors: the two traces differ in").wait_for()
    assert "beside" not in page.inner_text("header") and has_drawn(page)
    second.set_input_files(SAMPLE)
    page.get_by_text("beside “picture.safetensors”").wait_for()
    first.set_input_files(bad)  # what is shown stays
    alert.filter(has_text="length").wait_for()
    assert page.get_by_role("tab").count() == 2
    page.wait_for_timeout(300)
    assert has_drawn(page)


# ---- under attack


def test_names_stay_texts(new_page, trace, tmp_path):
    names = [
        '"><script>alert(1)</script>&amp;\u202e',
        "'><img src=x onerror=alert(2)>{script}",
    ]
    path = file_of(trace, tmp_path, trace, names=names)
    page = opened(new_page, path)
    assert f"beside “{names[1]}”" in page.inner_text("header")
    shown = names[0].replace("\u202e", "⟨U+202E⟩")
    assert f"“{shown}”" in page.locator(".caption").first.inner_text()
    for tab in page.get_by_role("tab").all():
        tab.click()
        page.wait_for_timeout(400)
        text = page.get_by_role("tabpanel").locator(".frame").inner_text()
        assert f"“{names[1]}”" in text
        assert not page.locator("img, svg, [onerror]").count()


@pytest.mark.parametrize("way", ["file", "served", "picked"])
def test_texts_stay_texts(new_page, trace, tmp_path, way):
    tokens = (ATTACKS * 9)[: trace.length]
    meta = trace.meta | {"tokens": tokens, "model": ATTACKS[1], "source": ATTACKS[0]}
    attack = Trace(meta, trace.tensors)
    attack.save(tmp_path / "attack.safetensors")
    if way == "file":
        page = opened(new_page, file_of(attack, tmp_path))
        check_texts(page)
    elif way == "picked":
        (tmp_path / "empty.html").write_text(page_of())
        page = opened(new_page, tmp_path / "empty.html")
        file = tmp_path / "attack.safetensors"
        page.locator("input[type=file]").first.set_input_files(file)
        page.get_by_role("tab").first.wait_for()
        check_texts(page)
    else:
        with serving(tmp_path / "attack.safetensors") as (_, url):
            page = new_page()
            page.goto(url)
            page.wait_for_selector(READY)
            check_texts(page)


def check_texts(page):
    assert page.title() == f"{ATTACKS[1]}: minqwen explorer"
    assert ATTACKS[1] in page.inner_text("header")
    for tab in page.get_by_role("tab").all():
        tab.click()
        page.wait_for_timeout(200)
        panel = page.get_by_role("tabpanel").locator(".frame")
        text = panel.inner_text()
        assert ATTACKS[0] in text and ATTACKS[4] in text and "\u202e" not in text
        # No element came out of a text: none that views do not make themselves.
        assert not panel.locator(
            "script, img, svg, style, [onerror], [onload], [href^=javascript]"
        ).count()


def test_a_module_cannot_end_its_script(trace):
    html = page_of([trace])
    assert html.count("<script") == html.count("</script>") == 2
    assert html.lower().count("<!--") == 0


# ---- size, widths, themes, access


def test_a_large_trace_is_a_small_file(new_page, tmp_path):
    path = tmp_path / "large.safetensors"
    path.write_bytes(made_trace())  # 2,000 tokens, 60 layers, 10 of 512 experts
    page_path = file_of(Trace.load(path), tmp_path)
    assert page_path.stat().st_size < 5_000_000
    page = opened(new_page, page_path)
    page.wait_for_timeout(300)
    assert has_drawn(page)
    shown = page.evaluate("performance.getEntriesByName('shown')[0].startTime")
    print(f"\nshown {shown:.0f} ms after the page was opened", file=sys.stderr)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [400, 800, 1600])
def test_widths_and_themes(new_page, trace, tmp_path, scheme, width):
    page = opened(
        new_page, file_of(trace, tmp_path), color_scheme=scheme, bypass_csp=True,
        viewport=dict(width=width, height=900),
    )  # fmt: skip
    for tab in page.get_by_role("tab").all():
        tab.click()
        page.wait_for_timeout(300)
        wide = page.evaluate("document.documentElement.scrollWidth")
        assert wide <= width, f"{wide} pixels on a page of {width}"
        assert violations(page) == []
    dark = page.evaluate("getComputedStyle(document.body).colorScheme")
    assert "dark" in dark or scheme == "light"
