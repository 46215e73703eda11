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


def shoot(page, name):
    page.wait_for_timeout(1000)  # tints and neighbours follow the selection
    data = page.locator("main > div").screenshot()
    picture = Image.open(io.BytesIO(data)).convert("RGB")
    picture = picture.quantize(256, dither=Image.Dither.NONE)
    picture.save(ASSETS / name, optimize=True)
    print(f"{name}: {(ASSETS / name).stat().st_size // 1000} kB")


def main():
    trace = minqwen.Trace.load(ASSETS / "picture.safetensors")
    with sync_playwright() as driver:
        browser = chromium.launch(driver)
        size = {"width": WIDTH, "height": 900}
        page = browser.new_page(viewport=size, device_scale_factor=1.5)
        mount(page, "routing/view.mjs", trace.compact(), order="as numbered")
        shoot(page, "routing_token.png")  # as it opens
        page.get_by_role("button", name="Show it").click()  # and what it found
        shoot(page, "routing_expert.png")
        browser.close()


if __name__ == "__main__":
    main()
