"""The benchmark of large banks: all steps on a small one, and what its tables compute."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import scale, scale_tables
from benchmarks.synthetic import CORPORA, SHARES, Synthetic


def test_all_steps_are_measured_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []

    def in_this_process(_module: str, task: str, **given: Any) -> dict[str, Any]:
        done.append(task)
        result: dict[str, Any] = json.loads(json.dumps(scale._TASKS[task](**given)))
        return result

    monkeypatch.setattr(scale, "in_child", in_this_process)
    monkeypatch.setattr(scale, "measure_limits", lambda _folder: LIMITS)
    monkeypatch.setattr(scale, "_QUERIES", 20)
    file = tmp_path / "scale.json"
    given = ["scale", "--width", "16", "--contexts", "600", "--work", str(tmp_path), "--json", str(file)]
    monkeypatch.setattr(sys, "argv", given)
    scale.main()
    assert tuple(done) == scale.STEPS
    assert list(tmp_path.iterdir()) == [file]  # the bank is gone
    (found,) = scale.read(file).values()
    assert found["fill"]["corpora"].keys() <= set(CORPORA)
    assert sum(found["fill"]["corpora"].values()) == found["index"]["indexed"] == 600
    # Cosines of float16 vectors differ from the true ones by more than a tie where there are few dimensions.
    assert min(found["search"][name]["recall"] for name in ("plain", "visual", *SHARES)) >= 0.9
    # Killed after a step, the same command runs the others.
    kept = json.loads(file.read_text())
    del kept["16 x 600"]["search"]
    file.write_text(json.dumps(kept))
    done.clear()
    with pytest.raises(FileNotFoundError):  # the bank went with the last step
        scale.main()
    assert done == ["search"]
    monkeypatch.setattr(scale_tables, "RESULTS", file)
    kept["16 x 600"] = found
    file.write_text(json.dumps(kept))
    assert "| 600 × 16 |" in scale_tables.scale_table()
    assert f"recall {found['search']['plain']['recall']:.3f}" in scale_tables.filter_table()


class LIMITS:
    """The machine's limits, not measured."""

    @staticmethod
    def to_dict() -> dict[str, float]:
        return {"gemm": 1e9}


def test_blocks_are_the_same_in_every_process_and_differ() -> None:
    source, again = Synthetic(16), Synthetic(16)
    first, second = source.block(0, 50), source.block(4096, 50)
    np.testing.assert_array_equal(first.states, again.block(0, 50).states)
    assert not {*first.ids} & {*second.ids}
    assert not np.array_equal(first.states, second.states)
    for payload in first.payloads:
        assert payload["caption"][payload["start"] : payload["end"]] == payload["word"]


def test_a_power_is_found_and_a_server_priced() -> None:
    results = [{"contexts": n, "value": 3.0 * n**1.1} for n in (10, 100, 1000)]
    a, b, off = scale_tables.fit(results, lambda result: result["value"])
    assert (round(a, 6), round(b, 6)) == (3.0, 1.1)
    assert off < 1e-9
    # 100 GiB fill four fifths of 128 GiB: 16 cores, 128 GiB of RAM, and a disk of 100 GiB for 80.
    hour = 16 * 0.031611 + 128 * 0.004237 + 100 * 0.000236
    assert scale_tables.month_price(100 * 2**30, 80 * 2**30) == pytest.approx(730 * hour)
