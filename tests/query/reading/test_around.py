"""Text around an image is read like its visual tokens, in the order of the sequence, with a mean of its own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from latentbank.bank.bank import Bank
from latentbank.bank.rotation import unit
from latentbank.errors import LayerNotFound, ModelError, QueryError
from latentbank.models.language.model import LanguageModel
from latentbank.models.vision.sources import ImageSource
from latentbank.models.vision.tokens import TextTokens
from latentbank.query.lenses.base import Queries
from latentbank.query.lenses.latent import LatentLens
from latentbank.query.output.grids import grid_lines
from latentbank.query.output.parquet import ReadingFolder
from latentbank.query.output.pictures import draw_reading
from latentbank.query.reading.around import labels_of
from latentbank.query.reading.visual import join_layers, read_image, read_images, read_layers
from latentbank.query.web.data import page_data
from tests.query.banks import ONE_CORPUS, fill
from tests.query.patch_vlm import ANSWER, PatchVLM, picture


@pytest.fixture(scope="module")
def vlm(tiny: LanguageModel) -> PatchVLM:
    return PatchVLM(tiny)


def test_all_tokens_are_read_in_the_order_of_the_sequence(bank: Bank, vlm: PatchVLM) -> None:
    image = picture()
    reading = read_image(bank, vlm, image, [1, 2], bank_layers="all", top_k=2, tokens="all", answer=3)
    told = vlm.tokens_with_text(image, [1, 2], answer=3)
    assert told.text is not None
    decode = vlm.language.tokenizer.decode
    for layer in (1, 2):
        own = reading.at(layer)
        assert [t.index for t in own] == list(range(11))
        assert [t.kind for t in own] == ["prompt", *["visual"] * 6, "prompt", *["answer"] * 3]
        assert [t.place is None for t in own] == [t.kind != "visual" for t in own]
        assert own[0].label == decode([5])
        assert "".join(t.label for t in own[7:]) == decode([9, *ANSWER[:3]])
        states = np.concatenate(
            [told.text.states[layer][:1], told.states[layer], told.text.states[layer][1:]]
        )
        plain = bank.search(states, "all", 2)
        assert [[n.id for n in t.neighbors] for t in own] == [[n.id for n in row] for row in plain]
        assert [t.norm for t in own] == pytest.approx(np.linalg.norm(states, axis=1).tolist(), rel=1e-5)
    assert reading.answer == "".join(t.label for t in reading.at(1)[8:])
    alone = read_image(bank, vlm, image, [1, 2], bank_layers="all", top_k=2)
    assert alone.grid(2) == reading.grid(2)
    assert (alone.answer, alone.around(1)) == ("", {})


def test_an_answer_without_the_prompt(bank: Bank, vlm: PatchVLM) -> None:
    reading = read_image(bank, vlm, picture(), 1, answer=2)
    assert [t.kind for t in reading.tokens] == [*["visual"] * 6, "answer", "answer"]
    assert list(reading.around(1)) == ["answer"]


def test_layer_by_layer_gives_what_all_at_once_gives(bank: Bank, vlm: PatchVLM) -> None:
    image, lens, told = picture(1), LatentLens(bank), {"tokens": "all", "answer": 2}
    (at_once,) = read_images(vlm, [image], [lens], [0, 2], **told)  # type: ignore[arg-type]
    counted: list[int] = []
    parts = list(read_layers(vlm, image, [lens], [0, 2], between=counted.append, **told))  # type: ignore[arg-type]
    assert join_layers(parts) == at_once
    assert sum(counted) == 2 * 10


def test_images_of_a_batch_keep_their_own_text(bank: Bank, vlm: PatchVLM) -> None:
    images = [picture(1), picture(2, (60, 40))]
    readings = list(read_images(vlm, images, [LatentLens(bank)], [2], tokens="all", answer=1))
    for image, reading in zip(images, readings, strict=True):
        assert reading.tokens == read_image(bank, vlm, image, [2], tokens="all", answer=1).tokens


def test_a_centred_bank_centres_text_by_the_mean_of_text(
    tiny: LanguageModel, vlm: PatchVLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    received: list[Queries] = []
    read = LatentLens.read

    def kept(self: LatentLens, queries: Queries, top_k: int = 5) -> Any:
        received.append(queries)
        return read(self, queries, top_k)

    monkeypatch.setattr(LatentLens, "read", kept)
    with fill("centred", tmp_path, tiny, ONE_CORPUS, metric="centred") as bank:
        read_image(bank, vlm, picture(), 2, tokens="all", answer=1)
        assert [queries.kind for queries in received] == ["visual", "text"]
        visual, text = received
        np.testing.assert_allclose(np.asarray(visual.mean)[0], unit(visual.states).mean(axis=0), rtol=1e-4)  # type: ignore[union-attr]
        np.testing.assert_array_equal(np.asarray(text.mean), bank.text_mean(2))
        calls = len(vlm.calls)
        with pytest.raises(LayerNotFound, match="mean of text at layer 0; it knows that of 1, 2"):
            read_image(bank, vlm, picture(), [0, 2], tokens="all")
        assert len(vlm.calls) == calls  # nothing was run
        assert read_image(bank, vlm, picture(), answer=1).layers == (1, 2)  # not the input, 0
        assert read_image(bank, vlm, picture()).layers == (0, 1, 2)


def test_a_model_that_gives_no_text(bank: Bank, vlm: PatchVLM) -> None:
    class VisualAlone:
        def __getattr__(self, name: str) -> Any:
            if name == "tokens_with_text":
                raise AttributeError(name)
            return getattr(vlm, name)

    with pytest.raises(ModelError, match="patch-vlm does not give the text around an image"):
        read_image(bank, VisualAlone(), picture(), 1, tokens="all")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("given", "message"), [({"tokens": "text"}, "'text'"), ({"answer": -1}, "answer is -1")]
)
def test_what_cannot_be_read(bank: Bank, vlm: PatchVLM, given: Any, message: str) -> None:
    with pytest.raises(QueryError, match=message):
        read_image(bank, vlm, picture(), 1, **given)


def test_labels_keep_the_spaces_that_single_tokens_lose() -> None:
    class Sentencepiece:
        """Like Llama's tokenizer, it drops the space before the first token that it decodes."""

        words = (" a", " dog", "gy", " é", "\n")

        def decode(self, ids: list[int], **_: Any) -> str:
            return "".join(self.words[i] for i in ids).removeprefix(" ")

    ids = np.array([0, 1, 2, 3, 4])
    text = TextTokens({}, ids, np.array([0, 1, 2, 7, 8]), ids > 2)
    tokenizer: Any = Sentencepiece()
    # Tokens 2 and 3 have an image between them.
    assert labels_of(text, tokenizer) == ["a", " dog", "gy", "é", "\n"]


def test_the_text_is_in_json_tables_grids_and_pictures(bank: Bank, vlm: PatchVLM, tmp_path: Path) -> None:
    reading = read_image(bank, vlm, picture(), [1], tokens="all", answer=2)
    data = json.loads(json.dumps(reading.to_dict()))
    assert data["answer"] == reading.answer
    assert [token["kind"] for token in data["tokens"]][-3:] == ["prompt", "answer", "answer"]
    assert "box" not in data["tokens"][-1]
    folder = ReadingFolder(tmp_path / "out", {})
    written = folder.write(ImageSource("a", "a", b""), reading)
    import pandas

    frame = pandas.read_parquet(written)
    assert set(frame["kind"]) == {"visual", "prompt", "answer"}
    assert frame["row"].isna().sum() == 4 * 5
    lines = grid_lines(reading)
    at = lines.index("  answer, each token → its best word")
    last = reading.tokens[-1]
    assert lines[at + 1].endswith(f"{last.label.strip() or last.label}→{last.neighbors[0].word}")
    without = read_image(bank, vlm, picture(), [1])
    assert draw_reading(reading).height > draw_reading(without).height


def test_the_page_knows_the_whole_word_of_each_text_token(bank: Bank, vlm: PatchVLM) -> None:
    reading = read_image(bank, vlm, picture(), [1], tokens="all", answer=4)
    data = page_data(reading)
    kinds = [kind for kind, _ in data["around"]]
    assert kinds == [token.kind for token in reading.tokens]
    words = [word for kind, word in data["around"] if kind != "visual"][2:]
    assert all(word in reading.answer for word in words)
    assert [token[0] for token in data["tokens"]] == [token.label for token in reading.tokens]
    assert "around" not in page_data(read_image(bank, vlm, picture(), [1]))
