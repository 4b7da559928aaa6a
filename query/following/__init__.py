"""One token followed through all layers: its words at each layer, and how far its hidden state drifts."""
