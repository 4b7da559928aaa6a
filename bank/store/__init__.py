"""Stores: where a bank's layer collections live. Nothing outside this folder names Qdrant."""
