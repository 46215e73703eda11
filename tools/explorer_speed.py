"""How fast the routing explorer is in JupyterLab: the first picture, and a step.

python tools/explorer_speed.py [--tokens 2000]        60 layers, 512 experts, 10 chosen
"""

import argparse
import statistics
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import sync_playwright

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "browser")]

import chromium  # noqa: E402
from lab import lab  # noqa: E402

from tools.made_trace import made_trace  # noqa: E402

CELLS = (
    """import minqwen
trace = minqwen.Trace.load("trace.safetensors")
minqwen.widgets.RoutingExplorer  # what importing costs is not the widget's
""",
    """import time
started = time.time()
explorer = minqwen.widgets.RoutingExplorer(trace, token=100)
explorer""",
    "print('started', started * 1000)",
)
# The moment at which a map with lit cells has been drawn.
WATCH = """const look = () => {
  for (const host of document.querySelectorAll("[data-lm-suppress-shortcuts]")) {
    const map = host.shadowRoot?.querySelector(".map");
    if (!map?.width || !map.height) continue;
    const pixels = map.getContext("2d").getImageData(0, 0, map.width, map.height).data;
    if (!pixels.some((v, i) => i % 4 === 0 && v < 60)) continue;
    window.drawn = Date.now();
    window.root = host.shadowRoot;
    return;
  }
  requestAnimationFrame(look);
};
requestAnimationFrame(look);"""
# Each step is timed with the layout it causes, then the browser may draw a frame.
SCRUB = """async (steps) => {
  const text = root.querySelector(".text");
  const [times, frames] = [[], []];
  let last = performance.now();
  for (let i = 0; i < steps; i++) {
    const before = performance.now();
    text.dispatchEvent(
      new KeyboardEvent("keydown", { key: "ArrowRight", bubbles: true }));
    text.getBoundingClientRect();
    times.push(performance.now() - before);
    await new Promise(requestAnimationFrame);
    frames.push(performance.now() - last);
    last = performance.now();
  }
  return { times, frames };
}"""


def say(name, values):
    values = sorted(values)
    high = values[int(0.95 * len(values))]
    print(f"{name}: median {statistics.median(values):.1f} ms, 95 % {high:.1f} ms")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, default=2000)
    tokens = parser.parse_args().tokens
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as driver:
        folder = Path(folder)
        (folder / "trace.safetensors").write_bytes(made_trace(tokens=tokens))
        browser = chromium.launch(driver)
        page = browser.new_page(viewport={"width": 1400, "height": 1000})
        page.add_init_script(WATCH)
        with lab(page, folder, *CELLS):
            page.wait_for_function("window.drawn", timeout=300_000)
            line = page.locator(".jp-OutputArea-output", has_text="started ").last
            started = float(line.inner_text().split()[1])
            drawn = page.evaluate("drawn")
            page.wait_for_timeout(3000)
            measured = page.evaluate(SCRUB, min(500, tokens - 200))
        browser.close()
    print(f"{tokens} tokens; drawn {drawn - started:.0f} ms after its cell began")
    say("a step, with its layout", measured["times"])
    say("from frame to frame", measured["frames"])


if __name__ == "__main__":
    main()
