"""Experts that stay in the files until a token chooses them."""
