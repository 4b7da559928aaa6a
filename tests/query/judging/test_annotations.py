"""Answers of people on the disk: what was acknowledged is there, whatever happens."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from latentbank.errors import LatentBankError, QueryError
from latentbank.query.judging.annotations import Annotations
from latentbank.query.judging.questions import Candidate, Question, Subject
from latentbank.query.judging.views import View
from latentbank.query.judging.votes import read_votes
from tests import children

# Four threads answer as four people, and each acknowledged answer is printed.
_WRITER = """
import os, sys, threading
from pathlib import Path
from latentbank.query.judging.annotations import Annotations
from tests.query.judging.test_annotations import question

answers = Annotations(Path(sys.argv[1]))
def work(rater):
    for number in range(100_000):
        answers.save(question(number), rater, ["concrete", ""])
        os.write(1, f"{rater} {number}\\n".encode())
for name in ("Ada", "Bo", "Cy", "Di"):
    threading.Thread(target=work, args=(name,)).start()
"""


def question(number: int = 0) -> Question:
    subject = Subject("owner/vlm", f"image{number}", "", "latent", 8, 1, 2, 7, "other image")
    candidates = (Candidate("dog", "A dog sleeps.", 2, 5), Candidate("cat", "A cat.", 2, 5))
    return Question(
        f"id{number}", "sentences", candidates, View((5, 5), (0, 0), (1, 1), (5, 5)), (0, 0, 3, 3), subject
    )


def test_a_line_is_a_vote_and_says_what_was_shown(tmp_path: Path) -> None:
    path = tmp_path / "new" / "answers.jsonl"
    answers = Annotations(path)
    answers.save(question(), "Ada", ["", "global"])
    answers.save(question(), "Ada", ["abstract", "concrete"])
    answers.save(question(1), "Bo", ["", ""])
    first, second, third = map(json.loads, path.read_text().splitlines())
    assert first["global"] == ["cat"]
    assert second["abstract"] == ["dog"]
    assert second["shown"] == ["A **dog** sleeps.", "A **cat**."]
    assert (second["lens"], second["layer"], second["control"]) == ("latent", 8, "other image")
    assert third["interpretable"] is False
    ada, bo = read_votes([path])
    assert (ada.rater, ada.relations, ada.study) == ("Ada", {"concrete", "abstract"}, "sentences")
    assert ada.item == question().subject.item
    assert (bo.rater, bo.interpretable) == ("Bo", False)
    assert Annotations(path).of("Ada") == {"id0": ("abstract", "concrete")}  # the last one
    assert [file.name for file in path.parent.iterdir()] == ["answers.jsonl"]


def test_several_servers_write_one_file(tmp_path: Path) -> None:
    one, other = Annotations(tmp_path / "a.jsonl"), Annotations(tmp_path / "a.jsonl")
    one.save(question(0), "Ada", ["concrete", ""])
    other.save(question(1), "Ada", ["", "abstract"])
    assert one.of("Ada") == other.of("Ada") == {"id0": ("concrete", ""), "id1": ("", "abstract")}


@pytest.mark.parametrize(
    ("rest", "lines"), [(b'{"rater": "Bo", "ques', 2), (b'{"rater": "Bo"}', 3)], ids=["broken off", "whole"]
)
def test_a_last_line_without_its_end_disturbs_nothing(tmp_path: Path, rest: bytes, lines: int) -> None:
    path = tmp_path / "a.jsonl"
    Annotations(path).save(question(0), "Ada", ["concrete", ""])
    with path.open("ab") as file:
        file.write(rest)
    Annotations(path).save(question(1), "Ada", ["", ""])
    assert len([json.loads(line) for line in path.read_text().splitlines()]) == lines
    assert list(Annotations(path).of("Ada")) == ["id0", "id1"]


def test_a_full_disk_leaves_the_file_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = Annotations(tmp_path / "a.jsonl")
    answers.save(question(0), "Ada", ["concrete", ""])
    before = answers.path.read_bytes()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("latentbank.query.judging.annotations.os.fsync", full)
        with pytest.raises(LatentBankError, match=r"could not be saved .*No space left"):
            answers.save(question(1), "Ada", ["concrete", ""])
    assert answers.path.read_bytes() == before
    assert list(answers.of("Ada")) == ["id0"]


def test_a_kill_loses_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    writer = children.Popen(
        [sys.executable, "-c", _WRITER, str(path)], stdout=subprocess.PIPE, text=True, env=os.environ
    )
    assert writer.stdout is not None
    heard = [writer.stdout.readline() for _ in range(60)]
    writer.send_signal(signal.SIGKILL)
    heard += writer.stdout.read().splitlines()
    writer.wait()
    told = {tuple(line.split()) for line in heard}
    assert len(told) >= 60
    kept = Annotations(path)
    missing = [(rater, number) for rater, number in told if f"id{number}" not in kept.of(rater)]
    assert missing == []
    assert len(read_votes([path])) >= len(told)


def test_names_are_those_that_were_written_first(tmp_path: Path) -> None:
    answers = Annotations(tmp_path / "a.jsonl")
    assert answers.name_of("  Ada   Lovelace ") == "Ada Lovelace"
    answers.save(question(), "Ada Lovelace", ["", ""])
    assert answers.name_of("ADA lovelace") == "Ada Lovelace"
    for name, message in ((" ", "Give a name"), ("a" * 61, "1 to 60 letters"), ("Judge", "is the judge's")):
        with pytest.raises(QueryError, match=message):
            answers.name_of(name)


def test_what_cannot_be_kept_is_refused(tmp_path: Path) -> None:
    with pytest.raises(QueryError, match=r"no \.jsonl file"):
        Annotations(tmp_path / "a.csv")
    answers = Annotations(tmp_path / "a.jsonl")
    with pytest.raises(QueryError, match="vague is not one of concrete"):
        answers.save(question(), "Ada", ["vague", ""])
    with pytest.raises(QueryError, match="1 kinds for 2 words"):
        answers.save(question(), "Ada", [""])
    assert not answers.path.exists()
    answers.path.write_text("no\n")
    with pytest.raises(QueryError, match=r"a\.jsonl, line 1: this is not a JSON object"):
        Annotations(answers.path)
