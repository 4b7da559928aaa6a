"""Images of a bank that holds no real ones."""

from __future__ import annotations

import base64
from typing import Any

from latentbank.bank.images.bank import ImageBank
from latentbank.bank.images.points import patch_ids
from tests.bank.samples import WIDTH, entry, units

VLM = {
    "model": "tiny/vlm",
    "fingerprint": "ab" * 16,
    "layers": (0, 8),
    "num_layers": 16,
    "hidden_size": WIDTH,
}
SIDE = 4  # rows and columns of an image's grid


def put(images: ImageBank, names: str, corpus: str = "photos", seed: int = 0) -> dict[int, Any]:
    """Store an image of each letter at every layer, and its corpus; return the hidden states by layer."""
    tokens = SIDE * SIDE
    stored = {}
    for layer in images.layers:
        states = units(len(names) * tokens, seed + layer) * 3
        stored[layer] = states
        for number, name in enumerate(names):
            ids = patch_ids(corpus, f"digest-{name}", tokens)
            payloads = [
                {
                    "corpus": corpus,
                    "image": f"{name}.png",
                    "digest": f"digest-{name}",
                    "token": token,
                    "tokens": tokens,
                    "tile": 0,
                    "row": token // SIDE,
                    "column": token % SIDE,
                    "box": [1.0 * token, 0.0, token + 1.0, 1.0],
                    "size": [64, 48],
                    "norm": 3.0,
                }
                for token in range(tokens)
            ]
            payloads[0]["picture"] = base64.b64encode(f"jpeg {name}".encode()).decode()
            images.add(layer, ids, states[number * tokens : (number + 1) * tokens], payloads)
    images.commit()
    count = len(names) * tokens
    record = entry(corpus, count, sentences=len(names)).to_dict()
    images.store.change_entry(corpus, lambda _: record)
    return stored
