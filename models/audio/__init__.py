"""Sound: opening it, and the language models that hear."""
