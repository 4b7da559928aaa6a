"""Corrected readings against the formulas computed with all vectors, and what a calibration keeps."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from latentbank.bank.bank import Bank
from latentbank.bank.opening import open_bank
from latentbank.bank.rotation import rotate, unrotate
from latentbank.bank.where import Where
from latentbank.errors import BankMismatch, LatentBankError, QueryError
from latentbank.models.language.model import LanguageModel
from latentbank.query.calibration import calibrate as job
from latentbank.query.calibration import folder, look
from latentbank.query.calibration.calibrate import Calibrated, calibrate
from latentbank.query.calibration.calibration import load_calibration
from latentbank.query.calibration.correction import Correction, Mode
from latentbank.query.calibration.references import nearest_of
from latentbank.query.lenses.base import Queries
from latentbank.query.lenses.latent import LatentLens
from latentbank.query.reading.visual import read_images
from tests.query.banks import TWO, fill
from tests.query.patch_vlm import PatchVLM, picture

OTHERS = [picture(seed) for seed in range(100, 121)]
LAYERS = [0, 2]
MODES: list[Mode] = ["hubs", "mean", "both"]
DEPTH = 8  # fewer than a layer holds


@pytest.fixture(scope="module")
def vlm(tiny: LanguageModel) -> PatchVLM:
    return PatchVLM(tiny)


@pytest.fixture(scope="module")
def data_dir(tiny: LanguageModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("calibrated")
    fill("small", made, tiny, TWO, (1, 2)).close()
    return made


@pytest.fixture(scope="module")
def calibrated(data_dir: Path, vlm: PatchVLM) -> Calibrated:
    with open_bank("small", data_dir=data_dir, url="") as opened:
        return calibrate(opened, vlm, OTHERS, LAYERS, what="scenes")


@pytest.fixture
def bank(data_dir: Path, calibrated: Calibrated) -> Iterator[Bank]:
    with open_bank("small", data_dir=data_dir, url="") as opened:
        yield opened


def _unit(rows: Any) -> Any:
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def _units(vlm: PatchVLM, images: Any, layer: int) -> Any:
    """Unit visual tokens; no rotation, which changes no product of two vectors."""
    states = [tokens.states[layer].numpy().astype(float) for tokens in vlm.visual_tokens(images, [layer])]
    return _unit(np.concatenate(states))


def _largest(rows: Any, count: int) -> Any:
    return np.sort(rows, axis=1)[:, -count:].mean(axis=1)


def _directly(bank: Bank, vlm: PatchVLM, images: Any, layer: int, mode: Mode, where: Any = None) -> Any:
    """For each token of the images: (score, bank layer, id, cosine) of its contexts by the formulas, best first."""
    seed = bank.manifest.rotation_seed
    x, q = _units(vlm, OTHERS, layer), _units(vlm, images, layer)
    q = unrotate(rotate(q, seed).astype(np.float16), seed)  # as the engine rounds queries
    k = nearest_of(len(x))
    weights = (1 - _largest(x @ x.T, k)) ** 2
    m = weights @ x / weights.sum()
    answers: list[list[Any]] = [[] for _ in q]
    for bank_layer in bank.layers:
        points = {point.id: point.vector for point in bank.store.scroll(bank_layer, vectors=True)}
        c = unrotate(np.stack(list(points.values())), seed).astype(float)
        mu = c.mean(axis=0)
        if mode == "hubs":
            scores, to_references = q @ c.T, c @ x.T
        else:
            scores, to_references = _unit(q - m) @ _unit(c - mu).T, _unit(c - mu) @ _unit(x - m).T
        hubs = _largest(to_references, k)
        shown = {point.id for point in bank.store.scroll(bank_layer, where)}
        ids = list(points)
        places = np.array([place for place, id_ in enumerate(ids) if id_ in shown])
        for row, cosines in enumerate(q @ c.T):
            best = places[np.argsort(-cosines[places])[:DEPTH]]
            own = scores[row, best]
            near = np.sort(own)[-k:].mean()
            if mode != "mean":
                own = 2 * own - hubs[best] - near
            answers[row] += [
                (score, bank_layer, ids[at], cosines[at]) for score, at in zip(own, best, strict=True)
            ]
    return [sorted(row, reverse=True) for row in answers]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("where", [None, Where(corpus="second")], ids=["all", "filtered"])
def test_a_corrected_reading_is_that_of_the_formulas(
    bank: Bank, vlm: PatchVLM, mode: Mode, where: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(look, "DEPTH", DEPTH)
    images = [picture(1), picture(2)]
    correction = Correction(load_calibration(bank, vlm), mode)
    lens = LatentLens(bank, "all", where, exact=True).corrected(correction)
    readings = list(read_images(vlm, images, [lens], LAYERS))
    assert {reading.correction for reading in readings} == {mode}
    for layer in LAYERS:
        expected = _directly(bank, vlm, images, layer, mode, where)
        tokens = [token for reading in readings for token in reading.at(layer)]
        for token, best in zip(tokens, expected, strict=True):
            scores = [neighbor.corrected for neighbor in token.neighbors]
            assert scores == pytest.approx([score for score, *_ in best[:5]], abs=3e-3)
            by_context = {(bank_layer, id_): (score, cosine) for score, bank_layer, id_, cosine in best}
            for neighbor in token.neighbors:
                score, cosine = by_context[neighbor.bank_layer, neighbor.id]
                assert (neighbor.score, neighbor.cosine) == pytest.approx((score, cosine), abs=3e-3)
                assert neighbor.caption
