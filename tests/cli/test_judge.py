"""`latentbank judge` against a double of an endpoint."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.cli.commands import Run
from tests.query.judging.asked import readings_in
from tests.wire.chat import Body, ChatStub, Sent, asked, chat_stub, error, says


@pytest.fixture(scope="module")
def readings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return readings_in(tmp_path_factory.mktemp("judged"), 5)[1]


def _words(stub: ChatStub, readings: Path, folder: Path) -> list[object]:
    given = ["judge", readings, "--model", "gpt", "--base-url", stub.url + "/", "-o", folder / "v.parquet"]
    return [*given, "--price-in", 2, "--price-out", 10]


def test_a_judge_is_asked_what_a_dry_run_has_announced(
    run: Run, readings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("THE_KEY", "sk-secret")
    with chat_stub(lambda body: says(concrete=asked(body)[:1], abstract=[])) as stub:
        words = _words(stub, readings, tmp_path)
        code, out, err = run(*words, "--dry-run", "--json")
        assert (code, stub.bodies) == (0, [])
        announced = json.loads(out)
        code, out, err = run(*words, "--key-variable", "THE_KEY", "--request", "temperature=0.5")
        assert code == 0, err
        assert announced["calls"] == len(stub.bodies) == 24
        assert set(stub.keys) == {"Bearer sk-secret"}
        assert {body["temperature"] for body in stub.bodies} == {0.5}
        assert "owner/vlm: tokens that their words describe, by gpt, %" in out
        assert "other image" in " ".join(out.split())
        assert "24 new answers, 24,000 and 2,400 tokens, 0.07 in all" in " ".join(out.split())
        code, out, _ = run(*words, "--key-variable", "THE_KEY", "--request", "temperature=0.5", "--json")
        assert len(stub.bodies) == 24
    found = json.loads(out)
    assert (found["new_answers"], found["failed"], found["cost"]) == (0, 0, pytest.approx(0.072))
    assert found["shares"][0]["interpretable"]["value"] == 1
    table = pq.read_table(tmp_path / "v.parquet")
    assert set(table["rater"].to_pylist()) == {"gpt"}
    assert sum(table["cost"].to_pylist()) == pytest.approx(0.072)


def test_questions_without_an_answer_are_told_and_asked_again(
    run: Run, readings: Path, tmp_path: Path
) -> None:
    def refusing(body: Body) -> Sent | str:
        return (
            error(400, "not this one") if "w8" in asked(body)[0].lower() else says(concrete=[], abstract=[])
        )

    with chat_stub(refusing) as stub:
        words = [*_words(stub, readings, tmp_path), "--concurrency", 1]
        code, out, err = run(*words)
        assert code == 1
        assert "12 questions got no answer" in err
        assert "not this one" in err
        stub.make = lambda _: "?"
        code, out, err = run(*words)
    assert code == 0, err
    assert "12 answers could not be read; shares are of the others." in " ".join(out.split())


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--price-in", "1"], "Give the prices of both"),
        (["--request", "temperature"], "write NAME=VALUE (--request)"),
        (["--key-variable", "NO_SUCH_KEY"], "NO_SUCH_KEY holds no API key"),
        (["--base-url", "https://me:secret@example.org/v1"], "must hold neither a user nor a key"),
        (["--images", "nowhere.png"], "No such file: nowhere.png"),
        (["--controls", "2"], "from 0 to 1 (--controls)"),
    ],
)
def test_wrong_options_end_with_a_sentence(run: Run, readings: Path, words: list[str], says: str) -> None:
    code, _, err = run("judge", readings, "--model", "gpt", "--base-url", "http://localhost:9/v1", *words)
    assert code == 2
    assert says in " ".join(err.split())
    assert "secret" not in err
