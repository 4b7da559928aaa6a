"""Filters in Python and in text form."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from latentbank.bank.where import All, Any, Not, Where, parse_where
from latentbank.errors import QueryError


def test_filters_combine() -> None:
    a, b, c = Where(word="a"), Where(word="b"), Where(word="c")
    assert a & b == All((a, b))
    assert a | b == Any((a, b))
    assert ~a == Not(a)
    assert (a & b) | ~c == Any((All((a, b)), Not(c)))


@pytest.mark.parametrize("joined", [lambda a, b: a and b, lambda a, b: a or b, lambda a, _: not a])
def test_and_or_not_are_refused_as_they_would_lose_conditions(
    joined: Callable[[Where, Where], object],
) -> None:
    with pytest.raises(QueryError, match="combine filters with &"):
        joined(Where(word="dog"), Where(corpus="news"))


def test_given_tells_what_is_set() -> None:
    assert Where().given() == {}
    assert Where(position_min=0, word="").given() == {"word": "", "position_min": 0}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("word=dog", Where(word="dog")),
        ("  word = dog  ", Where(word="dog")),
        ("word!=dog", ~Where(word="dog")),
        ("word != dog|cat", ~Where(word=("dog", "cat"))),
        ("word=dog|cat", Where(word=("dog", "cat"))),
        ("token_id=5", Where(token_id=5)),
        ("token_id=5|-6", Where(token_id=(5, -6))),
        ("position_min=2", Where(position_min=2)),
        ("caption_contains=fire truck", Where(caption_contains="fire truck")),
        ("caption_contains=this|that", Where(caption_contains="this|that")),
        ("word=a=b", Where(word="a=b")),
        ("word==", Where(word="=")),
        ("word=", Where(word="")),
        ("corpus=news,word=dog", Where(corpus="news") & Where(word="dog")),
        ("corpus=news,,word=dog,", Where(corpus="news") & Where(word="dog")),
        (r"word=a\,b", Where(word="a,b")),
        (r"word=a\|b", Where(word="a|b")),
        (r"word=a\|b|c\,d,corpus=x", Where(word=("a|b", "c,d")) & Where(corpus="x")),
        (r"caption_contains=one\, two", Where(caption_contains="one, two")),
        (r"word=back\slash", Where(word=r"back\slash")),
        ("word=two\nlines", Where(word="two\nlines")),
        ("word=猫", Where(word="猫")),
    ],
)
def test_a_condition_is_read(text: str, expected: Where) -> None:
    assert parse_where([text]) == expected


def test_several_conditions_must_all_hold() -> None:
    assert parse_where(["word=a", "corpus=b,token_id=3"]) == All(
        (Where(word="a"), Where(corpus="b"), Where(token_id=3))
    )
    assert parse_where([]) is None
    assert parse_where(["", " , "]) is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("dog", "'dog' is not a condition: write FIELD=VALUE with one of corpus, word"),
        ("=dog", "is not a condition"),
        ("words=dog", "'words=dog' is not a condition"),
        ("given=dog", "is not a condition"),
        ("word>dog", "is not a condition"),
        ("word=dog,cat", "'cat' is not a condition"),
        ("token_id=dog", "'token_id=dog': token_id takes whole numbers"),
        ("token_id=1|", "token_id takes whole numbers"),
        ("position_min=1.5", "position_min takes whole numbers"),
        ("position_max=1|2", "position_max takes whole numbers"),
        ("sentence!=x", "sentence takes whole numbers"),
    ],
)
def test_malformed_conditions_are_errors(text: str, message: str) -> None:
    with pytest.raises(QueryError, match=message.replace("|", r"\|")):
        parse_where([text])


values = st.text(max_size=8).map(str.strip).filter(lambda text: "\\" not in text)


@settings(deadline=None)
@given(st.lists(values, min_size=1, max_size=4))
def test_any_words_can_be_written(words: list[str]) -> None:
    assume(len(words) > 1 or words[0])
    written = "|".join(word.replace(",", r"\,").replace("|", r"\|") for word in words)
    # White space at the end belongs to the command line, not to the last word.
    assume(written == written.strip())
    expected = Where(word=words[0] if len(words) == 1 else tuple(words))
    assert parse_where([f"word={written}"]) == expected
    assert parse_where([f"word!={written},corpus=c"]) == All((Not(expected), Where(corpus="c")))
