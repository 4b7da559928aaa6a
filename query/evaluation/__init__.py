"""Evaluation: how often a lens names what an image shows."""
