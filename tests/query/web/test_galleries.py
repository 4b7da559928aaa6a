"""The bank's images that show a word, asked from the page: through the queue, as the library answers."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from latentbank.bank.bank import Bank
from latentbank.bank.images.opening import create_images, open_images
from latentbank.bank.opening import open_bank
from latentbank.models.language.model import LanguageModel
from latentbank.models.vision.tokens import visual_fingerprint
from latentbank.query.images.search import How, ImageSearch
from latentbank.query.web.guard import Guard
from latentbank.query.web.server import create_app
from latentbank.query.web.service import ReadingService
from tests.query.banks import fill
from tests.query.images.drawn import SENTENCES, fill_images
from tests.query.patch_vlm import PatchVLM

HOME = "http://127.0.0.1:8265"


@pytest.fixture(scope="module")
def folder(tiny: LanguageModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gallery")
    given: Any = {"model": "patch", "fingerprint": visual_fingerprint(PatchVLM(tiny)), "num_layers": 4}
    with (
        fill("small", path, tiny, {"c": SENTENCES}) as bank,
        create_images(
            "small", layers=(2,), hidden_size=tiny.hidden_size, data_dir=path, url="", **given
        ) as images,
    ):
        fill_images(bank, images)
    return path


@pytest.fixture
def bank(folder: Path) -> Iterator[Bank]:
    with open_bank("small", data_dir=folder, url="") as opened:
        yield opened


@pytest.fixture
def client(bank: Bank, tiny: LanguageModel) -> Iterator[TestClient]:
    other = PatchVLM(tiny)
    other.name = "other"  # and so its fingerprint is another
    app = create_app(ReadingService(bank, PatchVLM(tiny), {"other": lambda say: other}))
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
    with open_images("small", bank.settings) as images:  # it lies open nowhere else
        ranked = ImageSearch(images, bank).where("dog", How(limit=24, by_image=True))
    assert [[patch["score"] for patch in one["patches"]] for one in found["images"]] == [
        [round(patch.score, 4) for patch in group] for group in ranked.images()
    ]


def test_what_is_wrong_is_said(client: TestClient) -> None:
    assert client.post("/api/gallery", params={"word": " "}).status_code == 400
    assert client.post("/api/gallery", params={"word": "dog", "model": "x"}).status_code == 400
    assert client.get("/api/gallery/none").status_code == 404
    unheard = last(client, word="unheard")
    assert (unheard["state"], "no context of 'unheard'" in unheard["error"]) == ("failed", True)
    other = last(client, word="dog", model="other")
    assert (other["state"], "holds no images of other" in other["error"]) == ("failed", True)


def test_sentences_alone_have_no_gallery(bank: Bank, tiny: LanguageModel) -> None:
    with TestClient(Guard(create_app(ReadingService(bank, tiny))), base_url=HOME) as alone:
        assert alone.get("/api/about").json()["gallery"] == []
        assert alone.post("/api/gallery", params={"word": "dog"}).status_code == 409
