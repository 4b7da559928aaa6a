"""Causes: which tokens are compared, what is scored, and that what an ablation takes away is what changes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from latentbank.bank.bank import Bank
from latentbank.bank.points import Neighbor
from latentbank.errors import LayerNotFound, QueryError
from latentbank.models.composite.model import CompositeVLM
from latentbank.models.language.model import LanguageModel
from latentbank.models.vision.vision_language import load_vision_language_model
from latentbank.query.causes import cause as module
from latentbank.query.causes.answers import answer_of
from latentbank.query.causes.cause import CauseOptions, cause
from latentbank.query.causes.results import Causes, p_value_of, spread_of
from latentbank.query.causes.sets import near_sets, random_sets, showing
from latentbank.query.lenses.base import LensOptions, Queries
from latentbank.query.lenses.latent import LatentLens
from latentbank.query.lenses.registry import lenses_of
from tests.models.tiny_vlm import save_tiny_vlm
from tests.query.patch_vlm import picture
from tests.query.pixels import pixel_vlm
from tests.query.told import Told

WAYS = ("mean", "image", "attention")


@pytest.fixture(scope="module")
def vlm(tiny: LanguageModel) -> CompositeVLM:
    return pixel_vlm(tiny)


@pytest.fixture
def dogs(vlm: CompositeVLM, monkeypatch: pytest.MonkeyPatch) -> CompositeVLM:
    """The VLM, which writes about a dog."""
    ids = vlm.language.tokenizer("A dog runs.", add_special_tokens=False)["input_ids"]
    plain = type(vlm).prompted

    def prompted(self: CompositeVLM, *given: Any, **more: Any) -> Any:
        return replace(plain(self, *given, **more), decode=lambda most, rows: [ids] * len(rows))

    monkeypatch.setattr(type(vlm), "prompted", prompted)
    return vlm


def test_an_answer_word_by_word(tiny: LanguageModel) -> None:
    ids = tiny.tokenizer("Two dogs, a fire truck and a cat's bowl.", add_special_tokens=False)["input_ids"]
    answer = answer_of(ids, tiny.tokenizer)
    assert [said.text for said in answer.words] == [
        "Two",
        "dogs",
        "a",
        "fire",
        "truck",
        "and",
        "a",
        "cat's",
        "bowl",
    ]
    pieces = [tiny.tokenizer.decode(ids[said.first : said.end]).strip(" ,.") for said in answer.words]
    assert pieces == [said.text for said in answer.words]
    for word, said in (("dog", "dogs"), ("fire truck", "fire truck"), ("cat", "cat's"), ("hot bowl", "bowl")):
        found = answer.find(word)
        assert found is not None
        assert found.text == said
    assert answer.find("bird") is None


def test_sets_of_tokens() -> None:
    neighbors = [[Neighbor(word, "", 1.0), Neighbor("tree", "", 0.5)] for word in ("dog", "cat", "Dogs")]
    assert showing(neighbors, "dog") == [0, 2]
    assert showing(neighbors, "tree") == [0, 1, 2]
    chance = np.random.default_rng(0)
    scores = [0.9, 0.2, 0.88, 0.1, 0.86, 0.5, 0.84, float("nan")]
    for drawn in near_sets([0, 1], [2, 3, 4, 5, 6, 7], scores, 50, chance):
        assert len(set(drawn)) == 2
        assert 7 not in drawn
        assert set(drawn) & {2, 4, 6}  # one of the three that are as near as 0
    assert near_sets([0, 1, 3], [2, 4, 7], scores, 5, chance) == []
    assert random_sets(2, [3, 4], 3, chance) == [[3, 4]] * 3
    assert random_sets(3, [3, 4], 3, chance) == []


def test_summaries_of_draws() -> None:
    assert p_value_of(-2.0, [-3.0, -1.0, 0.0]) == 0.5
    assert p_value_of(-2.0, []) is None
    spread = spread_of(np.arange(101))
    assert spread is not None
    assert (spread.mean, spread.low, spread.high) == (50.0, 2.5, 97.5)
    assert spread_of([]) is None


def _run(vlm: CompositeVLM, word: str = "dog", layers: Sequence[int] = (0, 2), **more: Any) -> Causes:
    given = {"by": WAYS, "others": [picture(1), picture(2)], "draws": 3, "batch": 7}
    return cause(vlm, picture(0), word, Told(), layers, CauseOptions(**{**given, **more}))


def test_effects_of_an_image(dogs: CompositeVLM) -> None:
    found = _run(dogs)
    assert found.nothing == 0.0
    assert (found.answer, found.said, found.others) == ("A dog runs.", "dog", 2)
    assert [word.text for word in found.words] == ["A", "dog", "runs"]
    assert found.log_probability == found.words[1].log_probability
    assert found.showing == {0: (0, 1), 2: (0, 1)}
    assert len(found.effects) == 3 * 2 * 3
    for effect in found.effects:
        times = 2 if (effect.way, effect.group) == ("image", "showing") else 1
        assert (effect.count, effect.draws) == (2, times if effect.group == "showing" else 3)
        assert effect.word is not None
        assert effect.others is not None
        assert effect.word.mean == pytest.approx(effect.by_word[1])
        assert effect.others.mean == pytest.approx((effect.by_word[0] + effect.by_word[2]) / 2)
        assert abs(effect.word.mean) > 1e-4
    data = found.to_dict()
    assert data["showing"] == {"0": [0, 1], "2": [0, 1]}
    assert _run(dogs).to_dict() == data
    # The size of the batch changes nothing but the last bits.
    other = _run(dogs, batch=2).effects[0].word
    assert other is not None
    assert data["effects"][0]["word"]["mean"] == pytest.approx(other.mean, abs=1e-4)


def test_the_same_image_in_its_own_place_changes_nothing(dogs: CompositeVLM) -> None:
    found = _run(dogs, by=["image"], others=[picture(0)])
    for effect in found.effects:
        assert effect.by_word == pytest.approx([0, 0, 0], abs=1e-4)


def test_a_word_that_the_answer_lacks_follows_the_prompt(
    dogs: CompositeVLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "showing", lambda neighbors, word: [3])
    found = cause(dogs, picture(0), "tree", Told(), 0, CauseOptions(draws=2))
    assert found.said == ""
    assert [word.text for word in found.words] == ["A", "dog", "runs"]
    effect = found.effect("mean", 0, "showing")
    assert effect.others is not None
    assert effect.others.mean == pytest.approx(sum(effect.by_word) / 3)


def test_tokens_by_number(dogs: CompositeVLM) -> None:
    found = _run(dogs, tokens=[4, 2, 2], by=["attention"])
    assert found.showing == {0: (2, 4), 2: (2, 4)}
    with pytest.raises(QueryError, match="no visual token 6; they have the numbers 0 to 5"):
        _run(dogs, tokens=[6])


def test_through_a_bank(bank: Bank, vlm: CompositeVLM) -> None:
    lens = LatentLens(bank, "all")
    (neighbors,) = lens.read(Queries(vlm.visual_tokens([picture(0)], [1])[0].states[1][:1], 1, "visual"))
    found = cause(
        vlm, picture(0), neighbors[0].word, lens, [1], CauseOptions(by=["attention"], draws=1, answer=3)
    )
    assert (found.bank, found.lens) == ("small", "latent")
    assert 0 in found.showing[1]


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"by": ["noise"]}, QueryError, "no way of ablating 'noise'; there are mean, image, attention"),
        ({"others": []}, QueryError, "Name other images"),
        ({"draws": 0}, QueryError, "draws is 0; it must be 1 or more"),
        ({"layers": [4]}, LayerNotFound, "No block of .* reads layer 4; choose layers from 0 to 3"),
        ({"word": "bird"}, QueryError, "No visual token has 'bird' among its first 5 .* 0, 2"),
    ],
)
def test_what_cannot_be_asked(
    vlm: CompositeVLM, given: dict[str, Any], error: type[Exception], message: str
) -> None:
    word, layers = given.pop("word", "dog"), given.pop("layers", [0, 2])
    with pytest.raises(error, match=message):
        _run(vlm, word, layers, **given)


def test_a_model_of_transformers_through_another_lens(tmp_path: Path) -> None:
    path = save_tiny_vlm(tmp_path / "llava", "llava")
    vlm = load_vision_language_model(str(path), device="cpu")
    image = picture(0, (48, 48))
    (lens,) = lenses_of("logit", LensOptions(vlm))
    options = CauseOptions(by=WAYS, others=[picture(1, (30, 40))], tokens=[3, 4], draws=2, answer=4)
    found = cause(vlm, image, "dog", lens, [0, 2], options)
    assert (found.nothing, found.lens, found.bank) == (0.0, "logit", "")
    assert len(found.effects) == 3 * 2 * 3
    assert all(effect.word is not None and abs(effect.word.mean) > 1e-5 for effect in found.effects)
