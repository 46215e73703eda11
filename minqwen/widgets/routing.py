"""Which experts a model chose, for every token in every layer: the routing explorer."""

import traitlets

from ..errors import InputError
from .base import View, module

ORDERS = ("as numbered", "by load", "by specialisation")


class RoutingExplorer(View):
    """All layers and experts of a trace at once, to be played, searched and compared.

    trace, other: minqwen.Trace or a trace file's bytes; `other`, of the same tokens, is
    drawn in the lower half of each row and its differing choices are marked.

    `token` is where the reader is in the text. `selected` is what is selected:
    {"token": t}, {"tokens": [start, end]}, {"layer": l}, {"layer": l, "expert": e}, or {}
    for the whole text. Both follow the browser and can be set. Raises InputError for a
    place outside the trace.
    """

    _esm = module("routing.mjs")
    other = traitlets.Bytes().tag(sync=True)
    token = traitlets.Int(0).tag(sync=True)
    selected = traitlets.Dict().tag(sync=True)
    order = traitlets.Enum(ORDERS, ORDERS[0]).tag(sync=True)
