"""Built-in families of vision-language models: one module each, with a `FAMILY` that the registry finds."""
