"""Ingestion: read a corpus, plan its contexts, encode them with the LLM and store them in a bank."""
