"""A reading as data for the page: complete, and without repetition."""

from __future__ import annotations

import base64
import io
import json
import random
from dataclasses import replace

from PIL import Image

from latentbank.bank.bank import Bank
from latentbank.models.language.model import LanguageModel
from latentbank.query.reading.reading import Reading
from latentbank.query.reading.text import read_hidden, read_text
from latentbank.query.web.data import LARGEST_SIDE, page_data, page_json
from tests.query.web.readings import HOSTILE, corrected, neighbor, reading_of, told_reading


def unfolded(data: dict, reading: Reading) -> list[tuple]:
    """Every neighbor in the data, as lens, layer, token, rank, word, caption, span, corpus, bank layer, score."""
    found = []
    for lens, layers in data["found"].items():
        for layer, tokens in zip(data["layers"], layers, strict=True):
            for token, neighbors in enumerate(tokens):
                for rank, (context, bank_layer, score) in enumerate(neighbors):
                    word, text, caption, start, end, corpus = data["contexts"][context]
                    shown = (word, text, data["captions"][caption], start, end, data["corpora"][corpus])
                    found.append((lens, layer, token, rank, *shown, bank_layer, score))
    return found


def expected(reading: Reading) -> list[tuple]:
    count = len(reading.tokens) // len(reading.lenses) // len(reading.layers)
    return [
        (
            *(token.lens, token.layer, place % count, rank),
            *(n.word, n.token, n.caption, n.start, n.end, n.corpus),
            *(n.bank_layer, float(f"{n.score:.4g}")),
        )
        for place, token in enumerate(reading.tokens)
        for rank, n in enumerate(token.neighbors)
    ]


def test_every_neighbor_is_there_and_no_caption_twice() -> None:
    reading = reading_of(captions=("A dog", "No dog", "A dog"), lenses=("latent", "logit", "embedding"))
    data = json.loads(page_json(reading))
    assert unfolded(data, reading) == expected(reading)
    assert len(set(data["captions"])) == len(data["captions"])
    assert len(data["tokens"]) == 6
    assert data["tokens"][4] == ["1,1", 0, 1, 1, 20, 20, 40, 40]
    assert data["norms"] == [[10.0, 11.0, 12.0, 13.0, 14.0, 15.0]] * 2


def test_a_corrected_score_is_followed_by_the_neighbors_own() -> None:
    reading = reading_of()
    data = page_data(corrected(reading))
    assert data["correction"] == "both"
    for lens, layers in page_data(reading)["found"].items():
        for plain, told in zip(layers, data["found"][lens], strict=True):
            for before, after in zip(plain, told, strict=True):
                expected = [[context, layer, round(own - 0.5, 4), own] for context, layer, own in before]
                assert after == expected


def test_a_sentence_and_hidden_states_have_no_boxes(bank: Bank, tiny: LanguageModel) -> None:
    text = read_text(bank, tiny, "The dog chased a cat.", layers=[1, 2], top_k=3)
    data = page_data(text)
    assert (data["size"], data["image"]) == (None, None)
    assert [token for (token,) in data["tokens"]] == [token.label for token in text.at(1)]
    assert unfolded(data, text) == expected(text)
    states = tiny.text_hidden_states("A red apple lies on the table.", [2])[1][2]
    assert page_data(read_hidden(bank, states))["layers"] == [-1]


def test_the_image_is_scaled_down_and_its_boxes_are_not() -> None:
    reading = reading_of(size=(4000, 1000))
    data = page_data(reading)
    head, _, body = data["image"].partition(",")
    assert head == "data:image/jpeg;base64"
    assert Image.open(io.BytesIO(base64.b64decode(body))).size == (LARGEST_SIDE, LARGEST_SIDE // 4)
    assert data["size"] == [4000, 1000]
    assert data["tokens"][-1][-2:] == [4000, 1000]


def test_the_json_may_stand_in_a_script_element() -> None:
    text = page_json(reading_of(captions=(HOSTILE,), source=HOSTILE))
    assert "<" not in text
    data = json.loads(text)
    assert HOSTILE in data["captions"]
    assert data["source"] == HOSTILE


def test_four_layers_of_576_tokens_stay_under_three_megabytes() -> None:
    rng = random.Random(0)
    captions = [" ".join(rng.choices(("river", "window", "because", "table"), k=16)) for _ in range(9000)]
    reading = reading_of(grid=(24, 24), layers=(0, 4, 8, 16), size=(336, 336), lenses=("latent",))
    tokens = [
        replace(
            token,
            neighbors=tuple(
                neighbor("river", rng.random(), rng.choice(captions) + " river") for _ in range(5)
            ),
        )
        for token in reading.tokens
    ]
    full = replace(reading, tokens=tuple(tokens))
    assert len(full.tokens) == 4 * 576
    assert len(page_json(full).encode()) < 3_000_000


def test_text_around_an_image_comes_with_its_whole_words() -> None:
    data = page_data(told_reading())
    assert data["around"] == [
        *[["visual", ""]] * 6,
        ["prompt", "<s>"], ["prompt", "Tell"], ["answer", "A"], ["answer", "w8x3"], ["answer", "w8x3"], ["answer", "."],
    ]  # fmt: skip
    assert "around" not in page_data(reading_of())
