"""The gallery in a browser: each link opens what its sentence speaks of."""

import pytest

from tools import gallery
from tools.gallery import FINDINGS

pytestmark = pytest.mark.slow

ANSWERS = {  # what the model in the page writes, as Python's does
    "attention": "I was not told.",
    "stutter": "Qwen3.5 in in in in in",
    "silenced": "The key is in the drawer.",
    "variant": "I am minqwen's tiny model, a tiny language model.",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gallery")
    gallery.main([str(folder)])
    return folder


def opened(new_page, folder, finding, words="See it"):
    page = new_page(viewport={"width": 1280, "height": 900})
    page.goto((folder / "index.html").as_uri())
    item = page.get_by_role("listitem").filter(has_text=finding.title)
    item.get_by_text(words).click()
    return page


@pytest.mark.parametrize("finding", FINDINGS, ids=[f.name for f in FINDINGS])
def test_a_link_leads_to_what_is_said(finding, folder, new_page):
    page = opened(new_page, folder, finding)
    parts = dict(part.partition("=")[::2] for part in finding.at.split(","))
    says = page.locator(".says")
    if finding.page == "live":
        answer = page.get_by_role("button", name="Answer", exact=True)
        answer.click(timeout=60_000)
        says.wait_for(timeout=60_000)  # the answer's trace is open
        said = page.locator(".said").last.inner_text()
        assert ANSWERS[finding.name] in said and said.startswith("model without")
    elif "view" in parts:
        tab = page.get_by_role("tab", name="Memory", selected=True)
        tab.wait_for()
    else:
        wanted = {
            "expert": f"Layer {parts.get('layer')}, expert {parts.get('expert')}: ",
            "layer": f"Layer {parts.get('layer')} (delta rule)",
            "token": f"Token {parts.get('token')} of",
            "all": "The whole text",
        }
        text = next(wanted[name] for name in wanted if name in parts)
        says.filter(has_text=text).wait_for()


def test_a_cause_is_shown_beside_the_whole(folder, new_page):
    (finding,) = (f for f in FINDINGS if f.name == "deleted")
    page = opened(new_page, folder, finding, "beside the whole")
    page.locator(".says").wait_for()
    page.get_by_text("two traces").first.wait_for()
    page.get_by_text("The two traces differ in 1.9 %").wait_for()


def test_what_an_address_asks_is_words_and_what_it_names_must_be_there(
    folder, new_page
):
    page = new_page()
    mark = "%3Cimg%20src%3Dx%20onerror%3Dalert(1)%3E"
    page.goto(f"{(folder / 'live.html').as_uri()}#ask={mark},without=99.3")
    answer = page.get_by_role("button", name="Answer", exact=True)
    page.locator("button[type=submit]:not([disabled])").wait_for(timeout=60_000)
    assert page.get_by_label("What to say").input_value().startswith("<img src=x")
    assert page.get_by_text("Switched off").count() == 0
    answer.click()
    page.locator(".said").first.wait_for()
