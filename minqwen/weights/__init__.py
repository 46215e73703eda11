"""Checkpoints: finding, checking, loading and saving them."""

from .checkpoint.header import Entry
from .checkpoint.hub import resolve
from .checkpoint.index import open_checkpoint
from .checkpoint.shards import expected_tensors
from .load import load
from .save import save

__all__ = ["Entry", "expected_tensors", "load", "open_checkpoint", "resolve", "save"]
