"""A whole reproduction with a scripted VLM, whose patches have the hidden states of words of the bank."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from latentbank.bank.opening import delete_bank
from latentbank.bank.settings import Settings, load_settings
from latentbank.errors import QueryError
from latentbank.models.language.model import LanguageModel
from latentbank.models.vision.sources import ImageSource
from latentbank.progress import Progress
from latentbank.query.judging.verdicts import read_verdicts
from latentbank.query.reproduction.build import bank_of, stages_of
from latentbank.query.reproduction.measured import FIGURES, Measured, published, read_table
from latentbank.query.reproduction.plan import Plan, plan_from
from latentbank.query.reproduction.reproduce import Reproduced, reproduce
from latentbank.query.reproduction.stages import run_stages
from latentbank.query.reproduction.truth import RATER, TruthJudge
from latentbank.query.reproduction.world import World
from tests.query.banks import SENTENCES, fill
from tests.query.evaluation.test_evaluate import SCENES, scripted

PLAN = {
    "title": "scripted <b>",
    "images": "demo",
    "count": len(SCENES),
    "corpus": {"source": "demo", "sentences": len(SENTENCES)},
    "judge": "truth",
    "models": [{"name": "good", "model": "good"}, {"name": "blind", "model": "blind"}],
    "visual_layers": [0, 2],
    "bank_layers": [1, 2],
    "lenses": ["latent", "embedding"],
    "corpus_sizes": [50, 100],
    "corpus_models": ["good"],
}


class Scripted:
    """A world of three scenes; it counts what is asked of it."""

    def __init__(self, tiny: LanguageModel, folder: Path) -> None:
        self.models = {"good": scripted(tiny), "blind": scripted(tiny, lambda *_: "not in any sentence")}
        self.settings: Settings = load_settings(url="", data_dir=folder)
        self.loads: list[str] = []
        self.filled: list[tuple[str, int | None]] = []
        self.labelled = {f"scene-{number}": scene for number, scene in enumerate(SCENES)}

    def images(self) -> list[ImageSource]:
        found = []
        for name, scene in self.labelled.items():
            buffer = io.BytesIO()
            scene.image.save(buffer, "PNG")
            found.append(ImageSource(name, name, buffer.getvalue()))
        return found

    def fill(
        self, bank: str, llm: LanguageModel, layers: Sequence[int], sentences: int | None, progress: Progress
    ) -> int:
        self.filled.append((bank, sentences))
        with fill(bank, self.settings.data_dir, llm, {"c": SENTENCES[:sentences]}, layers) as opened:
            return opened.corpora["c"].contexts

    def world(self, **identity: str) -> World:
        def load(model):
            self.loads.append(model.name)
            return self.models[model.name]

        return World(
            images=self.images,
            identity={"images": "scenes", "corpus": "sentences", **identity},
            load=load,
            fill=self.fill,
            judge=TruthJudge(lambda: self.labelled),
            rater=RATER,
            settings=self.settings,
            tag=lambda words: ["noun" if word in ("dog", "cat", "apple") else "other" for word in words],
        )


def plan(**change: object) -> Plan:
    return plan_from(PLAN | change, "plan.yaml")


@pytest.fixture(scope="module")
def run(tiny: LanguageModel, tmp_path_factory: pytest.TempPathFactory) -> tuple[Scripted, Path, Reproduced]:
    folder = tmp_path_factory.mktemp("reproduction")
    scripts = Scripted(tiny, folder / "banks")
    return scripts, folder, reproduce(plan(), scripts.world(), folder)


def value(rows: Sequence[Measured], figure: str, model: str, kind: str, **given: object) -> float:
    found = [row for row in rows if (row.figure, row.model, row.kind) == (figure, model, kind)]
    (one,) = [row for row in found if all(getattr(row, name) == wanted for name, wanted in given.items())]
    return one.value


def test_shares_are_those_of_the_script(run: tuple[Scripted, Path, Reproduced]) -> None:
    _, folder, made = run
    rows = made.rows
    assert value(rows, "shares", "good", "concrete", lens="latent", layer=None) == 1
    assert value(rows, "shares", "good", "any, other image", lens="latent", layer=None) < 0.5
    assert value(rows, "shares", "blind", "concrete", lens="latent", layer=None) < 0.5
    assert value(rows, "pass", "good", "concrete", lens="latent", at=1) == 1
    # Half of the sentences name the dog, the apple and the river, but no truck.
    assert 0 < value(rows, "corpus", "good", "concrete", at=50) < 1
    assert value(rows, "corpus", "good", "concrete", at=100) == 1
    verdicts = read_verdicts([folder / "stages/verdicts/good/words-1/verdicts.parquet"])
    assert {verdict.rater for verdict in verdicts} == {RATER}
    assert all(len(verdict.candidates) == 1 for verdict in verdicts)


def test_figures_are_those_of_the_script(run: tuple[Scripted, Path, Reproduced]) -> None:
    rows = run[2].rows
    assert {row.figure for row in rows} == {*FIGURES, "bank"}
    # Every visual token has a hidden state of bank layer 2.
    nearest = [row for row in rows if row.figure == "alignment" and (row.model, row.layer) == ("good", 0)]
    assert sum(row.value for row in nearest) == pytest.approx(1)
    assert max(nearest, key=lambda row: row.value).at == 2
    assert value(rows, "cosines", "good", "median", layer=0) == pytest.approx(1, abs=0.01)
    bins = [
        row for row in rows if (row.figure, row.model, row.kind, row.layer) == ("cosines", "good", "bin", 0)
    ]
    assert sum(row.value for row in bins) == pytest.approx(1)
    assert value(rows, "drift", "good", "visual", layer=1) == pytest.approx(
        1
    )  # the same states at every layer
    assert value(rows, "drift", "good", "text", layer=1) < 0.999
    assert value(rows, "norms", "good", "visual, median", layer=0) > 0
    assert 0 < value(rows, "speech", "good", "noun", layer=0) < 1


def test_the_table_has_what_was_measured_and_published(run: tuple[Scripted, Path, Reproduced]) -> None:
    made = run[2]
    rows, about = read_table(made.table)
    assert [row for row in rows if row.source] == list(published())
    assert [row for row in rows if not row.source] == [row for row in made.rows if row.figure in FIGURES]
    assert about["judge"] == RATER
    assert json.loads(pq.read_schema(made.table).metadata[b"about"]) == about


def test_the_page_stands_alone(run: tuple[Scripted, Path, Reproduced]) -> None:
    page = run[2].page.read_text(encoding="utf-8")
    for title in FIGURES.values():
        assert f"<h2>{title}</h2>" in page
    assert "scripted <b>" not in page
    assert "<script" not in page
    assert "http" not in page.replace("http-equiv", "")
    assert page.count("<img alt=") >= 12
    assert str(run[1]) not in page


def test_only_what_a_change_concerns_runs_again(run: tuple[Scripted, Path, Reproduced]) -> None:
    scripts, folder, made = run
    at = folder / "stages"
    scripts.loads.clear()
    again = run_stages(stages_of(plan(title="renamed"), scripts.world(), at), at)
    assert scripts.loads == []
    assert all(stage.skipped for stage in again)
    assert tuple(row for stage in again for row in stage.rows) == made.rows
    changed = run_stages(stages_of(plan(words=[5]), scripts.world(), at), at)
    assert {stage.name for stage in changed if not stage.skipped} == {
        "verdicts/good", "verdicts/blind", "corpus/good"
    }  # fmt: skip
    known, scripts.labelled = scripts.labelled, {"another": SCENES[0]}
    with pytest.raises(QueryError, match="It is not known what scene-0 shows"):
        run_stages(stages_of(plan(words=[2]), scripts.world(), at), at)
    scripts.labelled = known
    # A bank that was deleted since is filled again.
    bank = bank_of(plan(), scripts.models["good"].language.name)
    delete_bank(bank, scripts.settings)
    scripts.filled.clear()
    run_stages(stages_of(plan(count=2), scripts.world(), at), at)  # other images, the same sentences
    assert bank in [name for name, _ in scripts.filled]
