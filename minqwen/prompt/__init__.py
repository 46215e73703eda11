"""Prompts, pictures and films to what the model takes."""
