"""The benchmark of an accelerator, with tiny models on the CPU: whether each step gives results, and none is lost."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from benchmarks import accelerator
from benchmarks.accelerator import BEGIN, END, STEPS, main

# Results of each step that are waited for; the first ones of the others are like these.
_SOME = {"limits": 2, "exactness": 2, "encoding": 1, "job": 1, "attention": 4, "batches": 1, "scan": 2}


def some_of(step: Any, count: int) -> Any:
    return lambda setup: islice(step(setup), count)


@pytest.mark.filterwarnings("ignore:flex_attention called without")
def test_every_step_measures_on_tiny_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, count in _SOME.items():
        monkeypatch.setitem(STEPS, name, some_of(STEPS[name], count))
    document, file = tmp_path / "page.md", tmp_path / "found.json"
    document.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    given = ["--tiny", "--steps", ",".join(_SOME), "--json", str(file), "--docs", str(document)]
    assert main(given) == 0
    found = json.loads(file.read_text())
    assert not found["left_out"]
    results = found["results"]
    assert {name: len(rows) for name, rows in results.items()} == _SOME
    packed, cut = results["exactness"].values()
    assert packed["packs"]
    assert max(*packed["one_minus_cosine"], *cut["one_minus_cosine"]) < 1e-6
    (stored,) = results["job"].values()
    assert stored["contexts"] > 100
    _, boolean, added, flex = results["attention"].values()
    assert max(boolean["furthest"], added["furthest"], flex["furthest"]) < 1e-5
    assert [scanned["same_as_float32"] for scanned in results["scan"].values()] == [1.0, 1.0]
    text = document.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "old" not in text
    assert f"{stored['contexts_per_second']:,.0f} contexts/s" in text


def test_what_was_measured_is_kept_when_the_time_is_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def endless(_setup: Any) -> Iterator[accelerator.Result]:
        yield "first", {"flops": 1e12}
        assert 0 < signal.getitimer(signal.ITIMER_REAL)[0] <= 600
        signal.setitimer(signal.ITIMER_REAL, 0.01)  # now, and not before the first result is there
        while True:
            signal.pause()

    def broken(_setup: Any) -> Iterator[accelerator.Result]:
        raise RuntimeError("no such kernel")
        yield

    monkeypatch.setitem(STEPS, "exactness", broken)
    monkeypatch.setitem(STEPS, "limits", endless)
    file = tmp_path / "found.json"
    given = ["--tiny", "--steps", "exactness,limits,job", "--json", str(file), "--seconds", "600"]
    assert main(given) == 0
    found = json.loads(file.read_text())
    assert found["results"]["limits"] == {"first": {"flops": 1e12}}
    assert found["left_out"] == {
        "exactness": "RuntimeError: no such kernel",
        "limits": "the time was over",
        "job": "the time was over",
    }
    said = capsys.readouterr()
    assert "| first | 1.0 TFLOP/s | |" in said.out
    assert "left out: exactness, limits, job" in said.err


def test_the_fastest_attention_and_the_smallest_batch_that_is_enough_are_named() -> None:
    def way(seconds: float, mask: float = 0.0) -> dict[str, Any]:
        return {"tokens": 1000, "seconds": seconds, "mask_seconds": mask}

    results = {
        "attention": {
            "L's shape, rows of 128: without a mask": way(0.1),
            "L's shape, rows of 128: SDPA, boolean mask": way(0.3),
            "L's shape, rows of 256: flex_attention, one row": way(0.2, mask=1.0),
            "L's shape, rows of 512: flex_attention, one row": way(0.2, mask=6.0),
            "L's shape, rows of 512: flex_attention, rows": {"failed": "no"},
        },
        "batches": {
            f"L's shape: {tokens} tokens": {"tokens": tokens, "tokens_per_second": rate, "peak_bytes": 1}
            for tokens, rate in ((1024, 80.0), (2048, 98.0), (4096, 100.0))
        }
        | {"L's shape: 8192 tokens": {"tokens": 8192, "out_of_memory": True}},
    }
    assert accelerator.conclusions(results) == [
        ("L's shape: the fastest attention", "rows of 256: flex_attention, one row"),
        ("L's shape: tokens a pass that are enough", "2,048"),
    ]


def test_a_step_that_does_not_exist_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--tiny", "--steps", "speed"]) == 2
    assert "There is no step speed; there are limits" in capsys.readouterr().err
