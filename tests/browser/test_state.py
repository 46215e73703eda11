"""StateExplorer: its replay against the package's rule, its pictures against NumPy."""

import json
import re

import chromium
import numpy as np
import pytest
import torch
from lab import lab
from views import FRAME, canvas, colours, mount, traits, violations

import minqwen
from minqwen.model.delta import delta_recurrent
from minqwen.trace.file import to_bytes
from minqwen.widgets import StateExplorer
from minqwen.widgets.bundle import HERE, bundle

pytestmark = pytest.mark.slow

ATTACKS = [
    "<script>alert(1)</script>", "</script>", '"><img src=x onerror=alert(2)>',
    "\u202eright to left", "e\u0301\u0301", "שלום", "${alert(3)}", "\n", " ", "",
]  # fmt: skip
READY = f"{FRAME}.dataset.ready === 'true'"


def made(T=150, K=16, V=12, seed=0, start=False, tokens=None):
    """A trace of one random delta head (1, 2) and one head of full attention (0, 3)."""
    gen = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(*shape, generator=gen)  # noqa: E731
    unit = torch.nn.functional.normalize
    head = {
        "q": unit(draw(T, K), dim=-1) * K**-0.5, "k": unit(draw(T, K) + 0.3, dim=-1),
        "v": draw(T, V), "g": -0.1 * draw(T).abs(), "beta": draw(T).sigmoid(),
    }  # fmt: skip
    if start:
        head["start"] = draw(K, V)
    tensors = {f"delta.1.2.{name}": x.numpy() for name, x in head.items()}
    for name in "qk":
        tensors[f"attention.0.3.{name}"] = 3 * draw(T, 8).numpy()
    tensors["token_ids"] = np.arange(T, dtype=np.uint32)
    meta = {
        "version": 1, "source": "test", "model": "random", "length": T,
        "layer_types": ["full_attention", "linear_attention"], "num_experts": 0,
        "tokens": tokens or [f" t{i}" for i in range(T)],
        "prompt_length": None, "pictures": [],
    }  # fmt: skip
    return minqwen.Trace(meta, tensors)


def states(trace, until, head=(1, 2)):
    """By the package: the state after `until` tokens [K, V], and the outputs [T, V]."""
    parts = {n: torch.tensor(trace[f"delta.{head[0]}.{head[1]}.{n}"]) for n in "qkvg"}
    parts["beta"] = torch.tensor(trace[f"delta.{head[0]}.{head[1]}.beta"])
    fed = {name: x[None, :until, None] for name, x in parts.items()}
    start = trace.tensors.get(f"delta.{head[0]}.{head[1]}.start")
    state = None if start is None else torch.tensor(start)[None, None]
    o, state = delta_recurrent(**fed, state=state)
    return state[0, 0].numpy(), o[0, :, 0].numpy()


def raw(trace):
    """Its bytes with nothing halved, for comparisons to the last digit."""
    return to_bytes(trace.meta, trace.tensors)


@pytest.fixture
def show(new_page):
    """show(trace, width, theme, **traits): a page with the explorer, all maps drawn."""

    def show(trace, width=1100, theme="light", motion="no-preference", **given):
        page = new_page(
            viewport={"width": width, "height": 900}, color_scheme=theme,
            reduced_motion=motion,
        )  # fmt: skip
        given = {"head": [1, 2], "token": 99, "probe": 30, "step": "answer"} | given
        mount(page, "state/view.mjs", raw(trace), **given)
        page.wait_for_function(READY)
        settle(page)
        return page

    return show


def settle(page):
    """Until what was asked for is computed and drawn."""
    page.evaluate("() => new Promise((done) => setTimeout(done, 0))")
    page.wait_for_function(READY)
    page.evaluate(
        "() => new Promise((d) => requestAnimationFrame(() => setTimeout(d)))"
    )


# ---- a second trace


def test_the_second_traces_memory_is_told_beside_the_first(show):
    first, second = made(), made()
    second.tensors["delta.1.2.v"] = first["delta.1.2.v"] * 1.5
    page = show(first, other=raw(second), names=["a", "<b>b"], token=99, probe=30)
    mine, theirs = states(first, 100)[0], states(second, 100)[0]
    alike = (mine * theirs).sum() / np.linalg.norm(mine) / np.linalg.norm(theirs)
    told = page.locator(".say").inner_text()
    assert (
        f"In “<b>b”: after this token the memory is {np.linalg.norm(theirs):.3g}"
        in told
    )
    assert f"cosine {alike:.3g} with this one; the probe gets back" in told
    assert "dotted, its share in “<b>b”" in page.locator("figure.kept").inner_text()
    kept, _ = canvas(page, "kept")
    page.evaluate("model.set('other', null)")
    settle(page)
    assert "In “" not in page.locator(".say").inner_text()
    assert canvas(page, "kept")[0] != kept


def test_a_second_trace_that_does_not_fit_is_told(show):
    other = made()
    other.tensors["token_ids"] = other["token_ids"] + 1000
    page = show(made(), other=raw(other))
    assert "begin with different tokens" in page.get_by_role("alert").inner_text()
    assert "The memory S" in page.locator("figure.memory").inner_text()
    other = made()
    other.tensors["token_ids"] = np.r_[0:60, 1000:1090].astype(np.uint32)
    page = show(made(), other=raw(other), token=99)
    assert "its text does not have token 99" in page.locator(".say").inner_text()


# ---- the replay, by itself

REPLAY = """
export function run(bytes, at, { parseTrace, loadHead, delta }) {
    const head = loadHead(parseTrace(bytes), "delta", { layer: 1, head: 2 });
    const replay = new delta.Replay(head);
    const states = at.map((t) => Array.from(replay.seek(t)));
    const kept = delta.retention(replay, at[0], head.T);
    const last = head.T - 1;
    const sum = (weights, rows) => {
        const out = new Float64Array(head.V);
        weights.forEach((w, j) => rows.subarray(j * head.V, (j + 1) * head.V)
            .forEach((x, c) => (out[c] += w * x)));
        return Array.from(out);
    };
    return {
        states,
        output: Array.from(replay.step(last).output),
        fromWrites: sum(delta.writeWeights(head, last), replay.errors),
        fromValues: sum(delta.valueWeights(head, last), head.v),
        share: Array.from(kept.share), cosine: Array.from(kept.cosine),
    };
}
"""
SEEK = [5, 299, 64, 63, 0, 65, 130]  # forwards, backwards, beside the kept states


def replayed(runtime, trace, tmp_path, new_page):
    """REPLAY's result from the same modules under Node, or in the browser."""
    if runtime == "node":
        path = tmp_path / "trace.safetensors"
        path.write_bytes(raw(trace))
        names = {"state/delta.mjs": "* as delta", "shared/trace.mjs": "{ parseTrace }"}
        names["state/data.mjs"] = "{ loadHead }"
        lines = [
            f'import {what} from "{(HERE / n).as_uri()}";' for n, what in names.items()
        ]
        lines += [
            'import { readFileSync } from "node:fs";',
            REPLAY.replace("export", ""),
        ]
        lines.append(
            f"const bytes = readFileSync({json.dumps(str(path))});\n"
            f"console.log(JSON.stringify(run(bytes, {SEEK}, "
            "{ parseTrace, loadHead, delta })));"
        )
        return json.loads(chromium.node("\n".join(lines)))
    page = new_page()
    sources = [
        bundle(n) for n in ("state/delta.mjs", "shared/trace.mjs", "state/data.mjs")
    ]
    return page.evaluate(
        """async ([sources, bytes, at]) => {
            const type = "text/javascript";
            const load = (source) =>
                import(URL.createObjectURL(new Blob([source], { type })));
            const [delta, { parseTrace }, { loadHead }, { run }] =
                await Promise.all(sources.map(load));
            return run(new Uint8Array(bytes), at, { parseTrace, loadHead, delta });
        }""",
        [[*sources, REPLAY], list(raw(trace)), SEEK],
    )


@pytest.mark.parametrize("runtime", ["node", "chromium"])
@pytest.mark.parametrize("start", [False, True], ids=["empty", "started"])
def test_replay_equals_python(runtime, start, tmp_path, new_page):
    trace = made(T=300, K=64 if runtime == "node" else 16, V=48, start=start)
    got = replayed(runtime, trace, tmp_path, new_page)
    for t, state in zip(SEEK, got["states"], strict=True):
        expected, _ = states(trace, t + 1)
        assert np.abs(np.array(state) - expected.ravel()).max() < 1e-6
    _, outputs = states(trace, 300)
    assert np.abs(np.array(got["output"]) - outputs[-1]).max() < 1e-6
    if not start:  # what was there before is nobody's write
        assert np.abs(np.array(got["fromWrites"]) - outputs[-1]).max() < 1e-6
        assert np.abs(np.array(got["fromValues"]) - outputs[-1]).max() < 1e-6
    key, value = trace["delta.1.2.k"][5], trace["delta.1.2.v"][5]
    for t in (5, 6, 64, 200, 299):
        read = states(trace, t + 1)[0].T @ key
        share = read @ value / (value @ value)
        cosine = read @ value / np.linalg.norm(read) / np.linalg.norm(value)
        assert got["share"][t - 5] == pytest.approx(share, abs=2e-6)
        assert got["cosine"][t - 5] == pytest.approx(cosine, abs=1e-4)


def test_replay_of_the_largest_head(tmp_path, new_page):
    trace = made(T=2000, K=128, V=128)
    got = replayed("node", trace, tmp_path, new_page)
    expected, _ = states(trace, 300)
    assert np.abs(np.array(got["states"][1]) - expected.ravel()).max() < 1e-6
    _, outputs = states(trace, 2000)
    assert np.abs(np.array(got["output"]) - outputs[-1]).max() < 1e-6


# ---- what is drawn


def shade(x, limit, theme):
    """The colour of a number: paper at zero, by the square root of its size."""
    part = np.sqrt(np.clip(np.abs(x) / limit, 0, 1))[..., None]
    ends = np.where(np.asarray(x)[..., None] < 0, theme["second"], theme["first"])
    paper = np.array(theme["paper"])
    return paper + part * (ends - paper)


def cells(picture, box, rows, columns):
    """The colours in the middle of each cell of a matrix: [rows, columns, 3]."""
    pixels = np.asarray(picture).astype(float)
    y = (box["y"] + (np.arange(rows) + 0.5) * box["h"] / rows).astype(int)
    x = (box["x"] + (np.arange(columns) + 0.5) * box["w"] / columns).astype(int)
    return pixels[y[:, None], x[None, :]]


def peak(trace, head=(1, 2)):
    """The largest number in any of the states, by which the memory is coloured."""
    ends = range(1, trace.length + 1)
    return max(np.abs(states(trace, until, head)[0]).max() for until in ends)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_every_cell_has_its_number_s_colour(show, theme):
    trace = made(T=100)
    page = show(trace, theme=theme)
    table, limit = colours(page), peak(trace)
    state, outputs = states(trace, 100)
    picture, place = canvas(page, "memory")
    drawn = cells(picture, place["matrix"], 16, 12)
    assert np.abs(drawn - shade(state, limit, table)).max() < 3
    [output] = cells(picture, place["rows"]["output"], 1, 12)
    top = np.abs(outputs[99]).max()
    assert np.abs(output - shade(outputs[99], top, table)).max() < 3
    page.locator("button", has_text="1 Forget").click()
    settle(page)
    before = states(trace, 99)[0] * np.exp(trace["delta.1.2.g"][99])
    picture, place = canvas(page, "memory")
    drawn = cells(picture, place["matrix"], 16, 12)
    assert np.abs(drawn - shade(before, limit, table)).max() < 3


def test_each_step_draws_its_own_matrix(show):
    trace = made(T=100)
    page = show(trace)
    table = colours(page)
    k, q, g = (trace[f"delta.1.2.{n}"][99] for n in "kqg")
    earlier, now = states(trace, 99)[0], states(trace, 100)[0]
    faded = earlier * np.exp(g)
    matrices = {
        "1 Forget": faded - earlier, "2 Ask": k[:, None] * faded,
        "4 Write": now - faded, "5 Answer": q[:, None] * now,
    }  # fmt: skip
    for button, matrix in matrices.items():
        page.locator("button", has_text=button).click()
        settle(page)
        picture, place = canvas(page, "step")
        drawn = cells(picture, place["matrix"], 16, 12)
        assert np.abs(drawn - shade(matrix, np.abs(matrix).max(), table)).max() < 4
        if button in ("2 Ask", "5 Answer"):
            sums = matrix.sum(0)
            [row] = cells(picture, place["rows"]["known"], 1, 12)
            positive = row[sums > 0.3 * np.abs(sums).max()]
            assert (positive[:, 2] > positive[:, 0]).all()  # blue above zero


def test_compare_draws_bars_as_long_as_the_numbers(show):
    trace = made(T=100)
    page = show(trace, step="compare")
    picture, place = canvas(page, "step")
    k, v = trace["delta.1.2.k"][99], trace["delta.1.2.v"][99]
    known = (states(trace, 99)[0] * np.exp(trace["delta.1.2.g"][99])).T @ k
    error = trace["delta.1.2.beta"][99] * (v - known)
    pixels, table = np.asarray(picture).astype(int), colours(page)
    third = (place["height"] - 34) / 3
    for n, vector in enumerate((v, known, error)):
        band = pixels[int(14 + n * third) : int(14 + (n + 1) * third - 10)]
        for j, x in enumerate(vector):
            at = int(place["matrix"]["x"] + (j + 0.4) * place["cell"])
            kind = table["second" if x < 0 else "first"]
            length = (np.abs(band[:, at] - kind).max(1) < 40).sum()
            top = max(np.abs(w).max() for w in (v, known, error))
            assert length == pytest.approx(abs(x) / top * (third - 10) / 2, abs=2)


def test_maps_show_what_python_computes(show):
    trace = made(T=120)
    page = show(trace, width=1600)
    table = colours(page)
    explorer = StateExplorer(trace, head=(1, 2))
    kept, shares, first = explorer.maps()
    assert first == 0
    scores = trace["attention.0.3.q"] @ trace["attention.0.3.k"].T / np.sqrt(8)
    scores = torch.tensor(scores).masked_fill(torch.ones(120, 120).triu(1) > 0, -np.inf)
    true = scores.softmax(-1).numpy().T  # [looked at, now]
    now = 99
    maps = {
        "kept": (kept, 1.0),
        "delta": (shares, max(0.05, np.nanmax(np.abs(shares[:, now])))),
        "attention": (true, max(0.05, true[:, now].max())),
    }
    for panel, (values, top) in maps.items():
        picture, place = canvas(page, panel)
        drawn = cells(picture, place["heat"], 120, 120)
        written = np.triu(np.ones((120, 120), bool))
        ahead = np.abs(drawn - table["panel"]).max(-1) < 3
        expected = shade(np.nan_to_num(values), top, table)
        right = np.abs(drawn - expected).max(-1) < 4
        cross = np.zeros((120, 120), bool)
        cross[30], cross[:, now] = True, True
        assert right[written & ~cross].all() and ahead[~written & ~cross].all()
        lines = np.abs(drawn - table["accent"]).max(-1) < 60
        assert lines[30].mean() > 0.9 and lines[:, now].mean() > 0.9
        edge = np.asarray(picture).astype(int)[:, :2]
        assert (np.ptp(edge, axis=(0, 1)) < 3).all(), f"{panel}: a label is cut off"


def test_weights_on_values_are_another_map(show):
    trace = made(T=100)
    page = show(trace, token=98)  # the line of now would cover its own column
    page.get_by_role("radio", name="values, w v").check()
    settle(page)
    # o = sum of w_j v_j: with one v_j of (1, 0, ...) and no other, o is (w_j, 0, ...).
    weights = np.zeros((100, 2))
    for j in range(100):
        trace.tensors["delta.1.2.v"] = np.zeros((100, 12), np.float32)
        trace.tensors["delta.1.2.v"][j, 0] = 1
        weights[j] = states(trace, 100)[1][98:, 0]
    weights /= np.abs(weights).sum(0)
    top = max(0.05, np.abs(weights[:, 0]).max())
    picture, place = canvas(page, "delta")
    column = cells(picture, place["heat"], 100, 100)[:, 99]
    right = np.abs(column - shade(weights[:, 1], top, colours(page))).max(-1) < 4
    assert right.sum() == 99 and not right[30]  # the probe's line


# ---- hands


def test_keys_do_what_the_pointer_does(show):
    page = show(made(T=100), token=50, probe=10, step="write")
    page.locator("canvas").first.evaluate(
        "c => c.closest('.frame').querySelector('.text').focus()"
    )
    for key, expected in [
        (".", [50, 10, "answer"]), (".", [51, 10, "forget"]), (",", [50, 10, "answer"]),
        ("ArrowRight", [51, 10, "answer"]), ("ArrowLeft", [50, 10, "answer"]),
        ("ArrowDown", [50, 11, "answer"]), ("ArrowUp", [50, 10, "answer"]),
        ("Home", [0, 10, "answer"]), ("ArrowLeft", [0, 10, "answer"]),
        ("End", [99, 10, "answer"]), (".", [99, 10, "answer"]),
    ]:  # fmt: skip
        page.keyboard.press(key)
        assert traits(page, "token", "probe", "step") == expected, key
    page.get_by_label("Token, now", exact=True).focus()
    page.keyboard.press("ArrowLeft")
    assert traits(page, "token", "step") == [98, "answer"]
    page.get_by_label("Token whose key is asked").focus()
    page.keyboard.press("ArrowRight")
    assert traits(page, "probe") == [11]


def stop_clock(page):
    """From here on the page's time moves by `clock.run_for` alone."""
    page.clock.install(time=0)
    page.clock.pause_at(1000)


@pytest.mark.parametrize("motion, pace", [("no-preference", 140), ("reduce", 1000)])
def test_tokens_play_to_the_end(show, motion, pace):
    page = show(made(T=100), token=97, motion=motion)
    stop_clock(page)
    button = page.locator("button", has_text="tokens")
    button.click()
    page.clock.run_for(pace - 1)
    assert traits(page, "token") == [97]
    assert button.get_attribute("aria-pressed") == "true"
    say = page.locator(".say")
    assert say.get_attribute("aria-live") == "off"  # not all of it is read out
    page.clock.run_for(pace + 1)
    assert traits(page, "token") == [99]
    page.clock.run_for(2 * pace)
    assert traits(page, "token") == [99]
    assert button.get_attribute("aria-pressed") == "false"
    assert say.get_attribute("aria-live") == "polite"


def test_steps_play_and_pause(show):
    page = show(made(T=100), token=40, step="write")
    stop_clock(page)
    page.locator(".text").focus()
    page.keyboard.press("Space")
    page.clock.run_for(3 * 900 + 1)
    assert traits(page, "token", "step") == [41, "ask"]
    page.keyboard.press("Space")
    page.clock.run_for(5000)
    assert traits(page, "token", "step") == [41, "ask"]


def test_a_click_on_a_map_sets_now_and_probe(show):
    page = show(made(T=100))
    for panel in ("kept", "delta", "attention"):
        _, place = canvas(page, panel)
        heat, cell = place["heat"], place["cell"]
        x, y = heat["x"] + 70.5 * cell, heat["y"] + 20.5 * cell
        page.locator(f"figure.{panel} canvas").click(position={"x": x, "y": y})
        assert traits(page, "token", "probe") == [70, 20]
        page.evaluate("model.set('token', 3); model.set('probe', 3)")
        settle(page)
    page.locator(".text .token", has_text="t42").click()
    assert traits(page, "token", "probe") == [42, 3]
    page.locator(".text .token", has_text="t43").click(modifiers=["Shift"])
    assert traits(page, "token", "probe") == [42, 43]


def test_heads_are_picked_from_the_overview_and_the_list(show, tiny):
    page = show(tiny, head=list(tiny.heads[0]))
    options = page.get_by_label("Head", exact=True).locator("option")
    places = [
        re.match(r"layer (\d+), head (\d+)", t) for t in options.all_inner_texts()
    ]
    recorded = [[int(m[1]), int(m[2])] for m in places]
    assert len(recorded) == 4 and len({tuple(r) for r in recorded}) == 4
    _, place = canvas(page, "heads")
    assert len(place["dots"]) == 48  # every head of the six delta layers
    page.get_by_label("Head", exact=True).select_option(index=2)
    assert traits(page, "head") == [recorded[2]]
    settle(page)
    layer, head = recorded[3]
    delta = [0, 1, 2, 4, 5, 6].index(layer)
    x, y = place["dots"][8 * delta + head]
    page.locator("figure.heads canvas").click(position={"x": x, "y": y})
    assert traits(page, "head") == [recorded[3]]


# ---- words


def test_the_text_line_says_what_the_canvas_shows(show):
    trace = made(T=100)
    page = show(trace)
    k, v, g = (trace[f"delta.1.2.{n}"] for n in "kvg")
    beta = trace["delta.1.2.beta"]
    earlier, now = states(trace, 99)[0], states(trace, 100)[0]
    say = page.locator(".say")
    text = say.inner_text().replace("−", "-")
    assert "Layer 1, head 2, token 99 “␣t99”, step 5 of 5." in text
    read = now.T @ k[30]
    share = read @ v[30] / (v[30] @ v[30])
    assert f"would now get back {share:.3g} of its value" in text
    assert "written 69 tokens ago" in text
    _, shares, _ = StateExplorer(trace, head=(1, 2)).maps()
    best = np.abs(shares[:, 99]).argmax()
    assert f"{100 * shares[best, 99]:.3g} %, is that of token {best} “␣t{best}”" in text
    faded = earlier * np.exp(g[99])
    known = faded.T @ k[99]
    norm = np.linalg.norm
    error = beta[99] * (v[99] - known)
    expected = {
        "1 Forget": f"exp(g) = {np.exp(g[99]):.3g}; the memory's length goes from "
                    f"{norm(earlier):.3g} to {norm(faded):.3g}",
        "2 Ask": f"a vector of length {norm(known):.3g}",
        "3 Compare": f"{norm(v[99]):.3g} long; beta = {beta[99]:.3g} times what is "
                     f"missing is the error, {norm(error):.3g} long",
        "4 Write": f"from {norm(faded):.3g} to {norm(now):.3g}",
    }  # fmt: skip
    for button, words in expected.items():
        page.locator("button", has_text=button).click()
        settle(page)
        assert words in say.inner_text().replace("−", "-"), button
    page.evaluate("model.set('probe', 99); model.set('token', 20)")
    settle(page)
    assert "Probe: token 99 “␣t99” is not written yet." in say.inner_text()


def test_text_is_shown_literally(show):
    tokens = (ATTACKS * 10)[:100]
    page = show(made(T=100, tokens=tokens), token=2, probe=0)
    shown = page.locator(".text .token").all_inner_texts()
    assert "<script>alert(1)</script>" in shown
    assert '"><img src=x onerror=alert(2)>' in shown
    assert "⟨U+202E⟩right to left" in shown
    assert page.evaluate(f"{FRAME}.querySelectorAll('script, img').length") == 0
    assert (
        'token 2 “"><img␣src=x␣onerror=alert(2)>”' in page.locator(".say").inner_text()
    )
    for t in range(10):
        page.evaluate(f"model.set('token', {t})")
        settle(page)


@pytest.mark.parametrize("trace, words", [
    (b"not a trace", "this is not a trace"),
    (made(T=20), "the trace holds no head of a delta layer"),
])  # fmt: skip
def test_what_cannot_be_shown_gets_one_sentence(new_page, trace, words):
    if not isinstance(trace, bytes):
        kept = {n: x for n, x in trace.tensors.items() if not n.startswith("delta")}
        trace = raw(minqwen.Trace(trace.meta, kept))
    page = new_page()
    mount(page, "state/view.mjs", trace)
    alert = page.get_by_role("alert").inner_text()
    assert words in alert and alert.endswith(".") and "\n" not in alert


# ---- every place and reader


@pytest.mark.parametrize("width", [400, 700, 1100, 1600])
def test_it_fits_every_width(show, width):
    page = show(made(T=100, K=24, V=24), width=width)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    for panel in ("heads", "memory", "step", "kept", "delta", "attention"):
        box = page.locator(f"figure.{panel} canvas").bounding_box()
        assert box["x"] >= 0 and box["x"] + box["width"] <= width and box["width"] > 150


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [400, 1100])
def test_nothing_bars_a_reader(show, theme, width):
    page = show(made(T=100), theme=theme, width=width)
    assert violations(page) == []


def test_a_long_trace_shows_a_window_around_now(show):
    trace = made(T=1000)
    page = show(trace, token=700, probe=10)
    _, place = canvas(page, "kept")
    assert place["side"] == 160 and place["from"] <= 700 < place["from"] + 160
    assert "written 690 tokens ago" in page.locator(".say").inner_text()
    page.evaluate("model.set('token', 20)")
    settle(page)
    _, place = canvas(page, "kept")
    assert place["from"] == 0


def test_unmounting_leaves_nothing(show):
    page = show(made(T=100))
    stop_clock(page)
    page.locator("button", has_text="tokens").click()
    page.evaluate("unmount()")
    assert page.locator("main > *").count() == 0
    page.evaluate("model.set('token', 5)")
    page.clock.run_for(1000)
    assert traits(page, "token") == [5]


# ---- a real head, and Python's side


@pytest.fixture(scope="session")
def tiny():
    """A trace of assets/tiny: four delta heads, one of full attention, all norms."""
    model = minqwen.load("assets/tiny")
    processor = minqwen.Processor.load("assets/tiny")
    ids = processor.encode(
        "def delta_step(q, k, v, *, g, beta, state):\n    return state"
    )
    heads = [(0, 0), (2, 5), (4, 3), (6, 7), (3, 1)]
    with torch.inference_mode(), minqwen.record(
        model, states=heads, norms=True, processor=processor
    ) as trace:  # fmt: skip
        cache = model.new_cache(1, len(ids))
        model(torch.tensor([ids]), cache=cache)
    trace.last = cache.layers[4].state[0, 3].numpy()
    return trace


def test_a_real_head_ends_in_the_cache_s_state(show, tiny):
    explorer = StateExplorer(tiny, head=(4, 3), token=tiny.length - 1)
    scale = np.abs(tiny.last).max()
    assert np.abs(explorer.state.numpy() - tiny.last).max() < 1e-5 * scale
    page = show(tiny, head=[4, 3], token=tiny.length - 1, probe=1)
    picture, place = canvas(page, "memory")
    drawn = cells(picture, place["matrix"], *tiny.last.shape)
    limit = peak(tiny, (4, 3))
    assert np.abs(drawn - shade(tiny.last, limit, colours(page))).max() < 3


def test_python_s_side(tiny):
    explorer = StateExplorer(tiny, head=(4, 3), token=9)
    expected, _ = states(tiny, 10, (4, 3))
    assert np.abs(explorer.state.numpy() - expected).max() < 1e-6
    data, about = explorer._repr_mimebundle_()
    assert data["text/plain"] == "StateExplorer()"
    assert about["image/png"]["width"] <= 800
    assert "layer 4, head 3" in about["image/png"]["alt"]
    for wrong in ({"head": (3, 1)}, {"token": tiny.length}, {"probe": -1}):
        with pytest.raises(minqwen.errors.InputError, match=f"^{next(iter(wrong))}"):
            StateExplorer(tiny, **wrong)
    kept = {n: x for n, x in tiny.tensors.items() if not n.startswith("delta")}
    with pytest.raises(minqwen.errors.InputError, match="states="):
        StateExplorer(minqwen.Trace(tiny.meta, kept))


def test_in_jupyterlab(new_page, tmp_path):
    made(T=60).save(tmp_path / "trace.safetensors")
    cells = [
        "import minqwen\nfrom minqwen.widgets import StateExplorer\n"
        "trace = minqwen.Trace.load('trace.safetensors')\n"
        "view = StateExplorer(trace, token=20)\nview",
        "from ipywidgets import Label\nlabel = Label()\n"
        "def told(_): label.value = f'state at {view.token}: {view.state.sum():.4f}'\n"
        "view.observe(told, 'token')\nlabel",
    ]
    page = new_page(viewport={"width": 1300, "height": 1000})
    with lab(page, tmp_path, *cells):
        view = page.locator(".frame[data-ready='true']")
        view.wait_for()
        assert "token 20 “␣t20”" in view.locator(".say").inner_text()
        view.locator(".text").focus()
        page.keyboard.press("ArrowRight")
        expected = states(made(T=60), 22)[0].sum()
        page.get_by_text(f"state at 21: {expected:.4f}").wait_for()
        assert page.foreign == []
