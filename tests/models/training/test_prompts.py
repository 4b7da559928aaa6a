"""Prompts that name a caption's length, and first sentences."""

from __future__ import annotations

import re

import numpy as np
import pytest

from latentbank.errors import ModelError
from latentbank.models.training.prompts import Prompts, check_style
from latentbank.models.training.targets import first_sentence


def test_a_prompt_names_the_captions_length_roughly() -> None:
    random = np.random.default_rng(0)
    found = [Prompts("long_caption").training("x" * 600, random) for _ in range(2000)]
    lengths = [int(match[1]) for text in found if (match := re.fullmatch(r"long_caption (\d+):", text))]
    assert len(lengths) + found.count("long_caption :") == 2000
    assert 0.88 < len(lengths) / 2000 < 0.92
    assert 39 < np.mean(lengths) < 40.5  # 600 / 15, less half a unit of rounding down
    assert 1.4 < np.std(lengths) < 2.0  # 25 / 15
    assert min(int(Prompts("a").training("x", random).strip("a :") or 0) for _ in range(50)) == 0
    assert Prompts("long_caption").writing() == "long_caption 65:"


@pytest.mark.parametrize("style", ["", "two words", "colon:"])
def test_a_style_is_one_word(style: str) -> None:
    with pytest.raises(ModelError, match="one word"):
        check_style(style)


@pytest.mark.parametrize(
    ("caption", "first"),
    [
        ("A dog runs on grass. It is brown.", "A dog runs on grass."),
        ("A photo. A dog runs on grass. It is brown.", "A photo. A dog runs on grass."),
        ("A sign of 2.5 metres stands here. It is red.", "A sign of 2.5 metres stands here."),
        ("no full stop at all", "no full stop at all"),
        ("Short one.", "Short one."),
    ],
)
def test_first_sentences(caption: str, first: str) -> None:
    assert first_sentence(caption) == first
