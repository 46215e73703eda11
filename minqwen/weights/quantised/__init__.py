"""Weights of fewer bits: their codes, and modules that use them."""
