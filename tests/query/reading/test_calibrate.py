"""Calibration: the visual means of a VLM."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from latentbank.errors import ImageError, ModelError, QueryError
from latentbank.models.language.model import LanguageModel
from latentbank.query.reading.calibrate import measure_means
from latentbank.query.reading.norms import measure_norms
from tests.query.patch_vlm import PatchVLM, picture


def test_the_means_are_those_of_all_tokens_of_all_images(tiny: LanguageModel) -> None:
    vlm = PatchVLM(tiny)
    images = [picture(seed) for seed in range(5)]
    means = measure_means(vlm, images, [0, 2], batch=2, what="photos")
    assert vlm.calls == [2, 2, 1]
    assert (means.kind, means.count, means.fingerprint) == (
        "visual tokens of 5 photos",
        30,
        tiny.fingerprint(),
    )
    for layer in (0, 2):
        states = torch.cat([tokens.states[layer] for tokens in vlm.visual_tokens(images, [layer])])
        np.testing.assert_allclose(means.at(layer), states.mean(0), atol=1e-5)


def test_broken_images_are_left_out_and_reported(tiny: LanguageModel) -> None:
    reported: list[str] = []
    images: list[bytes | Image.Image] = [picture(1), b"no image", picture(2)]
    means = measure_means(PatchVLM(tiny), images, [1], broken=lambda name, _: reported.append(name))
    assert (means.kind, len(reported)) == ("visual tokens of 2 images", 1)
    with pytest.raises(ImageError):
        measure_means(PatchVLM(tiny), images, [1])


def test_an_image_that_the_model_refuses_is_left_out_of_means_and_norms(
    tiny: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = PatchVLM.visual_tokens

    def choosy(self: PatchVLM, images: Any, layers: Any, prompt: str | None = None) -> Any:
        if any(image.width == 300 for image in images):
            raise ModelError("The image has 300 x 1 pixels: cut it.")
        return original(self, images, layers, prompt)

    monkeypatch.setattr(PatchVLM, "visual_tokens", choosy)
    vlm, reported = PatchVLM(tiny), list[str]()
    images = [picture(1), Image.new("RGB", (300, 1)), picture(2)]
    means = measure_means(vlm, images, [1], broken=lambda name, _: reported.append(name))
    norms = measure_norms(vlm, images, [1], broken=lambda name, _: reported.append(name))
    assert (means.count, norms.images, reported) == (12, 2, ["image 1", "image 1"])


def test_nothing_to_measure(tiny: LanguageModel) -> None:
    with pytest.raises(QueryError, match="no visual tokens to take the mean of"):
        measure_means(PatchVLM(tiny), [], [1])


def test_hidden_states_that_are_not_finite(tiny: LanguageModel) -> None:
    with pytest.raises(ModelError):
        measure_means(PatchVLM(tiny, gain=float("inf")), [picture(1)], [0])
