"""Options that commands share, as dataclasses with the few steps that use them."""
