"""A view on a page of its own, as notebooks and pages mount it, and what it drew."""

import base64
import io
import json

import axe_playwright_python
from PIL import Image

from minqwen.widgets.bundle import bundle

PAGE = '<!doctype html><html lang="en"><title>A view</title><main></main></html>'
FRAME = "document.querySelector('main > *').shadowRoot.querySelector('.frame')"
MOUNT = """async ([view, page, files, traits]) => {
    const load = (source) =>
        import(URL.createObjectURL(new Blob([source], { type: "text/javascript" })));
    const { localModel } = await load(page);
    for (const [name, file] of Object.entries(files))
        if (file) traits[name] = Uint8Array.from(atob(file), (c) => c.charCodeAt(0));
    window.model = localModel(traits);
    const { mount } = await load(view);
    window.unmount = mount(document.querySelector("main"), window.model, {});
}"""


def mount(page, entry, trace=b"", other=b"", **traits):
    """Mount the view `entry` with a local model: `model` and `unmount` in the page."""
    page.set_content(PAGE)
    files = {"trace": trace, "other": other}
    files = {name: base64.b64encode(data).decode() for name, data in files.items()}
    page.evaluate(MOUNT, [bundle(entry), bundle("shared/page.mjs"), files, traits])


def traits(page, *names):
    return page.evaluate("names => names.map((name) => model.get(name))", names)


def canvas(page, panel):
    """A canvas as an RGB image, one pixel a CSS pixel, and where it put things."""
    found = page.locator(f"figure.{panel} canvas")
    data = found.evaluate("canvas => canvas.toDataURL()").split(",")[1]
    picture = Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB")
    return picture, json.loads(found.get_attribute("data-place"))


def colours(page):
    """The theme's colours, as [r, g, b] by name."""
    names = ["paper", "panel", "ink", "first", "second", "accent"]
    get = f"names => names.map(n => {FRAME}.style.getPropertyValue(`--${{n}}`))"
    values = page.evaluate(get, names)
    return {
        name: [int(value[i : i + 2], 16) for i in (1, 3, 5)]
        for name, value in zip(names, values, strict=True)
    }


def violations(page):
    """What axe-core finds wrong with the page, one line each."""
    source = axe_playwright_python.__path__[0] + "/axe.min.js"
    page.add_script_tag(path=source)
    # The page around the view is the test's own, so rules for whole pages are left out.
    rules = {"page-has-heading-one": {"enabled": False}}
    run = "rules => axe.run(document, { rules, preload: false })"  # asks for no file
    found = page.evaluate(run, rules)["violations"]
    return [f"{v['id']}: {v['nodes'][0]['html'][:200]}" for v in found]
