"""Readings: a lens's neighbors for the tokens of a text or an image."""
