"""Composite models: visual tokens equal what transformers computes on the same sequence."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from latentbank.errors import LayerNotFound, ModelError
from latentbank.models.composite.model import CompositeVLM
from latentbank.models.composite.projector import Projector
from latentbank.models.language.model import LanguageModel, load_language_model
from latentbank.models.vision.encoders import load_encoder
from tests.models.pixels import PixelEncoder, pairs
from tests.models.vision.test_encoders import save_encoder
from tests.tiny import save_tiny, tiny_model

IMAGES = [pair.image for pair in pairs(20)]


@pytest.fixture(scope="module")
def language(tmp_path_factory: pytest.TempPathFactory) -> LanguageModel:
    path = save_tiny(tmp_path_factory.mktemp("llm"), tie_word_embeddings=True)
    return load_language_model(str(path), device="cpu", dtype="float32")


@pytest.fixture
def vlm(language: LanguageModel) -> CompositeVLM:
    torch.manual_seed(0)
    return CompositeVLM(PixelEncoder(), Projector("mlp", 7, 32), language, {})


def test_hidden_states_are_the_llms_own(vlm: CompositeVLM) -> None:
    layers = (0, 1, 4)
    found = vlm.visual_tokens(IMAGES, layers)  # more images than one forward pass takes
    assert len(found) == 20
    whole = tiny_model("llama", tie_word_embeddings=True)
    caught: dict[int, torch.Tensor] = {}
    whole.model.layers[1].register_forward_pre_hook(lambda _m, args: caught.update({1: args[0]}))
    whole.model.layers[3].register_forward_hook(lambda _m, _a, out: caught.update({4: out}))
    for number in (0, 19):
        visual = vlm.projector(vlm.encoder.encode([IMAGES[number]]))[0]
        begin = whole.get_input_embeddings()(torch.tensor([0]))
        with torch.no_grad():
            whole(inputs_embeds=torch.cat([begin, visual])[None])
        torch.testing.assert_close(found[number].states[0], visual)
        for layer in (1, 4):
            torch.testing.assert_close(
                found[number].states[layer], caught[layer][0, 1:], atol=1e-4, rtol=1e-4
            )
    assert np.allclose(found[3].norms(4), found[3].states[4].norm(dim=-1).numpy())


def test_places(vlm: CompositeVLM) -> None:
    (tokens,) = vlm.visual_tokens([IMAGES[0].resize((40, 20))], [0])
    assert len(tokens) == 4
    assert tokens.boxes.tolist() == [[0, 0, 20, 10], [20, 0, 40, 10], [0, 10, 20, 20], [20, 10, 40, 20]]
    assert (tokens.rows.tolist(), tokens.columns.tolist()) == ([0, 0, 1, 1], [0, 1, 0, 1])
    assert tokens.tiles.tolist() == [0, 0, 0, 0]
    assert tokens.size == (40, 20)


def test_it_presents_itself_like_other_models(vlm: CompositeVLM, language: LanguageModel) -> None:
    assert vlm.fingerprint() == language.fingerprint()
    assert (vlm.num_layers, vlm.hidden_size, vlm.revision) == (4, 32, None)
    assert "pixels" in vlm.name
    assert "2 x 2" in vlm.geometry
    assert vlm.visual_tokens([], [0]) == []
    with pytest.raises(LayerNotFound):
        vlm.visual_tokens(IMAGES[:1], [5])


def test_an_llm_with_a_narrow_embedding(tmp_path: Path) -> None:
    language = load_language_model(str(save_tiny(tmp_path, "opt")), device="cpu", dtype="float32")
    encoder = PixelEncoder()
    vlm = CompositeVLM(encoder, Projector("linear", encoder.features, 16), language, {})
    (tokens,) = vlm.visual_tokens(IMAGES[:1], [0, 4])
    assert tokens.states[0].shape == tokens.states[4].shape == (4, 32)
    assert len(vlm.captions(IMAGES[:1], most=2)) == 1
    with pytest.raises(ModelError, match="takes 16 dimensions"):
        CompositeVLM(encoder, Projector("linear", encoder.features, 32), language, {})


def test_with_a_real_encoder_and_its_cls_token(tmp_path: Path, language: LanguageModel) -> None:
    encoder = load_encoder(save_encoder(tmp_path, "clip"), cls=True, device="cpu", dtype="float32")
    vlm = CompositeVLM(encoder, Projector("linear", 16, 32), language, {})
    (tokens,) = vlm.visual_tokens([Image.new("RGB", (48, 24), "red")], [0, 2])
    assert len(tokens) == 17
    assert (tokens.rows[0], tokens.columns[0]) == (-1, -1)
    assert tokens.boxes[0].tolist() == [12, 0, 36, 24]
    assert (tokens.rows[16], tokens.columns[16]) == (3, 3)
    assert Path(encoder.name).is_absolute()
    assert str(tmp_path) not in vlm.name + vlm.geometry  # both stand in readings


def test_a_projector_from_other_models_is_refused(vlm: CompositeVLM, language: LanguageModel) -> None:
    encoder, projector = vlm.encoder, vlm.projector
    right = {
        "encoder": {"name": "pixels", "fingerprint": "pixels"},
        "llm": {"name": "tiny", "fingerprint": language.fingerprint()},
    }
    CompositeVLM(encoder, projector, language, right)
    other_encoder = {**right, "encoder": {"name": "CLIP", "fingerprint": "other"}}
    with pytest.raises(ModelError, match="the encoder CLIP, not with pixels"):
        CompositeVLM(encoder, projector, language, other_encoder)
    other_llm = {**right, "llm": {"name": "OLMo", "fingerprint": "other"}}
    with pytest.raises(ModelError, match="the LLM OLMo, not with"):
        CompositeVLM(encoder, projector, language, other_llm)
    with pytest.raises(ModelError, match="8 features"):
        CompositeVLM(encoder, Projector("linear", 8, 32), language, {})


def test_captions_need_the_whole_llm(tmp_path: Path) -> None:
    part = load_language_model(str(save_tiny(tmp_path)), device="cpu", dtype="float32", deepest_layer=1)
    vlm = CompositeVLM(PixelEncoder(), Projector("linear", 7, 32), part, {})
    assert vlm.visual_tokens(IMAGES[:1], [1])[0].states[1].shape == (4, 32)
    with pytest.raises(ModelError, match="in part"):
        vlm.captions(IMAGES[:1])


def test_text_has_the_states_of_the_whole_sequence(vlm: CompositeVLM) -> None:
    """BOS, the image, a newline and the answer run once; the answer is what the caption writer writes."""
    told = vlm.tokens_with_text(IMAGES[0], (0, 1, 3), answer=5)
    assert told.text is not None
    assert told.positions is not None
    written = told.text.of_answer().ids.tolist()
    tokenizer = vlm.language.tokenizer
    assert tokenizer.decode(written).strip() == vlm.captions(IMAGES[:1], 5)[0]
    newline = tokenizer("\n", add_special_tokens=False)["input_ids"]
    assert told.text.ids.tolist() == [0, *newline, *written]
    assert told.positions.tolist() == [1, 2, 3, 4]
    assert told.text.positions.tolist() == [0, *range(5, 5 + len(newline) + len(written))]
    embed = vlm.language.decoder.get_input_embeddings()
    visual = vlm.project(IMAGES[:1])[0]
    text = embed(torch.tensor(told.text.ids))
    sequence = torch.cat([text[:1], visual, text[1:]])[None]
    with torch.no_grad():
        whole = vlm.language.decoder(inputs_embeds=sequence, output_hidden_states=True).hidden_states
    for layer in (0, 1, 3):
        torch.testing.assert_close(
            told.text.states[layer], whole[layer][0, told.text.positions], atol=1e-4, rtol=1e-4
        )
        torch.testing.assert_close(told.states[layer], whole[layer][0, told.positions], atol=1e-4, rtol=1e-4)


def test_image_tokens_and_a_prompt_stand_around_the_visual_tokens(language: LanguageModel) -> None:
    """BOS, start, rows that each end with a column token, end, prompt; and the patch token is added to each patch."""
    torch.manual_seed(0)
    rows = language.embedding.shape[0]
    projector = Projector("swiglu", 7, 32, 12, added=4)
    ids = {"start": rows - 1, "end": rows, "patch": rows + 1, "column": rows + 2, "first_added": rows}
    vlm = CompositeVLM(PixelEncoder(), projector, language, {"image_tokens": ids, "prompt": "A dog"})
    prompt = language.tokenizer("A dog", add_special_tokens=False)["input_ids"]
    table = torch.cat([language.embedding, projector.added])
    visual = projector(vlm.encoder.encode([IMAGES[0]]))[0] + table[rows + 1]
    column = table[rows + 2 : rows + 3]
    parts = [table[[0, rows - 1]], visual[:2], column, visual[2:], column, table[[rows, *prompt]]]
    with torch.no_grad():
        whole = language.decoder(
            inputs_embeds=torch.cat(parts)[None], output_hidden_states=True
        ).hidden_states
    (found,) = vlm.visual_tokens(IMAGES[:1], (0, 3))
    told = vlm.tokens_with_text(IMAGES[0], (0, 3), answer=2)
    assert found.positions.tolist() == told.positions.tolist() == [2, 3, 5, 6]
    for layer in (0, 3):
        for tokens in (found, told):
            torch.testing.assert_close(
                tokens.states[layer], whole[layer][0, [2, 3, 5, 6]], atol=1e-4, rtol=1e-4
            )
    text = told.text
    assert text is not None
    count = text.answer.sum()
    first = text.ids[: len(text.ids) - count]
    assert first.tolist() == [0, rows - 1, rows + 2, rows + 2, rows, *prompt]
    torch.testing.assert_close(
        text.states[3][: len(first)], whole[3][0, text.positions[: len(first)]], atol=1e-4, rtol=1e-4
    )
    alone = CompositeVLM(PixelEncoder(), projector, language, {"prompt": "A dog"})
    assert alone.frame.layout.ids(4)[0][5:] == prompt  # in the newline's place
    lacking = {"image_tokens": {**ids, "column": rows + 4}}
    with pytest.raises(ModelError, match=f"names the image token {rows + 4}"):
        CompositeVLM(PixelEncoder(), projector, language, lacking)
