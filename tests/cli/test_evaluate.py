"""The commands that score lenses, as a user types them: a composite VLM, a tiny LLM, scenes of plain shapes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from latentbank.demo.scenes import Picture, Thing
from latentbank.errors import QueryError
from latentbank.models.language.model import load_language_model
from latentbank.query.lenses.base import LensOptions
from latentbank.query.lenses.embedding import EmbeddingLens
from latentbank.query.lenses.registry import lens_names, lenses_of
from tests.cli.commands import Run, caller
from tests.query.banks import SENTENCES, TWO, fill
from tests.query.pixels import pixel_vlm

NAMES = ("dog", "cat", "apple", "river", "fire truck")


def shape(number: int) -> Thing:
    picture = Picture(Image.new("RGBA", (40, 40), (50 * number, 200 - 40 * number, 90, 255)), "red")
    return Thing(NAMES[number], "tool", "a", (picture,), ())


@pytest.fixture(scope="module")
def banks(model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with a bank `plain` and a bank `centred` of the same two corpora."""
    folder = tmp_path_factory.mktemp("banks")
    llm = load_language_model(str(model_dir))
    for metric, name in (("cosine", "plain"), ("centred", "centred")):
        fill(name, folder, llm, TWO, metric=metric).close()
    return folder


@pytest.fixture
def run(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], banks: Path, model_dir: Path
) -> Run:
    """Run a command with the test's VLM and the test's objects in the scenes."""

    def load(name: str, **_: Any) -> Any:
        vlm = pixel_vlm(load_language_model(str(model_dir)), seed=len(name))
        vlm.card["losses"] = name
        return vlm

    monkeypatch.setattr("latentbank.models.visual.load_visual_model", load)
    monkeypatch.setattr(
        "latentbank.demo.scenes.load_things", lambda: tuple(shape(n) for n in range(len(NAMES)))
    )

    return caller(monkeypatch, capfd, banks, 200)


FEW = ("--scenes", "3", "--visual-layers", "0,2", "--calibration", "2", "--coverage", "0.3")


def test_evaluate_scenes(run: Run, tmp_path: Path) -> None:
    words = ("evaluate", "scenes", "--bank", "plain", *FEW)
    code, out, err = run(*words, "--output", tmp_path / "scores")
    assert code == 0, err
    assert "object patches named by one of the first 5 neighbors" in out
    assert "random projector" in out
    written = json.loads((tmp_path / "scores" / "evaluation.json").read_text())
    assert written["lenses"] == ["latent", "logit", "embedding"]
    assert (written["visual_layers"], written["bank_layers"], written["scenes"]) == ([0, 2], [1, 2], 3)
    assert written["coverage"] == 0.3
    assert {row["projector"] for row in written["rows"]} == {"trained", "random"}
    assert {path.name for path in (tmp_path / "scores").glob("*.png")} == {
        "shares.png", "first.png", "bank-layers.png",
    }  # fmt: skip
    code, out, _ = run(*words, "--no-random", "--where", "corpus=first", "--bank-layers", "2", "--json")
    again = json.loads(out)
    assert code == 0
    assert again["where"] == ["corpus=first"]
    assert {row["projector"] for row in again["rows"]} == {"trained"}
    assert again["bank_layers"] == [2]


def test_scores_are_the_same_each_time(run: Run) -> None:
    words = ("evaluate", "scenes", "--bank", "centred", *FEW, "--lens", "latent", "--json")
    first, second = (json.loads(run(*words)[1]) for _ in range(2))
    assert first == second
    assert (first["metric"], first["calibration_scenes"]) == ("centred", 2)


def test_experiment_alignment(run: Run, tmp_path: Path) -> None:
    code, out, err = run("experiment", "alignment", "--bank", "plain", *FEW, "-o", tmp_path / "a")
    assert code == 0, err
    assert "object patches that each bank layer alone names" in out
    written = json.loads((tmp_path / "a" / "alignment.json").read_text())
    assert [(p["projector"], p["visual_layer"]) for p in written["peaks"]] == [
        (projector, layer) for projector in ("trained", "random") for layer in (0, 2)
    ]
    assert len(list((tmp_path / "a").glob("*.png"))) == 2
    assert "peaks" in json.loads(run("experiment", "alignment", "--bank", "plain", *FEW, "--json")[1])


def test_experiment_metric(run: Run, tmp_path: Path) -> None:
    words = ("experiment", "metric", "--bank", "plain", "--centred", "centred", *FEW, "--lens", "embedding")
    code, out, err = run(*words, "-o", tmp_path / "m")
    assert code == 0, err
    assert "centred, all corpora" in out
    summary = json.loads((tmp_path / "m" / "metric.json").read_text())["summary"]
    assert [(line["label"], line["lens"]) for line in summary if "second" not in line["label"]] == [
        (f"{metric}, {corpora}", lens)
        for metric in ("cosine", "centred")
        for corpora, lens in (("all corpora", "latent"), ("all corpora", "embedding"), ("first", "latent"))
    ]
    code, _, err = run("experiment", "metric", "--bank", "plain", "--centred", "plain", *FEW)
    assert code == 2
    assert err.count("\n") == 1


def test_experiment_corpus_swap(run: Run, tmp_path: Path) -> None:
    code, out, err = run("experiment", "corpus-swap", "--bank", "plain", *FEW, "-o", tmp_path / "c")
    assert code == 0, err
    assert "second" in out
    written = json.loads((tmp_path / "c" / "corpus-swap.json").read_text())
    assert [line["label"] for line in written["summary"]] == ["first", "second"]
    assert written["summary"][0]["random"]["of"] > 0
    assert (tmp_path / "c" / "corpus-swap.png").exists()


def test_experiment_corpus_swap_fills_its_bank(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Corpora of two sizes are stored with equally many contexts; a second run stores nothing more."""
    monkeypatch.setenv("LATENTBANK_DATA_DIR", str(tmp_path / "data"))
    for name, sentences in (
        ("few", SENTENCES[:3]),
        ("many", [f"{sentence} {i}." for sentence in SENTENCES for i in range(9)]),
    ):
        (tmp_path / f"{name}.txt").write_text("\n".join(sentences), encoding="utf-8")
    words = ("experiment", "corpus-swap", tmp_path / "few.txt", tmp_path / "many.txt", *FEW, "--json")
    code, out, err = run(*words, "--layers", "1,3", "--metric", "centred")
    assert code == 0, err
    first = json.loads(out)
    sizes = first["contexts"]
    assert list(sizes) == ["few", "many"]
    # With so few sentences, equal sizes are only approximate.
    assert sizes["many"] == pytest.approx(sizes["few"], rel=0.2)
    assert [line["metric"] for line in first["summary"]] == ["centred", "centred"]
    assert json.loads(run("bank", "info", "corpus-swap", "--json")[1])["layers"] == [1, 3]
    assert run("bank", "verify", "corpus-swap")[0] == 0
    assert json.loads(run(*words)[1]) == first
    code, _, err = run("experiment", "corpus-swap", tmp_path / "few.txt", tmp_path / "few.txt", *FEW)
    assert (code, "the same name" in err) == (2, True)


def test_experiment_corpus_swap_beside_other_corpora(
    run: Run, tmp_path: Path, model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a bank that holds a third corpus, plans of `ingest run` stay, and only the corpora named are scored."""
    monkeypatch.setenv("LATENTBANK_DATA_DIR", str(tmp_path / "data"))
    files = {"few": SENTENCES[:3], "many": [f"{sentence} {i}." for sentence in SENTENCES for i in range(3)]}
    for name, sentences in {**files, "third": SENTENCES}.items():
        (tmp_path / f"{name}.txt").write_text("\n".join(sentences), encoding="utf-8")
    ingest = ("ingest", "run", "--bank", "swap", "--model", model_dir, "--layers", "1")
    assert run(*ingest, tmp_path / "third.txt")[0] == 0
    assert run("ingest", "plan", tmp_path / "many.txt", "--bank", "swap", "--no-calibrate")[0] == 0
    plan = (tmp_path / "data" / ".plans" / "swap" / "many" / "plan.json").read_bytes()
    swap = ("experiment", "corpus-swap", tmp_path / "few.txt", tmp_path / "many.txt", *FEW, "--json")
    code, out, err = run(*swap, "--bank", "swap")
    assert code == 0, err
    assert list(json.loads(out)["contexts"]) == ["few", "many"]
    assert [scored["label"] for scored in json.loads(out)["evaluations"]] == ["few", "many"]
    assert (tmp_path / "data" / ".plans" / "swap" / "many" / "plan.json").read_bytes() == plan
    # Fewer contexts mean other sentences, and the bank cannot hold both under one name.
    code, _, err = run(*swap, "--bank", "swap", "--contexts", "16")
    assert (code, err.count("\n")) == (2, 1)
    assert "name a new bank with --bank" in err


def test_experiment_projector(run: Run, tmp_path: Path) -> None:
    words = ("experiment", "projector", "a/linear.safetensors", "a/mlp3.safetensors", "--bank", "plain", *FEW)
    code, out, err = run(*words, "--lens", "embedding", "-o", tmp_path / "p")
    assert code == 0, err
    assert "mlp3:" in out
    assert "how the projectors were trained" in out
    written = json.loads((tmp_path / "p" / "projector.json").read_text())
    assert written["cards"]["linear"]["losses"] == "a/linear.safetensors"
    assert [scored["label"] for scored in written["evaluations"]] == ["linear", "mlp3"]
    code, _, err = run(
        "experiment", "projector", "a/mlp.safetensors", "--bank", "plain", *FEW, "--lens", "latent"
    )
    assert (code, "at least two projector files" in err) == (2, True)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--scenes", "1"), "--scenes is 1; it can be 2 to 300"),
        (("--scenes", "301"), "--scenes is 301"),
        (("--calibration", "-1"), "--calibration is -1"),
        (("--lens", "crystal"), "There is no lens 'crystal'; there are latent, logit, embedding"),
        (("--where", "colour=red"), "is not a condition"),
        (("--bank", "none"), "There is no bank 'none'"),
        (("--bank", "centred", "--calibration", "0", "--lens", "latent"), "give calibration scenes"),
    ],
)
def test_errors_a_user_can_fix(run: Run, words: tuple[str, ...], message: str) -> None:
    code, out, err = run("evaluate", "scenes", "--bank", "plain", *FEW, *words)
    assert code == 2
    assert out == ""
    assert message in err


def test_the_lenses_of_a_command(model_dir: Path) -> None:
    vlm = pixel_vlm(load_language_model(str(model_dir)))
    (lens,) = lenses_of(lens_names("embedding, embedding"), LensOptions(vlm, unique="word"))
    assert isinstance(lens, EmbeddingLens)
    assert lens.unique == "word"
    assert lens.embedding.shape == (vlm.language.vocab_size, vlm.hidden_size)
    with pytest.raises(QueryError, match="no lens 'crystal'"):
        lens_names("latent,crystal")


def test_experiment_lenses(
    run: Run, tmp_path: Path, model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lenses that are not trained say so; then they are trained and imported, and all are compared."""
    code, _, err = run("experiment", "lenses", "--bank", "plain", *FEW)
    assert code == 2
    assert "There is no Tuned lens of tiny-llama on this machine yet" in err
    assert err.rstrip().endswith("(latentbank train lens).")
    (tmp_path / "text.txt").write_text("\n".join(SENTENCES))
    words = (
        "train",
        "lens",
        tmp_path / "text.txt",
        "--model",
        model_dir,
        "--layers",
        "0,2",
        "--rate",
        "0.01",
    )
    code, out, err = run(*words, "--json")
    assert code == 0, err
    card = json.loads(out)
    assert (card["kind"], card["layers"], card["corpus"], card["sentences"]) == ("tuned", [0, 2], "text", 5)
    assert model_dir.parent.name not in json.dumps({**card, "file": ""})
    code, out, err = run(*words, "--kind", "jacobian", "--output", tmp_path / "own.safetensors")
    assert code == 0, err
    assert (tmp_path / "own.safetensors").is_file()
    llm = load_language_model(str(model_dir))
    matrices = {number: torch.eye(llm.hidden_size) for number in range(-1, llm.num_layers - 1)}
    torch.save({"J": matrices, "n_prompts": 1, "d_model": llm.hidden_size}, tmp_path / "released.pt")
    code, out, err = run("import", "lens", tmp_path / "released.pt", "--model", model_dir)
    assert code == 0, err
    assert "released as" in out
    monkeypatch.setattr("latentbank.query.evaluation.experiments.league.COSTED", 20)
    words_of_all = ("experiment", "lenses", "--bank", "plain", "--no-random", *FEW)
    code, out, err = run(*words_of_all, "--output", tmp_path / "lenses")
    assert code == 0, err
    assert "shuffled images" in out
    data = json.loads((tmp_path / "lenses" / "lenses.json").read_text())
    names = ["latent", "logit", "embedding", "tuned", "jacobian", "patchscopes"]
    assert [line["lens"] for line in data["summary"]] == [cost["lens"] for cost in data["costs"]] == names
    assert all(cost["seconds"] > 0 and cost["layer"] == 2 for cost in data["costs"])
    by_lens = {line["lens"]: line for line in data["summary"]}
    # The identity for every layer reads as LogitLens does.
    assert by_lens["jacobian"]["mean"] == by_lens["logit"]["mean"]
    assert (tmp_path / "lenses" / "lenses.png").stat().st_size > 1000
    code, _, err = run(*words, "--kind", "linear")
    assert code == 2
    assert "choose tuned or jacobian (--kind)" in err
    code, _, err = run(
        "evaluate", "scenes", "--bank", "plain", *FEW[:2], "--visual-layers", "1", "--lens", "tuned"
    )
    assert code == 2
    assert "has no layer 1; it has 0, 2" in err
