"""The model itself: every definition is in a notebook, word for word."""

from .cache import Cache
from .config import Config
from .qwen import Qwen

__all__ = ["Cache", "Config", "Qwen"]
