"""What every widget shares: the trace's bytes, and what is left without a browser.

A view is view.mjs in a folder here, an ES module that exports
mount(el, model, options), which draws into the element `el` and returns a function
that undoes it. `model` has anywidget's get, set, save_changes, on and off; its trait
`trace` is the file's bytes. Its styles are in shared/look.mjs and beside it:
constructed sheets in a shadow root.
"""

import base64
import io

import anywidget
import traitlets
from PIL import Image

SIGNED = ("#c04800", "white", "#0060b0")  # numbers on both sides of zero


class View(anywidget.AnyWidget):
    """A widget on one trace. Subclasses set `_esm = widget("x.mjs")` and say what they
    show: `describe()` in words, `picture()` as a figure."""

    trace = traitlets.Bytes().tag(sync=True)
    other = traitlets.Bytes().tag(sync=True)  # a second one, where a view compares
    names = traitlets.List(traitlets.Unicode()).tag(sync=True)  # what it calls the two

    def __init__(self, trace=None, **traits):
        """trace: a minqwen.Trace, or a trace file's bytes."""
        if trace is not None:
            traits["trace"] = trace if isinstance(trace, bytes) else trace.compact()
        super().__init__(**traits)

    def __repr__(self):
        """Without an address, so that a notebook's output is the same every time."""
        return f"{type(self).__name__}()"

    def describe(self):
        """What the widget shows, in a sentence or two: the picture's alternative."""
        raise NotImplementedError

    def picture(self):
        """The widget as a matplotlib Figure, for where no script runs."""
        raise NotImplementedError

    def _repr_mimebundle_(self, **kwargs):
        bundle = super()._repr_mimebundle_(**kwargs)
        data, metadata = bundle if isinstance(bundle, tuple) else (bundle or {}, {})
        picture, width, height = png(self.picture())
        data = data | {"text/plain": repr(self), "image/png": picture}
        about = {"alt": self.describe(), "width": width, "height": height}
        return data, metadata | {"image/png": about}


def png(figure):
    """A figure's PNG in base64, small and the same every time; its width and height."""
    # An inch is 100 pixels on the page; twice as many are stored, for sharp screens.
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=200)
    picture = Image.open(file).convert("RGB").quantize(64, dither=Image.Dither.NONE)
    file = io.BytesIO()
    picture.save(file, format="png", optimize=True)
    data = base64.b64encode(file.getvalue()).decode()
    return data, picture.width // 2, picture.height // 2


def colours(stops):
    """A view's colours, from the first to the last of `stops`, for matplotlib."""
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("stops", stops)
