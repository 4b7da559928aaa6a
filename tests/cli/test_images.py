"""`latentbank images ingest`, `list` and `drop`, and what commands of banks say of images."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.commands import Run
from tests.query.patch_vlm import PatchVLM, picture

SENTENCES = ["A dog runs.", "A cat sleeps near the sea."]


@pytest.mark.usefixtures("filled")
def test_images_are_planned_stored_listed_and_dropped(
    run: Run, model_dir: Path, photos: Path, loaded: list[PatchVLM]
) -> None:
    words = ("images", "ingest", photos, "--model", model_dir, "--visual-layers", "0,2")
    code, out, err = run(*words, "--dry-run", "--json")
    plan = json.loads(out)
    assert (code, plan["images"], plan["points"], plan["layers"]) == (0, 3, 18, [0, 2])
    assert str(model_dir) not in out
    assert "holds no images yet" in run("images", "list")[1]

    code, out, err = run(*words)
    assert code == 1  # one image is broken
    assert "skipped: " in err
    assert "b.png" in err
    assert "2 images, 12 visual tokens at each of the visual layers 0, 2" in out
    assert "Of 3 images: 2 read, 1 that cannot be read" in out

    picture(9).save(photos / "b.png")
    seen = sum(loaded[-1].calls)
    code, out, err = run("images", "ingest", photos, "--model", model_dir, "--json")
    report = json.loads(out)
    assert (code, report["encoded"], report["found"], report["layers"]) == (0, 1, 2, [0, 2]), err
    assert sum(loaded[-1].calls) == 1 < seen

    (vlm,) = json.loads(run("images", "list", "--json")[1])["vlms"]
    assert (vlm["model"], vlm["layers"]) == ("patch-vlm", [0, 2])
    assert vlm["corpora"]["photos"]["images"] == 3
    assert json.loads(run("bank", "list", "--json")[1])["images"] == {"tiny-llama": [vlm]}
    assert "images of patch-vlm: photos (3 images)" in run("bank", "list")[1]
    assert json.loads(run("bank", "info", "--json")[1])["images"] == [vlm]
    assert json.loads(run("bank", "verify", "--json")[1])["sound"]
    assert run("bank", "index")[0] == 0

    code, _, err = run("images", "ingest", photos, "--model", model_dir, "--visual-layers", "1")
    assert code == 2
    assert "stored at visual layers 0, 2, not 1" in err
    assert "(--visual-layers)" in err
    assert "18 visual tokens in each layer" in run("images", "drop", "photos")[1]
    assert "no corpus 'photos'" in run("images", "drop", "photos")[2]
    assert run("images", "drop", "--yes")[0] == 0
    assert json.loads(run("images", "list", "--json")[1])["vlms"] == []
    assert "holds no images" in run("images", "drop", "--yes")[2]


@pytest.mark.usefixtures("filled", "loaded")
def test_images_are_exported_with_their_bank(run: Run, model_dir: Path, photos: Path, tmp_path: Path) -> None:
    (photos / "b.png").unlink()
    assert (
        run("images", "ingest", photos, "--model", model_dir, "--visual-layers", "0", "--name", "p")[0] == 0
    )
    code, out, err = run("bank", "export", "tiny-llama", tmp_path / "export", "--json")
    (held,) = json.loads(out)["images"]
    assert (code, held["contexts"], held["corpora"]) == (0, 12, ["p"]), err
    code, out, err = run("bank", "import", tmp_path / "export", "--name", "other", "--json")
    assert (code, [one["sound"] for one in json.loads(out)["images"]]) == (0, [True]), err
    assert (
        json.loads(run("images", "list", "--bank", "other", "--json")[1])["vlms"][0]["model"] == "patch-vlm"
    )
    assert run("bank", "delete", "other", "--yes")[0] == 0
    assert run("bank", "import", tmp_path / "export", "--name", "other", "--no-images")[0] == 0
    assert json.loads(run("images", "list", "--bank", "other", "--json")[1])["vlms"] == []
