"""`POST /api/read`: another program sends hidden states and gets the library's reading, or a sentence."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fastapi.testclient import TestClient
from safetensors.torch import save

from latentbank.bank.bank import Bank
from latentbank.bank.opening import open_bank
from latentbank.bank.where import Where
from latentbank.models.language.model import LanguageModel
from latentbank.query.lenses.base import LensOptions
from latentbank.query.lenses.registry import lenses_of
from latentbank.query.reading.states import read_states
from latentbank.query.states.bodies import states_in
from latentbank.query.web import bodies, service
from latentbank.query.web.guard import Guard
from latentbank.query.web.server import create_app
from latentbank.query.web.service import ReadingService
from tests.query.banks import ONE_CORPUS, fill
from tests.query.patch_vlm import PatchVLM

TOKEN = "correct-horse-battery"
HOME = "http://127.0.0.1:8265"


@pytest.fixture(scope="module")
def states(tiny: LanguageModel) -> dict[int, torch.Tensor]:
    _, found = tiny.text_hidden_states("A red dog sleeps.", [1, 2])
    return {layer: rows[-3:].clone() for layer, rows in found.items()}


@pytest.fixture(scope="module")
def client(filled_dir: Path, tiny: LanguageModel) -> Iterator[TestClient]:
    with open_bank("small", data_dir=filled_dir, url="") as bank:
        app = Guard(create_app(ReadingService(bank, PatchVLM(tiny))), TOKEN)
        with TestClient(app, base_url=HOME, headers={"authorization": f"Bearer {TOKEN}"}) as made:
            made.bank = bank  # type: ignore[attr-defined]
            yield made


def test_safetensors_and_json_give_the_library_s_reading(
    client: TestClient, tiny: LanguageModel, states: dict[int, torch.Tensor]
) -> None:
    bank: Bank = client.bank  # type: ignore[attr-defined]
    options = {"bank_layers": "1,2", "lens": "latent,logit", "top_k": 2, "unique": "word", "corpus": "first"}
    lenses = lenses_of(
        ["latent", "logit"], LensOptions(PatchVLM(tiny), bank, [1, 2], Where(corpus="first"), "word")
    )
    about = {"labels": json.dumps(["a", "b", "c"]), "fingerprint": tiny.fingerprint()}
    as_file = save({f"layer_{n}": rows for n, rows in states.items()}, about)
    data = {n: rows.tolist() for n, rows in states.items()}
    as_json = json.dumps(
        {"states": data, "labels": ["a", "b", "c"], "fingerprint": tiny.fingerprint()}
    ).encode()
    for body in (as_file, as_json):
        response = client.post("/api/read", params={"source": "steps", **options}, content=body)
        assert response.status_code == 200, response.text
        expected = read_states(states_in(body, "steps"), lenses, top_k=2)
        assert response.json() == json.loads(json.dumps(expected.to_dict()))
    single = {"states": data[2], "layer": 2}
    found = client.post("/api/read", json=single).json()
    assert (found["layers"], found["source"], len(found["tokens"])) == ([2], "request", 3)


def test_only_who_has_the_token_may_read(client: TestClient, states: dict[int, torch.Tensor]) -> None:
    body = save({"layer_1": states[1]})
    for headers, status in (
        ({"authorization": "Bearer wrong-horse-battery"}, 401),
        ({"origin": "http://evil.example"}, 403),
    ):
        assert client.post("/api/read", content=body, headers=headers).status_code == status


def test_a_page_of_an_llm_alone_reads_them_too(tiny: LanguageModel, tmp_path: Path) -> None:
    body = {"states": np.eye(2, tiny.hidden_size).tolist()}
    with (
        fill("centred", tmp_path, tiny, ONE_CORPUS, metric="centred") as bank,
        TestClient(Guard(create_app(ReadingService(bank, tiny))), base_url=HOME) as client,
    ):
        options = {"lens": "latent,embedding", "query_mean": "batch"}
        found = client.post("/api/read", params=options, json=body).json()
        assert found["lenses"] == ["latent", "embedding"]
        assert found["query_mean"] == "their own mean"
        refused = client.post("/api/read", json=body)
        assert (refused.status_code, "query_mean" in refused.json()["error"]) == (400, True)
    with TestClient(Guard(create_app(None)), base_url=HOME) as client:
        assert client.post("/api/read", json=body).status_code == 409


WRONG: list[tuple[Any, dict[str, Any], str]] = [
    (b"", {}, "neither safetensors nor JSON"),
    (b"\x00" * 40, {}, "neither safetensors nor JSON"),
    (b"[" * 100_000, {}, "neither safetensors nor JSON"),
    (b"\x02\0\0\0\0\0\0\0{]" + b"x" * 9, {}, "cannot be read as safetensors"),
    ([1, 2], {}, "has no states"),
    ({"states": "dog"}, {}, "is no array of numbers"),
    ({"states": [[1, 2], [1]]}, {}, "is no array of numbers"),
    ({"states": [[1, None]]}, {}, "is no array of numbers"),
    ({"states": [[True] * 32]}, {}, "is no array of numbers"),
    ({"states": [[10**400] * 32]}, {}, "is no array of numbers"),
    ({"states": [[1e300] * 32]}, {}, "not finite"),
    ({"states": [[0] * 32]}, {}, "Row 0 of request is all zeros"),
    ({"states": [[1] * 7]}, {}, "are 7 wide, those of the bank 'small' 32"),
    ({"states": [[1] * 32], "layer": "8"}, {}, "no whole number"),
    ({"states": [[1] * 32], "labels": ["a", 1]}, {}, "no JSON list of texts"),
    ({"states": [[1] * 32], "labels": []}, {}, "There are 0 labels for the 1 tokens"),
    ({"states": {"1": [[1] * 32]}}, {"layer": "2"}, "has no layer 2"),
    ({"states": {"a": [[1] * 32], "b": [[1] * 32]}}, {}, "several tensors: a, b"),
    ({"states": [[1] * 32], "fingerprint": "0" * 32}, {}, "holds contexts of"),
    ({"states": [[1] * 32]}, {"lens": "crystal"}, "no lens 'crystal'"),
    ({"states": [[1] * 32]}, {"bank_layers": "77"}, "no layer 77"),
    ({"states": [[1] * 32]}, {"query_mean": "text"}, "is not centred"),
    (
        {"states": [[1] * 32]},
        {"corpsu": "c", "top_k": 2},
        "no parameter 'corpsu'; there are bank_layers, lens, ",
    ),
]


def test_wrong_requests_are_refused_with_a_sentence(client: TestClient) -> None:
    for body, options, message in WRONG:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        response = client.post("/api/read", params=options, content=content)
        assert (response.status_code, message in response.json()["error"]) == (400, True), (
            message,
            response.text,
        )
    nan = b'{"states": [[NaN, 1]]}'
    assert "Row 0 of request holds a value" in client.post("/api/read", content=nan).json()["error"]
    assert client.post("/api/read", params={"top_k": 999}, content=nan).status_code == 422


def test_what_is_sent_has_a_size(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "MOST_STATES", 2)
    body = json.dumps({"states": [[1] * 32] * 3}).encode()
    told = client.post("/api/read", content=body)
    assert (told.status_code, told.json()["error"]) == (
        400,
        "These are 3 hidden states; send at most 2 at once.",
    )
    monkeypatch.setattr(bodies, "LARGEST_UPLOAD", 50)
    told = client.post("/api/read", content=body)
    assert (told.status_code, told.json()["error"][:23]) == (413, "The body is larger than")
    monkeypatch.setattr(bodies, "LARGEST_UPLOAD", 10**6)
    monkeypatch.setattr(service, "WAITING_BYTES", 50)
    told = client.post("/api/read", content=body)
    assert (told.status_code, told.headers["retry-after"]) == (503, "5")


def test_an_unexpected_error_is_a_sentence_too(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*_: Any) -> Any:
        raise ZeroDivisionError("/secret/path")

    monkeypatch.setattr(service, "states_in", failing)
    told = client.post("/api/read", content=b"{}")
    assert (told.status_code, told.json()["error"]) == (
        500,
        "The reading failed (ZeroDivisionError); the server's log says more.",
    )
