"""A bank of drawn images, each of which shows one word in its first two patches."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from latentbank.bank.bank import Bank
from latentbank.bank.images.bank import ImageBank
from latentbank.bank.images.opening import create_images
from latentbank.bank.images.points import patch_ids
from latentbank.bank.rotation import unit, unrotate
from latentbank.models.language.model import LanguageModel
from latentbank.models.vision.tokens import visual_fingerprint
from latentbank.query.images.contexts import term_of_bank
from tests.query.banks import fill
from tests.query.patch_vlm import PatchVLM

WORDS = ("dog", "cat", "bridge", "fire truck")
SENTENCES = [
    template.format(word)
    for word in WORDS
    for template in (
        "There is a {} in the garden.",
        "My old {} is on the table.",
        "She painted the {} red.",
        "We saw a {} near the river.",
    )
]
COLUMNS, TOKENS = 3, 6
SHOWN = {n: WORDS[n % 4] for n in range(12)}
"""The word that each image shows, in its first two patches; the others are background."""


def fill_drawn(path: Path, language: LanguageModel) -> None:
    """Make the bank `small`, with its sentences, and the drawn images of a `PatchVLM` at visual layers 0 and 2."""
    given: Any = {"model": "patch", "fingerprint": visual_fingerprint(PatchVLM(language)), "num_layers": 4}
    given |= {"hidden_size": language.hidden_size, "data_dir": path, "url": ""}
    with (
        fill("small", path, language, {"c": SENTENCES}) as bank,
        create_images("small", layers=(0, 2), **given) as images,
    ):
        _fill_images(bank, images)


def _fill_images(bank: Bank, images: ImageBank) -> None:
    """Store images whose tokens are contexts moved by one offset, as a modality has it, and nearly alike background."""
    chance = np.random.default_rng(0)
    width = bank.hidden_size
    offset = 1.5 * unit(chance.standard_normal(width))
    for number, word in SHOWN.items():
        for layer in images.layers:
            term = term_of_bank(bank, word, [2])
            assert term is not None
            seen = unrotate(term.vectors[2][None], bank.manifest.rotation_seed)[0]
            noise = chance.standard_normal((TOKENS, width)) * 0.2 / np.sqrt(width)
            rows = offset + noise
            rows[:2] += seen
            images.add(layer, patch_ids("drawn", f"d{number}", TOKENS), rows * 7, payloads(number))
    images.commit()


def payloads(number: int) -> list[dict[str, object]]:
    places = [divmod(token, COLUMNS) for token in range(TOKENS)]
    made: list[dict[str, object]] = [
        {
            "corpus": "drawn",
            "image": f"<{number}>.png",
            "digest": f"d{number}",
            "token": token,
            "tokens": TOKENS,
            "tile": 0,
            "row": row,
            "column": column,
            "box": [10.0 * column, 10.0 * row, 10.0 * column + 10, 10.0 * row + 10],
            "size": [30, 20],
            "norm": 7.0,
        }
        for token, (row, column) in enumerate(places)
    ]
    file = io.BytesIO()
    Image.new("RGB", (15, 10), (200, 0, 0)).save(file, "JPEG")
    made[0]["picture"] = base64.b64encode(file.getvalue()).decode()
    return made
