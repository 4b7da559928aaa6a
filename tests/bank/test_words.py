"""Words and spans: the word that a token belongs to, in many scripts."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from latentbank.bank.words import Words, tight


@pytest.mark.parametrize(
    ("caption", "token", "word"),
    [
        ("The dogs bark.", "dog", "dogs"),
        ("The dogs bark.", "s", "dogs"),
        ("The dogs bark.", ".", "."),
        ("I don't know", "'t", "don't"),
        ("the children’s toys", "’s", "children’s"),
        ("'quoted' text", "'", "'"),
        ("'quoted' text", "quoted", "quoted"),
        ("a well-known one", "known", "known"),
        ("snake_case2 here", "case", "snake_case2"),
        ("in 1,024 cells", "024", "024"),
        ("cafe\u0301s open", "caf", "cafe\u0301s"),
        ("cafe\u0301s open", "\u0301", "cafe\u0301s"),
        ("नमस्ते दुनिया", "मस", "नमस्ते"),
        ("नमस्ते दुनिया", "ु", "दुनिया"),
        ("زَيْد هنا", "يْ", "زَيْد"),
        ("او می‌خواهم گفت", "خواهم", "می‌خواهم"),
        ("او می‌خواهم گفت", "\u200c", "می‌خواهم"),
        ("שָׁלוֹם עולם", "ל", "שָׁלוֹם"),
        ("한국어 문장", "국", "한국어"),
        ("Straße läuft", "aß", "Straße"),
        # Without spaces between words the token stands for itself.
        ("猫が窓の外を見ている。", "窓の", "窓の"),
        ("ฉันรักแมว", "รัก", "รัก"),
        ("我买了iPhone手机", "Phone", "iPhone"),
        ("我买了iPhone手机", "手机", "手机"),
        # An emoji is not a word; nor are its joiners.
        ("my 👩‍👧 here", "👩", "👩"),
        ("my 👩‍👧 here", "\u200d", "\u200d"),
        ("love ❤️ you", "❤️", "❤️"),
    ],
)  # fmt: skip
def test_a_token_belongs_to_its_word(caption: str, token: str, word: str) -> None:
    start = caption.index(token)
    assert Words(caption).at(start, start + len(token)) == word


def test_the_same_word_twice_is_told_by_its_place() -> None:
    words = Words("a cat's cat")
    assert words.at(2, 5) == "cat's"
    assert words.at(8, 11) == "cat"


@pytest.mark.parametrize(("start", "end", "word"), [(1, 1, "dog"), (3, 3, ""), (6, 6, ""), (0, 0, "dog")])
def test_an_empty_span_belongs_to_the_word_it_stands_in(start: int, end: int, word: str) -> None:
    assert Words("dog in").at(start, end) == word


def _letter(character: str) -> bool:
    return character == "_" or unicodedata.category(character)[0] in "LNM"


@settings(deadline=None)
@given(st.text("ab'é\u0301 .-9_", max_size=12), st.data())
def test_a_word_reaches_as_far_as_letters_do(caption: str, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(caption)))
    end = data.draw(st.integers(start, len(caption)))
    left = right = start

    def inside(at: int) -> bool:
        """Whether a character is part of a word: a letter, or an apostrophe between two."""
        if not 0 <= at < len(caption):
            return False
        between = 0 < at < len(caption) - 1 and _letter(caption[at - 1]) and _letter(caption[at + 1])
        return _letter(caption[at]) or (caption[at] == "'" and between)

    while inside(left - 1):
        left -= 1
    while inside(right):
        right += 1
    expected = caption[left:right] if inside(start) else caption[start:end]
    assert Words(caption).at(start, end) == expected


@pytest.mark.parametrize(
    ("span", "expected"),
    [
        ((1, 5), (2, 5)),  # the leading space
        ((0, 2), (0, 1)),  # a trailing one
        ((5, 7), (5, 7)),  # nothing but white space
        ((5, 8), (7, 8)),
        ((7, 7), (6, 7)),  # a space that the tokenizer trimmed away
        ((3, 3), (3, 3)),  # nothing at all
        ((0, 0), (0, 0)),
    ],
)
def test_a_span_is_without_white_space_unless_it_is_all_it_has(
    span: tuple[int, int], expected: tuple[int, int]
) -> None:
    assert tight("a dog\t runs", *span) == expected
