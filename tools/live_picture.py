"""A picture for docs/inside.md: the small model in a page, which has read a digit.

python tools/live_picture.py        with Playwright, as for `make test`
"""

import io
import sys
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

from minqwen.files import ASSETS
from minqwen.widgets.explore import live_page

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "browser"))

import chromium  # noqa: E402

SIZE = {"width": 1180, "height": 700}


def answered(page):
    button = page.get_by_role("button", name="Answer")
    while not button.is_enabled():
        page.wait_for_timeout(100)


def main():
    with sync_playwright() as driver, tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "live.html"
        path.write_text(live_page(ASSETS / "tiny"))
        browser = chromium.launch(driver)
        page = browser.new_page(viewport=SIZE, device_scale_factor=1.5)
        page.goto(path.as_uri())
        answered(page)  # that is, the model is there
        page.get_by_role("button", name="A drawn digit").click()
        page.locator("input[accept='image/*']").set_input_files(ASSETS / "seven.png")
        page.wait_for_timeout(500)
        page.get_by_role("button", name="Answer").click()
        answered(page)
        page.wait_for_timeout(1000)
        status = page.get_by_role("status").first
        status.evaluate("e => e.textContent = ''")  # the machine's speed is its own
        picture = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
        browser.close()
    picture = picture.quantize(256, dither=Image.Dither.NONE)
    picture.save(ASSETS / "live.png", optimize=True)
    print(f"live.png: {(ASSETS / 'live.png').stat().st_size // 1000} kB")


if __name__ == "__main__":
    main()
