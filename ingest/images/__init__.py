"""Ingesting images: a VLM's visual tokens, from files and datasets into a bank of images."""
