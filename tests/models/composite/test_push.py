"""Projectors pushed to a hub and loaded from it, over a real socket."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from latentbank.errors import LatentBankError, ModelError
from latentbank.models.composite.projector import Projector, load_projector, save_projector
from latentbank.models.composite.push import found_projector, prepare_projector, push_projector
from latentbank.models.visual import load_visual_model
from tests.hub import HubDouble, Stored, serving, use

ID = "lab/clip-smollm2"
CARD = {
    "encoder": {"name": "openai/clip-vit-base-patch16", "fingerprint": "a", "layer": -2},
    "llm": {"name": "SmolLM2", "local": True, "fingerprint": "b"},
    "data": [{"name": "photos", "rows": 3, "skipped": {}, "cut_captions": 0}],
    "training": {"steps": 500, "validation_loss": 2.25},
}


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubDouble]:
    with serving() as hub:
        use(hub, tmp_path / "hf", monkeypatch)
        yield hub


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "projector.safetensors"
    save_projector(path, Projector("linear", 6, 10), CARD)
    return path


def test_a_pushed_projector_comes_back(hub: HubDouble, file: Path) -> None:
    pushed = push_projector(file, prepare_projector(ID))
    stored = hub.repositories["models", ID]
    assert (pushed.private, pushed.files, pushed.url) == (True, 2, f"{hub.url}/{ID}")
    assert json.loads(stored.files["projector.json"])["training"] == CARD["training"]
    card = stored.files["README.md"].decode()
    for word in (
        "base_model:\n- openai/clip-vit-base-patch16\n",
        "SmolLM2 (local)",
        "500",
        "2.250 nats",
        f"{ID}/proj",
    ):
        assert word in card
    for name in (f"{ID}/projector.safetensors", f"{ID}@{pushed.commit}/projector.safetensors"):
        found = Path(found_projector(name))
        assert load_projector(found)[1] == load_projector(file)[1]
        assert found.with_suffix(".json").is_file()
    file.with_name("projector.means.safetensors").write_bytes(b"means")
    assert push_projector(file, prepare_projector(ID)).files == 3
    assert Path(found_projector(f"{ID}/projector.safetensors")).with_suffix(".means.safetensors").is_file()


def test_an_llm_that_was_trained_with_it_goes_along(hub: HubDouble, tmp_path: Path) -> None:
    llm = {"name": "llm", "local": True, "trained_from": {"name": "HuggingFaceTB/SmolLM2-135M"}}
    file = tmp_path / "projector.safetensors"
    save_projector(file, Projector("linear", 6, 10), {**CARD, "llm": llm})
    for name in ("config.json", "model.safetensors"):
        (tmp_path / "llm").mkdir(exist_ok=True)
        (tmp_path / "llm" / name).write_text(name)
    assert push_projector(file, prepare_projector(ID)).files == 4
    found = Path(found_projector(f"{ID}/projector.safetensors"))
    assert (found.parent / "llm" / "model.safetensors").read_text() == "model.safetensors"


def test_projectors_that_are_not_there(hub: HubDouble, file: Path) -> None:
    hub.repositories["models", "lab/empty"] = Stored()
    hub.repositories["models", "lab/empty"].commit({"config.json": b"{}"})
    with pytest.raises(ModelError, match=r"lab/empty on the hub holds no projector.safetensors"):
        load_visual_model("lab/empty/projector.safetensors")
    with pytest.raises(LatentBankError, match="There is no model repository lab/none on the hub"):
        load_visual_model("lab/none/projector.safetensors")
    with pytest.raises(LatentBankError, match="lab/empty holds other files"):
        prepare_projector("lab/empty", public=True)
    hub.forget()
    assert found_projector(str(file)) == str(file)
    assert found_projector("runs/one/projector.pt") == "runs/one/projector.pt"
    assert not hub.asked
