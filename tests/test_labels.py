"""Labels by token: from arrays and files into a trace, and what is wrong told."""

import json

import numpy as np
import pytest
from browser.chromium import node
from test_explore import SAMPLE

from minqwen.errors import InputError
from minqwen.trace import Trace
from minqwen.trace.file import check_trace
from minqwen.trace.labels import labelled
from minqwen.widgets.bundle import bundle

WORDS = ["sum", "note", "<b>é</b>"]


@pytest.fixture(scope="module")
def trace():
    return Trace.load(SAMPLE)


@pytest.fixture
def labels(trace):
    return [WORDS[t % 7 % 3] for t in range(trace.length)]


def test_every_form_gives_the_same(trace, labels, tmp_path):
    np.save(tmp_path / "a.npy", np.array(labels))
    (tmp_path / "a.json").write_text(json.dumps(labels))
    (tmp_path / "a.csv").write_text("".join(f"{label}\n" for label in labels))
    for form in [labels, np.array(labels), *map(str, tmp_path.iterdir())]:
        told = labelled(trace, form).meta["labels"]
        assert [told["names"][n] for n in told["of"]] == labels
        assert told["names"][0] == "sum"  # the most frequent
    numbers = labelled(trace, np.arange(trace.length) % 2).meta["labels"]
    assert numbers["names"] == ["0", "1"] and "labels" not in trace.meta


def test_beyond_eight_the_rest_is_one(trace):
    told = labelled(trace, [t // 3 for t in range(trace.length)]).meta["labels"]
    assert told["names"] == ["0", "1", "2", "3", "4", "5", "6", "others"]
    assert told["of"] == [min(7, t // 3) for t in range(trace.length)]


def test_a_trace_keeps_and_cuts_them(trace, labels, tmp_path):
    labelled(trace, labels).save(tmp_path / "x.safetensors")
    kept = Trace.load(tmp_path / "x.safetensors")
    whole = kept.meta["labels"]["of"]
    assert kept.first(5).meta["labels"]["of"] == whole[:5]
    assert kept.meta["labels"]["of"] == whole
    data = list((tmp_path / "x.safetensors").read_bytes())
    script = f"""const m = parseTrace(Uint8Array.from({data}));
        console.log(JSON.stringify(m.meta.labels));"""
    assert json.loads(node(bundle("shared/trace.mjs") + script)) == kept.meta["labels"]


@pytest.mark.parametrize("labels", [
    None, 7, {}, [], {"names": ["a"], "of": [0]}, {"names": [], "of": [0] * 30},
    {"names": ["a"], "of": [1] * 30}, {"names": ["a"], "of": [0.5] * 30},
    {"names": ["a"] * 9, "of": [0] * 30}, {"names": [3], "of": [0] * 30},
    {"names": "a", "of": [0] * 30}, {"names": ["a"], "of": "0" * 30},
])  # fmt: skip
def test_wrong_ones_in_a_file_are_told_on_both_sides(trace, labels):
    trace = Trace(
        trace.meta | {"pictures": [], "opens": {}}, {"expert_ids": trace["expert_ids"]}
    )
    meta = trace.meta | {"labels": labels}
    with pytest.raises(InputError, match="labels in minqwen_trace is wrong"):
        check_trace(meta, trace.tensors, "x")
    data = list(Trace(meta, trace.tensors).compact())
    script = f"""try {{ parseTrace(Uint8Array.from({data})); }}
        catch (error) {{ console.log(error.message); }}"""
    assert "the trace's labels is wrong" in node(bundle("shared/trace.mjs") + script)


@pytest.mark.parametrize("name, data, words", [
    ("a.csv", b"a\nb\n", "2 labels for 30 tokens"), ("a.csv", b"a\n\nb", "no list"),
    ("a.json", b"{}", "no list"), ("a.json", b"[[1]]", "one a token"),
    ("a.json", b"[" * 100_000, "no list"), ("a.npy", b"\x93NUMPY", "not a .npy"),
    ("a.csv", b"\xff", "no list"), ("a.txt", b"a", "no list"),
])  # fmt: skip
def test_bad_files_get_one_line(run, tmp_path, name, data, words):
    (tmp_path / name).write_bytes(data)
    page = tmp_path / "page.html"
    args = ["explore", SAMPLE, "--html", page, "--labels", tmp_path / name]
    code, _, err = run(*args)
    assert code == 1 and words in err and err.count("\n") == 1 and not page.exists()


def test_labels_need_a_trace(run, tmp_path):
    code, _, err = run("explore", "--live", "--labels", tmp_path / "a.csv")
    assert code == 1 and "--labels needs a TRACE" in err
