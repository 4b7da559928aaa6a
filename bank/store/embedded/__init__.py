"""The embedded store: the Qdrant engine inside this process."""
