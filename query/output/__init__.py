"""Readings as grids, pictures, figures and files."""
