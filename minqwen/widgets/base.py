"""What every widget shares: the trace's bytes, and what is left without a browser.

A view is an ES module beside this file that exports mount(el, model, options), which
draws into the element `el` and returns a function that undoes it. `model` has
anywidget's get, set, save_changes, on and off; its trait `trace` is the file's bytes.
Sizes and colours come from the view's stylesheet or from `el.style`, never from markup.
"""

import base64
import io

import anywidget
import traitlets

from .bundle import HERE, widget


class View(anywidget.AnyWidget):
    """A widget on one trace. Subclasses set `_esm = module("x.mjs")` and `_css`,
    and say what they show: `describe()` in words, `picture()` as a figure."""

    trace = traitlets.Bytes().tag(sync=True)

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
        data = data | {"text/plain": repr(self), "image/png": png(self.picture())}
        return data, metadata | {"image/png": {"alt": self.describe()}}


def png(figure):
    """A figure's PNG in base64, the same bytes every time."""
    file = io.BytesIO()
    figure.savefig(file, format="png", metadata={"Software": None})
    return base64.b64encode(file.getvalue()).decode()


def module(name):
    """The source of the view `name`, with all it imports, for `_esm`."""
    return widget(name)


def stylesheet(*names):
    """Stylesheets beside this file, one after the other, for `_css`."""
    return "\n".join((HERE / name).read_text(encoding="utf-8") for name in names)
