"""The page without a trace: its samples, and files of every kind dropped on it."""

import base64
import io
import json

import numpy as np
import pytest
from chromium import node
from views import violations

from minqwen.trace.engines import from_llama_csv, from_routed_experts
from minqwen.trace.trace import Trace
from minqwen.widgets.bundle import bundle
from minqwen.widgets.explore import page as page_of
from tools.made_trace import made_trace

pytestmark = pytest.mark.slow

DROP = """async ([element, files]) => {
  const transfer = new DataTransfer();
  for (const [name, data] of files) {
    const bytes = Uint8Array.from(atob(data), (c) => c.charCodeAt(0));
    transfer.items.add(new File([bytes], name));
  }
  const at = document.querySelector("body > div").shadowRoot.querySelector(element);
  for (const kind of ["dragover", "drop"])
    at.dispatchEvent(new DragEvent(kind,
      { dataTransfer: transfer, bubbles: true, composed: true, cancelable: true }));
}"""


@pytest.fixture
def empty(new_page, tmp_path):
    path = tmp_path / "empty.html"
    path.write_text(page_of())
    page = new_page(bypass_csp=True)
    page.goto(path.as_uri())
    page.wait_for_selector("html[data-ready]")
    return page


def drop(page, *files, on=".drop"):
    files = [(name, base64.b64encode(data).decode()) for name, data in files]
    page.evaluate(DROP, [on, files])


def npy(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def header(page):
    return page.inner_text("header")


def alert(page):
    found = page.locator("body > div > .frame > [role=alert]")
    found.filter(has_text=".").wait_for()
    return found.inner_text()


def test_samples_are_offered_and_open(empty):
    assert not violations(empty)
    names = ["A note, overwritten", "A digit, read", "A film, watched"]
    for name in names:
        assert empty.get_by_role("button", name=name).is_visible()
    empty.get_by_role("button", name=names[1]).focus()
    empty.keyboard.press("Enter")
    empty.get_by_role("tab", name="Experts").wait_for()
    assert "assets/tiny, 30 tokens, 8 layers" in header(empty)
    assert not empty.locator(".hint").is_visible()


def test_dropped_files_are_opened(empty):
    ids = np.argsort(np.random.default_rng(0).random((5, 3, 9)), 2)[..., :2]
    drop(empty, ("<b>x.npy", npy(ids.astype(np.int32))))
    empty.get_by_role("tab", name="Experts").wait_for()
    assert "<b>x.npy, 5 tokens, 3 layers, 2 of 9 experts, recorded by vllm" in header(
        empty
    )
    first = made_trace(4, 16, 20, 2)
    drop(empty, ("a.safetensors", first), ("b.safetensors", first), on="main")
    empty.get_by_text("beside “b.safetensors”").wait_for()
    for name, data in [
        ("notes.txt", b"text"),
        ("flat.npy", npy(np.zeros(4))),
        ("bad.safetensors", b"x" * 99),
    ]:
        drop(empty, (name, data), on="main")
        empty.get_by_text(f"{name}: ").wait_for()
        assert alert(empty).count(": ") >= 1 and "beside “b" in header(empty)


CONVERT = """
const given = JSON.parse(process.argv.at(-1));
const bytes = Uint8Array.from(Buffer.from(given.data, "base64")).buffer;
try {
  const made = fromAnyEngine(bytes, given.name);
  process.stdout.write(Buffer.from(made).toString("base64"));
} catch (error) {
  process.stdout.write("! " + error.message);
}
"""


def converted(name, data):
    """What the page makes of a file: a Trace, or the sentence that it says."""
    source = bundle("shared/foreign.mjs") + CONVERT
    given = json.dumps({"name": name, "data": base64.b64encode(data).decode()})
    said = node(source, given)
    return said[2:] if said.startswith("! ") else base64.b64decode(said)


@pytest.mark.parametrize("dtype", ["<i4", "<i8", "u1", "<u2"])
def test_vllm_s_array_is_read_as_python_reads_it(tmp_path, dtype):
    ids = np.argsort(np.random.default_rng(1).random((7, 4, 30)), 2)[..., :3]
    (tmp_path / "x.safetensors").write_bytes(converted("x.npy", npy(ids.astype(dtype))))
    made, wanted = Trace.load(tmp_path / "x.safetensors"), from_routed_experts(ids)
    assert (made["expert_ids"] == wanted["expert_ids"]).all()
    same = ("num_experts", "length", "layer_types", "source", "tokens")
    assert all(made.meta[key] == wanted.meta[key] for key in same)


@pytest.mark.parametrize("title", ["", "layer,expert\n"])
def test_llama_s_lines_are_read_as_python_reads_them(tmp_path, title):
    """A batch of four tokens, of whose last layer one was run, then two of one."""
    rng, lines = np.random.default_rng(2), []
    for batch in (4, 1, 1):
        for layer in (0, 1, 3):
            for _ in range(1 if layer == 3 else batch):
                chosen = rng.permutation(12)[:2]
                lines += [f"{layer},{expert}" for expert in chosen]
    file = tmp_path / "x.csv"
    file.write_text(title + "\n".join(lines) + "\n")
    wanted = from_llama_csv(file)
    (tmp_path / "x.safetensors").write_bytes(converted("x.csv", file.read_bytes()))
    made = Trace.load(tmp_path / "x.safetensors")
    assert made["expert_ids"].shape == (6, 2, 2)
    assert (made["expert_ids"] == wanted["expert_ids"]).all()


@pytest.mark.parametrize(
    "name, data, said",
    [
        ("a.npy", npy(np.zeros((2, 3, 4))), "no whole numbers [tokens, layers, top_k]"),
        ("a.npy", npy(np.zeros((2, 3, 4), int).T), "in that order"),
        ("a.npy", npy(np.zeros((2, 3, 4), int))[:-1], "not as long as its header"),
        ("a.npy", npy(np.full((2, 3, 1), -1)), "names expert -1"),
        ("a.npy", b"\x93NUMPY\x01\x00", "ends in its header"),
        ("a.csv", b"0,1\n0,<b>\n", "is no line layer,expert"),
        ("a.csv", b"0,1\n0,2\n1,1\n1,2\n1,3\n", "minqwen explore --top-k"),
        ("a.csv", b"", "--top-k"),
        ("a.json", b"{}", "vLLM's .npy of routed experts"),
    ],
)
def test_what_cannot_be_read_gets_one_sentence(name, data, said):
    told = converted(name, data)
    assert isinstance(told, str) and said in told
