"""Names of the demo's models that several of its modules use."""

LANGUAGE_NAME = "SmolLM2-135M-Instruct"
