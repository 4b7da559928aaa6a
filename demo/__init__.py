"""The demo's world: scenes, descriptions, a vision encoder, its training and its data."""
