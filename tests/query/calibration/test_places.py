"""Calibrations of banks on a server, of pictures that are read themselves, and of VLMs over one LLM."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from latentbank.bank.bank import Bank
from latentbank.ingest.banks import create_bank
from latentbank.ingest.corpus import corpus_from_sentences
from latentbank.ingest.job import store_plan
from latentbank.ingest.planning import plan_for
from latentbank.models.language.model import LanguageModel
from latentbank.models.vision.tokens import visual_fingerprint
from latentbank.models.vision.vision_language import load_vision_language_model
from latentbank.query.calibration.calibrate import calibrate
from latentbank.query.calibration.calibration import load_calibration
from latentbank.query.calibration.correction import Correction
from latentbank.query.lenses.latent import LatentLens
from latentbank.query.reading.reading import Reading
from latentbank.query.reading.visual import read_images
from tests import real_server
from tests.models.tiny_vlm import save_tiny_vlm
from tests.query.banks import SENTENCES, TWO, fill
from tests.query.patch_vlm import PatchVLM, picture

OTHERS = [picture(seed) for seed in range(100, 121)]


def _read(bank: Bank, vlm: PatchVLM) -> Reading:
    lens = LatentLens(bank, "all", exact=True, correction=Correction(load_calibration(bank, vlm)))
    (reading,) = read_images(vlm, [picture(1)], [lens], [0])
    return reading


def test_a_bank_on_a_server_is_corrected_as_an_embedded_one(tiny: LanguageModel, tmp_path: Path) -> None:
    vlm = PatchVLM(tiny)
    with fill("here", tmp_path, tiny, {"c": SENTENCES}, (1, 2)) as embedded:
        calibrate(embedded, vlm, OTHERS, [0])
        expected = _read(embedded, vlm)
    with (
        real_server.serving() as server,
        create_bank(
            "there", tiny, (1, 2), data_dir=tmp_path, url=server.url, grpc_port=server.grpc_port
        ) as bank,
    ):
        corpus = corpus_from_sentences("c", SENTENCES)
        store_plan(bank, plan_for(bank, corpus, tiny, tmp_path / "plan"), tiny)
        made = calibrate(bank, vlm, OTHERS, [0])
        assert made.computed == 2 * made.contexts
        assert made.folder.is_relative_to(tmp_path)
        reading = _read(bank, vlm)
    for token, other in zip(reading.tokens, expected.tokens, strict=True):
        assert [n.corrected for n in token.neighbors] == pytest.approx(
            [n.corrected for n in other.neighbors], abs=3e-3
        )


def test_pictures_among_too_few_that_were_calibrated_on_are_read_without_correction(
    tiny: LanguageModel, tmp_path: Path
) -> None:
    vlm = PatchVLM(tiny)
    with fill("few", tmp_path, tiny, TWO, (1, 2)) as bank:
        calibrate(bank, vlm, OTHERS[:3], [0])
        plain = LatentLens(bank, "all")
        lens = plain.corrected(Correction(load_calibration(bank, vlm)))
        images = [picture(1), OTHERS[1], picture(2)]
        readings = list(read_images(vlm, images, [lens], [0]))
        assert [reading.correction for reading in readings] == ["both", "", "both"]
        assert readings[1].note == (
            "Not corrected: the picture is one of only 3 that patch-vlm was calibrated on; calibrate it on others, or "
            "on 20 or more together."
        )
        (own,) = read_images(vlm, [OTHERS[1]], [plain], [0])
        assert readings[1].tokens == own.tokens
        assert all(n.corrected is not None for token in readings[2].tokens for n in token.neighbors)
        calibrate(bank, vlm, OTHERS, [0])
        many = plain.corrected(Correction(load_calibration(bank, vlm)))
        (reading,) = read_images(vlm, [OTHERS[1]], [many], [0])
        assert (reading.correction, reading.note) == ("both", "")


def test_the_fingerprint_of_a_vlm_tells_its_own_weights(tmp_path: Path) -> None:
    folder = save_tiny_vlm(tmp_path / "vlm", "llava")
    whole = load_vision_language_model(str(folder))
    cut = load_vision_language_model(str(folder), deepest_layer=1, dtype="bfloat16")
    first = visual_fingerprint(whole)
    assert visual_fingerprint(cut) == first
    name, weight = next(
        (name, weight) for name, weight in whole.model.named_parameters() if "projector" in name
    )
    assert name
    with torch.no_grad():
        weight.add_(1.0)
    assert visual_fingerprint(whole) != first
    assert whole.fingerprint() == cut.fingerprint()
