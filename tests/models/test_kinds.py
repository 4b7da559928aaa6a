"""A model of the wrong kind is told in one sentence wherever a model is given."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import latentbank as lb
from latentbank.errors import ModelError
from latentbank.ingest.corpus import corpus_from_sentences
from tests.models.tiny_vlm import save_tiny_vlm

SENTENCES = corpus_from_sentences("two", ["A red kite.", "A dog on a beach."])


@pytest.fixture(scope="module")
def vlm(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return lb.load_visual_model(str(save_tiny_vlm(tmp_path_factory.mktemp("vlm") / "vlm", "llava")))


@pytest.mark.parametrize(
    "use",
    [
        lambda _, model: lb.create_bank("new", model, layers=[1]),
        lambda _, model: lb.create_bank("new", model),
        lambda _, model: lb.plan(SENTENCES, model, bank="small"),
        lambda bank, model: lb.fill(bank, SENTENCES, model),
        lambda bank, model: lb.read_text(bank, model, "A dog"),
    ],
)
def test_a_language_model_is_needed(
    use: Callable[[Any, Any], object], vlm: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LATENTBANK_DATA_DIR", str(tmp_path))
    with lb.create_bank("small", vlm.language, layers=[1]) as bank:
        with pytest.raises(ModelError, match="is a vision-language model; give the language model in it"):
            use(bank, vlm)
        with pytest.raises(ModelError, match="only a name, some/model; load it with load_language_model"):
            use(bank, "some/model")
    assert lb.list_banks() == ["small"]


def test_a_vision_language_model_is_needed(vlm: Any, tmp_path: Path) -> None:
    with lb.create_bank("small", vlm.language, layers=[1], data_dir=tmp_path, url="") as bank:
        with pytest.raises(ModelError, match="is no vision-language model; load one with load_visual_model"):
            lb.read_image(bank, vlm.language, "cat.png", layers=[0])
        with pytest.raises(ModelError, match="only a name, some/model; load it with load_visual_model"):
            lb.read_images("some/model", [], [lb.LatentLens(bank)], layers=[0])  # type: ignore[arg-type]
