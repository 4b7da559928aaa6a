"""Calibration: what is measured once of a VLM's visual tokens, so that lenses can correct their scores."""
