"""minqwen: Qwen3.5, small enough to read and exact enough to run."""

from importlib import import_module

from . import check
from . import kernels as _kernels  # noqa: F401  puts its forms into the table
from .cache import Cache
from .check.progress import progress
from .config import Config
from .errors import InputError
from .generate import generate
from .model import Qwen
from .record import record
from .text import Processor
from .trace import Trace
from .weights import load, save

__version__ = "0.1.0"
__all__ = [
    "Cache",
    "Config",
    "InputError",
    "Processor",
    "Qwen",
    "Trace",
    "check",
    "generate",
    "load",
    "progress",
    "record",
    "save",
]


def __getattr__(name):
    """The widgets' libraries are optional, so they are imported when asked for."""
    if name == "widgets":
        return import_module(".widgets", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
