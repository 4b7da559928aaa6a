"""Caches of the reference library, latentlens, as a corpus of a bank."""
