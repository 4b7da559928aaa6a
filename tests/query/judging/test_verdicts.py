from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from latentbank.errors import QueryError
from latentbank.query.judging.questions import Control, Subject
from latentbank.query.judging.shares import shares_of
from latentbank.query.judging.verdicts import SCHEMA, State, Verdict, read_verdicts, save_verdicts


def _verdict(
    image: int, layer: int = 0, *, yes: bool = True, control: Control = "", state: State = "answered"
) -> Verdict:
    subject = Subject("owner/vlm", f"image{image}", "", "latent", layer, 1, 2, 7, control)
    words = ("dog",) if yes and state == "answered" else ()
    return Verdict(
        f"{image}{layer}{control}", "words", subject, ("dog", "cat"), "gpt", state, concrete=words, cost=0.25
    )


def test_verdicts_are_read_as_they_were_written(tmp_path: Path) -> None:
    verdicts = [
        _verdict(0, control="other image"),
        _verdict(1, state="unreadable"),
        Verdict("x", "sentences", _verdict(2).subject, ("a",), "Ada", global_=("a",), reasons="see"),
    ]
    path = save_verdicts(tmp_path / "out" / "verdicts.parquet", verdicts)
    assert read_verdicts([path]) == verdicts
    table = pq.read_table(path)
    assert table.schema.names == SCHEMA.names
    assert table["interpretable"].to_pylist() == [True, None, True]
    assert table["item"].to_pylist()[0] == "owner--vlm/image0/r1c2-L00-latent-other-image"
    (tmp_path / "no.parquet").write_bytes(b"no")
    with pytest.raises(QueryError, match="holds no verdicts"):
        read_verdicts([tmp_path / "no.parquet"])


def test_a_verdict_is_a_vote_unless_it_cannot_be_read() -> None:
    vote = _verdict(3).vote()
    assert vote is not None
    assert (vote.model, vote.image, vote.rater) == ("owner--vlm", "image3", "gpt")
    assert vote.relations == {"concrete"}
    assert _verdict(3, state="unreadable").vote() is None


def test_shares_leave_out_what_could_not_be_read() -> None:
    verdicts = [_verdict(image, yes=image < 6) for image in range(8)]
    verdicts += [_verdict(8, state="unreadable"), _verdict(9, state="failed")]
    (row,) = shares_of(verdicts)
    assert (row.images, row.answered, row.unreadable, row.failed) == (10, 8, 1, 1)
    assert row.interpretable.value == row.concrete.value == 0.75
    assert row.abstract.value == 0
    assert row.interpretable.low is not None
    assert row.interpretable.high is not None
    assert 0 < row.interpretable.low < 0.75 < row.interpretable.high <= 1
    assert row.to_dict()["global"]["value"] == 0


def test_shares_are_by_layer_then_over_all_and_controls_apart() -> None:
    verdicts = [_verdict(image, layer, yes=layer == 8) for image in range(3) for layer in (0, 8)]
    verdicts += [_verdict(0, 8, yes=False, control="other image")]
    rows = shares_of(verdicts)
    found = [(row.control, row.layer, row.interpretable.value) for row in rows]
    assert found == [("", 0, 0.0), ("", 8, 1.0), ("", None, 0.5), ("other image", 8, 0.0)]


def test_intervals_are_those_of_drawing_whole_images() -> None:
    """With all answers of an image alike, more answers for each image do not narrow the interval."""
    once = shares_of([_verdict(image, yes=image % 2 == 0) for image in range(40)])[0]
    often = shares_of(
        [_verdict(image, layer, yes=image % 2 == 0) for image in range(40) for layer in range(9)]
    )[-1]
    assert often.layer is None
    assert often.interpretable == once.interpretable
    spread = np.sqrt(0.25 / 40) * 1.96
    assert once.interpretable.low == pytest.approx(0.5 - spread, abs=0.04)


def test_nothing_readable_has_no_share() -> None:
    (row,) = shares_of([_verdict(0, state="failed")])
    assert (row.answered, row.interpretable.value) == (0, None)
