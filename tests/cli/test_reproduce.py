"""`latentbank reproduce` as a user types it: a plan of files, a composite VLM, and a judge on a real socket."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from latentbank.models.composite.connectors import Found
from latentbank.models.language.model import load_language_model
from tests.cli.commands import Run
from tests.query.banks import SENTENCES
from tests.query.pixels import PixelEncoder, pixel_vlm
from tests.wire.chat import Body, asked, chat_stub, says

KEY = "sk-secret-of-the-test"


class FineEncoder(PixelEncoder):
    """An encoder of enough patches for a box of 3 x 3."""

    grid = (4, 4)


def rightly(body: Body) -> str:
    return says(concrete=[], abstract=asked(body)[:1], **{"global": []})


@pytest.fixture
def plan(monkeypatch: pytest.MonkeyPatch, model_dir: Path, tmp_path: Path) -> dict[str, Any]:
    """A plan of three pictures and six sentences; its models are a connector and the same with random weights."""

    def load(name: str, **_: Any) -> Any:
        assert name == str(tmp_path / "out" / "connectors" / "own" / "projector.safetensors")
        vlm = pixel_vlm(load_language_model(str(model_dir)))
        vlm.encoder = FineEncoder()
        return vlm

    def make(folder: Path, output: Path, **_: Any) -> Path:
        assert folder.name == "found"
        assert not output.exists()  # it is imported once
        output.mkdir(parents=True)
        (output / "projector.safetensors").touch()
        return output / "projector.safetensors"

    connectors = "latentbank.models.composite.connectors"
    monkeypatch.setattr("latentbank.models.visual.load_visual_model", load)
    found = Found(tmp_path / "found", "own", "x/connectors")
    monkeypatch.setattr(f"{connectors}.find_connector", lambda *_: found)
    monkeypatch.setattr(f"{connectors}.import_connector", make)
    monkeypatch.setenv("OWN_KEY", KEY)
    (tmp_path / "pictures").mkdir()
    for number in range(3):
        side = 48
        Image.linear_gradient("L").rotate(90 * number).resize((side, side)).convert("RGB").save(
            tmp_path / "pictures" / f"{number}.png"
        )
    (tmp_path / "sentences.txt").write_text("\n".join(SENTENCES), encoding="utf-8")
    return {
        "title": "files",
        "images": [str(tmp_path / "pictures")],
        "corpus": {
            "source": str(tmp_path / "sentences.txt"),
            "recipe": "concepts",
            "sentences": len(SENTENCES),
        },
        "judge": {"model": "judge", "key_variable": "OWN_KEY", "price_in": 1.0, "price_out": 2.0},
        "models": [
            {"name": "own", "model": "x/connectors", "connector": "own"},
            {"name": "noise", "model": "x/connectors", "connector": "own", "random": True},
        ],
        "visual_layers": [0],
        "bank_layers": [1],
        "lenses": ["latent"],
        "words": [5, 1],
        "corpus_sizes": [50, 100],
    }


def test_a_plan_of_files_is_run_once(plan: dict[str, Any], run: Run, tmp_path: Path) -> None:
    file, out = tmp_path / "plan.yaml", tmp_path / "out"
    with chat_stub(rightly) as stub:
        plan["judge"]["base_url"] = stub.url
        file.write_text(yaml.safe_dump(plan), encoding="utf-8")
        code, printed, errors = run("reproduce", file, "-o", out, "--json")
        assert code == 0, errors
        first = len(stub.bodies)
        code, again, _ = run("reproduce", file, "-o", out, "--json")
        assert len(stub.bodies) == first
    data = json.loads(printed)
    assert json.loads(again)["rows"] == data["rows"]
    assert all(stage["skipped"] for stage in json.loads(again)["stages"])
    shares = {row["kind"]: row["value"] for row in data["rows"] if row["figure"] == "shares"}
    assert shares["any"] == shares["abstract"] == shares["any, random projector"] == 1
    assert shares["concrete"] == 0
    assert [row["at"] for row in data["rows"] if row["figure"] == "pass" and row["kind"] == "any"] == [5, 1]
    assert {row["at"] for row in data["rows"] if row["figure"] == "corpus"} == {50, 100}
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "The judge is judge" in page
    written = [path.read_bytes() for path in out.rglob("*") if path.is_file()]
    assert not any(KEY.encode() in content for content in written)


def test_what_the_command_refuses(plan: dict[str, Any], run: Run, tmp_path: Path) -> None:
    file = tmp_path / "plan.yaml"
    assert run("reproduce")[2].endswith("Name either the YAML file of a plan or a preset (--preset).\n")
    assert run("reproduce", "--preset", "mine")[0] == 2
    file.write_text(yaml.safe_dump(plan | {"images": "demo"}), encoding="utf-8")
    code, _, errors = run("reproduce", file, "-o", tmp_path / "out")
    assert (code, errors.count("\n")) == (2, 1)
    assert "belong together" in errors


def test_costs_are_said_before_anything_is_loaded(run: Run) -> None:
    code, printed, _ = run("reproduce", "--preset", "paper", "--dry-run", "--json")
    assert code == 0
    cost = json.loads(printed)
    assert cost["calls"] > 50_000
    assert 1 < cost["gpu_hours"] < 50
    code, printed, _ = run("reproduce", "--preset", "demo", "--dry-run")
    assert code == 0
    assert "0 questions" in printed
