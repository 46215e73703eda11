"""The routing explorer while a model writes: it grows, and nothing is built anew."""

import base64
from pathlib import Path

import pytest
import torch
from lab import lab
from views import FRAME, PAGE

import minqwen
from minqwen.errors import InputError
from minqwen.widgets import RoutingExplorer, routing_explorer
from minqwen.widgets.bundle import bundle

ROOT = Path(__file__).resolve().parents[2]
TINY = ROOT / "assets" / "tiny"
ASKED = "Tom has 3 pears 🦜. How many pears does Tom have?"

# A notebook's model, as far as a view knows it, whose kernel speaks when it is told to.
MOUNT = """async ([view, page]) => {
    const kind = { type: "text/javascript" };
    const load = (source) => import(URL.createObjectURL(new Blob([source], kind)));
    const { localModel } = await load(page);
    const model = localModel({});
    const told = [];
    const on = model.on;
    model.on = (event, run) => event === "msg:custom" ? told.push(run) : on(event, run);
    window.hear = (kind, value, data) => {
        const bytes = data && Uint8Array.from(atob(data), (c) => c.charCodeAt());
        const buffers = [bytes && new DataView(bytes.buffer)];
        if (kind === "send") told.forEach((run) => run(value, buffers));
        else model.set(kind, bytes ?? value);
    };
    const { mount } = await load(view);
    window.model = model;
    mount(document.querySelector("main"), model, {});
}"""


class Kernel(RoutingExplorer):
    """The widget, with what it says to a browser kept in order."""

    def __init__(self, **traits):
        self.said = []
        super().__init__(**traits)

    def send(self, content, buffers=None):
        self.said.append(("send", content, buffers[0]))

    def send_state(self, key=None):
        names = [key] if isinstance(key, str) else key or []
        for name in ("trace", "token", "selected"):
            if name in names:
                value = getattr(self, name)
                data = value if name == "trace" else None
                self.said.append((name, None if data else value, data))


@pytest.fixture(scope="module")
def model():
    return minqwen.load(TINY)


@pytest.fixture(scope="module")
def processor():
    return minqwen.Processor.load(TINY)


@pytest.fixture(scope="module")
def told(model, processor):
    """What a growing view says while a note is read and 60 tokens are written."""
    patch = pytest.MonkeyPatch()
    patch.setattr(routing_explorer, "PACE", 0)
    inputs = processor.chat([{"role": "user", "content": ASKED}])
    with minqwen.record(model, processor=processor) as trace:
        view = Kernel(live=trace)
        assert "Nothing is recorded" in view.describe() and view.picture()
        writing = minqwen.generate(
            model, inputs, 60, temperature=3.0, stop_ids=[], processor=processor
        )
        for _ in writing:
            assert view.source.length == trace.now().length
    patch.undo()
    assert view.source.length == trace.length and view.trace == trace.rows[0].compact()
    return view, trace


def test_what_is_sent_is_once_the_whole_and_then_the_rest(told):
    view, trace = told
    whole = [len(data) for kind, _, data in view.said if kind == "trace"]
    parts = [(value["from"], data) for kind, value, data in view.said if kind == "send"]
    assert len(whole) < 5 and len(parts) > 50
    for begun, data in parts:
        # No part misses what a view of the last whole does not have, or is long.
        assert begun <= trace.length and len(data) < whole[-1]
    assert view.describe().startswith("A map of 8 layers by 16 experts")


def hear(page, said):
    for kind, value, data in said:
        page.evaluate(
            "said => hear(...said)",
            [kind, value, data and base64.b64encode(data).decode()],
        )


SHOWN = f"""() => {{
    const root = {FRAME};
    const map = root.querySelector(".map");
    return {{
        text: [...root.querySelectorAll(".text .t")].map((o) => o.textContent),
        place: root.querySelector(".place").textContent,
        all: root.innerText,
        map: map.toDataURL(),
    }};
}}"""


@pytest.mark.slow
def test_a_view_that_grew_shows_what_one_of_the_whole_does(told, new_page):
    view, trace = told
    page = new_page(viewport={"width": 1200, "height": 900})
    page.set_content(PAGE)
    page.evaluate(MOUNT, [bundle("routing/view.mjs"), bundle("shared/page.mjs")])
    page.get_by_text("there is no trace yet").wait_for()
    first = next(i for i, (kind, *_) in enumerate(view.said) if kind == "send")
    hear(page, view.said[:first])
    page.evaluate(f"() => window.kept = {FRAME}.querySelector('.text')")
    # A late view is not told of parts that it has, or cannot join.
    hear(page, [("send", {"kind": "grow", "from": 10_000}, view.said[first][2])])
    hear(page, [("send", {"kind": "other"}, b"no trace"), *view.said[first:]])
    assert page.evaluate(f"() => window.kept === {FRAME}.querySelector('.text')")
    page.wait_for_timeout(700)  # tints and panel follow at their pace
    grown = page.evaluate(SHOWN)
    assert len(grown["text"]) == trace.length
    assert "".join(grown["text"]).startswith("<|im_start|>user\nTom has 3 pears 🦜.")
    assert grown["place"] == f"token {trace.length - 1} of {trace.length}"

    page.set_content(PAGE)
    page.evaluate(MOUNT, [bundle("routing/view.mjs"), bundle("shared/page.mjs")])
    last = [("token", trace.length - 1, None), ("trace", None, view.trace)]
    hear(page, [*last, ("selected", {"token": trace.length - 1}, None)])
    page.wait_for_timeout(700)
    assert page.evaluate(SHOWN) == grown


@pytest.mark.slow
def test_another_place_stays_while_the_view_grows(told, new_page):
    view, trace = told
    page = new_page()
    page.set_content(PAGE)
    page.evaluate(MOUNT, [bundle("routing/view.mjs"), bundle("shared/page.mjs")])
    hear(page, view.said[:6])
    page.evaluate("() => model.set('selected', { layer: 2, expert: 3 })")
    hear(page, view.said[6:])
    assert page.evaluate("() => model.get('selected')") == {"layer": 2, "expert": 3}
    says = page.evaluate(f"() => {FRAME}.querySelector('.says').textContent")
    count = int((trace["expert_ids"][:, 2] == 3).any(1).sum())
    caption = page.evaluate(f"() => {FRAME}.querySelector('.caption').textContent")
    assert f"{count} of {trace.length} tokens" in says + caption


def test_a_sequence_begun_anew_takes_the_place_and_guesses_are_taken_back(
    model, processor, monkeypatch
):
    monkeypatch.setattr(routing_explorer, "PACE", 0)
    with torch.no_grad(), minqwen.record(model, processor=processor) as trace:
        view = RoutingExplorer(live=trace)
        for text in (
            "Who are you?",
            "A longer text: who are you, and what do you know?",
        ):
            inputs = processor.chat([{"role": "user", "content": text}])
            for _ in minqwen.generate(model, inputs, 8, draft=3, processor=processor):
                now = trace.now()
                assert view.source.tokens == now.tokens
                assert (view.source["expert_ids"] == now["expert_ids"]).all()
    assert view.source.tokens == trace.rows[-1].tokens and len(trace.rows) == 2
    assert view.token < view.source.length
    with pytest.raises(InputError, match="follow it within its block"):
        RoutingExplorer(live=trace)
    with pytest.raises(InputError, match="or live alone"):
        RoutingExplorer(trace.rows[0], live=trace)
    with pytest.raises(InputError, match="or live=, a recording under way"):
        RoutingExplorer()


CELL = """
import minqwen
from IPython.display import display
model = minqwen.load({0!r})
processor = minqwen.Processor.load({0!r})
inputs = processor.chat([{{"role": "user", "content": {1!r}}}])
with minqwen.record(model, processor=processor) as trace:
    view = minqwen.widgets.RoutingExplorer(live=trace)
    display(view)
    for step in minqwen.generate(model, inputs, 150, stop_ids=[], temperature=2.0):
        pass
print("done", trace.length)
"""


@pytest.mark.slow
def test_in_jupyterlab_it_grows_while_the_cell_runs(new_page, tmp_path):
    page = new_page(viewport={"width": 1400, "height": 1600})
    with lab(page, tmp_path, CELL.format(str(TINY), ASKED)):
        page.locator(".place").wait_for()
        place, seen = page.locator(".place"), set()
        while page.get_by_text("done ", exact=False).count() < 2:  # code and output
            seen.add(place.text_content())
            page.wait_for_timeout(50)
        page.wait_for_timeout(1500)
        final = place.text_content()
        assert len(seen) > 4, "it was seen to grow"
        length = int(final.replace(",", "").split(" of ")[1])
        assert final.startswith(f"token {length - 1}") and length > 150
        assert page.foreign == []
