"""The bank's images that show a word, asked from the page: through the queue, as the library answers."""

from __future__ import annotations

import base64
import json
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from latentbank.bank.bank import Bank
from latentbank.bank.images.bank import ImageBank
from latentbank.bank.images.opening import open_images
from latentbank.bank.opening import open_bank
from latentbank.models.language.model import LanguageModel
from latentbank.query.images.photo import states_of_patch
from latentbank.query.images.search import How, ImageSearch
from latentbank.query.images.space import Floats, visual_mean
from latentbank.query.web.guard import Guard
from latentbank.query.web.server import create_app
from latentbank.query.web.service import ReadingService
from tests.bank.samples import entry
from tests.query.patch_vlm import PatchVLM, picture
from tests.query.web.readings import png

HOME = "http://127.0.0.1:8265"
CAT = png(picture(1, (64, 64)))


@pytest.fixture
def bank(drawn_copy: Path) -> Iterator[Bank]:
    with open_bank("small", data_dir=drawn_copy, url="") as opened:
        yield opened


@pytest.fixture
def client(bank: Bank, tiny: LanguageModel) -> Iterator[TestClient]:
    other = PatchVLM(tiny)
    other.name = "other"  # and so its fingerprint is another
    app = create_app(ReadingService(bank, PatchVLM(tiny), {"other": lambda say: other}), {"a cat": CAT})
    with TestClient(Guard(app), base_url=HOME) as made:
        yield made


def last(client: TestClient, **given: str) -> dict[str, Any]:
    """Ask for a gallery, and return the job's last state."""
    job = client.post("/api/gallery", params=given).raise_for_status().json()["job"]
    told = client.get(f"/api/jobs/{job}/events").text
    return dict(json.loads(told.rsplit("data: ", 1)[1].split("\n")[0]))


def test_it_is_what_the_library_finds(client: TestClient, bank: Bank) -> None:
    about = client.get("/api/about").json()
    assert about["gallery"] == about["models"][:1]
    state = last(client, word=" dog ")
    assert state["state"] == "done"
    found = client.get(f"/api/gallery/{state['reading']}").json()
    assert {one["image"] for one in found["images"][:3]} == {"<0>.png", "<4>.png", "<8>.png"}
    assert base64.b64decode(found["images"][0]["picture"]).startswith(b"\xff\xd8")
    assert last(client, word="dog")["reading"] == state["reading"]
    best = found["images"][0]["patches"][0]["id"]
    alike = client.get(f"/api/gallery/{last(client, like=best)['reading']}").json()
    with open_images("small", bank.settings) as images:  # it lies open nowhere else
        search = ImageSearch(images, bank)
        ranked = search.where("dog", How(limit=24, by_image=True))
        patch = images.patch(best)
        assert patch is not None
        liked = search.like(patch, How(limit=24, by_image=True))
    assert scores(found) == [[round(one.score, 4) for one in group] for group in ranked.images()]
    assert scores(alike) == [[round(one.score, 4) for one in group] for group in liked.images()]


def scores(found: dict[str, Any]) -> list[list[float]]:
    return [[patch["score"] for patch in one["patches"]] for one in found["images"]]


def test_a_patch_of_an_image_that_is_read(client: TestClient, bank: Bank, tiny: LanguageModel) -> None:
    state = last(client, like="1,0,0", picture="a cat")
    found = client.get(f"/api/gallery/{state['reading']}").json()
    assert found["question"] == "like a cat, row 1, column 0"
    with open_images("small", bank.settings) as images:
        states = states_of_patch(images, PatchVLM(tiny), CAT, [2], 1, 0)
        ranked = ImageSearch(images, bank).like(states, How(limit=24, by_image=True))
    assert scores(found) == [[round(one.score, 4) for one in group] for group in ranked.images()]
    assert "no patch in row 9" in last(client, like="9,0,0", picture="a cat")["error"]


def test_a_mean_is_measured_once_until_images_change(
    client: TestClient, bank: Bank, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured: list[int] = []

    def counted(images: ImageBank, layer: int) -> Floats:
        measured.append(layer)
        return visual_mean(images, layer)

    monkeypatch.setattr("latentbank.query.images.search.visual_mean", counted)
    for word in ("dog", "cat"):
        assert last(client, word=word)["state"] == "done"
    assert measured == [2]
    with open_images("small", bank.settings) as images:
        record = entry("drawn", 72).to_dict()
        images.store.change_entry("drawn", lambda _: record)
    assert last(client, word="bridge")["state"] == "done"
    assert measured == [2, 2]


def test_what_is_wrong_is_said(client: TestClient) -> None:
    assert client.post("/api/gallery", params={"word": " "}).status_code == 400
    assert client.post("/api/gallery", params={"word": "dog", "model": "x"}).status_code == 400
    for like in ("x", "1,2,0", str(uuid.UUID(int=0))):
        wrong = client.post("/api/gallery", params={"like": like})
        assert (wrong.status_code == 400) == (like.count("-") == 0)
    assert client.post("/api/gallery", params={"like": "1,2", "picture": "a cat"}).status_code == 400
    assert client.post("/api/gallery", params={"like": "1,2,0", "upload": "gone"}).status_code == 404
    assert "not stored any more" in last(client, like=str(uuid.UUID(int=0)))["error"]
    assert client.get("/api/gallery/none").status_code == 404
    unheard = last(client, word="unheard")
    assert (unheard["state"], "no context of 'unheard'" in unheard["error"]) == ("failed", True)
    other = last(client, word="dog", model="other")
    assert (other["state"], "holds no images of other" in other["error"]) == ("failed", True)


def test_sentences_alone_have_no_gallery(bank: Bank, tiny: LanguageModel) -> None:
    with TestClient(Guard(create_app(ReadingService(bank, tiny))), base_url=HOME) as alone:
        assert alone.get("/api/about").json()["gallery"] == []
        assert alone.post("/api/gallery", params={"word": "dog"}).status_code == 409
