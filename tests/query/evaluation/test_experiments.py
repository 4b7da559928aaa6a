"""The experiments, with scripted VLMs."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from latentbank.bank.bank import Bank
from latentbank.cli.options.scenes import ResultOptions
from latentbank.cli.output.scores import show_alignment, show_compared, show_evaluation, write_scores
from latentbank.errors import QueryError
from latentbank.models.language.model import LanguageModel
from latentbank.query.evaluation.evaluate import evaluate
from latentbank.query.evaluation.experiments.alignment import align, peaks
from latentbank.query.evaluation.experiments.compare import (
    Setup,
    compare_corpora,
    compare_corrections,
    compare_metrics,
    compare_projectors,
    lines,
)
from latentbank.query.evaluation.figures import draw_bank_layers, draw_compared, draw_evaluation
from latentbank.query.lenses.embedding import EmbeddingLens
from latentbank.query.lenses.latent import LatentLens
from tests.query.banks import TWO, fill
from tests.query.evaluation.test_evaluate import OTHERS, SCENES, scripted
from tests.query.scripted_vlm import ScriptedVLM

PNG = b"\x89PNG"


@pytest.fixture
def blind(tiny: LanguageModel) -> ScriptedVLM:
    return scripted(tiny, lambda *_: "nothing that is in a sentence")


@pytest.fixture
def setup() -> Setup:
    return Setup(SCENES, [0, 2], OTHERS)


def metric_bank(tiny: LanguageModel, folder: Path, name: str, **given: Any) -> Bank:
    return fill(name, folder, tiny, TWO, **given)


def test_alignment_peaks_at_the_layer_the_states_are_from(
    bank: Bank, tiny: LanguageModel, blind: ScriptedVLM, tmp_path: Path
) -> None:
    """The hidden state at every visual layer is that of text at layer 3."""
    found = align(
        scripted(tiny, text_layer=3), LatentLens(bank, "all", exact=True), SCENES, [0, 2], random=blind
    )
    assert len(found.alignment) == 2 * 2 * len(bank.layers)
    assert all(entry.named is not None and entry.chance is not None for entry in found.alignment)
    trained = [peak for peak in peaks(found) if peak.projector == "trained"]
    assert [(peak.visual_layer, peak.nearest, peak.most_first) for peak in trained] == [(0, 3, 3), (2, 3, 3)]
    for peak in trained:
        assert peak.named.named is not None
        assert peak.named.named.value == 1
        assert peak.named.bank_layer == peak.most_named
    random = next(peak for peak in peaks(found) if peak.projector == "random")
    assert random.named.named is not None
    assert random.named.named.value < 1
    assert draw_bank_layers(found, tmp_path / "made" / "b.png").read_bytes().startswith(PNG)


def test_metrics_are_compared_by_corpus_and_lens(tiny: LanguageModel, setup: Setup, tmp_path: Path) -> None:
    vlm = scripted(tiny, offset=30.0)
    with (
        metric_bank(tiny, tmp_path, "plain") as plain,
        metric_bank(tiny, tmp_path, "centred", metric="centred") as centred,
    ):
        compared = compare_metrics(
            setup, vlm, plain, centred, [EmbeddingLens(tiny.embedding, tiny.tokenizer)]
        )
        labels = [label for label, _ in compared]
        assert labels == [
            f"{metric}, {corpus}"
            for metric in ("cosine", "centred")
            for corpus in ("all corpora", "first", "second")
        ]
        summary = {(line.label, line.lens): line for line in lines(compared)}
        assert len(summary) == 8  # EmbeddingLens does not search corpora
        # The offset hides everything from plain cosine; centring removes it.
        assert summary["centred, all corpora", "latent"].mean.value > 0.5
        assert summary["cosine, all corpora", "latent"].mean.value < 0.2
        assert summary["centred, all corpora", "embedding"].metric == "centred"
        draw_compared(compared, tmp_path / "metric.png")
        for banks in ((centred, plain), (plain, plain)):
            with pytest.raises(QueryError, match="a bank of plain cosine and a centred bank"):
                compare_metrics(setup, vlm, *banks, [])
        centred.drop_corpus("second")
        with pytest.raises(QueryError, match="hold different corpora"):
            compare_metrics(setup, vlm, plain, centred, [])


def test_corpora_are_searched_alone(
    bank: Bank, tiny: LanguageModel, setup: Setup, blind: ScriptedVLM
) -> None:
    compared = compare_corpora(setup, scripted(tiny), bank, 2, blind)
    summary = {line.label: line for line in lines(compared)}
    assert list(summary) == ["first", "second"]
    # "river" and "apple" are in the first corpus only, "truck" in the second.
    assert summary["first"].mean.value > summary["second"].mean.value
    assert summary["first"].random is not None


def test_a_single_corpus_cannot_be_compared(tiny: LanguageModel, setup: Setup, tmp_path: Path) -> None:
    with metric_bank(tiny, tmp_path, "plain") as bank:
        bank.drop_corpus("second")
        with pytest.raises(QueryError, match="holds 1 corpus"):
            compare_corpora(setup, scripted(tiny), bank)


def test_corrections_are_compared_with_none(
    tiny: LanguageModel, setup: Setup, blind: ScriptedVLM, tmp_path: Path
) -> None:
    with metric_bank(tiny, tmp_path, "plain") as bank:
        lenses = [LatentLens(bank, "all"), EmbeddingLens(tiny.embedding, tiny.tokenizer)]
        given = replace(setup, layers=[2])
        compared = compare_corrections(given, scripted(tiny), lenses, blind, ["both"])
        assert [label for label, _ in compared] == ["none", "both"]
        for mode, (_, found) in zip(("", "both"), compared, strict=True):
            assert found.about["correction"] == mode
            assert {entry.projector for entry in found.alignment} == {"trained", "random"}
            assert found.row("latent").concrete.value > found.row("latent", projector="random").concrete.value
        assert compared[1][1].about["corrected_by"] == f"visual tokens of {len(OTHERS)} scenes"
        # It is kept, and used again.
        with pytest.raises(QueryError, match="needs calibration scenes"):
            replace(given, layers=[0], calibration=(), correct="hubs").run(scripted(tiny), lenses, None)
        again = replace(given, calibration=(), correct="both").run(scripted(tiny), lenses, None)
    assert again.row("latent").concrete == compared[1][1].row("latent").concrete
    with pytest.raises(QueryError, match="name one, and score LatentLens"):
        replace(given, correct="both").run(scripted(tiny), lenses[1:], None)


def test_projectors(bank: Bank, tiny: LanguageModel, setup: Setup, blind: ScriptedVLM) -> None:
    compared = compare_projectors(
        setup, {"good": (scripted(tiny), blind), "bad": (blind, None)}, bank, [], [2]
    )
    good, bad = lines(compared)
    assert (good.label, good.mean.value) == ("good", 1)
    assert bad.mean.value < 0.5
    assert (good.random is None, bad.random is None) == (False, True)
    assert all(
        (entry.named is not None) == (entry.visual_layer == 0)
        for _, found in compared
        for entry in found.alignment
    )


def test_scores_are_printed_written_and_drawn(
    bank: Bank,
    tiny: LanguageModel,
    setup: Setup,
    blind: ScriptedVLM,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    lenses = [LatentLens(bank, "all", exact=True), EmbeddingLens(tiny.embedding, tiny.tokenizer)]
    found = evaluate(scripted(tiny), lenses, SCENES, [0, 2], random=blind, alone=[0])
    assert [path.name for path in draw_evaluation(found, tmp_path)] == [
        "shares.png",
        "first.png",
        "bank-layers.png",
    ]
    assert all(path.read_bytes().startswith(PNG) for path in tmp_path.glob("*.png"))
    show_evaluation(found)
    out = capsys.readouterr().out
    for expected in (
        "object patches named by one of the first 5 neighbors, %",
        "first 5 distinct words",
        "100.0 (100.0 to 100.0)",
        "random projector, shuffled images",
        "75% to 100%",
        "bank L4",
        "scripted on 3 scenes: 5 things, 12 patches",
    ):
        assert expected in out
    show_alignment(found)
    assert "most often first" in capsys.readouterr().out
    compared = compare_corpora(setup, scripted(tiny), bank, 2, blind)
    show_compared(compared, ResultOptions(output=tmp_path / "c"), "corpora")
    assert "random projector" in capsys.readouterr().out
    show_compared(compared, ResultOptions(as_json=True), "corpora", more={"note": 1})
    printed = json.loads(capsys.readouterr().out)
    written = json.loads((tmp_path / "c" / "corpora.json").read_text())
    assert printed == {"note": 1, **written}
    assert [line["label"] for line in written["summary"]] == ["first", "second"]
    assert (tmp_path / "c" / "corpora.png").read_bytes().startswith(PNG)
    write_scores({}, None, "nothing", lambda _: pytest.fail("drawn"))
