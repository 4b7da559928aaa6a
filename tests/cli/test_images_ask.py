"""`latentbank images where`, `like` and `words`: from images to ranked patches, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from tests.cli.commands import Run
from tests.query.patch_vlm import PatchVLM, picture

SENTENCES = ["The dog chased a cat in the garden.", "My dog saw the cat.", "A hot dog with bread."]


@pytest.fixture
def banked(run: Run, filled: None, loaded: list[PatchVLM], tmp_path: Path) -> Path:
    """Three stored images, whose files are returned."""
    folder = tmp_path / "drawn"
    folder.mkdir()
    for number in range(3):
        picture(number).save(folder / f"{number}.png")
    code, _, err = run("images", "ingest", folder, "--visual-layers", "0,2", "--batch", "2")
    assert code == 0, err
    assert loaded
    return folder


def test_a_word_a_patch_and_the_words_are_asked_for(
    run: Run, banked: Path, model_dir: Path, tmp_path: Path
) -> None:
    page, sheet = tmp_path / "dog.html", tmp_path / "dog.png"
    code, out, err = run("images", "where", "dog", "-k", "4", "--html", page, "--png", sheet)
    assert code == 0, err
    assert "“dog”" in out
    assert page.read_text(encoding="utf-8").count("<li>") == 4
    assert Image.open(sheet).width > 800
    ask = ("images", "where", "dog", "--json", "-k", "3", "--visual-layers", "0,2", "--by-image")
    found = json.loads(run(*ask)[1])
    assert found["visual_layers"] == [0, 2]
    assert len({patch["digest"] for patch in found["patches"]}) == 3
    assert found["source"] == "3 contexts of the bank"
    narrower = json.loads(run(*ask, "--contexts", "caption_contains!=hot dog", "--where", "row_max=0")[1])
    assert narrower["source"] == "2 contexts of the bank"
    assert {patch["row"] for patch in narrower["patches"]} == {0}

    patch = found["patches"][0]
    place = f"{patch['row']},{patch['column']}"
    stored = json.loads(run("images", "like", patch["image"], "--patch", place, "--json", "-k", "5")[1])
    assert len(stored["patches"]) == 5
    assert patch["id"] not in {one["id"] for one in stored["patches"]}
    copy = tmp_path / "copy.png"
    copy.write_bytes((banked / patch["image"].split("/")[-1]).read_bytes())
    read = json.loads(
        run("images", "like", copy, "--patch", place, "--model", model_dir, "--json", "-k", "5")[1]
    )
    assert read["patches"][0]["id"] == patch["id"]
    assert read["question"] == f"like copy.png, row {patch['row']}, column {patch['column']}"

    words = json.loads(run("images", "words", "--bank-layers", "2", "--json")[1])["layers"][0]
    assert (words["visual_layer"], words["read"], words["kept"]) == (2, 18, 0)
    assert sum(one["patches"] for one in words["words"]) == 18 - words["silent"]
    again = json.loads(run("images", "words", "--bank-layers", "2", "--json")[1])["layers"][0]
    assert (again["read"], again["kept"], again["words"]) == (0, 18, words["words"])
    word = words["words"][0]["word"]
    shown = json.loads(run("images", "where", "cat", "--json", "--where", f"word={word}", "-k", "99")[1])
    assert len(shown["patches"]) == words["words"][0]["patches"]


def test_a_word_the_bank_lacks_is_put_into_sentences(run: Run, banked: Path, model_dir: Path) -> None:
    del banked
    code, out, err = run("images", "where", "window", "--json", "-k", "2")
    assert code == 0, err
    assert json.loads(out)["source"] == "8 sentences made for it"
    code, out, _ = run("images", "where", "dog", "--sentence", "It is a dog.", "--json", "-k", "2")
    assert json.loads(out)["source"] == "'dog' in “It is a dog.”"
    assert model_dir.exists()


WRONG = (
    (("where", "dog", "--visual-layers", "1"), "not stored at visual layer 1; they are at 0, 2"),
    (("where", "dog", "--correct", "hubs"), "there are both, mean, none (--correct)"),
    (("where", "dog", "--where", "colour=red"), "is not a condition"),
    (("where", "cat", "--sentence", "It is a dog."), "does not hold 'cat'"),
    (("like", "0.png", "--patch", "3"), "write ROW,COLUMN from 0, or ROW,COLUMN,TILE (--patch)"),
    (("like", "none.png", "--patch", "0,0"), "No image 'none.png' is stored"),
    (("words", "--fdr", "0.05"), "not calibrated"),
)


def test_wrong_questions_are_one_line(run: Run, banked: Path) -> None:
    del banked
    for words, told in WRONG:
        code, out, err = run("images", *words)
        assert (code, out) == (2, "")
        assert told in " ".join(err.split())
