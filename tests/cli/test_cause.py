"""The commands `cause` and `experiment cause`, as a user types them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from latentbank.demo.scenes import Picture, Thing
from latentbank.models.language.intervening import Intervention
from latentbank.models.language.model import load_language_model
from latentbank.models.vision.prompted import Prompted
from tests.cli.commands import Run, caller
from tests.query.banks import TWO, fill
from tests.query.patch_vlm import picture
from tests.query.pixels import pixel_vlm


def shape(number: int, name: str) -> Thing:
    image = Image.new("RGBA", (40, 40), (50 * number, 200 - 40 * number, 90, 255))
    return Thing(name, "tool", "a", (Picture(image, "red"),), ())


@pytest.fixture(scope="module")
def banks(model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("banks")
    llm = load_language_model(str(model_dir))
    for metric, name in (("cosine", "plain"), ("centred", "centred")):
        fill(name, folder, llm, TWO, metric=metric).close()
    return folder


@pytest.fixture
def run(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], banks: Path, model_dir: Path
) -> Run:
    """Run a command with a VLM that always writes of a dog and an apple."""
    vlm = pixel_vlm(load_language_model(str(model_dir)))
    ids = vlm.language.tokenizer("A dog and an apple.", add_special_tokens=False)["input_ids"]

    def write(_self: Prompted, _most: int, rows: Sequence[Intervention]) -> list[list[int]]:
        return [ids] * len(rows)

    monkeypatch.setattr(Prompted, "write", write)
    monkeypatch.setattr("latentbank.models.visual.load_visual_model", lambda *_, **__: vlm)
    things = tuple(shape(n, name) for n, name in enumerate(("dog", "apple", "river", "garden", "table")))
    monkeypatch.setattr("latentbank.demo.scenes.load_things", lambda: things)
    return caller(monkeypatch, capfd, banks, 200)


def test_cause(run: Run, tmp_path: Path) -> None:
    for seed in range(2):
        picture(seed).save(tmp_path / f"{seed}.png")
    words: tuple[Any, ...] = (
        "cause",
        tmp_path / "0.png",
        "--model",
        "x",
        "--bank",
        "plain",
        "--word",
        "apples",
    )
    more = ("--layers", "0,2", "--draws", "2", "--by", "image,attention", "--other", tmp_path / "1.png")
    code, out, err = run(*words, *more, "--at", "1,4", "-o", tmp_path / "out")
    assert code == 0, err
    assert "'apples': the answer says it as 'apple'" in out
    assert "tokens ablated by cutting attention to them" in out
    assert "an ablation of nothing changes 0" in out
    written = json.loads((tmp_path / "out" / "causes.json").read_text())
    assert written["showing"] == {"0": [1, 4], "2": [1, 4]}
    assert (tmp_path / "out" / "causes.png").exists()
    again = json.loads(run(*words, *more, "--at", "1,4", "--json")[1])
    assert again == written


@pytest.mark.parametrize("act", ["write", "remove"])
def test_cause_writes(run: Run, tmp_path: Path, act: str) -> None:
    picture(0).save(tmp_path / "0.png")
    words: tuple[Any, ...] = ("cause", tmp_path / "0.png", "--model", "x", "--bank", "plain", "--word", "dog")
    code, out, err = run(*words, "--layers", "0,2", f"--{act}", "--at", "1", "--draws", "2")
    assert code == 0, err
    assert "visual layer 0, contexts of bank layer 1" in " ".join(out.split())
    data = json.loads(
        run(*words, "--layers", "2", f"--{act}", "--at", "1", "--context-layer", "1", "--json")[1]
    )
    assert (data["act"], data["tokens"]) == (act, [1])
    assert [(row["layer"], row["bank_layer"], row["kind"]) for row in data["written"]] == [
        (2, 1, "word"), (2, 1, "random"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--by", "noise"), "There is no way of ablating 'noise'"),
        (("--by", "image"), "Name other images, whose tokens take the place of this one's (--other)."),
        (("--at", "a"), "'a' is not a list of tokens"),
        (("--at", "6"), "There is no visual token 6"),
        (("--lens", "latent,logit"), "name one"),
        (("--word", "zebra"), "No visual token has 'zebra' among its first 5 neighbors"),
        (("--write",), "Name the visual tokens by number (--at)."),
        (("--write", "--remove"), "--write and --remove"),
        (("--write", "--at", "1", "--word", "zebra"), "has no context of 'zebra'"),
        (("--write", "--at", "1", "--bank", "centred"), "is centred: its vectors lack the mean of text"),
    ],
)
def test_errors_a_user_can_fix(run: Run, tmp_path: Path, words: tuple[str, ...], message: str) -> None:
    picture(0).save(tmp_path / "0.png")
    given = ("cause", tmp_path / "0.png", "--model", "x", "--bank", "plain", "--word", "dog", "--layers", "1")
    code, out, err = run(*given, *words)
    assert (code, out) == (2, "")
    assert message in err


def test_experiment_cause(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("latentbank.query.evaluation.experiments.causes.showing", lambda *_: [0, 2, 4])
    words: tuple[Any, ...] = ("experiment", "cause", "--bank", "plain", "--scenes", "3", "--calibration", "2")
    more = ("--layers", "0,2", "--write-layers", "1", "--by", "mean,image", "--coverage", "0.2")
    code, out, err = run(*words, *more, "-o", tmp_path / "c")
    assert code == 0, err
    assert "differences within scenes, by image" in " ".join(out.split())
    assert "contexts written into a thing's tokens" in " ".join(out.split())
    written = json.loads((tmp_path / "c" / "cause.json").read_text())
    assert {row["way"] for row in written["effects"]} == {"mean", "image"}
    assert {row["act"] for row in written["written"]} == {"write", "remove"}
    assert (tmp_path / "c" / "cause.png").exists()
    data = json.loads(run(*words, *more, "-o", tmp_path / "c", "--json")[1])  # from what the first run kept
    assert data == written
    alone = json.loads(run(*words, "--layers", "none", *more[2:], "--json")[1])  # nothing is ablated
    assert alone["effects"] == []
    assert alone["written"] == written["written"]
    assert run(*words, "--layers", "none", "--write-layers", "none")[0] == 2
    centred = (
        "experiment",
        "cause",
        "--bank",
        "centred",
        "--scenes",
        "2",
        "--calibration",
        "2",
        "--by",
        "mean",
    )
    data = json.loads(
        run(*centred, "--layers", "1", "--write-layers", "none", "--coverage", "0.2", "--json")[1]
    )
    assert data["written"] == []
    assert run(*centred, "--calibration", "0")[0] == 2
