"""The poster: nothing on it overlaps, and the README shows and describes it."""

from itertools import combinations
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def poster(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "notebooks"))
    monkeypatch.setenv("MPLBACKEND", "agg")
    import poster

    return poster


def test_the_readme_describes_it_as_the_notebook_does(poster):
    assert f"![{poster.words()}](assets/poster.png)" in (ROOT / "README.md").read_text()
    assert (ROOT / "assets" / "poster.png").stat().st_size < 250_000


@pytest.mark.slow
@pytest.mark.parametrize("name", ["397B-A17B", "122B-A10B", "35B-A3B"])
def test_texts_stay_on_the_page_in_their_boxes_and_apart(name, poster):
    import matplotlib.pyplot as plt
    from matplotlib.patches import FancyBboxPatch

    fig, words = poster.poster(name)
    [ax] = fig.axes
    page = fig.bbox
    shown = [text for text in ax.texts if text.get_text()]
    places = [(text.get_text(), text.get_window_extent()) for text in shown]
    boxes = [p.get_window_extent() for p in ax.patches if isinstance(p, FancyBboxPatch)]
    plt.close(fig)
    assert name in words and len(places) > 100 and len(boxes) > 30
    for text, place in places:
        inside = page.x0 < place.x0 and place.x1 < page.x1
        assert inside and page.y0 < place.y0 and place.y1 < page.y1, text
        for box in boxes:
            apart = not box.overlaps(place)
            assert apart or (box.x0 < place.x0 and place.x1 < box.x1), text
    for (text, place), (other, there) in combinations(places, 2):
        wide = min(place.x1, there.x1) - max(place.x0, there.x0)
        high = min(place.y1, there.y1) - max(place.y0, there.y0)
        assert min(wide, high) <= 2, (text, other)
