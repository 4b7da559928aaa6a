"""Silence: which words of a lens say more than what it finds where there is nothing to see, and which are left out."""
