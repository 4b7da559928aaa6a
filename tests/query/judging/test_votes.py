from __future__ import annotations

from pathlib import Path

import pytest

from latentbank.errors import QueryError
from latentbank.query.judging.votes import Vote, read_votes


def _read(folder: Path, name: str, text: str) -> list[Vote]:
    (folder / name).write_text(text, encoding="utf-8")
    return read_votes([folder / name])


def test_csv_and_json_lines_say_the_same(tmp_path: Path) -> None:
    from_csv = _read(
        tmp_path, "a.csv", "study,item,rater,interpretable,relations\nwords,m/7/3,Ada,1,concrete+global\n"
    )
    line = '{"study": "words", "item": "m/7/3", "rater": "Ada", "interpretable": true, '
    from_json = _read(tmp_path, "a.jsonl", line + '"relations": ["global", "concrete"]}\n\n')
    assert from_csv == from_json == [Vote("m/7/3", "Ada", True, frozenset({"concrete", "global"}), "words")]
    assert (from_csv[0].model, from_csv[0].image) == ("m", "7")


def test_the_last_vote_of_a_rater_counts(tmp_path: Path) -> None:
    first = _read(tmp_path, "a.csv", "item,rater,interpretable\nm/1/1,Ada,1\nm/1/1,Bo,1\nm/1/1,Ada,0\n")
    assert [(vote.rater, vote.interpretable) for vote in first] == [("Ada", False), ("Bo", True)]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", "item,rater\nm/1/1,Ada\n", "a.csv, line 2: interpretable is missing"),
        ("a.csv", "item,rater,interpretable\nm/1/1,Ada,maybe\n", "line 2: interpretable is 'maybe'"),
        (
            "a.csv",
            "item,rater,interpretable,relations\nm/1/1,Ada,1,vague\n",
            "line 2: the relation vague is not one of concrete",
        ),
        ("a.csv", "item,rater,interpretable\n", "There are no votes"),
        ("a.jsonl", "[1]\n", "a.jsonl, line 1: this is not a JSON object"),
        ("a.jsonl", "{\n", "a.jsonl, line 1: this is not a JSON object"),
        ("a.txt", "m/1/1", "neither a .csv, .jsonl nor .parquet"),
    ],
)
def test_what_is_no_vote_is_named(tmp_path: Path, name: str, text: str, message: str) -> None:
    with pytest.raises(QueryError, match="(?s)" + message.replace(".", r"\.").replace("(", r"\(")):
        _read(tmp_path, name, text)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(QueryError, match=r"none\.csv cannot be read"):
        read_votes([tmp_path / "none.csv"])
    (tmp_path / "bytes.csv").write_bytes(b"item,rater,interpretable\n\xff,a,1\n")
    with pytest.raises(QueryError, match=r"bytes\.csv holds no votes as text"):
        read_votes([tmp_path / "bytes.csv"])


def test_a_last_line_that_breaks_off_is_left_out_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    line = '{"item": "m/7/3", "rater": "Ada", "interpretable": true}\n'
    assert len(_read(tmp_path, "a.jsonl", line + line[:20])) == 1
    assert "breaks off in line 2" in caplog.text
