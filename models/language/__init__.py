"""Language models: tokens and hidden states."""
