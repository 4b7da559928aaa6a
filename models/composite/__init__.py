"""Vision-language models composed of an encoder, a projector and a language model."""
