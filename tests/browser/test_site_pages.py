"""The built site, from a disk, in a browser: every page by its text, and in the browser
one of each kind, or with MINQWEN_PAGES=all every page (half an hour)."""

import os
import subprocess
import sys
from urllib.parse import unquote, urldefrag, urljoin

import pytest
from bs4 import BeautifulSoup
from test_project import ROOT
from views import violations

pytestmark = pytest.mark.slow

KINDS = [
    "index.html", "live.html", "notebooks/00_the_name.html", "minqwen/units.py.html",
    "docs/structure.html", "assets/tiny/README.html", "search.html",
]  # fmt: skip
BOTH = KINDS[:1] + KINDS[3:5]  # in light and in dark; the others take turns


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder; Sphinx ends the build at any warning."""
    out = tmp_path_factory.mktemp("site") / "site"
    command = [sys.executable, "-m", "tools.site", str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return out


@pytest.fixture(scope="module")
def pages(site):
    """Each page's address, and its text taken apart."""
    found = [path for path in site.rglob("*.html") if path.parent.name != "live"]
    return {
        path.as_uri(): BeautifulSoup(path.read_text("utf-8"), "html.parser")
        for path in sorted(found)
    }


def test_every_link_and_anchor_is_there_and_no_other_host_is_asked(site, pages):
    anchors = {
        page: {tag["id"] for tag in soup.select("[id]")} for page, soup in pages.items()
    }
    for page, soup in pages.items():
        for tag in soup.select("[href], [src]"):
            to, anchor = urldefrag(urljoin(page, tag.get("href") or tag["src"]))
            if not to.startswith("file:"):
                assert tag.name == "a", f"{page} asks {to}"
                continue
            file = unquote(to.removeprefix("file://").split("?")[0])
            assert os.path.exists(file), f"{page} leads to {to}"
            if anchor and to in anchors:
                assert unquote(anchor) in anchors[to], f"{page}: {to}#{anchor}"


def test_pictures_are_described_and_pages_lead_on(site, pages):
    for page, soup in pages.items():
        assert all(img.get("alt", "").strip() for img in soup.select("img")), page
    notebook = pages[(site / "notebooks/04_the_delta_rule.html").as_uri()]
    assert {a["href"] for a in notebook.select(".related-pages a")} == {
        "03_gated_attention.html", "05_gated_deltanet.html",
    }  # fmt: skip
    (first,) = (i for i in notebook.select("img") if "k2's shadow" in i["alt"])
    assert first.find_parent(class_="cell_output") and notebook.select("math")


def test_solutions_and_answers_are_closed(site, pages):
    notebook = pages[(site / "notebooks/05_gated_deltanet.html").as_uri()]
    assert not notebook.select("details[open]")
    prints = [tag for tag in notebook.select("pre") if "def solution_" in tag.text]
    assert prints and all(tag.find_parent("details") for tag in prints)
    assert len(notebook.select("details[name=error_after_fading]")) == 3


def walked(site):
    for number, path in enumerate(sorted(site.rglob("*.html"))):
        name = path.relative_to(site).as_posix()
        if name.startswith("live/"):
            continue
        if name in KINDS or os.environ.get("MINQWEN_PAGES") == "all":
            turn = ("light", "dark")[number % 2 :][:1]
            for scheme in ("light", "dark") if name in BOTH else turn:
                yield path, scheme


def test_pages_read_well_wide_and_narrow_light_and_dark(site, new_page):
    page = new_page()
    for path, scheme in walked(site):
        page.emulate_media(color_scheme=scheme)
        for width in (1280, 390):
            page.set_viewport_size({"width": width, "height": 900})
            page.goto(path.as_uri())
            wide = page.evaluate("document.documentElement.scrollWidth")
            assert wide <= width, f"{path} is {wide} wide at {width}"
        assert violations(page) == [], f"{path}, {scheme}"


def test_a_guess_is_answered_when_it_is_made(site, new_page):
    page = new_page()
    page.goto((site / "notebooks/05_gated_deltanet.html").as_uri())
    options = page.locator("details[name=error_after_fading]")
    for number, mark in enumerate("✗✓"):
        options.nth(number).locator("summary").click()
        assert options.nth(number).locator("p").inner_text().startswith(mark)
    assert [o.get_attribute("open") for o in options.all()] == [None, "", None]


def test_search_finds_a_page_from_a_disk(site, new_page):
    page = new_page()
    page.goto((site / "live.html").as_uri())
    page.get_by_placeholder("Search").fill("delta rule")
    page.keyboard.press("Enter")
    found = page.locator("#search-results a", has_text="04 · The delta rule").first
    found.click()
    page.get_by_role("heading", name="04 · The delta rule").wait_for()
