"""What follows from what happened: causes, and what can be counted in traces.

    routers.py   masked, forced, biased, rerouted, replayed; routes of a trace
    parts.py     skipped: a mixer, a head, an MLP, a layer; edited: a memory's write
    start.py     states: take them, save them, start from them
    counts.py    compare, specialisation, coactivation, half_lives of recorded traces
    atlas.py     causal_map: what masking each expert does to the next token; matched

Causes are blocks, `with analyse.masked(model, {6: [9]}): ...`. They listen to the
model's taps, so they work under `generate` and `record`, stand within each other, those
entered later changing what those before left, and leave nothing behind.
"""

from .atlas import CausalMap, causal_map, matched
from .counts import Difference, coactivation, compare, half_lives, specialisation
from .parts import edited, skipped
from .routers import biased, forced, masked, replayed, rerouted, routes
from .start import load_states, save_states, started, states

__all__ = [
    "CausalMap", "Difference", "biased", "causal_map", "coactivation", "compare",
    "edited", "forced", "half_lives", "load_states", "masked", "matched", "replayed",
    "rerouted", "routes", "save_states", "skipped", "specialisation", "started",
    "states",
]  # fmt: skip
