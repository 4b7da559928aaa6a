"""The store: banks of contexts in Qdrant. No torch, no transformers."""
