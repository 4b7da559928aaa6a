"""Corrected EmbeddingLens and LogitLens against the formulas, and what is kept for them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from latentbank.bank.opening import open_bank
from latentbank.errors import LatentBankError, QueryError
from latentbank.models.language.model import LanguageModel
from latentbank.query.calibration.calibrate import calibrate
from latentbank.query.calibration.calibration import Calibration, load_calibration
from latentbank.query.calibration.correction import Correction, Mode
from latentbank.query.calibration.vocabulary import calibrate_vocabulary, logit_hubs, vocabulary_file
from latentbank.query.lenses.base import LensOptions, Queries
from latentbank.query.lenses.embedding import EmbeddingLens
from latentbank.query.lenses.logit import LogitLens
from latentbank.query.reading.visual import read_images
from tests.query.banks import TWO, fill
from tests.query.patch_vlm import PatchVLM, Unembedded, picture

OTHERS = [picture(seed) for seed in range(100, 121)]
LAYER = 1


@pytest.fixture(scope="module")
def vlm(tiny: LanguageModel) -> PatchVLM:
    return PatchVLM(tiny)


@pytest.fixture(scope="module")
def data_dir(tiny: LanguageModel, vlm: PatchVLM, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("calibrated")
    with fill("small", folder, tiny, TWO, (1,)) as bank:
        calibrate(bank, vlm, OTHERS, [LAYER])
        assert calibrate_vocabulary(load_calibration(bank, vlm), vlm, [LAYER]) == ["logit", "embedding"]
    return folder


@pytest.fixture
def calibration(data_dir: Path, vlm: PatchVLM) -> Iterator[Calibration]:
    with open_bank("small", data_dir=data_dir, url="") as bank:
        yield load_calibration(bank, vlm)


def _unit(rows: Any) -> Any:
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def _largest(rows: Any, count: int) -> Any:
    return np.sort(rows, axis=-1)[..., -count:].mean(axis=-1)


def _states(vlm: PatchVLM, images: Any) -> Any:
    found = [tokens.states[LAYER].numpy().astype(float) for tokens in vlm.visual_tokens(images, [LAYER])]
    return np.concatenate(found)


@pytest.mark.parametrize("mode", ["hubs", "mean", "both"])
def test_a_corrected_embedding_lens_is_that_of_the_formulas(
    vlm: PatchVLM, calibration: Calibration, mode: Mode
) -> None:
    states = _states(vlm, [picture(1)])
    lens = EmbeddingLens.make(LensOptions(vlm, correction=Correction(calibration, mode)))
    found = lens.read(Queries(states, LAYER, "visual"), 7)
    tokens = calibration.references(LAYER)
    q, x, m = _unit(states), _unit(tokens.states.astype(float)), tokens.mean
    c = _unit(vlm.language.embedding.numpy().astype(float)[: len(vlm.language.tokenizer)])
    mu = _unit(vlm.language.embedding.numpy().astype(float)).mean(axis=0)
    plain = q @ c.T
    if mode != "hubs":
        q, x, c = _unit(q - m), _unit(x - m), _unit(c - mu)
    scores = q @ c.T
    if mode != "mean":
        scores = 2 * scores - _largest(c @ x.T, tokens.nearest) - _largest(q @ c.T, 10)[:, None]
    for row, neighbors in enumerate(found):
        best = np.sort(scores[row])[::-1][:7]
        assert [neighbor.corrected for neighbor in neighbors] == pytest.approx(best, abs=1e-5)
        for neighbor in neighbors:
            assert neighbor.score == neighbor.corrected
            assert neighbor.corrected == pytest.approx(scores[row, neighbor.token_id], abs=1e-5)
            assert neighbor.cosine == pytest.approx(plain[row, neighbor.token_id], abs=1e-5)


def test_a_corrected_logit_lens_is_that_of_the_formulas(vlm: PatchVLM, calibration: Calibration) -> None:
    options = LensOptions(vlm, correction=Correction(calibration, "both"))
    lens = LogitLens.make(options)
    states, tokens = _states(vlm, [picture(1)]), calibration.references(LAYER)

    def chances(rows: Any) -> Any:
        logits = lens.unembedding.logits(torch.from_numpy(rows.astype(np.float32)))
        return logits.double().log_softmax(-1).numpy()[:, : len(vlm.language.tokenizer)]

    own = chances(states)
    scores = own - _largest(chances(tokens.states).T, tokens.nearest)
    for row, neighbors in enumerate(lens.read(Queries(states, LAYER, "visual"), 7)):
        best = np.sort(scores[row])[::-1][:7]
        assert [neighbor.corrected for neighbor in neighbors] == pytest.approx(best, abs=1e-4)
        for neighbor in neighbors:
            assert neighbor.probability == pytest.approx(np.exp(own[row, neighbor.token_id]), rel=1e-3)
    # Its vectors have no mean to correct, and text is not corrected.
    plain = LogitLens.make(LensOptions(vlm)).read(Queries(states, LAYER, "visual"), 7)
    assert lens.corrected(Correction(calibration, "mean")).read(Queries(states, LAYER, "visual"), 7) == plain
    assert lens.read(Queries(states, LAYER, "text"), 7) == plain
    assert lens.corrected(None).read(Queries(states, LAYER, "visual"), 7) == plain


def test_the_hubs_of_many_reference_tokens_are_those_of_all_at_once(calibration: Calibration) -> None:
    tokens = calibration.references(LAYER)
    matrix = torch.randn(50, tokens.states.shape[1], generator=torch.Generator().manual_seed(0))
    many = type(tokens)(np.concatenate([tokens.states * scale for scale in (1, 2, 3, 4)]), tokens.mean)
    unembedding: Any = Unembedded(matrix)
    hubs = logit_hubs(unembedding, many)
    assert len(unembedding.calls) > 1
    chances = (torch.from_numpy(many.states) @ matrix.T).log_softmax(-1).numpy()
    assert hubs == pytest.approx(_largest(chances.T, many.nearest), abs=1e-4)


def test_readings_say_that_vocabulary_lenses_are_corrected(vlm: PatchVLM, calibration: Calibration) -> None:
    options = LensOptions(vlm, correction=Correction(calibration, "both"), unique="word")
    lenses = [EmbeddingLens.make(options), LogitLens.make(options)]
    (reading,) = read_images(vlm, [picture(1)], lenses, [LAYER])
    assert reading.correction == "both"
    assert all(neighbor.corrected is not None for token in reading.tokens for neighbor in token.neighbors)
    for token in reading.tokens:
        words = [neighbor.word.casefold() for neighbor in token.neighbors]
        assert len(set(words)) == len(words) == 5


def test_what_is_not_calibrated_or_damaged_is_named(vlm: PatchVLM, calibration: Calibration) -> None:
    lens = LogitLens.make(LensOptions(vlm, correction=Correction(calibration)))
    states = _states(vlm, [picture(1)])
    with pytest.raises(QueryError, match="Visual layer 2 of patch-vlm is not calibrated"):
        lens.read(Queries(states, 2, "visual"))
    path = vocabulary_file(calibration.pictures_folder, "logit", LAYER)
    kept = path.read_bytes()
    try:
        path.write_bytes(kept[:20])
        with pytest.raises(LatentBankError, match="cannot be read as a part of a calibration"):
            lens.read(Queries(states, LAYER, "visual"))
        path.unlink()
        with pytest.raises(QueryError, match="The logit lens is not calibrated for visual layer 1"):
            lens.read(Queries(states, LAYER, "visual"))
        assert calibrate_vocabulary(calibration, vlm, [LAYER]) == ["logit"]
        assert path.read_bytes() == kept
    finally:
        path.write_bytes(kept)
