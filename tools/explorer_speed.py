"""How fast the routing explorer is at size: a table of what each action costs.

python tools/explorer_speed.py [--tokens 10000] [--one]

60 layers, 512 experts, 10 chosen, two traces (with --one: one). A step (hover, scrub)
is timed with the layout it causes; a choice (whole text, layer, sort) by all that it
makes the page do until it rests, in processor time of the page's own thread.
"""

import argparse
import platform
import statistics
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "browser")]

import chromium  # noqa: E402
from served import Served  # noqa: E402

from tools.made_trace import made_trace  # noqa: E402

STEPS = """async ([kind, steps]) => {
  const { shadowRoot: root } = document.querySelector("#view > div");
  const [map, text] = [".map", ".text"].map((name) => root.querySelector(name));
  const times = [];
  const bubbles = true, shiftKey = kind === "grow";
  let seed = 7;
  for (let i = 0; i < steps; i++) {
    const { left, top } = map.getBoundingClientRect();
    seed = (seed * 16807) % 2147483647;
    const [x, y] = [60 + (seed % 600), 40 + ((seed >> 8) % 340)];
    const at = { clientX: left + x, clientY: top + y };
    const [target, event] = kind === "hover"
      ? [map, new PointerEvent("pointermove", { ...at, bubbles })]
      : [text, new KeyboardEvent("keydown", { key: "ArrowRight", bubbles, shiftKey })];
    const before = performance.now();
    target.dispatchEvent(event);
    text.getBoundingClientRect();
    times.push(performance.now() - before);
    await new Promise(requestAnimationFrame);
  }
  return times;
}"""


class Measured:
    def __init__(self, page):
        self.page = page
        self.tool = page.context.new_cdp_session(page)
        self.tool.send("Performance.enable", {"timeDomain": "threadTicks"})

    def busy(self):
        """Milliseconds that the page's thread has worked so far."""
        told = self.tool.send("Performance.getMetrics")["metrics"]
        return 1000 * {each["name"]: each["value"] for each in told}["TaskDuration"]

    def steps(self, name, kind, count=100):
        say(name, self.page.evaluate(STEPS, [kind, count]))
        self.page.wait_for_timeout(1000)

    def choices(self, name, trait, values):
        times = []
        for value in values:
            before = self.busy()
            self.page.evaluate(
                "([name, value]) => model.set(name, value)", [trait, value]
            )
            self.page.wait_for_timeout(1500)
            times.append(self.busy() - before)
        say(name, times)


def say(name, values):
    values = sorted(values)
    high = values[min(len(values) - 1, int(0.95 * len(values)))]
    print(f"{name:34} {statistics.median(values):8.1f} {high:8.1f}", flush=True)


def measure(page, tokens):
    told, middle = Measured(page), tokens // 2
    print(f"{'milliseconds':34} {'median':>8} {'95 %':>8}")
    told.steps("hover, a token selected", "hover")
    told.steps("scrub through tokens", "scrub")
    told.choices("whole text, the first time", "selected", [{}])
    told.steps("hover, the whole text", "hover")
    layers = [{"layer": layer} for layer in (3, 17, 40, 51, 8)]
    told.choices("a layer", "selected", layers)
    told.steps("hover, a layer", "hover")
    experts = [{"layer": 3 * i, "expert": 37 * i} for i in range(5)]
    told.choices("an expert", "selected", experts)
    spans = [{"tokens": [i, middle + i]} for i in range(5)]
    told.choices("a span of half the text", "selected", spans)
    told.steps("that span, growing", "grow", 40)
    whole = [{"token": 3}, {}] * 4
    told.choices("whole text and back", "selected", whole)
    orders = ["by load", "by specialisation", "as numbered"] * 2
    told.choices("sort", "order", orders)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, default=10_000)
    parser.add_argument("--one", action="store_true", help="no second trace")
    options = parser.parse_args()
    sizes = {"tokens": options.tokens, "seed": 1}
    traces = [
        made_trace(**sizes),
        b"" if options.one else made_trace(**sizes, changed=0.1),
    ]
    with Served() as server, sync_playwright() as driver:
        browser = chromium.launch(driver)
        page = browser.new_page(viewport={"width": 1400, "height": 1000})
        middle = options.tokens // 2
        server.show(
            "routing/view.mjs", *traces, token=middle, selected={"token": middle}
        )
        page.goto(server.url)
        page.wait_for_selector("body[data-ready]", timeout=300_000)
        opened = page.evaluate("mounting")
        page.wait_for_timeout(4000)
        print(f"Chromium {browser.version} on {platform.machine()}; "
              f"{options.tokens:,} tokens; drawn after {opened:.0f} ms")  # fmt: skip
        measure(page, options.tokens)
        browser.close()
        server.shutdown()


if __name__ == "__main__":
    main()
