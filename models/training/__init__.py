"""Training a projector on image-caption pairs."""
