"""Numbers and names of numpy, torch and pandas are made plain at every door."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

import latentbank as lb
from latentbank.bank.bank import Bank
from latentbank.errors import LatentBankError, LayerNotFound, QueryError
from latentbank.ingest.corpus import Corpus
from latentbank.ingest.plan import PlanSettings
from latentbank.models.language.model import LanguageModel
from latentbank.models.training.stages import TrainSettings
from latentbank.query.reading.norms import measure_norms
from latentbank.values import layers_of, names_of, real, shown, whole
from tests.query.patch_vlm import PatchVLM, picture

ONE_AND_TWO = (
    np.arange(1, 3),
    np.array([1, 2], dtype=np.uint8),
    torch.arange(1, 3),
    pd.Series([1, 2]),
    range(1, 3),
    (np.int64(1), 2),
    {1, 2},
)
"""The layers 1 and 2 as people write them."""
TWO = (np.int64(2), np.array(2), torch.tensor(2), torch.tensor([2]), np.array([2], dtype=np.int8))


@pytest.mark.parametrize(
    "number", [3, np.int64(3), np.uint8(3), np.array(3), torch.tensor(3), torch.tensor([3])]
)
def test_whole_numbers_become_plain(number: Any) -> None:
    assert type(whole(number, "top_k", 1)) is int
    assert whole(number, "top_k", 1) == 3


@pytest.mark.parametrize(
    "number", [True, np.bool_(True), torch.tensor(True), 2.0, np.float64(2), "2", None, [2, 3], np.arange(2)]
)
def test_what_is_not_a_whole_number_is_named(number: Any) -> None:
    with pytest.raises(QueryError, match=r"^top_k is .*; it must be a whole number, 1 or more\.$"):
        whole(number, "top_k", 1)


def test_a_number_out_of_bounds_says_the_bounds() -> None:
    with pytest.raises(QueryError, match=r"^batch is 0; it must be 1 or more\.$") as caught:
        whole(0, "batch", 1)
    assert caught.value.argument == "batch"
    with pytest.raises(QueryError, match=r"^coverage is nan; it must be from 0 to 1\.$"):
        real(float("nan"), "coverage", 0, 1)
    with pytest.raises(QueryError, match=r"^rate is inf; it must be 0 or more\.$"):
        real(np.float32("inf"), "rate", 0)
    with pytest.raises(QueryError, match=r"^rate is '1'; it must be a finite number\.$"):
        real("1", "rate")  # type: ignore[arg-type]
    assert type(real(np.float32(0.5), "rate")) is float


@pytest.mark.parametrize("layers", ONE_AND_TWO)
def test_layers_become_a_plain_list(layers: Any) -> None:
    assert layers_of(layers) == [1, 2]
    assert {type(layer) for layer in layers_of(layers)} == {int}


@pytest.mark.parametrize(
    "layers", ["8,16", b"8", None, 2.5, [8.0], [True], np.eye(2), torch.tensor([True]), ["8"]]
)
def test_what_are_no_layers_is_named(layers: Any) -> None:
    with pytest.raises(LayerNotFound, match=r"^layers is .*; give whole numbers, such as 8 or \[8, 16\]\.$"):
        layers_of(layers)


def test_names_of_one_and_of_several() -> None:
    assert names_of("latent") == ["latent"]
    assert {type(name) for name in names_of(np.array(["latent", "logit"]))} == {str}


def test_a_message_shows_a_value_on_one_short_line() -> None:
    assert len(shown(np.ones((50, 50)))) < 80
    assert "\n" not in shown(np.ones((50, 50)))


def _plain(value: Any) -> bool:
    """Return whether everything in a reading's data is what JSON and dataclasses hold, and not numpy's."""
    if isinstance(value, dict):
        return all(type(key) is str and _plain(held) for key, held in value.items())
    if isinstance(value, list):
        return all(map(_plain, value))
    return type(value) in (str, int, float, bool, type(None))


def _usable(reading: lb.Reading, tmp_path: Path) -> None:
    """Check that a reading can be printed, saved and shown."""
    assert _plain(json.loads(json.dumps(reading.to_dict())))
    assert _plain(reading.to_dict())
    assert all(_plain(row) for row in reading.rows())
    assert lb.save_html(reading, tmp_path / "reading.html").stat().st_size
    assert (reading._repr_html_() or "").startswith("<iframe")
    assert len(repr(reading)) > 20


@pytest.mark.parametrize("layers", [*ONE_AND_TWO, *TWO])
def test_a_sentence_is_read_at_layers_of_any_kind(
    bank: Bank, tiny: LanguageModel, layers: Any, tmp_path: Path
) -> None:
    sentence, top_k = np.str_("The dog sleeps."), np.int64(2)
    reading = lb.read_text(bank, tiny, sentence, layers, bank_layers=layers, top_k=top_k)
    plain = layers_of(layers)
    assert (list(reading.layers), list(reading.bank_layers)) == (plain, plain)
    assert {len(token.neighbors) for token in reading.tokens} == {2}
    _usable(reading, tmp_path)


def test_an_image_is_read_with_numbers_of_any_kind(bank: Bank, tiny: LanguageModel, tmp_path: Path) -> None:
    vlm = PatchVLM(tiny)
    reading = lb.read_image(
        bank, vlm, picture(), np.arange(2), bank_layers=iter([np.int64(2)]), top_k=torch.tensor(3)
    )
    assert (reading.layers, reading.bank_layers) == ((0, 1), (2,))
    _usable(reading, tmp_path)
    lens = lb.LatentLens(bank, bank_layers=np.array([1, 2]))
    read = lb.read_images(vlm, [picture(), picture(1)], [lens], np.int64(1), batch=np.int64(1))
    assert [list(one.bank_layers) for one in read] == [[1, 2], [1, 2]]
    saved = lb.save_reading(reading, tmp_path / "reading.png", layers=np.array([1]), lenses="latent")
    assert Image.open(saved).size
    assert lb.save_plot(
        reading, tmp_path / "plot.svg", layers=np.int64(0), lenses=np.array(["latent"])
    ).stat()
    assert reading.grid(np.int64(1), tile=np.int64(0)) == reading.grid(1)


def test_hidden_states_means_and_norms_take_numbers_of_any_kind(
    bank: Bank, tiny: LanguageModel, tmp_path: Path
) -> None:
    states = {np.int64(2): np.random.default_rng(0).normal(size=(2, tiny.hidden_size))}
    labels = np.array(["a", "b"])
    reading = lb.read_hidden(bank, states, labels=labels, source=np.str_("x"), top_k=np.int64(1))
    _usable(reading, tmp_path)
    assert [type(token.label) for token in reading.tokens] == [str, str]
    vlm = PatchVLM(tiny)
    means = lb.measure_means(vlm, [picture()], np.arange(2), batch=np.int64(1))
    assert {type(layer) for layer in means.by_layer} == {int}
    norms = measure_norms(vlm, [picture()], torch.arange(2), batch=np.int64(1))
    assert _plain(norms.to_dict())


def test_a_bank_takes_numbers_and_filters_of_any_kind(
    bank: Bank, tiny: LanguageModel, tmp_path: Path
) -> None:
    states = tiny.text_hidden_states("A dog.", [2])[1][2]
    found = bank.search(
        states, np.array([2]), np.int64(2), lb.Where(word=np.array(["dog", "cat"])), ef=np.int64(9)
    )
    assert {neighbor.word for row in found for neighbor in row} == {"dog", "cat"}
    assert bank.count(np.int64(1), lb.Where(position_min=np.int64(2), corpus=np.str_("first"))) > 0
    assert len(bank.words(limit=np.int64(3))) == 3
    assert bank.verify(np.int64(5)) == []
    assert lb.Where(token_id=torch.tensor([3, 4])) == lb.Where(token_id=(3, 4))
    assert lb.Where(token_id=np.int64(3)) == lb.Where(token_id=3)
    assert hash(lb.Where(word=["dog"])) == hash(lb.Where(word=("dog",)))
    with lb.create_bank("other", tiny, np.array([2, 1]), data_dir=tmp_path, url="") as made:
        assert json.loads(json.dumps(made.manifest.head()))["layers"] == [1, 2]


@pytest.mark.parametrize("call", ["search", "words", "verify"])
def test_a_bank_refuses_numbers_that_mean_nothing(bank: Bank, tiny: LanguageModel, call: str) -> None:
    calls = {
        "search": lambda: bank.search(np.ones(tiny.hidden_size), top_k=0),
        "words": lambda: bank.words(limit=0),
        "verify": lambda: bank.verify(-1),
    }
    with pytest.raises(QueryError, match=r"(top_k is 0|limit is 0|sample is -1); it must be (1|0) or more"):
        calls[call]()


def test_readers_refuse_numbers_that_mean_nothing(bank: Bank, tiny: LanguageModel) -> None:
    vlm = PatchVLM(tiny)
    with pytest.raises(QueryError, match="batch is 0; it must be 1 or more"):
        lb.measure_means(vlm, [picture()], [0], batch=0)
    with pytest.raises(QueryError, match="batch is -1; it must be 1 or more"):
        measure_norms(vlm, [picture()], [0], batch=-1)
    with pytest.raises(QueryError, match="top_k is 0; it must be 1 or more"):
        lb.read_images(vlm, [picture()], [lb.LatentLens(bank)], [0], top_k=0)
    for measure in (lb.measure_means, measure_norms):
        with pytest.raises(QueryError, match="Name at least one layer"):
            measure(vlm, [picture()], [])


@pytest.mark.parametrize(
    "made",
    [
        lambda number: PlanSettings(skip=number(2), contexts_per_token=number(3), max_tokens=number(9)),
        lambda number: TrainSettings(width=number(8), seed=number(1), save_every=number(5)),
        lambda number: Corpus("c", (), limit=number(4)),
    ],
)
def test_settings_are_kept_as_plain_numbers(made: Any) -> None:
    given = vars(made(np.int64))
    assert given == vars(made(int))
    assert not any(isinstance(value, np.generic) for value in given.values())


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (lambda: PlanSettings(contexts_per_token=0), "contexts_per_token is 0; it must be 1 or more"),
        (lambda: PlanSettings(max_tokens=2.5), r"max_tokens is 2.5; it must be a whole number"),  # type: ignore[arg-type]
        (lambda: TrainSettings(accumulate=0), "accumulate is 0; it must be 1 or more"),
        (lambda: TrainSettings(clip=float("nan")), "clip is nan; it must be 0 or more"),
        (lambda: Corpus("c", (), limit=0), "limit is 0; it must be 1 or more"),
        (lambda: lb.load_settings(oversampling=float("inf")), "The setting oversampling is wrong"),
        (lambda: lb.load_settings(grpc_port=70_000), "The setting grpc_port is wrong"),
    ],
)
def test_settings_that_mean_nothing_are_refused(made: Any, message: str) -> None:
    with pytest.raises(LatentBankError, match=message):
        made()


def test_models_are_named_by_paths_and_numpys_strings(tiny_dir: Path) -> None:
    for name in (tiny_dir, np.str_(tiny_dir)):
        model = lb.load_language_model(name, deepest_layer=np.int64(1))
        assert type(model.name) is str
        assert model.loaded_layers == 1
        states = model.hidden_states([[1, 2]], np.arange(2))  # type: ignore[arg-type]
        assert [type(layer) for layer in states[0]] == [int, int]


@pytest.mark.parametrize("text", ["half \ud83d of one", "caf\udce9", 5, None, ["a"]])
def test_what_is_no_text_is_named(bank: Bank, tiny: LanguageModel, text: Any) -> None:
    with pytest.raises(QueryError, match=r"The sentence (holds '\\ud|is of type)"):
        lb.read_text(bank, tiny, text)
    if isinstance(text, str):
        for read in (lb.read_image, lb.read_video, lb.read_audio):
            with pytest.raises(QueryError, match="The prompt holds"):
                read(bank, PatchVLM(tiny), picture(), [0], prompt=text)
        with pytest.raises(QueryError, match="The filter holds"):
            lb.Where(word=[text])
