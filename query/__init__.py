"""Reading: hidden states go in, neighbors come out, for text, images and anything else with hidden states."""
