from __future__ import annotations

import re

from latentbank.demo.descriptions import describe
from latentbank.demo.speech import OTHER, tag


def test_every_word_of_the_corpus_has_a_part_of_speech() -> None:
    words = sorted({word for sentence in describe(2_000) for word in re.findall(r"[\w'-]+", sentence)})
    assert [word for word, kind in zip(words, tag(words), strict=True) if kind == OTHER] == []


def test_parts_of_speech() -> None:
    assert tag(["Doughnut", "the", "tiny", "walks", "truck", "near", "zebra's"]) == [
        "noun", "determiner", "adjective", "verb", "noun", "adposition", "noun"
    ]  # fmt: skip
    assert tag(["perestroika", ""]) == [OTHER, OTHER]
