"""The neural networks: language models, vision-language models and what is trained between them."""
