"""`experiment models` as a user types it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.commands import Run

SENTENCES = [
    f"{start} {one} is near the {other}."
    for start in ("A", "The small")
    for one in ("dog", "cat", "train", "river")
    for other in ("window", "bread", "water", "sand")
]


def test_a_model_beside_itself(
    run: Run, filled: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, out, err = run("experiment", "models", "tiny-llama", "tiny-llama")
    assert (code, out) == (2, "")
    assert "a comparison needs 100" in err
    monkeypatch.setattr("latentbank.query.evaluation.experiments.common_contexts.FEWEST", 20)
    code, out, err = run("experiment", "models", "tiny-llama", "tiny-llama", "--words", "40", "-o", tmp_path)
    assert code == 0, err
    assert "Mean difference of neighborhoods at the same depth: 0 %." in out
    found = json.loads((tmp_path / "models.json").read_text(encoding="utf-8"))
    assert (found["difference"], found["changed"]) == (0, [])
    assert len(found["random"]) == 2
    assert (tmp_path / "models.png").stat().st_size > 10_000
    # The same bank, named otherwise and at a place that is named; it is open once.
    given = ("--other-data-dir", tmp_path / "data", "--no-random", "--words", "40", "--json")
    code, out, err = run("experiment", "models", "tiny-llama@1", "tiny-llama", *given)
    assert code == 0, err
    assert json.loads(out)["difference"] == 0
    code, out, err = run("experiment", "models", "tiny-llama", "no-such-bank")
    assert (code, out) == (2, "")
    assert "no-such-bank" in err
