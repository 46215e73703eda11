"""A small Qwen3.5, trained from nothing on data that needs no download."""

from .loop import run, train
from .recipe import Recipe

__all__ = ["Recipe", "run", "train"]
