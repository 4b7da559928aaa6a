"""From sentences to layer collections: read a corpus, plan its contexts, encode and store them."""
