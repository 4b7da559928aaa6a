"""Verdicts on whether tokens can be interpreted: people's votes, a judge's, and how well they agree."""
