"""Where the state explorer opens, what it says at the pointer, and its pictures."""

import json

import numpy as np
import pytest
from test_explore import SAMPLE
from views import FRAME, mount

from minqwen.model.shapes import LINEAR
from minqwen.trace import Trace
from minqwen.widgets.state_explorer import StateExplorer

pytestmark = pytest.mark.slow


@pytest.fixture
def shown(new_page):
    """shown(trace, **traits): a page with the view, once it has replayed everything."""

    def shown(trace, width=1280, **traits):
        page = new_page(viewport={"width": width, "height": 720})
        mount(page, "state/view.mjs", trace.compact(), **traits)
        page.wait_for_function(f"{FRAME}.dataset.ready === 'true'")
        return page

    return shown


def without_norms(trace):
    kept = {n: x for n, x in trace.tensors.items() if not n.startswith("state_")}
    return Trace(trace.meta, kept)


def test_opens_where_the_state_is_fullest(shown):
    trace = Trace.load(SAMPLE.parent / "film.safetensors")
    kinds = trace.meta["layer_types"]
    decay = {h: trace["delta.{}.{}.g".format(*h)].mean() for h in trace.heads
             if kinds[h[0]] == LINEAR}  # fmt: skip
    layer, head = max(decay, key=decay.get)
    norms = trace["state_norm"][:, kinds[:layer].count(LINEAR), head]
    page = shown(trace)
    for control, at in zip(page.get_by_role("slider").all(), (1, 3), strict=True):
        assert control.input_value() == str(norms.argmax() // at)
        box = control.bounding_box()
        assert box["y"] + box["height"] < 720
    view = StateExplorer(trace)
    assert view.head == (layer, head) and view.token == norms.argmax()
    # Where the trace does not tell it, it is replayed; what it tells is float16.
    page = shown(without_norms(trace))
    at = int(page.get_by_role("slider").first.input_value())
    assert norms[at] > 0.999 * norms.max() > 1.05 * norms[-1]


def test_maps_say_what_is_under_the_pointer(shown):
    trace = Trace.load(SAMPLE.parent / "note.safetensors")
    layer, head = trace.meta["opens"]["head"]
    page = shown(trace, width=1200, head=[layer, head], token=48, probe=27)

    def said(panel, x, y):
        canvas = page.locator(f"figure.{panel} canvas")
        canvas.scroll_into_view_if_needed()
        canvas.hover(position={"x": x, "y": y})
        tip = page.locator(f"figure.{panel} .tip")
        return tip.inner_text() if tip.is_visible() else None

    def place(panel):
        found = page.locator(f"figure.{panel} canvas").get_attribute("data-place")
        return json.loads(found)

    state = StateExplorer(trace, head=(layer, head), token=48).state.numpy()
    box = place("memory")["matrix"]
    K, V = state.shape
    told = said("memory", box["x"] + 5.5 * box["w"] / V, box["y"] + 7.5 * box["h"] / K)
    told, number = told.rsplit(": ", 1)
    assert told == "row 7 of the key, column 5 of the value"
    assert float(number.replace("−", "-")) == pytest.approx(state[7, 5], rel=0.01)

    heat = place("attention")
    across = heat["heat"]["x"] + 48.5 * heat["cell"]
    down = heat["heat"]["y"] + 27.5 * heat["cell"]
    kinds = trace.meta["layer_types"]
    layer, head = next(h for h in trace.heads if kinds[h[0]] != LINEAR)
    q, k = (trace[f"attention.{layer}.{head}.{name}"].astype(float) for name in "qk")
    weights = np.exp(q[48] @ k[:49].T / np.sqrt(q.shape[1]))
    told = said("attention", across, down)
    assert told.startswith("token 27 “␣box”, at token 48 “␣the”: ")
    share = float(told.split(": ")[1].split(" ")[0])
    assert share == pytest.approx(weights[27] / weights.sum(), rel=0.01)
    assert "not written yet" in said("kept", across - 22 * heat["cell"], down)

    x, y = place("heads")["dots"][0]
    assert said("heads", x, y).startswith("layer ")
    assert said("heads", 2, 2) is None


def test_a_picture_is_a_picture(shown):
    page = shown(Trace.load(SAMPLE), width=700, token=12)
    picture = page.get_by_role("group", name="image, 2 rows and 2 columns of patches")
    assert picture.locator("[data-token]").count() == 4
    colours = picture.locator("canvas").evaluate(
        "c => new Set(new Uint32Array(c.getContext('2d')"
        ".getImageData(0, 0, c.width, c.height).data.buffer)).size"
    )
    assert colours > 10
    picture.locator("[data-token='6']").click()
    assert page.evaluate("model.get('token')") == 6
    assert "<|image_pad|>" not in page.locator(".text").inner_text()
