"""Following a context, a token of a sentence and a visual token through layers."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from latentbank.bank.bank import Bank
from latentbank.bank.vectors import context_vectors, first_context, unit_mean
from latentbank.bank.where import Where
from latentbank.errors import QueryError
from latentbank.models.language.model import LanguageModel
from latentbank.query.following.contexts import follow_context
from latentbank.query.following.figure import save_followed
from latentbank.query.following.followed import drifts
from latentbank.query.following.tokens import follow_text, follow_visual
from latentbank.query.lenses.latent import LatentLens
from tests.query.banks import ONE_CORPUS, fill
from tests.query.patch_vlm import PatchVLM, picture


def _cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def test_a_context_is_followed_by_its_id(bank: Bank) -> None:
    context = first_context(bank, Where(word="dog"))
    found = follow_context(bank, context.upper())
    assert (found.label.strip(), found.layers) == ("dog", tuple(bank.layers))
    assert found.title == found.source.replace("dog", "[dog]", 1)
    known = [
        next(one for one in context_vectors(bank, layer, Where(word="dog"), 9) if one.context.id == context)
        for layer in bank.layers
    ]
    means = [unit_mean(bank, layer) for layer in bank.layers]
    for number, step in enumerate(found.steps[1:], 1):
        assert step.drift.previous == pytest.approx(
            _cosine(known[number].vector, known[number - 1].vector), abs=1e-5
        )
        assert step.drift.first == pytest.approx(_cosine(known[number].vector, known[0].vector), abs=1e-5)
        stored = [
            next(
                p.vector for p in bank.store.scroll(layer, Where(word="dog"), vectors=True) if p.id == context
            )
            for layer in bank.layers
        ]
        centred = _cosine(stored[number] - means[number], stored[0] - means[0])
        assert step.drift.centred_first == pytest.approx(centred, abs=1e-5)
    assert found.steps[0].drift.previous is found.steps[0].drift.first is None
    for step in found.steps:
        neighbors = step.neighbors["latent"]
        assert context not in {one.id for one in neighbors}
        assert len({one.word for one in neighbors}) == len(neighbors) == 5
        assert {one.bank_layer for one in neighbors} == {step.layer}


def test_a_context_that_is_not_there(bank: Bank) -> None:
    with pytest.raises(QueryError, match="has no context 00000000-0000-0000-0000-000000000000"):
        follow_context(bank, "0" * 32)
    with pytest.raises(QueryError, match="'dog' is no context's id"):
        follow_context(bank, "dog")
    with pytest.raises(QueryError, match="No context of the bank 'small' is selected"):
        first_context(bank, Where(word="unicorn"))


def test_a_centred_bank_knows_centred_cosines_alone(tiny: LanguageModel, tmp_path: Path) -> None:
    with fill("centred", tmp_path, tiny, ONE_CORPUS, metric="centred") as bank:
        context = first_context(bank)
        _, step = follow_context(bank, context).steps
        one, two = (
            next(
                point.vector for point in bank.store.scroll(layer, None, vectors=True) if point.id == context
            )
            for layer in bank.layers
        )
        assert step.drift.previous is step.drift.first is None
        assert step.drift.centred_first == pytest.approx(_cosine(one, two), abs=1e-5)


def test_a_token_drifts_as_its_stored_context(bank: Bank, tiny: LanguageModel) -> None:
    # A sentence of the bank: what is computed anew is what is stored.
    text = "The bank of the river was muddy."
    found = follow_text(bank, tiny, text, "river", top_k=2)
    assert found.title == "The bank of the r[iver] was muddy."  # the last token of the word
    own = [one.steps for one in (found, follow_context(bank, found.steps[-1].neighbors["latent"][0].id))]
    for computed, stored in zip(*own, strict=True):
        assert computed.neighbors["latent"][0].cosine == pytest.approx(1, abs=1e-3)
        for name in ("previous", "first", "centred_previous", "centred_first"):
            pair = [getattr(step.drift, name) for step in (computed, stored)]
            assert pair == [None, None] or pair[0] == pytest.approx(pair[1], abs=2e-3)
    # At layers that the bank lacks, no mean of text is known.
    with fill("few", bank.settings.data_dir.parent / "few", tiny, ONE_CORPUS, [2]) as few:
        steps = follow_text(few, tiny, text, "river", [0, 2]).steps
    assert steps[1].drift.first == pytest.approx(found.steps[2].drift.first, abs=1e-5)
    assert steps[1].drift.centred_first is None


def test_a_visual_token(bank: Bank, tiny: LanguageModel, tmp_path: Path) -> None:
    vlm = PatchVLM(tiny, tiles=2)
    lens = LatentLens(bank, "all", unique="word")
    found = follow_visual(vlm, picture(), "1:1, 2", [lens])
    assert (found.label, found.layers) == ("1:1,2", tuple(range(tiny.num_layers + 1)))
    (tokens,) = vlm.visual_tokens([picture()], found.layers)
    assert found.place is not None
    assert found.place.box == tuple(tokens.boxes[11].tolist())
    rows = [tokens.states[layer][11].numpy() for layer in found.layers]
    plain = drifts(rows, None)
    assert [step.drift.first for step in found.steps] == [one.first for one in plain]
    assert [step.norm for step in found.steps] == pytest.approx([np.linalg.norm(row) for row in rows])
    units = [tokens.states[layer].numpy() for layer in found.layers]
    units = [state / np.linalg.norm(state, axis=1, keepdims=True) for state in units]
    centred = [state[11] - state.mean(axis=0) for state in units]
    assert found.steps[3].drift.centred_previous == pytest.approx(_cosine(centred[3], centred[2]), abs=1e-5)
    (alone,) = bank.search(rows[3], "all", 5, unique="word")
    assert [one.id for one in found.steps[3].neighbors["latent"]] == [one.id for one in alone]
    with pytest.raises(QueryError, match="has no visual token 7,7; it has 0,0 to 1:1,2"):
        follow_visual(vlm, picture(), "7,7", [lens])


def test_pictures(bank: Bank, tiny: LanguageModel, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    image = tmp_path / "private" / "$x$ <b>.png"
    image.parent.mkdir()
    picture().save(image)
    found = follow_visual(PatchVLM(tiny), image, "0,1", [LatentLens(bank, "all", unique="word")], [0, 2])
    assert found.source == "$x$ <b>.png"  # where it lies is private
    text = save_followed(found, tmp_path / "token.html").read_text(encoding="utf-8")
    assert all(one.word in text for step in found.steps for one in step.neighbors["latent"])
    assert "private" not in text
    assert "<b>" not in text
    png = found._repr_png_()
    assert png is not None
    assert Image.open(io.BytesIO(png)).width > 500
    with pytest.raises(QueryError, match="no suffix of a picture"):
        save_followed(found, tmp_path / "token.gif")
