"""A small Qwen3.5, trained from nothing on data that needs no download."""

from .loop import Recipe, run, train

__all__ = ["Recipe", "run", "train"]
