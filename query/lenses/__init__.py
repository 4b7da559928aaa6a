"""Lenses: what turns a hidden state into words."""
