"""The picture of StateExplorer in docs/inside.md: a head in the sample trace.

python tools/state_picture.py [FILE]        with Playwright, as for `make test`
"""

import io
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

import minqwen

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests" / "browser"))

import chromium  # noqa: E402
from views import FRAME, mount  # noqa: E402


def main(path):
    trace = minqwen.Trace.load(ROOT / "assets" / "note.safetensors")
    traits = trace.meta["opens"] | {"step": "answer"}
    with sync_playwright() as driver:
        browser = chromium.launch(driver)
        size = {"width": 1180, "height": 900}
        page = browser.new_page(viewport=size, device_scale_factor=1.5)
        mount(page, "state/view.mjs", trace.compact(), **traits)
        page.wait_for_function(f"{FRAME}.dataset.ready === 'true'")
        page.wait_for_timeout(500)
        data = page.locator("main > div").screenshot()
        browser.close()
    picture = Image.open(io.BytesIO(data)).convert("RGB")
    picture.quantize(160, dither=Image.Dither.NONE).save(path, "PNG", optimize=True)
    print(f"{path}: {Path(path).stat().st_size // 1000} kB")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else ROOT / "assets" / "state.png")
