"""MemoryBoard: notebook 04's numbers, clicks and keys, and the package's own step."""

import numpy as np
import pytest
from lab import lab
from views import FRAME, colours, mount, traits, violations

import minqwen
from minqwen.widgets import MemoryBoard

pytestmark = pytest.mark.slow


@pytest.fixture
def show(new_page):
    """show(board, width, theme): a page with the board as its Python side stands."""

    def show(board=None, width=900, theme="light"):
        board = board or MemoryBoard()
        page = new_page(
            viewport={"width": width, "height": 900}, color_scheme=theme
        )  # fmt: skip
        names = ("size", "pairs", "writes", "asked")
        mount(page, "board/view.mjs", **{name: getattr(board, name) for name in names})
        return page

    return show


def grid(page, kind):
    """A memory's table as it is read, [n, n]."""
    rows = page.get_by_role("table", name=f"{kind} memory").locator("tr:not(.sum)")
    cells = [row.locator("td").all_inner_texts() for row in rows.all()]
    return [[float(x.replace("−", "-")) for x in row] for row in cells]


def press(page, words):
    page.get_by_role("button", name=words, exact=True).click()


def test_the_numbers_of_notebook_04(show):
    page = show()
    assert grid(page, "Hebbian") == grid(page, "Delta") == [[0, 0], [0, 0]]
    press(page, "Write k1")
    assert grid(page, "Hebbian") == grid(page, "Delta") == [[2, 1], [0, 0]]
    press(page, "Write k2")
    assert grid(page, "Hebbian") == [[2, 4], [0, 4]]
    assert grid(page, "Delta") == [[1.28, 3.64], [-0.96, 3.52]]
    work = page.locator("figure", has_text="Delta memory").inner_text()
    for line in (
        "k2 got back 0.6 × (2, 1) + 0.8 × (0, 0) = (1.2, 0.6)",
        "error: (0, 5) − (1.2, 0.6) = (−1.2, 4.4)",
        "to row 1 is added 0.6 × (−1.2, 4.4) = (−0.72, 2.64)",
        "to row 2 is added 0.8 × (−1.2, 4.4) = (−0.96, 3.52)",
    ):
        assert line in work
    reads = page.locator(".reads").all_inner_texts()
    assert reads[0] == "Hebbian reads (2, 4), off by 3\n" \
        "delta reads (1.28, 3.64), off by 2.736"  # fmt: skip
    assert reads[1].endswith("delta reads (0, 5), off by 0")
    press(page, "Ask k1")
    say = page.get_by_role("status").inner_text()
    assert say == ("Asked for k1, stored (2, 1): Hebbian, (2, 4); delta, (1.28, 3.64).")
    press(page, "Undo")
    assert grid(page, "Delta") == [[2, 1], [0, 0]]
    press(page, "Clear")
    assert grid(page, "Delta") == [[0, 0], [0, 0]]


def test_strength_and_forgetting(show):
    page = show(MemoryBoard(writes=[0]))
    page.get_by_label("beta").focus()
    for _ in range(5):
        page.keyboard.press("ArrowLeft")
    page.get_by_label("exp(g)").focus()
    for _ in range(10):
        page.keyboard.press("ArrowLeft")
    press(page, "Write k2")
    assert traits(page, "writes")[0][1]["beta"] == pytest.approx(0.5)
    assert traits(page, "writes")[0][1]["keep"] == pytest.approx(0.5)
    # Half of (2, 1) is kept; k2 then reads (0.6, 0.3); half of (-0.6, 4.7) is added.
    assert grid(page, "Delta") == [[0.82, 1.91], [-0.24, 1.88]]
    assert grid(page, "Hebbian") == [[1, 2], [0, 2]]
    work = page.locator("figure", has_text="Delta memory").inner_text()
    assert "kept: 0.5 × S" in work
    assert "error: 0.5 × ((0, 5) − (0.6, 0.3)) = (−0.3, 2.35)" in work


@pytest.mark.parametrize("size", range(2, 9))
def test_every_size_equals_the_package_s_step(show, size):
    page = show()
    page.get_by_label("size").select_option(str(size))
    for _ in range(2):
        press(page, "Add a pair")
    pairs = traits(page, "pairs")[0]
    assert all(np.linalg.norm(pair["key"]) == pytest.approx(1) for pair in pairs)
    for i in (*range(len(pairs)), 1, 0):
        press(page, f"Write k{i + 1}")
    keys = [(p["key"], p["value"]) for p in pairs]
    board = MemoryBoard(keys, writes=[*range(len(pairs)), 1, 0])
    assert board.size == size
    within = 0.006 if size > 5 else 0.0006
    for kind in ("Hebbian", "Delta"):
        expected = getattr(board, kind.lower()).numpy()
        assert np.abs(np.array(grid(page, kind)) - expected).max() < within


def test_numbers_are_typed_and_wrong_ones_said(show):
    page = show(MemoryBoard(writes=[0]))
    value = page.get_by_label("v1", exact=True)
    value.fill("(0, 5)")
    value.press("Enter")
    assert traits(page, "pairs")[0][0] == {"key": [1, 0], "value": [0, 5]}
    assert grid(page, "Delta") == [[2, 1], [0, 0]]  # what is written stays
    press(page, "Write k1")
    assert grid(page, "Delta") == [[0, 5], [0, 0]]
    assert grid(page, "Hebbian") == [[2, 6], [0, 0]]
    for wrong in ("1", "1, 2, 3", "<b>1</b>, 2", "1e9, 0", ""):
        value.fill(wrong)
        value.press("Enter")
        assert value.get_attribute("aria-invalid") == "true"
        assert "value 1 needs 2 numbers" in page.get_by_role("status").inner_text()
        assert traits(page, "pairs")[0][0]["value"] == [0, 5]
    value.fill("3 −4")
    value.press("Enter")
    assert value.get_attribute("aria-invalid") == "false"
    assert traits(page, "pairs")[0][0]["value"] == [3, -4]


def test_keys_do_all(show):
    page = show()
    names = []
    for _ in range(12):
        page.keyboard.press("Tab")
        names.append(page.evaluate(
            f"(e => e.ariaLabel || e.closest('label')?.innerText || e.innerText)"
            f"({FRAME}.getRootNode().activeElement)"
        ))  # fmt: skip
        if names[-1] in ("Write k1", "Write k2"):
            page.keyboard.press("Enter")
        if names[-1] == "Ask k1":
            page.keyboard.press("Space")
    assert grid(page, "Delta") == [[1.28, 3.64], [-0.96, 3.52]]
    assert {"Add a pair", "k1", "v1", "Ask k1", "k2", "v2", "Ask k2"} <= set(names)
    assert any(name.startswith("beta") for name in names)


def test_cells_are_coloured_by_sign_and_size(show):
    for theme in ("light", "dark"):
        page = show(MemoryBoard(writes=[0, 1]), theme=theme)
        table = colours(page)
        cells = page.get_by_role("table", name="Delta memory").locator(
            "tr:not(.sum) td"
        )
        drawn = [
            cell.evaluate("c => getComputedStyle(c).backgroundColor")
            for cell in cells.all()
        ]
        for colour, x in zip(drawn, [1.28, 3.64, -0.96, 3.52], strict=True):
            got = [int(n) for n in colour[4:-1].split(",")]
            end = np.array(table["second" if x < 0 else "first"])
            paper = np.array(table["paper"])
            expected = paper + 0.4 * abs(x) / 3.64 * (end - paper)
            assert np.abs(expected - got).max() <= 1


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [400, 900, 1600])
@pytest.mark.parametrize("size", [2, 8])
def test_it_fits_and_nothing_bars_a_reader(show, theme, width, size):
    pairs = [
        ([1.0] + [0] * (size - 1), [2.0] * size),
        ([0] * (size - 1) + [1], [-3.0] * size),
    ]
    page = show(MemoryBoard(pairs, writes=[0, 1]), width=width, theme=theme)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert violations(page) == []


def test_python_s_side():
    board = MemoryBoard(writes=[0, 1])
    assert np.allclose(board.delta, [[1.28, 3.64], [-0.96, 3.52]])
    assert np.allclose(board.hebbian, [[2, 4], [0, 4]])
    data, about = board._repr_mimebundle_()
    assert data["text/plain"] == "MemoryBoard()" and data["image/png"]
    assert "k2 reads (1.2, 5.6) and (0, 5) of (0, 5)" in about["image/png"]["alt"]
    for wrong in ({"pairs": ()}, {"pairs": [([1, 0], [1])]}, {"writes": [2]}):
        with pytest.raises(minqwen.errors.InputError):
            MemoryBoard(**wrong)


def test_in_jupyterlab(new_page, tmp_path):
    cells = [
        "from minqwen.widgets import MemoryBoard\nboard = MemoryBoard()\nboard",
        "from ipywidgets import Label\nlabel = Label()\n"
        "def told(_): label.value = f'delta {board.delta.tolist()[0]}'\n"
        "board.observe(told, 'writes')\nlabel",
    ]
    page = new_page(viewport={"width": 1200, "height": 1000})
    with lab(page, tmp_path, *cells):
        press(page, "Write k1")
        page.get_by_text("delta [2.0, 1.0]").wait_for()
        assert page.foreign == []
