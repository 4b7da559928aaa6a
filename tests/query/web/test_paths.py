"""No path of the server's machine reaches its visitors: in no reading, name or error."""

from __future__ import annotations

from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from latentbank.bank.bank import Bank
from latentbank.errors import ModelError
from latentbank.models.language.model import LanguageModel, load_language_model
from latentbank.query.web.guard import Guard
from latentbank.query.web.server import create_app
from latentbank.query.web.service import ReadingService
from latentbank.text import without_paths
from tests.query.patch_vlm import PatchVLM, picture
from tests.query.web.readings import png
from tests.query.web.test_server import HOME, outcome
from tests.tiny import save_tiny


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (
            "There is no model at /home/me/llava-7b; check its path.",
            "There is no model at llava-7b; check its path.",
        ),
        ("The file '/data/a/b.json' is damaged.", "The file 'b.json' is damaged."),
        ("Correct ~/models/x/config.json, then /a/b.", "Correct config.json, then b."),
        (r"It is at C:\Users\me\llava or \\host\share\x.", "It is at llava or x."),
        ("Use llava-hf/llava-1.5-7b-hf, and/or https://a.example/b/c.", None),
        ("1/2 of it; a sentence / another; /static", None),
    ],
)
def test_of_a_path_the_last_part_is_shown(text: str, shown: str | None) -> None:
    assert without_paths(text) == (text if shown is None else shown)


def test_no_answer_of_the_page_holds_a_path(bank: Bank, tiny: LanguageModel, tmp_path: Path) -> None:
    other = PatchVLM(load_language_model(str(save_tiny(tmp_path / "other", seed=7))))
    first = PatchVLM(tiny)
    first.name = tiny.name
    assert Path(first.name).is_absolute()

    def load(_say: object) -> PatchVLM:
        raise ModelError(f"There is no model at {tmp_path / 'missing'}; check its path.")

    service = ReadingService(bank, first, {"other": lambda _: other, "missing": load})
    heard = []
    with TestClient(Guard(create_app(service)), base_url=HOME) as client:
        models = client.get("/api/about").json()["models"]
        for model in models:
            last = outcome(client, png(picture()), model=model, layers="1")
            heard.append(str(last))
        heard += [client.get("/api/about").text, outcome(client, sentence="A dog.")["reading"]]
        for key in list(service._readings):
            heard += [client.get(f"/api/readings/{key}{rest}").text for rest in ("", "/page")]
    assert models == [Path(first.name).name, "other", "missing"]
    assert any("There is no model at missing" in text for text in heard)
    for text in heard:
        assert str(Path(first.name).parent) not in text
        assert str(tmp_path) not in text
        assert "/tmp" not in text
