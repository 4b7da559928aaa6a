"""The demo: composed scenes, a corpus about them, a small VLM, its training, and their data."""
