"""Vision-language models and vision encoders."""
