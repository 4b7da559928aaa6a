"""What a word's tokens do, asked from the page: through the queue, as the library answers, or as a sentence."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient

from latentbank.bank.bank import Bank
from latentbank.errors import QueryError
from latentbank.models.composite.model import CompositeVLM
from latentbank.models.language.model import LanguageModel
from latentbank.query.causes.cause import CauseOptions, cause
from latentbank.query.lenses.latent import LatentLens
from latentbank.query.reading.visual import read_image
from latentbank.query.web.causing import ANSWER, DRAWS
from latentbank.query.web.guard import Guard
from latentbank.query.web.server import create_app
from latentbank.query.web.service import ReadingService
from tests.query.patch_vlm import PatchVLM, picture
from tests.query.pixels import pixel_vlm
from tests.query.web.readings import png

HOME = "http://127.0.0.1:8265"
IMAGE = png(picture(1, (64, 64)))


@pytest.fixture(scope="module")
def vlm(tiny: LanguageModel) -> CompositeVLM:
    return pixel_vlm(tiny)


@pytest.fixture
def client(bank: Bank, vlm: CompositeVLM) -> Iterator[TestClient]:
    with TestClient(Guard(create_app(ReadingService(bank, vlm), {"a cat": IMAGE})), base_url=HOME) as made:
        yield made


def last(client: TestClient, **given: str) -> dict[str, Any]:
    """Ask for causes, and return the job's last state."""
    job = client.post("/api/causes", params=given).raise_for_status().json()["job"]
    told = client.get(f"/api/jobs/{job}/events").text
    return dict(json.loads(told.rsplit("data: ", 1)[1].split("\n")[0]))


def test_they_are_those_of_the_library(client: TestClient, bank: Bank, vlm: CompositeVLM) -> None:
    reading = read_image(bank, vlm, IMAGE, layers=[1])
    word = reading.tokens[0].neighbors[0].word
    state = last(client, picture="a cat", of=word, at="1")
    assert state["state"] == "done"
    found = client.get(f"/api/causes/{state['reading']}").json()
    how = CauseOptions(by=["attention"], draws=DRAWS, answer=ANSWER)  # all six tokens show it
    with pytest.raises(QueryError, match="no mean of others"):
        cause(vlm, IMAGE, word, LatentLens(bank), [1], CauseOptions(draws=1, answer=2))
    expected = cause(vlm, IMAGE, word, LatentLens(bank), [1], how).to_dict() | {"source": "a cat"}
    assert found == json.loads(json.dumps(expected))
    again = client.post("/api/causes", params={"picture": "a cat", "of": word, "at": "1"}).json()["job"]
    assert client.get(f"/api/jobs/{again}/events").text.count("data:") == 1  # it was kept


def test_what_is_wrong_is_said(client: TestClient, bank: Bank, tiny: LanguageModel) -> None:
    state = last(client, picture="a cat", of="unheard", at="1")
    assert (state["state"], "No visual token has 'unheard'" in state["error"]) == ("failed", True)
    assert client.post("/api/causes", params={"picture": "a cat", "of": " ", "at": "1"}).status_code == 400
    assert client.post("/api/causes", params={"upload": "gone", "of": "dog"}).status_code == 404
    with TestClient(Guard(create_app(ReadingService(bank, tiny))), base_url=HOME) as alone:
        assert alone.post("/api/causes", params={"upload": "x", "of": "dog"}).status_code == 409


def test_a_model_that_writes_no_answers_says_so(bank: Bank, tiny: LanguageModel) -> None:
    app = create_app(ReadingService(bank, PatchVLM(tiny)), {"a cat": IMAGE})
    with TestClient(Guard(app), base_url=HOME) as client:
        state = last(client, picture="a cat", of="dog", at="1")
        assert state["state"] == "failed"
        assert state["error"]
