"""Asking a bank of images: where a word is seen, what looks like a patch, and which words a collection shows."""
