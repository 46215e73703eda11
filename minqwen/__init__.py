"""minqwen: Qwen3.5, small enough to read and exact enough to run."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # the table below, for type checkers and editors
    from . import analyse as analyse
    from . import check as check
    from . import train as train
    from . import widgets as widgets
    from .check import progress as progress
    from .engine.generate import generate as generate
    from .errors import InputError as InputError
    from .model import Cache as Cache
    from .model import Config as Config
    from .model import Qwen as Qwen
    from .prompt.processor import Processor as Processor
    from .trace import Trace as Trace
    from .trace import record as record
    from .weights import load as load
    from .weights import save as save

__version__ = "0.1.0"
PLACES = {  # each is imported when it is first asked for
    "Cache": "model",
    "Config": "model",
    "InputError": "errors",
    "Processor": "prompt.processor",
    "Qwen": "model",
    "Trace": "trace",
    "analyse": "analyse",
    "check": "check",
    "generate": "engine.generate",
    "load": "weights",
    "progress": "check",
    "record": "trace",
    "save": "weights",
    "train": "train",
    "widgets": "widgets",
}
__all__ = [*PLACES]


def __getattr__(name):
    if name not in PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    place = import_module(f".{PLACES[name]}", __name__)
    value = place if name == PLACES[name] else getattr(place, name)
    globals()[name] = value
    return value


def __dir__():
    return sorted([*globals(), *PLACES])
