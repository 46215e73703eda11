"""What happened inside a model while it read and wrote: recorded, kept, compared."""

from .engines import open_trace
from .record import record
from .trace import Trace

__all__ = ["Trace", "open_trace", "record"]
