"""Words for photos: the teacher and its classes, dreams, vectors, and the projector that is joined."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.photos import Sure, photos_in, sure_tokens
from latentbank.demo import dreams as demo_dreams
from latentbank.demo import joining, schooling
from latentbank.demo import vlm as demo
from latentbank.demo.classes import load_classes
from latentbank.demo.descriptions import describe_classes
from latentbank.demo.dreams import Dreamer
from latentbank.demo.encoder import EfficientNetEncoder, load_efficientnet
from latentbank.demo.joining import fitted, restandardized
from latentbank.demo.scenes import load_things
from latentbank.demo.schooling import Practice, school
from latentbank.demo.teacher import NounTeacher, class_probabilities
from latentbank.demo.training import load_scenes
from latentbank.demo.vectors import noun_vectors
from latentbank.models.composite.captions import caption_loss
from latentbank.models.composite.layout import Frame, caption_ids, layout_of
from latentbank.models.composite.model import CompositeVLM
from latentbank.models.composite.projector import Projector, load_projector, save_projector
from latentbank.models.language.model import LanguageModel, load_language_model
from latentbank.models.vision.images import open_image
from latentbank.progress import Silent
from tests.tiny import save_tiny


@pytest.fixture(scope="module")
def encoder() -> EfficientNetEncoder:
    return demo.load_demo_encoder()


@pytest.fixture(scope="module")
def language(tmp_path_factory: pytest.TempPathFactory) -> LanguageModel:
    return load_language_model(str(save_tiny(tmp_path_factory.mktemp("tiny") / "tiny")), device="cpu")


def test_classes_are_named_by_nouns_and_by_their_names() -> None:
    classes = load_classes()
    assert len(classes) == 1000
    cat, espresso, lion = classes[285], classes[967], classes[150]
    assert cat.named_by(["cats"])
    assert cat.named_by(["Cat"])
    assert not cat.named_by(["dog", "Egypt"])
    assert espresso.named_by(["coffee"])
    assert espresso.named_by(["espresso"])
    assert (lion.name, lion.noun) == ("sea lion", "seal")
    assert classes[207].named_by(["dog"])  # a golden retriever


def test_the_demos_sentences_hold_every_noun() -> None:
    sentences = " ".join(describe_classes(1)).lower()
    things = {thing["name"] for thing in json.loads(schooling.THINGS.read_text("utf-8"))}
    assert [one.noun for one in load_classes() if one.noun not in things and one.noun not in sentences] == []


def test_the_teacher_sees_a_cat_in_tokens_of_the_photo(encoder: EfficientNetEncoder) -> None:
    tokens = encoder.encode([open_image(demo.PHOTO)])[0]
    teacher = NounTeacher(encoder)
    chances, shares = teacher.classes(tokens), teacher.shares(tokens)
    assert torch.allclose(shares.sum(1), torch.ones(49), atol=1e-4)
    assert int((shares.argmax(1) == teacher.nouns.index("cat")).sum()) > 40
    assert np.allclose(class_probabilities(encoder, tokens), chances.numpy(), atol=1e-5)
    # Where it has no idea, the many kinds of dogs are not ahead.
    unknown = torch.zeros(1, encoder.features)
    assert float(teacher.shares(unknown)[0, teacher.nouns.index("dog")]) < 0.2


def test_dreams_show_what_they_were_made_for(
    encoder: EfficientNetEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo_dreams, "BATCH", 3)
    network = load_efficientnet(demo.wheel_file(*demo.ENCODER_FILE))
    made = Dreamer(network, load_things()).batch(0, 0)
    assert made.tokens.shape == (3, 49, encoder.features)
    wanted = made.classes >= 0
    seen = class_probabilities(encoder, made.tokens)
    assert (seen.argmax(-1) == made.classes)[wanted].mean() > 0.6
    assert float(made.tokens[..., :1280].min()) >= 0
    again = Dreamer(network, load_things()).batch(0, 0)
    assert torch.equal(made.tokens, again.tokens)


def test_a_vector_makes_the_llm_write_its_noun(language: LanguageModel) -> None:
    captions, first = ["a cat", "the dog", "a ball"], torch.randn(3, language.hidden_size) * 0.1
    found = noun_vectors(language, captions, first, passes=12, rate=0.3, progress=Silent())
    before, after = (
        [_loss(language, row, text) for row, text in zip(v, captions, strict=True)] for v in (first, found)
    )
    assert all(late < early for early, late in zip(before, after, strict=True))
    # Each writes its own better than another's.
    assert after[1] < _loss(language, found[0], captions[1])


@torch.no_grad()
def _loss(language: LanguageModel, vector: torch.Tensor, caption: str) -> float:
    layout = layout_of(language.tokenizer)
    start, places = layout.ids(1)
    target = [*caption_ids(language.tokenizer, caption), layout.end]
    inputs = Frame(language, layout).embed(torch.tensor([[*start, *target[:-1]]])).clone()
    inputs[0, places[0]] = vector
    states = language.decoder(inputs_embeds=inputs, use_cache=False).last_hidden_state[0, len(start) - 1 :]
    return float(caption_loss(language)(states, torch.tensor(target)))


def test_other_means_and_deviations_leave_the_function_as_it_is() -> None:
    torch.manual_seed(0)
    projector = Projector("mlp3", 12, 6, 8)
    projector.fit(torch.rand(100, 12), 1.0)
    sample = torch.rand(50, 12) * 3
    new = restandardized(projector, sample)
    rows = torch.rand(9, 12)
    assert torch.allclose(new(rows), projector(rows), atol=1e-5)
    assert torch.allclose(new.mean, sample.mean(0))


def test_a_linear_layer_is_fitted() -> None:
    torch.manual_seed(0)
    inputs, weight, bias = torch.rand(200, 5), torch.rand(3, 5), torch.rand(3)
    found = fitted(inputs, inputs @ weight.T + bias)
    assert torch.allclose(found[0], weight, atol=1e-2)
    assert torch.allclose(found[1], bias, atol=1e-2)


def test_a_small_schooling_runs_through_and_continues(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoder: EfficientNetEncoder, language: LanguageModel
) -> None:
    monkeypatch.setattr(demo_dreams, "BATCH", 2)
    monkeypatch.setattr(demo_dreams, "_STEPS", 1)
    monkeypatch.setattr(schooling, "_CHECKED", 1)
    monkeypatch.setattr(schooling, "_SCENES", 4)
    monkeypatch.setattr(joining, "SAMPLE", 300)
    monkeypatch.setattr(schooling, "load_language_model", lambda *_, **__: language)
    features = load_scenes(encoder, tmp_path, 6)
    start = Projector("mlp3", features.width, language.hidden_size, 1152)
    start.fit(features.sample(100, 0), 1.0)
    save_projector(tmp_path / "start.safetensors", start, {"encoder": {}, "llm": {}})
    given = {"dreams": 1, "scenes": 6, "nothing": 9, "practice": (Practice("float32", 1, 0.1),)}
    path = school(tmp_path / "start.safetensors", tmp_path, **given)
    projector, card = load_projector(path)
    assert (card["photos"]["dreams"], card["photos"]["nothing"]) == (2, 9)
    assert card["photos"]["checks"]["tokens"] > 0
    assert projector.width == joining.WIDTH
    assert projector.features == encoder.features
    monkeypatch.setattr(schooling, "Dreamer", None)  # a second run finds what the first made
    again = school(tmp_path / "start.safetensors", tmp_path, **given)
    assert again.read_bytes() == path.read_bytes()


@pytest.mark.parametrize(
    ("own", "others", "learned"), [(1.03, 10.05, True), (3.42, 7.83, True), (5.89, 6.75, False)]
)
def test_a_projector_that_has_learned_nothing_is_not_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own: float, others: float, learned: bool
) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "scores.json").write_text(json.dumps({"name_loss": own, "name_loss_shuffled": others}))
    begun: list[Path] = []

    def begin(start: Path, *_: object, **__: object) -> Path:
        begun.append(start)
        return start

    monkeypatch.setattr(schooling, "school", begin)
    monkeypatch.setattr("sys.argv", ["schooling", "--folder", str(tmp_path)])
    if learned:
        schooling.main()
        assert begun == [run / "projector.safetensors"]
        return
    with pytest.raises(SystemExit, match=r"hardly learned what scenes show: .* 5\.89, and 6\.75"):
        schooling.main()
    assert begun == []


def test_a_projector_that_was_not_trained_to_the_end_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["schooling", "--folder", str(tmp_path)])
    with pytest.raises(SystemExit, match="was not trained to the end; train it first"):
        schooling.main()


def test_the_control_takes_words_of_the_next_photo(encoder: EfficientNetEncoder) -> None:
    classes = (load_classes()[0],) * 5
    sure = Sure(np.array([0, 0, 0, 2, 2]), np.array([1, 2, 3, 4, 5]), classes)
    assert sure.next_photo() == [3, 4, 3, 0, 1]
    name, path = next(photos_in([]))
    vlm = CompositeVLM.__new__(CompositeVLM)
    vlm.encoder = encoder
    found = sure_tokens(vlm, [open_image(path)], 0.5)
    assert name == "cat"
    assert {one.noun for one in found.classes} == {"cat"}
    assert len(found.tokens) > 15
