"""Norms of visual tokens and of text."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from latentbank.errors import ImageError, ModelError, QueryError
from latentbank.models.language.model import LanguageModel, load_language_model
from latentbank.query.reading.norms import SENTENCES, beyond_range, measure_norms, text_norms
from tests.query.patch_vlm import PatchVLM, picture

TEXT = ["The dog chased a cat.", "A red apple lies on the table."]


def test_visual_norms_are_compared_with_text_norms(tiny: LanguageModel) -> None:
    vlm = PatchVLM(tiny)
    images = [picture(seed) for seed in range(3)]
    norms = measure_norms(vlm, images, [0, 2], sentences=TEXT, batch=2)
    assert vlm.calls == [2, 1]
    assert (norms.model, norms.dtype, norms.images) == ("patch-vlm", "float32", 3)
    assert [layer.layer for layer in norms.layers] == [0, 2]
    images_tokens = vlm.visual_tokens(images, [0, 2])
    text = text_norms(tiny, TEXT, [0, 2])
    for found in norms.layers:
        visual = np.concatenate([tokens.norms(found.layer) for tokens in images_tokens])
        assert (found.visual.tokens, found.text.tokens) == (18, len(text[found.layer]))
        assert found.visual.median == pytest.approx(np.median(visual))
        assert found.visual.low == pytest.approx(np.percentile(visual, 5))
        assert found.visual.high == pytest.approx(np.percentile(visual, 95))
        assert found.visual.largest == visual.max()
        assert found.ratio == pytest.approx(np.median(visual) / np.median(text[found.layer]))
    louder = measure_norms(PatchVLM(tiny, gain=10), images, [0], sentences=TEXT)
    assert louder.layers[0].ratio == pytest.approx(10 * norms.layers[0].ratio)
    assert json.loads(json.dumps(norms.to_dict(), allow_nan=False))["layers"][0]["visual"]["tokens"] == 18


def test_text_counts_neither_special_tokens_nor_the_first(tiny: LanguageModel) -> None:
    (sentence,) = TEXT[:1]
    ids, states = tiny.text_hidden_states(sentence, [1])
    assert text_norms(tiny, [sentence], [1])[1] == pytest.approx(states[1][1:].norm(dim=-1).numpy(), rel=1e-5)
    assert len(text_norms(tiny, [sentence] * 40, [1], batch=16)[1]) == 40 * (len(ids) - 1)


def test_without_text_own_sentences_are_measured(tiny: LanguageModel) -> None:
    norms = measure_norms(PatchVLM(tiny), [picture()], range(5))
    assert [layer.layer for layer in norms.layers] == [0, 1, 2, 3, 4]
    assert norms.layers[0].text.tokens > 5 * len(SENTENCES)


def test_what_cannot_be_measured(tiny: LanguageModel, tmp_path: Path) -> None:
    vlm = PatchVLM(tiny)
    with pytest.raises(QueryError, match="no image to measure"):
        measure_norms(vlm, [], [0])
    with pytest.raises(QueryError, match="no token to compare with"):
        measure_norms(vlm, [picture()], [0], sentences=["."])
    with pytest.raises(ImageError):
        measure_norms(vlm, [tmp_path / "none.png"], [0])
    with pytest.raises(QueryError, match="that can be read"):
        measure_norms(vlm, [tmp_path / "none.png"], [0], broken=lambda *_: None)
    with pytest.raises(ModelError, match="not finite in float32: load it in float32"):
        measure_norms(PatchVLM(tiny, gain=1e39), [picture()], [0])


def test_float16_is_named_where_it_overflows(tiny_dir: Path) -> None:
    half = load_language_model(str(tiny_dir), dtype="float16")
    warnings: list[str] = []
    norms = measure_norms(PatchVLM(half, gain=15_000), [picture()], [0], warn=warnings.append)
    assert (norms.dtype, norms.limit) == ("float16", 65504)
    assert norms.layers[0].visual.largest > norms.limit
    assert "beyond what float16 holds (65,504)" in warnings[0]
    with pytest.raises(ModelError, match=r"Layer 0 .* not finite in float16: load it in bfloat16 or float32"):
        measure_norms(PatchVLM(half, gain=1e6), [picture()], [0])


def test_beyond_the_range_of_bfloat16(tiny_dir: Path) -> None:
    vlm = PatchVLM(load_language_model(str(tiny_dir), dtype="bfloat16"), gain=3e38)
    images = [picture()]
    (tokens,) = vlm.visual_tokens(images, [0])
    finite = tokens.states[0].nan_to_num(posinf=3e38, neginf=-3e38)
    tokens.states[0] = finite
    assert torch.isfinite(finite).all()
    warning = beyond_range(vlm, [tokens])
    assert warning is not None
    assert warning.endswith("load it in float32.")
    assert beyond_range(vlm, []) is None
