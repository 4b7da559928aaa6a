"""Readings as grids of words, pictures, figures and files."""
