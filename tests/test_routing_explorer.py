"""RoutingExplorer without a browser: its traits, their checks, and what it leaves."""

import base64
import io
import sys

import numpy as np
import pytest
from PIL import Image

import minqwen
from minqwen.errors import InputError
from tools.made_trace import made_trace


def trace_of(path, *sizes, **options):
    path.write_bytes(made_trace(*sizes, **options))
    return minqwen.Trace.load(path)


@pytest.fixture(scope="module")
def trace(tmp_path_factory):
    return trace_of(tmp_path_factory.mktemp("made") / "a.safetensors", 4, 16, 40, 2)


def explorer(*args, **traits):
    return minqwen.widgets.RoutingExplorer(*args, **traits)


def test_a_token_and_the_selection_follow_each_other(trace):
    view = explorer(trace)
    last = max(t for t, text in enumerate(trace.tokens) if text.strip()[:1].isalnum())
    assert view.token == last and view.selected == {"token": last}
    view.token = 3
    assert view.selected == {"token": 3}
    view.selected = {"token": 7}
    assert view.token == 7 and view.tokens.tolist() == [7]
    view.selected = {"layer": 2, "expert": 5}
    view.token = 9
    assert view.selected == {"layer": 2, "expert": 5}
    chose = (trace["expert_ids"][:, 2] == 5).any(1)
    assert view.tokens.tolist() == np.flatnonzero(chose).tolist()
    view.selected = {"tokens": (4, 9)}
    assert view.selected == {"tokens": [4, 9]} and view.tokens.tolist() == [
        *range(4, 9)
    ]
    view.selected = {}
    assert len(view.tokens) == 40


@pytest.mark.parametrize(
    "selected, said",
    [
        ({"token": 40}, "token: there is no 40 in this trace; give 0 to 39"),
        ({"token": True}, "token: there is no True"),
        ({"layer": -1}, "layer: there is no -1 in this trace; give 0 to 3"),
        ({"layer": 1, "expert": 16}, "expert: there is no 16"),
        ({"tokens": [0, 41]}, "end: there is no 41 in this trace; give 0 to 40"),
        ({"tokens": [5, 5]}, "is no selection"),
        ({"expert": 1}, "is no selection"),
        ({"word": 1}, "is no selection"),
    ],
)
def test_a_place_outside_the_trace_gets_one_sentence(trace, selected, said):
    view = explorer(trace, token=20)
    with pytest.raises(minqwen.InputError, match=said):
        view.selected = selected
    assert view.selected == {"token": 20}
    with pytest.raises(minqwen.InputError, match="token: there is no 99"):
        view.token = 99


def test_two_traces_as_far_as_their_texts_are_the_same(trace, tmp_path):
    view = explorer(trace, trace.first(12))
    assert view.source.length == 12 and view.token < 12
    assert len(view.other) > 0
    wider = trace_of(tmp_path / "b.safetensors", 4, 24, 40, 2)
    with pytest.raises(minqwen.InputError, match="differ in experts, 16 and 24"):
        explorer(trace, wider)


def test_a_trace_without_experts(trace):
    dense = minqwen.Trace(trace.meta, {"token_ids": trace["token_ids"]})
    with pytest.raises(minqwen.InputError, match="its model has no experts"):
        explorer(dense)


@pytest.mark.parametrize("selected", [{"token": 5}, {"layer": 1, "expert": 3}, {}])
def test_a_picture_and_words_are_left_where_no_script_runs(trace, selected):
    view = explorer(trace, selected=selected)
    assert repr(view) == "RoutingExplorer()"
    data, about = view._repr_mimebundle_()
    picture = Image.open(io.BytesIO(base64.b64decode(data["image/png"])))
    assert picture.width > 2 * picture.height and len(data["image/png"]) < 40_000
    assert data == explorer(trace, selected=selected)._repr_mimebundle_()[0] | {
        "application/vnd.jupyter.widget-view+json": data[
            "application/vnd.jupyter.widget-view+json"
        ]
    }
    alt = about["image/png"]["alt"]
    assert alt.startswith("A map of 4 layers by 16 experts: lit are the 2 experts")


def test_without_its_libraries_a_widget_is_one_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "anywidget", None)
    for name in list(sys.modules):
        if name.startswith("minqwen.widgets."):
            monkeypatch.delitem(sys.modules, name)
    with pytest.raises(InputError, match=r"needs anywidget: pip install 'minqwen\[cou"):
        explorer(None)
