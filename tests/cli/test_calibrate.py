"""`calibrate`, and `--correct` afterwards, as a user types them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from latentbank.query.lenses.centring import load_means
from latentbank.query.reading.calibrate import measure_means
from tests.cli.commands import Run
from tests.query.patch_vlm import PatchVLM, picture

SENTENCES = ["The dog chased a cat.", "A red apple lies on the table.", "The river bank was muddy."]
LAYERS = ("--visual-layers", "0,1")


@pytest.fixture(autouse=True)
def few_null_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let calibrations look at few pictures with nothing to see."""
    monkeypatch.setattr("latentbank.query.silence.null_tokens.COUNT", 18)


@pytest.fixture
def others(tmp_path: Path) -> Path:
    folder = tmp_path / "others"
    folder.mkdir()
    for number in range(4):
        picture(50 + number).save(folder / f"{number}.png")
    return folder


def test_a_vlm_is_calibrated_and_read_with_corrections(
    run: Run,
    filled: None,
    loaded: list[PatchVLM],
    photos: Path,
    others: Path,
    model_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    read = (
        "query",
        "image",
        photos / "a.png",
        "--visual-layers",
        "0",
        "--bank-layers",
        "all",
        "--correct",
        "both",
    )
    code, out, err = run(*read, "--json")
    assert (code, out) == (2, "")
    assert "patch-vlm is not calibrated for the bank 'tiny-llama'" in err
    code, out, err = run(*read[:-2], "--fdr", "0.05")
    assert (code, out) == (2, "")
    assert "finds in the bank 'tiny-llama' where there is nothing to see; calibrate it" in err
    assert "(--fdr)" in err
    means, beside = tmp_path / "means.safetensors", tmp_path / "vlm.means.safetensors"
    monkeypatch.setattr(PatchVLM, "means_file", beside)
    words = ("calibrate", model_dir, "--images", others, *LAYERS)
    code, out, err = run(*words, "--output", means, "--json")
    assert code == 0, err
    made = json.loads(out)
    assert (made["pictures"], made["tokens"], made["bank_layers"]) == (4, 24, [1, 2])
    assert made["computed"] == 2 * made["contexts"] > 0
    assert (made["means"], beside.exists()) == (str(means), False)
    # Run again by its other name, it computes nothing; the means go beside the VLM.
    code, out, err = run("query", "means", *words[1:])
    assert code == 0, err
    assert f"0 of {made['computed']:,} computed now" in out
    measured = measure_means(loaded[-1], sorted(others.iterdir()), [0, 1])
    for layer in (0, 1):
        for file in (means, beside):
            assert load_means(file).at(layer) == pytest.approx(measured.at(layer), abs=1e-5)
    (reading,) = json.loads(run(*read, "--json")[1])
    assert reading["correction"] == "both"
    for token in reading["tokens"]:
        scores = [neighbor["corrected"] for neighbor in token["neighbors"]]
        assert scores == sorted(scores, reverse=True)
    assert "corrected: both" in run(*read)[1]
    (quiet,) = json.loads(run(*read, "--fdr", "1e-9", "--json")[1])
    assert quiet["fdr"] == 1e-9
    assert all(token["silent"] and not token["neighbors"] for token in quiet["tokens"])
    assert "6 of 6 tokens are silent" in run(*read, "--fdr", "1e-9")[1]
    code, _, err = run(*read, "--fdr", "1")
    assert (code, "fdr is 1.0; it must be above 0 and below 1" in err) == (2, True)
    for given, message in (
        (("--correct", "all"), "There is no correction 'all'; there are hubs, mean, both"),
        (("--visual-layers", "2"), "Visual layer 2 of patch-vlm is not calibrated"),
        (("--lens", "patchscopes"), "Patchscopes cannot be corrected; leave the correction out"),
    ):
        code, out, err = run(*read, *given)
        assert (code, out) == (2, "")
        assert message in err
        assert "(--correct)" in err


def test_readings_of_other_corrections_go_to_other_folders_and_broken_pictures_are_named(
    run: Run,
    filled: None,
    loaded: list[PatchVLM],
    photos: Path,
    others: Path,
    model_dir: Path,
    tmp_path: Path,
) -> None:
    (others / "broken.png").write_bytes(b"no picture")
    words = ("calibrate", model_dir, "--images", others, "--visual-layers", "0")
    code, out, err = run(*words)
    assert code == 1
    assert err.count("skipped: ") == 1
    assert "on 24 visual tokens of 4 images" in out
    read = ("query", "image", photos / "a.png", "--visual-layers", "0", "--parquet", tmp_path / "out")
    assert run(*read, "--correct", "hubs")[0] == 0
    assert run(*read, "--correct", "hubs")[0] == 0
    code, _, err = run(*read, "--correct", "mean")
    assert (code, "made with another correction (hubs, not mean)" in err) == (2, True)
    code, _, err = run(*read)
    assert (code, "made with another calibration" in err) == (2, True)
    (others / "broken.png").unlink()
    (others / "3.png").unlink()
    assert run(*words)[0] == 0
    code, _, err = run(*read, "--correct", "hubs")
    assert (code, "made with another calibration" in err) == (2, True)
    code, _, err = run("calibrate", model_dir, "--column", "image")
    assert (code, "Name the dataset" in err) == (2, True)
