"""Scripts that made the demo's data and the pictures of the docs."""
