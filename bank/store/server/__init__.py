"""The server store: layer collections on a Qdrant server or cluster."""
