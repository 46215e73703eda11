"""What the notebooks share: colours, described figures, sliders over figures."""

import ast
import base64
import html
import io
import json
import zlib
from pathlib import Path
from types import SimpleNamespace

import matplotlib
import matplotlib.pyplot as plt
import torch
from IPython import get_ipython
from IPython.display import Markdown, display
from PIL import Image

from minqwen.check import solved
from minqwen.files import ASSETS as assets  # noqa: F401  the notebooks import it

here = Path(__file__).resolve().parent

# Okabe and Ito's colours: told apart with any kind of colour vision.
colour = SimpleNamespace(
    blue="#0072B2", orange="#E69F00", green="#009E73", red="#D55E00", pink="#CC79A7",
    sky="#56B4E9", yellow="#F0E442", ink="#222222", grey="#767676",
)  # fmt: skip
CYCLE = [colour.blue, colour.orange, colour.green, colour.red, colour.pink, colour.sky]

PIXELS = 100  # an inch on the page; twice as many are stored, for sharp screens
STYLE = {
    "font.size": 11, "axes.titlesize": 11, "axes.titlelocation": "left",
    "axes.spines.top": False, "axes.spines.right": False, "axes.edgecolor": colour.grey,
    "axes.labelcolor": colour.ink, "text.color": colour.ink,
    "xtick.color": colour.ink, "ytick.color": colour.ink,
    "axes.prop_cycle": matplotlib.cycler(color=CYCLE), "lines.linewidth": 2,
    "legend.frameon": False, "figure.facecolor": "white", "figure.dpi": 2 * PIXELS,
    "figure.constrained_layout.use": True,
}  # fmt: skip
plt.rcParams.update(STYLE)
torch.set_printoptions(precision=4, sci_mode=False)


def say(*parts):
    """Print words and small tensors: a vector as (1.28, 3.64), a matrix in rows."""
    print(*(plain(p) if torch.is_tensor(p) else p for p in parts))


def plain(x):
    """A tensor as text, to four digits; what is zero but for rounding is 0."""
    if x.dim() == 0:
        return f"{x.item():.4g}" if not abs(x.item()) <= 1e-6 else "0"
    inside = ", ".join(plain(y) for y in x)
    return f"({inside})" if x.dim() == 1 else f"[{inside}]"


def figure(width=7.5, height=3.0, columns=1, rows=1, **kw):
    """A figure in the course's style, width and height in inches of 100 pixels."""
    return plt.subplots(rows, columns, figsize=(width, height), **kw)


def png(fig, colours=32, flat=False):
    """The figure as a PNG of few colours, closed so that it is not shown twice.

    With `flat` they are those of most pixels: areas keep theirs, and edges come near.
    """
    buffer = io.BytesIO()
    fig.savefig(buffer, format="png", dpi=2 * PIXELS)
    plt.close(fig)
    picture = Image.open(buffer).convert("RGB")
    palette = None
    if flat:
        counted = sorted(picture.getcolors(picture.width * picture.height))
        most = [part for _, paint in counted[-colours:] for part in paint]
        palette = Image.new("P", (1, 1))
        palette.putpalette(most)
    picture = picture.quantize(colours, palette=palette, dither=Image.Dither.NONE)
    buffer = io.BytesIO()
    picture.save(buffer, format="png", optimize=True)
    return buffer.getvalue(), picture.width // 2, picture.height // 2


def show(fig, text, colours=32, flat=False):
    """Display a figure; `text` says in words what it shows, and is its alt text.

    Fewer colours than 32 make a smaller file, where a figure has few to begin with;
    `flat` as in `png`.
    """
    data, width, height = png(fig, colours, flat)
    _display(data, width, height, text)


def _display(data, width, height, text, **more):
    bundle = {"image/png": base64.b64encode(data).decode(), "text/plain": text, **more}
    described = {"image/png": {"alt": text, "width": width, "height": height}}
    display(bundle, metadata=described, raw=True)


def play(draw, colours=32, **sliders):
    """Sliders over a figure. `draw(**values)` returns (figure, what it shows in words).

    A slider is name=(first value, least, greatest, step). Where no kernel runs, the
    picture for the first values stands in its place. Colours as in `show`.
    """
    view, first = panel(draw, sliders, colours)
    kind = "application/vnd.jupyter.widget-view+json"
    _display(*first, **{kind: view._repr_mimebundle_()[kind]})


def panel(draw, sliders, colours=32):
    """The widget of `play`, and its first picture."""
    import ipywidgets as w

    made = {}
    for name, (value, low, high, step) in sliders.items():
        kind = w.IntSlider if isinstance(step, int) else w.FloatSlider
        made[name] = kind(
            value=value, min=low, max=high, step=step, description=name,
            continuous_update=False,
        )  # fmt: skip
    picture = w.HTML()

    def redraw(_=None):
        fig, text = draw(**{name: slider.value for name, slider in made.items()})
        data, width, height = png(fig, colours)
        source = "data:image/png;base64," + base64.b64encode(data).decode()
        words = html.escape(text)
        picture.value = (
            f'<img src="{source}" alt="{words}" width="{width}" height="{height}">'
            f"<p>{words}</p>"
        )
        return data, width, height, text

    for slider in made.values():
        slider.observe(redraw, names="value")
    return w.VBox([*made.values(), picture]), redraw()


def matrix(ax, values, title="", rows=None, columns=None, limit=None):
    """Draw a small matrix with its numbers: blue above zero, orange below."""
    values = torch.as_tensor(values).reshape(len(values), -1)
    limit = limit or float(values.abs().max()) or 1.0
    colours = matplotlib.colors.LinearSegmentedColormap.from_list(
        "signed", [colour.orange, "white", colour.sky]
    )
    look = {"cmap": colours, "vmin": -limit, "vmax": limit, "edgecolors": colour.grey}
    ax.pcolormesh(values, **look, lw=0.8)
    ax.invert_yaxis()
    ax.set_aspect("equal")
    for i, row in enumerate(values.tolist()):
        for j, x in enumerate(row):
            ax.text(j + 0.5, i + 0.5, f"{x:.3g}", ha="center", va="center")
    ax.set_xticks(torch.arange(values.shape[1]) + 0.5, columns or [""] * len(values[0]))
    ax.set_yticks(torch.arange(values.shape[0]) + 0.5, rows or [""] * len(values))
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    ax.set_title(title, loc="center")


def arrow(ax, start, end, paint, label="", offset=(6, 4), **kw):
    """An arrow between two points, its label beside the head."""
    style = {"color": paint, "lw": 2, "shrinkA": 0, "shrinkB": 0, **kw}
    ax.annotate("", end, start, arrowprops={"arrowstyle": "-|>", **style})
    ax.annotate(label, end, offset, textcoords="offset points")


def reveal(notebook, number):
    """Show what the student edition holds back, once its guess is made."""
    name, text = _kept(notebook, number)
    if name and name not in solved.guesses():
        print(
            f'First make your guess: check.predict("{name}"), further up.'
            " Then run this cell again."
        )
    else:
        display(Markdown(text))


def lend(notebook, number):
    """Run what a solution defines beside its function, and later cells use."""
    get_ipython().run_cell(_kept(notebook, number)[1])


def _kept(notebook, number):
    kept = json.loads((here / "told.json").read_bytes())[notebook][number - 1]
    return json.loads(zlib.decompress(base64.b64decode(kept)))


def keep_whole(shell):
    """Classes told in several cells, `class X` and later `class X(X):`, stay whole.

    When the first cell is run again, the others are too, as they were last run.
    """
    rest = {}  # name -> {its first method: source}

    def after(result):
        try:
            cell = result.info.raw_cell
            classes = [n for n in ast.parse(cell).body if isinstance(n, ast.ClassDef)]
        except (SyntaxError, ValueError):
            return
        for node in classes:
            known = rest.setdefault(node.name, {})
            if node.name in [getattr(base, "id", "") for base in node.bases]:
                if result.success:
                    known[node.body[0].name] = ast.get_source_segment(cell, node)
                elif isinstance(result.error_in_exec, NameError):
                    print(f"{node.name} begins in an earlier cell: run that one first.")
            elif known and result.success:
                exec("\n\n".join(known.values()), shell.user_ns)
                print(f"{node.name} goes on in later cells, which were run again.")

    shell.events.register("post_run_cell", after)


PAD = """
export default {
  render({ model, el }) {
    const canvas = document.createElement("canvas");
    canvas.width = canvas.height = 64;
    canvas.style = "width: 256px; border: 1px solid #767676; touch-action: none";
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-label", "A square to draw a digit in");
    const button = document.createElement("button");
    button.textContent = "Wipe";
    const pen = canvas.getContext("2d");
    let given = true, down = false;
    const picture = new Image();
    picture.onload = () => given && pen.drawImage(picture, 0, 0, 64, 64);
    picture.src = model.get("picture");
    const wipe = () => {
      given = false;
      pen.fillStyle = "white";
      pen.fillRect(0, 0, 64, 64);
    };
    const send = () => {
      model.set("picture", canvas.toDataURL());
      model.save_changes();
    };
    const stroke = (event) => {
      const scale = 64 / canvas.clientWidth;
      Object.assign(pen, { lineWidth: 5, lineCap: "round", lineJoin: "round" });
      pen.lineTo(event.offsetX * scale, event.offsetY * scale);
      pen.stroke();
    };
    canvas.onpointerdown = (event) => {
      if (given) wipe();
      down = true;
      canvas.setPointerCapture(event.pointerId);
      pen.beginPath();
      stroke(event);
    };
    canvas.onpointermove = (event) => down && stroke(event);
    canvas.onpointerup = canvas.onpointercancel = () => {
      if (down) send();
      down = false;
    };
    button.onclick = () => { wipe(); send(); };
    const box = document.createElement("div");
    box.style = "display: flex; gap: 12px; align-items: end";
    box.append(canvas, button);
    el.append(box);
  },
};
"""


def pad(path):
    """A square to draw in, shown: its `png()` are a file's bytes, at first the path's.

    The first stroke wipes that picture away. Where no kernel runs, it is what stands.
    """
    view, given = drawing_pad(path)
    kind = "application/vnd.jupyter.widget-view+json"
    text = "A square of 64 x 64 pixels to draw a digit in; before that it shows a 7."
    _display(given, 256, 256, text, **{kind: view._repr_mimebundle_()[0][kind]})
    return view


def drawing_pad(path):
    """The widget of `pad`, and its first picture."""
    import anywidget
    import traitlets

    class Pad(anywidget.AnyWidget):
        _esm = PAD
        picture = traitlets.Unicode().tag(sync=True)  # a data URL

        def png(self):
            return base64.b64decode(self.picture.split(",")[1])

    given = Path(path).read_bytes()
    data = base64.b64encode(given).decode()
    return Pad(picture=f"data:image/png;base64,{data}"), given


if kernel := get_ipython():
    keep_whole(kernel)
