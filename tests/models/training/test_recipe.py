"""The paper's way of training: its schedule, prompts, dropout and losses, the LLM trained, too, and both resumed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from latentbank.errors import ModelError
from latentbank.models.composite.projector import load_projector
from latentbank.models.language.model import LanguageModel, load_language_model
from latentbank.models.language.unembedding import unembedding_of_language
from latentbank.models.training import train
from latentbank.models.training.features import Features, cache_features
from latentbank.models.training.recipes import paper_input, recipe_of, settings_of
from latentbank.models.training.stages import Stage
from latentbank.models.training.starting import first_projector
from latentbank.models.training.train import train_projector
from tests.models.pixels import PixelEncoder, pairs
from tests.models.vision.test_encoders import save_encoder
from tests.tiny import save_tiny

RECIPE = recipe_of("latentlens")
SETTINGS = settings_of(RECIPE, width=24, save_every=0.0)


@pytest.fixture(scope="module")
def features(tmp_path_factory: pytest.TempPathFactory) -> Features:
    return cache_features(PixelEncoder(), pairs(20), tmp_path_factory.mktemp("features"), "colours")


@pytest.fixture
def llm(tmp_path: Path) -> Callable[[], LanguageModel]:
    path = save_tiny(tmp_path / "source")
    return lambda: load_language_model(str(path), device="cpu", dtype="float32")


def killed_after(steps: int, monkeypatch: pytest.MonkeyPatch, run: Callable[[], object]) -> None:
    step, left = train._Run._step, iter(range(steps))

    def killed(self: train._Run, *args: object) -> object:
        if next(left, None) is None:
            raise KeyboardInterrupt
        return step(self, *args)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(train._Run, "_step", killed)
        with pytest.raises(KeyboardInterrupt):
            run()


def test_the_rate_rises_for_steps_and_falls_to_a_tenth(features: Features) -> None:
    stage = Stage(
        features, steps=12_000, rate=2e-4, warmup_steps=200, floor=0.1, llm_rate=2e-5, llm_warmup_steps=2000
    )
    assert stage.rate_at(100 / 12_000) == pytest.approx(1e-4)
    assert stage.rate_at(200 / 12_000) == pytest.approx(2e-4)
    assert stage.rate_at(6100 / 12_000) == pytest.approx(2e-4 * 0.55)  # half of the cosine
    assert stage.rate_at(1) == pytest.approx(2e-5)
    assert stage.llm_rate_at(1000 / 12_000) == pytest.approx(1e-5)
    assert stage.llm_rate_at(1) == pytest.approx(2e-6)
    assert Stage(features, steps=10).llm_rate_at(0.5) == 0
    with pytest.raises(ModelError, match="needs a number of steps"):
        Stage(features, seconds=1.0, warmup_steps=5)


def test_a_trained_llm_resumes_and_is_found_beside_its_projector(
    features: Features, llm: Callable[[], LanguageModel], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stages = [Stage(features, steps=6, batch=4, rate=1e-3, warmup_steps=2, llm_rate=1e-3)]
    language = llm()
    before = {name: weight.clone() for name, weight in language.decoder.state_dict().items()}
    whole = train_projector(stages, language, SETTINGS, tmp_path / "whole")
    again = tmp_path / "killed"
    for steps in (2, 3):
        killed_after(steps, monkeypatch, lambda: train_projector(stages, llm(), SETTINGS, again))
    killed = train_projector(stages, llm(), SETTINGS, again)
    tuned, resumed = (
        load_language_model(str(file.parent / "llm"), device="cpu", dtype="float32")
        for file in (whole, killed)
    )
    assert tuned.identity() == resumed.identity()
    for name, weight in resumed.decoder.state_dict().items():
        assert torch.equal(weight, tuned.decoder.state_dict()[name]), name
        assert torch.equal(weight, before[name]) == ("embed" in name), name
    for name, weight in load_projector(killed)[0].state_dict().items():
        assert torch.equal(weight, load_projector(whole)[0].state_dict()[name]), name
    assert language.identity() == tuned.identity()  # not that of the LLM that it was
    card = load_projector(killed)[1]
    assert card["llm"]["name"] == "llm"
    assert card["llm"]["trained_from"]["fingerprint"] == llm().fingerprint() != card["llm"]["fingerprint"]
    own, other = unembedding_of_language(llm()), unembedding_of_language(resumed)
    assert torch.equal(own.head.weight, other.head.weight)


def test_a_resumed_recipe_gives_the_same_projector(
    features: Features, llm: Callable[[], LanguageModel], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Prompts and dropout are random, and depend on the step alone; so they do on several processes."""
    stages = [Stage(features, steps=9, batch=4, rate=RECIPE.rate, warmup_steps=2, floor=RECIPE.floor)]
    language = llm()
    whole = train_projector(stages, language, SETTINGS, tmp_path / "whole")
    again = tmp_path / "killed"
    killed_after(4, monkeypatch, lambda: train_projector(stages, language, SETTINGS, again))
    killed = train_projector(stages, language, SETTINGS, again)
    divided = train_projector(stages, language, replace(SETTINGS, accumulate=3), tmp_path / "divided")
    other = train_projector(stages, language, replace(SETTINGS, seed=1), tmp_path / "other")
    states = [load_projector(file)[0].state_dict() for file in (whole, killed, divided, other)]
    for name in states[0]:
        assert torch.equal(states[0][name], states[1][name]), name
        torch.testing.assert_close(states[0][name], states[2][name], atol=2e-3, rtol=2e-3)
    assert not torch.allclose(states[0]["layers.gate.weight"], states[3]["layers.gate.weight"])
    begun = first_projector(features, language, SETTINGS, None).state_dict()
    for name in states[0]:  # the tokens that mark the image are trained, too
        assert not torch.allclose(states[0][name], begun[name], atol=1e-6), name
    longer = train_projector(stages, language, SETTINGS, tmp_path / "longer", init=whole)
    assert load_projector(longer)[1]["image_tokens"] == load_projector(whole)[1]["image_tokens"]
    with pytest.raises(ModelError, match="marks images with other tokens"):
        train_projector(stages, language, replace(SETTINGS, image_tokens=False), tmp_path / "x", init=whole)


@pytest.mark.parametrize(
    ("family", "layer", "fit", "antialias"),
    [
        ("clip", (-3, -10), "padded", True),
        ("siglip", (-2, -9), "squeezed", False),
        ("dinov2", (-2, -9), "squeezed", True),
    ],
)
def test_an_encoder_is_used_as_in_the_paper(
    family: str, layer: tuple[int, int], fit: str, antialias: bool, tmp_path: Path
) -> None:
    found = paper_input(save_encoder(tmp_path, family))
    assert found["layer"] == layer
    assert (found["pictures"].size, found["pictures"].fit, found["pictures"].antialias) == (
        24,
        fit,
        antialias,
    )
    assert paper_input("efficientnet-lite0") == {"layer": -2}


def test_regions_and_other_grids_are_not_marked(llm: Callable[[], LanguageModel], tmp_path: Path) -> None:
    regions = cache_features(PixelEncoder(), pairs(2, regions=True), tmp_path / "features", "regions")
    with pytest.raises(ModelError, match="square grids"):
        train_projector([Stage(regions, steps=1)], llm(), SETTINGS, tmp_path / "out")
    with pytest.raises(ModelError, match="no recipe 'latent'"):
        recipe_of("latent")


def test_an_llm_in_bfloat16_is_not_trained(features: Features, tmp_path: Path) -> None:
    path = save_tiny(tmp_path / "llm")
    half = load_language_model(str(path), device="cpu", dtype="bfloat16")
    with pytest.raises(ModelError, match="load it in float32"):
        train_projector([Stage(features, steps=1, llm_rate=1e-5)], half, SETTINGS, tmp_path / "out")
    with pytest.raises(ModelError, match="not trained in float16"):
        replace(SETTINGS, autocast="float16")
