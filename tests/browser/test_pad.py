"""The square of notebook 10 that a reader draws a digit in."""

import io
import json

import pytest
from PIL import Image
from views import PAGE

from tools.execute import NOTEBOOKS, ROOT

pytestmark = pytest.mark.slow

MOUNT = """async ([source, picture]) => {
    const url = URL.createObjectURL(new Blob([source], { type: "text/javascript" }));
    const { default: view } = await import(url);
    window.traits = { picture }, window.saved = 0;
    const get = (name) => traits[name];
    const set = (name, value) => { traits[name] = value; };
    const model = { get, set, save_changes: () => { saved += 1; } };
    view.render({ model, el: document.querySelector("main") });
}"""


def test_a_stroke_wipes_the_given_picture_and_is_what_python_gets(
    new_page, monkeypatch
):
    monkeypatch.syspath_prepend(str(NOTEBOOKS))
    monkeypatch.setenv("MPLBACKEND", "agg")
    import course

    view, given = course.drawing_pad(ROOT / "assets" / "seven.png")
    assert view.png() == given
    page = new_page()
    page.set_content(PAGE)
    page.evaluate(MOUNT, [course.PAD, view.picture])
    box = page.locator("canvas").bounding_box()
    assert round(box["width"]) == round(box["height"]) == 258  # with its border

    def drawn():
        view.picture = json.loads(page.evaluate("JSON.stringify(traits)"))["picture"]
        return Image.open(io.BytesIO(view.png())).convert("L")

    page.mouse.move(box["x"] + 65, box["y"] + 65)
    page.mouse.down()
    page.mouse.move(box["x"] + 193, box["y"] + 65)
    page.mouse.up()
    picture = drawn()
    assert picture.size == (64, 64) and page.evaluate("saved") == 1
    assert picture.getpixel((32, 16)) < 50  # on the stroke
    assert all(picture.getpixel(at) == 255 for at in [(2, 2), (32, 40), (60, 16)])
    page.mouse.move(box["x"] + 100, box["y"] + 200)  # no button is down
    assert page.evaluate("saved") == 1
    page.get_by_role("button", name="Wipe").click()
    assert drawn().getextrema() == (255, 255) and page.evaluate("saved") == 2
