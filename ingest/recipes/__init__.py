"""Recipes: well-known corpora, cleaned, with the choices of contexts that the LatentLens authors made for them."""
