"""Evaluation with a scripted VLM, for which the right shares are known."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import Tensor

import latentbank.query.lenses.embedding
from latentbank.bank.bank import Bank
from latentbank.bank.points import Neighbor
from latentbank.bank.where import Where
from latentbank.errors import BankMismatch, ModelError, QueryError
from latentbank.models.language.model import LanguageModel, load_language_model
from latentbank.query.evaluation.evaluate import evaluate, evaluation_layers, read_patches
from latentbank.query.evaluation.labelled import LabelledImage
from latentbank.query.evaluation.patches import grid_of, labelled_patches, object_means
from latentbank.query.evaluation.tables import Evaluation
from latentbank.query.lenses.base import Lens, LensOptions, Queries
from latentbank.query.lenses.embedding import EmbeddingLens, mean_embedding
from latentbank.query.lenses.latent import LatentLens
from tests.query.banks import ONE_CORPUS, fill
from tests.query.scripted_vlm import GRID, ScriptedVLM, scene_of
from tests.tiny import save_tiny

# Every object is a word of the bank's sentences.
SCENES = [
    scene_of(1, {"dog": (0, 1), "river": (4,)}),
    scene_of(2, {"cat": (3,), "fire truck": (5, 2)}),
    scene_of(3, {"apple": (0, 1, 2, 3, 4, 5)}),
]
OTHERS = [scene_of(100 + number, {"table": (number,), "bank": (5,)}) for number in range(4)]


def true_word(scene: LabelledImage, patch: int) -> str:
    """Return the last word of the object that covers a patch; for background, a word that names nothing here."""
    names = [thing.name for thing in scene.objects if thing.coverage[patch] > 0]
    return names[0].split()[-1] if names else "loud"


def scripted(tiny: LanguageModel, word_of: Any = true_word, **given: Any) -> ScriptedVLM:
    return ScriptedVLM(tiny, [*SCENES, *OTHERS], word_of, **given)


@dataclass(frozen=True)
class FixedWords(Lens, register=False):
    """A lens that returns the same words for every patch, and keeps the queries that it receives."""

    words: tuple[str, ...]
    unique: str | None = None
    given: list[Any] = field(default_factory=list)

    name = "says"
    title = "FixedWords"
    score = "cosine"

    @classmethod
    def make(cls, options: LensOptions) -> FixedWords:
        raise NotImplementedError

    def read(self, queries: Queries, top_k: int = 5) -> list[list[Neighbor]]:
        assert queries.kind == "visual"
        self.given.append(np.asarray(queries.states))
        words = list(dict.fromkeys(self.words)) if self.unique == "word" else self.words
        return [[Neighbor(word, word, 0.5) for word in words[:top_k]] for _ in range(len(queries))]

    def distinct(self) -> FixedWords:
        return replace(self, unique="word")


@pytest.fixture
def centred(tiny: LanguageModel, tmp_path: Path) -> Iterator[Bank]:
    with fill("centred", tmp_path, tiny, ONE_CORPUS, metric="centred") as bank:
        yield bank


def shares(
    evaluation: Evaluation, lens: str = "latent", layer: int | None = None, **given: Any
) -> dict[str, float]:
    row = evaluation.row(lens, layer, **given)
    kinds = ("concrete", "global_", "attribute", "interpretable", "things")
    return {kind: round(getattr(row, kind).value, 4) for kind in kinds}


def visual(states: Any) -> Queries:
    return Queries(states, 0, "visual")


def lens(bank: Bank, bank_layers: Any = "all") -> LatentLens:
    return LatentLens(bank, bank_layers, exact=True)


def test_layers_that_are_scored() -> None:
    assert evaluation_layers(30) == [0, 2, 4, 8, 12, 16, 20, 24, 29]
    assert evaluation_layers(32) == [0, 2, 4, 9, 13, 17, 21, 26, 31]
    assert evaluation_layers(4) == [0, 1, 2, 3, 4]


def test_a_word_that_is_found_is_named(bank: Bank, tiny: LanguageModel) -> None:
    found = evaluate(scripted(tiny), [lens(bank)], SCENES, [0, 3])
    for layer in (0, 3, None):
        assert shares(found, layer=layer) == {
            "concrete": 1, "global_": 0, "attribute": 0, "interpretable": 1, "things": 1,
        }  # fmt: skip
        assert shares(found, layer=layer, distinct=True)["concrete"] == 1
    row = found.row("latent", 0)
    assert (row.concrete.low, row.concrete.high, row.concrete.of) == (1, 1, 12)
    assert row.things.of == 5
    assert (found.about["patches"], found.about["things"], found.about["scenes"]) == (12, 5, 3)
    assert found.about["metric"] == row.metric == "cosine"
    assert found.about["corpora"] == {
        "first": bank.corpora["first"].contexts,
        "second": bank.corpora["second"].contexts,
    }


def test_another_thing_of_the_scene_is_global_and_a_true_colour_an_attribute(
    bank: Bank, tiny: LanguageModel
) -> None:
    def crossed(scene: LabelledImage, patch: int) -> str:
        names = [thing.name.split()[-1] for thing in scene.objects]
        return (
            names[1 - names.index(true_word(scene, patch))]
            if true_word(scene, patch) in names and len(names) > 1
            else "loud"
        )

    found = evaluate(scripted(tiny, crossed), [LatentLens(bank, 2, exact=True)], SCENES[:2], [0])
    top = [
        row[0].word
        for row in lens(bank, 2).read(
            visual(labelled_patches(scripted(tiny, crossed), SCENES[:2], [0]).states[0]), 1
        )
    ]
    assert top == ["river", "river", "dog", "cat", "truck", "cat"]
    assert shares(found)["concrete"] + shares(found)["global_"] == 1
    red = [scene_of(50 + i, {"dog": (i,)}, colour="red") for i in range(2)]
    vlm = ScriptedVLM(tiny, red, lambda *_: "red")
    for given, of in ((vlm, 1.0), (scripted(tiny), 0.0)):
        words = FixedWords(("red", "truck")) if of else FixedWords(("blue", "truck"))
        assert shares(evaluate(given, [words], red, [0]), "says")["attribute"] == of


def test_shuffled_images_leave_what_is_right_by_chance(bank: Bank, tiny: LanguageModel) -> None:
    same = [scene_of(60 + i, {"dog": (i,)}) for i in range(3)]
    vlm = ScriptedVLM(tiny, [*SCENES, *same], true_word)
    assert shares(evaluate(vlm, [lens(bank, 2)], same, [0]), images="shuffled")["concrete"] == 1
    found = evaluate(vlm, [FixedWords(("dog",))], SCENES, [0])
    # Two of twelve patches show a dog, whichever patch the words belong to.
    assert (
        shares(found, "says")["concrete"]
        == shares(found, "says", images="shuffled")["concrete"]
        == round(2 / 12, 4)
    )
    different = evaluate(vlm, [LatentLens(bank, 2, exact=True)], SCENES, [0])
    assert shares(different, images="shuffled")["concrete"] < 1


def test_a_random_projector_is_the_second_control(bank: Bank, tiny: LanguageModel) -> None:
    blind = scripted(tiny, lambda *_: "nothing that is in a sentence")
    found = evaluate(
        scripted(tiny), [lens(bank, 2), FixedWords(("dog",))], SCENES, [1], random=blind, alone=[1]
    )
    assert shares(found)["concrete"] == 1
    assert shares(found, projector="random")["concrete"] < 0.5
    assert shares(found, "says", projector="random") == shares(found, "says")
    assert {(row.projector, row.images) for row in found.rows} == {
        (projector, images) for projector in ("trained", "random") for images in ("true", "shuffled")
    }
    assert {entry.projector for entry in found.alignment} == {"trained", "random"}
    assert all(row.projector == "trained" for row in evaluate(scripted(tiny), [lens(bank)], SCENES, [0]).rows)


def test_a_random_projector_is_scored_on_fewer_scenes(
    bank: Bank, tiny: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("latentbank.query.evaluation.evaluate.CONTROLLED", 2)
    blind = scripted(tiny, lambda *_: "nothing that is in a sentence")
    found = evaluate(scripted(tiny), [FixedWords(("dog",))], SCENES, [1], random=blind)
    assert found.about["random_scenes"] == 2
    control = found.row("says", projector="random")
    assert 0 < control.concrete.of < found.row("says").concrete.of
    assert control.things.of < found.row("says").things.of


def test_each_bank_layer_alone(bank: Bank, tiny: LanguageModel) -> None:
    found = evaluate(scripted(tiny, text_layer=3), [lens(bank)], SCENES, [0, 4], alone=[4])
    assert [(entry.visual_layer, entry.bank_layer) for entry in found.alignment] == [
        (layer, bank_layer) for layer in (0, 4) for bank_layer in bank.layers
    ]
    for entry in found.alignment:
        assert entry.first == (1 if entry.bank_layer == 3 else 0)
        assert (entry.named is None) == (entry.cosine is None) == (entry.visual_layer == 0)
    third = next(entry for entry in found.alignment if (entry.visual_layer, entry.bank_layer) == (4, 3))
    assert third.named is not None
    assert third.named.value == 1
    assert third.cosine == pytest.approx(1, abs=2e-3)
    others = [entry.cosine for entry in found.alignment if entry.cosine is not None and entry.bank_layer != 3]
    assert max(others) < 0.99


def test_patches_count_by_how_much_of_them_is_covered(bank: Bank, tiny: LanguageModel) -> None:
    scenes = [
        scene_of(70 + i, {"dog": (i % 6,)}, share)
        for i, share in enumerate((0.15, 0.3, 0.3, 0.6, 0.75, 1.0, 0.05))
    ]

    def sharply(scene: LabelledImage, patch: int) -> str:
        return "dog" if max(scene.objects[0].coverage) > 0.5 else "loud"

    vlm = ScriptedVLM(tiny, scenes, sharply)
    found = evaluate(vlm, [lens(bank, 2)], scenes, [0])
    row = found.row("latent", 0)
    assert [(low, high, share.of) for low, high, share in row.by_coverage] == [
        (0.1, 0.25, 1), (0.25, 0.5, 2), (0.5, 0.75, 1), (0.75, 1.0, 2),
    ]  # fmt: skip
    assert [share.value for _, _, share in row.by_coverage][2:] == [1, 1]
    assert (row.concrete.of, row.concrete.value) == (3, 1)
    top = LatentLens(bank, 2, exact=True).read(visual(labelled_patches(vlm, scenes, [0]).states[0]), 1)
    assert [row[0].word for row in top] == ["loud"] * 3 + ["dog"] * 3
    wide = evaluate(vlm, [lens(bank, 2)], scenes, [0], coverage=0.25)
    assert wide.row("latent", 0).concrete.of == 5
    # A group with a single scene cannot be shuffled, so it has no share.
    shuffled = found.row("latent", 0, images="shuffled").by_coverage
    assert [share.of for _, _, share in shuffled] == [0, 2, 0, 2]


def test_distinct_words_are_searched_deeper(tiny: LanguageModel) -> None:
    crowded = FixedWords(("loud",) * 19 + ("Loud", "dog"))
    plain, distinct = read_patches(crowded, None, 0, np.ones((2, 4), np.float32))
    assert [n.word for n in plain[0]] == ["loud"] * 5
    assert [n.word for n in distinct[0]] == ["loud", "Loud", "dog"]  # the lens itself returns distinct words
    enough = FixedWords(("a", "A", "b", "a", "c", "d", "e", "f"))
    plain, distinct = read_patches(enough, None, 0, np.ones((1, 4), np.float32))
    assert [n.word for n in distinct[0]] == ["a", "b", "c", "d", "e"]
    assert [n.word for n in plain[0]] == ["a", "A", "b", "a", "c"]
    assert len(enough.given) == 1
    scenes = [scene_of(80 + i, {"dog": (i,)}) for i in range(2)]
    found = evaluate(ScriptedVLM(tiny, scenes, true_word), [crowded], scenes, [0])
    assert shares(found, "says")["concrete"] == 0
    assert shares(found, "says", distinct=True)["concrete"] == 1


def test_distinct_words_are_those_of_the_bank(bank: Bank, tiny: LanguageModel) -> None:
    rows = labelled_patches(scripted(tiny), SCENES, [0]).states[0]
    _, distinct = read_patches(lens(bank), None, 0, rows)
    expected = replace(lens(bank), unique="word").read(visual(rows), 5)
    assert [[n.word for n in row] for row in distinct] == [[n.word for n in row] for row in expected]


def test_with_a_centred_bank_all_lenses_read_centred_hidden_states(
    centred: Bank, tiny: LanguageModel
) -> None:
    vlm = scripted(tiny, offset=30.0)
    other = FixedWords(("dog",))
    embedding = EmbeddingLens(tiny.embedding, tiny.tokenizer)
    found = evaluate(vlm, [lens(centred, 2), other, embedding], SCENES, [1], calibration=OTHERS)
    assert found.about["metric"] == "centred"
    assert {row.metric for row in found.rows} == {"centred"}
    assert found.about["calibration_scenes"] == 4
    assert shares(found)["concrete"] > 0.5  # the mean of a few visual tokens differs from that of the text
    means = object_means(vlm, OTHERS, [1])
    others = labelled_patches(vlm, OTHERS, [1])
    assert 0 < means.count == sum(truth.coverage >= 0.5 for truth in others.truths) < 24
    assert means.kind == "visual tokens that show a thing, of 4 scenes"
    np.testing.assert_allclose(means.at(1), others.states[1].mean(axis=0), atol=1e-4)
    expected = labelled_patches(vlm, SCENES, [1]).states[1] - means.at(1)
    np.testing.assert_allclose(other.given[0], expected, atol=1e-4)
    assert np.abs(other.given[0]).max() < 30
    matrix = tiny.embedding.numpy() - tiny.embedding.numpy().mean(0)
    rows = expected / np.linalg.norm(expected, axis=1, keepdims=True)
    best = (rows @ (matrix / np.linalg.norm(matrix, axis=1, keepdims=True)).T)[
        :, : len(tiny.tokenizer)
    ].argmax(1)
    plain, _ = read_patches(embedding, means, 1, labelled_patches(vlm, SCENES, [1]).states[1])
    assert [row[0].token_id for row in plain] == best.tolist()
    with pytest.raises(QueryError, match="give calibration scenes"):
        evaluate(vlm, [lens(centred)], SCENES, [1])
    with pytest.raises(QueryError, match="no visual tokens that show a thing"):
        object_means(vlm, OTHERS, [1], coverage=1.5)


def test_the_mean_of_the_embedding_is_measured_once_for_all_layers(
    centred: Bank, tiny: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = []

    def counted(embedding: Tensor) -> Tensor:
        measured.append(embedding.data_ptr())
        return mean_embedding(embedding)

    monkeypatch.setattr(latentbank.query.lenses.embedding, "mean_embedding", counted)
    embedding = EmbeddingLens(tiny.embedding, tiny.tokenizer)
    evaluate(scripted(tiny), [lens(centred, 2), embedding], SCENES, [0, 1, 2], calibration=OTHERS)
    assert measured == [tiny.embedding.data_ptr()]


def test_a_cls_token_has_no_patch(bank: Bank, tiny: LanguageModel) -> None:
    vlm = scripted(tiny, cls=True)
    assert grid_of(vlm) == grid_of(scripted(tiny)) == GRID
    assert shares(evaluate(vlm, [lens(bank, 2)], SCENES, [0]))["concrete"] == 1


def test_a_vlm_without_one_grid_is_refused(tiny: LanguageModel) -> None:
    class Tiled(ScriptedVLM):
        def visual_tokens(self, *given: Any) -> Any:
            (tokens,) = super().visual_tokens(*given)
            return [replace(tokens, tiles=np.arange(6) // 3)]

    class Cut(ScriptedVLM):
        def visual_tokens(self, *given: Any) -> Any:
            (tokens,) = super().visual_tokens(*given)
            return [replace(tokens, rows=tokens.rows[:5], columns=tokens.columns[:5], tiles=tokens.tiles[:5])]

    for kind in (Tiled, Cut):
        with pytest.raises(ModelError, match="no single grid"):
            grid_of(kind(tiny, SCENES, true_word))


def test_scenes_of_another_grid_are_refused(bank: Bank, tiny: LanguageModel) -> None:
    wrong = replace(SCENES[0], objects=(replace(SCENES[0].objects[0], coverage=np.ones(49, np.float32)),))
    with pytest.raises(ModelError, match="made for 49 patches, scripted sees 6"):
        evaluate(scripted(tiny), [lens(bank)], [wrong, *SCENES], [0])


@pytest.mark.parametrize(
    ("scenes", "layers", "lenses", "says"),
    [
        (SCENES[:1], [0], 1, "at least two scenes"),
        ([SCENES[0], scene_of(90, {"dog": (1,)}, 0.2)], [0], 1, "Fewer than two scenes have a patch"),
        (SCENES, [], 1, "at least one visual layer"),
        (SCENES, [0], 0, "each lens once"),
        (SCENES, [0], 2, "each lens once"),
    ],
)
def test_what_cannot_be_scored(
    bank: Bank,
    tiny: LanguageModel,
    scenes: Sequence[LabelledImage],
    layers: list[int],
    lenses: int,
    says: str,
) -> None:
    vlm = ScriptedVLM(tiny, scenes, true_word)
    with pytest.raises(QueryError, match=says):
        evaluate(vlm, [lens(bank)] * lenses, scenes, layers)


def test_another_llm_is_refused(bank: Bank, tmp_path: Path) -> None:
    other = load_language_model(str(save_tiny(tmp_path / "other", seed=9)))
    with pytest.raises(BankMismatch):
        evaluate(scripted(other), [lens(bank)], SCENES, [0])


def test_a_filter_scores_one_corpus(bank: Bank, tiny: LanguageModel) -> None:
    only = LatentLens(bank, 2, Where(corpus="second"), exact=True)
    found = evaluate(scripted(tiny), [only], SCENES, [0])
    assert shares(found)["concrete"] < 1  # "river" is in the first corpus only


def test_json_has_everything_and_no_nan(bank: Bank, tiny: LanguageModel) -> None:
    found = evaluate(scripted(tiny), [lens(bank), FixedWords(("dog",))], SCENES, [0, 1], alone=[0])
    data = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert data["visual_layers"] == [0, 1]
    assert data["bank_layers"] == bank.layers
    # two lenses, any and distinct words, two layers and their mean, true and shuffled
    assert len(data["rows"]) == 2 * 2 * 3 * 2
    first = data["rows"][0]
    assert {"concrete", "global", "attribute", "interpretable", "things", "by_coverage"} < set(first)
    assert first["concrete"] == {"value": 1.0, "low": 1.0, "high": 1.0, "of": 12}
    assert first["by_coverage"][0] == {
        "from": 0.1,
        "to": 0.25,
        "value": None,
        "low": None,
        "high": None,
        "of": 0,
    }
    assert data["alignment"][0]["named"]["of"] == 12
    with pytest.raises(KeyError):
        found.row("logit", 0)


class _SilentOn:
    """Silence for tokens whose best word is among some."""

    fdr = 0.05

    def __init__(self, *words: str) -> None:
        self.words = words

    def p_values(
        self, lens: Lens, queries: Queries, found: Sequence[Sequence[Neighbor]]
    ) -> list[float | None]:
        return [1.0 if neighbors[0].word in self.words else 1e-4 for neighbors in found]


def test_silent_patches_name_nothing_and_what_is_lost_is_counted(bank: Bank, tiny: LanguageModel) -> None:
    silence: Any = _SilentOn("loud", "dog")
    plain = evaluate(scripted(tiny), [lens(bank)], SCENES, [0])
    quiet = evaluate(scripted(tiny), [lens(bank)], SCENES, [0], silence=silence)
    assert (plain.silence, plain.about["fdr"], quiet.about["fdr"]) == ((), None, 0.05)
    assert plain.row("latent", 0).concrete.value == 1
    dogs = 2 / 12  # of the object patches
    for distinct in (False, True):
        assert quiet.row("latent", 0, distinct=distinct).concrete.value == pytest.approx(1 - dogs)
    row, together = quiet.silence
    assert (row.layer, together.layer, row.words) == (0, None, 10)
    assert (row.background.value, row.silent_background.value, row.precision.value) == (0, 1, 1)
    assert (row.coverage.value, row.kept.value) == pytest.approx((1 - dogs, 1 - dogs))
    assert json.loads(json.dumps(quiet.to_dict(), allow_nan=False))["silence"][0]["words"] == 10
