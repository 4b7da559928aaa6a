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
from latentbank.models.training.stages import Stage, TrainSettings
from latentbank.models.training.train import train_projector
from tests.models.pixels import PixelEncoder, pairs
from tests.tiny import save_tiny

SETTINGS = TrainSettings(
    width=24,
    weight_decay=0.0,
    eps=1e-6,
    softmax_loss=1e-4,
    dropout=0.1,
    prompt="long_caption",
    save_every=0.0,
)


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
    card = load_projector(killed)[1]
    assert card["llm"]["name"] == "llm"
    assert card["llm"]["trained_from"]["fingerprint"] == llm().fingerprint() != card["llm"]["fingerprint"]
    own, other = unembedding_of_language(llm()), unembedding_of_language(resumed)
    assert torch.equal(own.head.weight, other.head.weight)


def test_a_resumed_recipe_gives_the_same_projector(
    features: Features, llm: Callable[[], LanguageModel], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Prompts and dropout are random, and depend on the step alone; so they do on several processes."""
    stages = [Stage(features, steps=9, batch=4, rate=2e-4, warmup_steps=2, floor=0.1)]
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
    assert not torch.allclose(states[0]["layers.0.weight"], states[3]["layers.0.weight"])


def test_an_llm_in_bfloat16_is_not_trained(features: Features, tmp_path: Path) -> None:
    path = save_tiny(tmp_path / "llm")
    half = load_language_model(str(path), device="cpu", dtype="bfloat16")
    with pytest.raises(ModelError, match="load it in float32"):
        train_projector([Stage(features, steps=1, llm_rate=1e-5)], half, SETTINGS, tmp_path / "out")
    with pytest.raises(ModelError, match="not trained in float16"):
        replace(SETTINGS, autocast="float16")
