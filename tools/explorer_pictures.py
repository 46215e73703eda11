"""Pictures of the explorer for README.md and docs/inside.md, of the sample trace.

python tools/explorer_pictures.py        with Playwright, as for `make test`
"""

import io
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

import minqwen

ROOT = Path(__file__).resolve().parent.parent
ASSETS = ROOT / "assets"
sys.path.insert(0, str(ROOT / "tests" / "browser"))

import chromium  # noqa: E402
from views import mount  # noqa: E402

WIDTH = 1180


def particular(trace):
    """(layer, expert) of the one that likes the template's markers most, of 5 to 14."""
    ids = trace["expert_ids"]
    marks = [i for i, text in enumerate(trace.tokens) if text.startswith("<|im_")]
    counts = {}
    for layer in range(ids.shape[1]):
        for expert in range(trace.meta["num_experts"]):
            mine = (ids[:, layer] == expert).any(1)
            if 5 <= mine.sum() <= 14:
                counts[layer, expert] = mine[marks].mean() - mine.mean()
    return max(counts, key=counts.get)


def shoot(page, trace, name, **traits):
    mount(page, "routing/view.mjs", trace.compact(), order="as numbered", **traits)
    page.wait_for_timeout(1000)  # tints and neighbours follow the selection
    data = page.locator("main > div").screenshot()
    picture = Image.open(io.BytesIO(data)).convert("RGB")
    picture = picture.quantize(256, dither=Image.Dither.NONE)
    picture.save(ASSETS / name, optimize=True)
    print(f"{name}: {(ASSETS / name).stat().st_size // 1000} kB")


def main():
    trace = minqwen.Trace.load(ASSETS / "picture.safetensors")
    word = trace.tokens.index(" this")  # in the question about the picture
    layer, expert = particular(trace)
    with sync_playwright() as driver:
        browser = chromium.launch(driver)
        size = {"width": WIDTH, "height": 900}
        page = browser.new_page(viewport=size, device_scale_factor=1.5)
        shoot(page, trace, "routing_token.png", token=word, selected={"token": word})
        chosen = {"layer": layer, "expert": expert}
        shoot(page, trace, "routing_expert.png", token=word, selected=chosen)
        browser.close()


if __name__ == "__main__":
    main()
