"""Checkpoints: finding, checking, loading and saving them."""

from .header import Entry
from .hub import resolve
from .index import open_checkpoint
from .layout import expected_tensors
from .load import load
from .save import save

__all__ = ["Entry", "expected_tensors", "load", "open_checkpoint", "resolve", "save"]
