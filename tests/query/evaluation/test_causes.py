"""The experiment on causes: what is compared on a scene, and how it is summed up."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from latentbank.bank.bank import Bank
from latentbank.models.composite.model import CompositeVLM
from latentbank.models.language.intervening import Intervention
from latentbank.models.language.model import LanguageModel
from latentbank.models.vision.prompted import Prompted
from latentbank.models.visual import unembedding_of
from latentbank.query.evaluation.experiments.cause_figure import draw_cause_tables
from latentbank.query.evaluation.experiments.cause_tables import tables_of
from latentbank.query.evaluation.experiments.causes import (
    CauseSetup,
    Kept,
    Row,
    ablate_scenes,
    mean_states,
)
from latentbank.query.evaluation.experiments.writings import WrittenRow, write_scenes
from tests.query.pixels import pixel_vlm
from tests.query.scripted_vlm import scene_of
from tests.query.told import Told

SETUP = CauseSetup((0, 2), ("mean", "attention"), draws=2, batch=4)
# The dog covers patches 0, 1 and 2, of which the lens names 0 and 1. The answers name no apple.
SCENES = [
    scene_of(0, {"dog": [0, 1, 2]}),
    scene_of(1, {"dog": [0, 1, 2], "cat": [4]}),
    scene_of(2, {"apple": [3]}),
]


@pytest.fixture
def vlm(tiny: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> CompositeVLM:
    """A VLM that always writes of a dog and a cat."""
    ids = tiny.tokenizer("A dog and a cat.", add_special_tokens=False)["input_ids"]

    def write(self: Prompted, most: int, rows: Sequence[Intervention]) -> list[list[int]]:
        return [ids] * len(rows)

    monkeypatch.setattr(Prompted, "write", write)
    return pixel_vlm(tiny)


def _rows(vlm: CompositeVLM, **more: Any) -> tuple[list[Row], int]:
    reference = mean_states(vlm, SCENES, range(vlm.num_layers))
    return ablate_scenes(vlm, unembedding_of(vlm), Told(), SCENES, SETUP, reference=reference, **more)


def test_the_mean_of_visual_tokens(vlm: CompositeVLM) -> None:
    tokens = vlm.visual_tokens([scene.image for scene in SCENES], [2])
    expected = np.concatenate([own.states[2].numpy() for own in tokens]).mean(0)
    np.testing.assert_allclose(mean_states(vlm, SCENES, [2])[2].numpy(), expected, atol=1e-5)


def test_groups_of_a_scene(vlm: CompositeVLM, tmp_path: Path) -> None:
    rows, told = _rows(vlm)
    assert told == 2
    one = [row for row in rows if (row.scene, row.way, row.layer) == (0, "mean", 0)]
    counts = {
        group: [row.count for row in one if row.group == group]
        for group in dict.fromkeys(r.group for r in one)
    }
    assert counts == {
        "thing": [3], "named": [2], "random": [2, 2], "near": [2, 2], "named, as many": [1, 1], "not named": [1, 1],
    }  # fmt: skip
    share = {row.group: row.coverage for row in one}
    assert share["named"] == share["not named"] == pytest.approx(0.8)
    assert share["random"] == share["near"] == 0
    assert {row.way for row in rows if row.group == "thing"} == {"mean"}
    assert all(row.things is None for row in rows if row.scene == 0)
    assert all(abs(row.things or 0) > 0 for row in rows if row.scene == 1)
    assert all(abs(row.word) > 1e-6 for row in rows)
    tables = tables_of(rows, [], len(SCENES), {})
    named = tables.effect("mean", 0, "named")
    assert named is not None
    assert (named.word.of, named.things.of, named.count) == (2, 1, 2.0)
    apart = tables.difference("mean", 0, "named")
    random = tables.effect("mean", 0, "random")
    assert apart is not None
    assert random is not None
    assert apart.word.value == pytest.approx(named.word.value - random.word.value)
    assert draw_cause_tables(tables, tmp_path / "cause.png").stat().st_size > 10_000


def test_a_run_continues(vlm: CompositeVLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = Kept(tmp_path, {"layers": (0, 2)})
    first = _rows(vlm, kept=kept)
    assert len(list(tmp_path.glob("*.json"))) == 3
    monkeypatch.setattr("latentbank.query.evaluation.experiments.causes._rows", None)
    assert _rows(vlm, kept=kept)[0] == first[0]
    assert Kept(tmp_path, {"layers": (0, 1)}).load(0) is None


def test_what_is_written(vlm: CompositeVLM, bank: Bank) -> None:
    scenes = [
        scene_of(0, {"dog": [0, 1, 2]}),
        scene_of(1, {"garden": [3], "dog": [4]}),
        scene_of(2, {"table": [0]}),
    ]
    setup = CauseSetup((0, 1), ("mean",), batch=4)
    rows = write_scenes(vlm, unembedding_of(vlm), bank, scenes, setup)
    # What is written comes from the same layer and from the middle one, of two kinds; what is removed is of two kinds.
    first = [row for row in rows if row.scene == 0]
    assert [(row.act, row.layer, row.bank_layer, row.kind) for row in first] == [
        ("write", layer, at, kind) for layer in (0, 1) for at in (layer, 2) for kind in ("word", "random")
    ] + [("remove", layer, layer, kind) for layer in (0, 1) for kind in ("word", "random")]
    # The answers say neither garden nor table, and always the dog.
    assert [row.said for row in first] == [row.act == "remove" for row in first]
    assert all(row.kept and abs(row.word) > 1e-6 for row in first)
    table = tables_of([], rows, 3, {}).written
    assert len(table) == 12
    assert all(isinstance(row, WrittenRow) for row in rows)
    assert (table[0].said.value, table[0].kept.value, table[0].word.of) == (0.0, 1.0, 2)
