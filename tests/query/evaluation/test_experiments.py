"""The experiments, with VLMs that see what they are told to."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from latentbank.bank.bank import Bank
from latentbank.cli.output.scores import show_alignment, show_compared, show_evaluation, write_scores
from latentbank.errors import QueryError
from latentbank.models.language.model import LanguageModel
from latentbank.query.evaluation.evaluate import evaluate
from latentbank.query.evaluation.experiments.alignment import align, peaks
from latentbank.query.evaluation.experiments.compare import (
    Setup,
    compare_corpora,
    compare_metrics,
    compare_projectors,
    lines,
)
from latentbank.query.evaluation.figures import draw_bank_layers, draw_compared, draw_evaluation
from latentbank.query.lenses.embedding import EmbeddingLens
from latentbank.query.lenses.latent import LatentLens
from tests.query.banks import TWO, fill
from tests.query.evaluation.test_evaluate import OTHERS, SCENES, seer
from tests.query.seer import Seer

PNG = b"\x89PNG"


@pytest.fixture
def blind(tiny: LanguageModel) -> Seer:
    return seer(tiny, lambda *_: "nothing that is in a sentence")


@pytest.fixture
def setup() -> Setup:
    return Setup(SCENES, [0, 2], OTHERS)


def metric_bank(tiny: LanguageModel, folder: Path, name: str, **given: Any) -> Bank:
    return fill(name, folder, tiny, TWO, **given)


def test_the_leap_is_found_where_it_was_put(
    bank: Bank, tiny: LanguageModel, blind: Seer, tmp_path: Path
) -> None:
    """What is seen at every visual layer is text of layer 3."""
    found = align(seer(tiny, text_layer=3), LatentLens(bank, "all", exact=True), SCENES, [0, 2], random=blind)
    assert len(found.alignment) == 2 * 2 * len(bank.layers)
    assert all(one.named is not None and one.chance is not None for one in found.alignment)
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
    vlm = seer(tiny, offset=30.0)
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
        assert len(summary) == 8  # the embedding lens knows no corpora
        # The offset hides everything from plain cosine, and centring takes it away.
        assert summary["centred, all corpora", "latent"].mean.value > 0.5
        assert summary["cosine, all corpora", "latent"].mean.value < 0.2
        assert summary["centred, all corpora", "embedding"].metric == "centred"
        draw_compared(compared, tmp_path / "metric.png")
        for banks in ((centred, plain), (plain, plain)):
            with pytest.raises(QueryError, match="a bank of plain cosine and a centred one"):
                compare_metrics(setup, vlm, *banks, [])
        centred.drop_corpus("second")
        with pytest.raises(QueryError, match="hold other corpora"):
            compare_metrics(setup, vlm, plain, centred, [])


def test_corpora_are_read_by_themselves(bank: Bank, tiny: LanguageModel, setup: Setup, blind: Seer) -> None:
    compared = compare_corpora(setup, seer(tiny), bank, 2, blind)
    summary = {line.label: line for line in lines(compared)}
    assert list(summary) == ["first", "second"]
    # "river" and "apple" are in the first corpus alone, "truck" in the second.
    assert summary["first"].mean.value > summary["second"].mean.value
    assert summary["first"].random is not None


def test_one_corpus_is_none_to_compare(tiny: LanguageModel, setup: Setup, tmp_path: Path) -> None:
    with metric_bank(tiny, tmp_path, "plain") as bank:
        bank.drop_corpus("second")
        with pytest.raises(QueryError, match="holds 1 corpus"):
            compare_corpora(setup, seer(tiny), bank)


def test_projectors(bank: Bank, tiny: LanguageModel, setup: Setup, blind: Seer) -> None:
    compared = compare_projectors(setup, {"good": (seer(tiny), blind), "bad": (blind, None)}, bank, [], [2])
    good, bad = lines(compared)
    assert (good.label, good.mean.value) == ("good", 1)
    assert bad.mean.value < 0.5
    assert (good.random is None, bad.random is None) == (False, True)
    assert all(
        (one.named is not None) == (one.visual_layer == 0) for _, found in compared for one in found.alignment
    )


def test_scores_are_printed_written_and_drawn(
    bank: Bank,
    tiny: LanguageModel,
    setup: Setup,
    blind: Seer,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    lenses = [LatentLens(bank, "all", exact=True), EmbeddingLens(tiny.embedding, tiny.tokenizer)]
    found = evaluate(seer(tiny), lenses, SCENES, [0, 2], random=blind, alone=[0])
    assert [path.name for path in draw_evaluation(found, tmp_path)] == [
        "shares.png",
        "first.png",
        "bank-layers.png",
    ]
    assert all(path.read_bytes().startswith(PNG) for path in tmp_path.glob("*.png"))
    show_evaluation(found)
    out = capsys.readouterr().out
    for said in (
        "object patches named by one of the first 5 neighbors, %",
        "first 5 distinct words",
        "100.0 (100.0 to 100.0)",
        "random projector, shuffled images",
        "75% to 100%",
        "bank L4",
        "seer on 3 scenes: 5 things, 12 patches",
    ):
        assert said in out
    show_alignment(found)
    assert "most often first" in capsys.readouterr().out
    compared = compare_corpora(setup, seer(tiny), bank, 2, blind)
    show_compared(compared, tmp_path / "c", "corpora", as_json=False)
    assert "random projector" in capsys.readouterr().out
    show_compared(compared, None, "corpora", as_json=True, more={"note": 1})
    printed = json.loads(capsys.readouterr().out)
    written = json.loads((tmp_path / "c" / "corpora.json").read_text())
    assert printed == {"note": 1, **written}
    assert [line["label"] for line in written["summary"]] == ["first", "second"]
    assert (tmp_path / "c" / "corpora.png").read_bytes().startswith(PNG)
    write_scores({}, None, "nothing", lambda _: pytest.fail("drawn"))
