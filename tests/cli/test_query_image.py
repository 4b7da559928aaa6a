"""`query image`, `means` and `norms` as a user types them, with a small VLM over a tiny LLM and its bank."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas
import pytest
from PIL import Image

from latentbank.errors import ModelError
from latentbank.models.language.model import load_language_model
from latentbank.models.vision.vision_language import load_vision_language_model
from tests import hub
from tests.cli.commands import Run, caller
from tests.models.tiny_vlm import save_tiny_vlm
from tests.query.patch_vlm import PatchVLM, picture
from tests.query.pixels import pixel_vlm
from tests.tiny import save_tiny

SENTENCES = ["The dog chased a cat.", "A red apple lies on the table.", "The river bank was muddy."]
LENSES = ["latent", "logit", "embedding"]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    """Run a command in the test's data folder; returns exit code, standard output and standard error."""
    return caller(monkeypatch, capfd, tmp_path / "data", 100)


def test_one_image_as_json(run: Run, filled: None, loaded: list[PatchVLM], photos: Path) -> None:
    code, out, err = run(
        "query", "image", photos / "a.png", "--visual-layers", "0,3", "--bank-layers", "all", "-k", "2",
        "--lens", "latent,logit,embedding", "--where", "word=dog|cat", "--unique", "word", "--json",
    )  # fmt: skip
    assert code == 0, err
    (reading,) = json.loads(out)
    assert reading["source"] == str(photos / "a.png")
    assert (reading["lenses"], reading["layers"], reading["bank_layers"]) == (
        LENSES,
        [0, 3],
        [1, 2],
    )
    assert len(reading["tokens"]) == 3 * 2 * 6
    for token in reading["tokens"]:
        for neighbor in token["neighbors"]:
            assert (
                (neighbor["cosine"] is None)
                == (token["lens"] == "logit")
                == (neighbor["probability"] is not None)
            )
    latent = [token for token in reading["tokens"] if token["lens"] == "latent"]
    for token in latent:
        assert sorted(n["word"] for n in token["neighbors"]) == ["cat", "dog"]
    assert loaded[0].calls == [1]
    # A command that fails before the first reading prints nothing.
    code, out, err = run("query", "image", photos / "b.png", "--visual-layers", "1", "--json")
    assert (code, out, err.count("\n")) == (2, "", 1)


def test_the_recipe_of_the_paper(
    run: Run, filled: None, loaded: list[PatchVLM], photos: Path, tmp_path: Path
) -> None:
    words = ("query", "image", photos / "a.png", "--recipe", "latentlens", "--json")
    (reading,) = json.loads(run(*words)[1])
    assert (reading["layers"], reading["bank_layers"]) == ([0, 1, 2, 3], [1, 2])
    assert loaded[-1].language.loaded_layers == 3
    (reading,) = json.loads(run(*words, "--visual-layers", "0", "--bank-layers", "2")[1])
    assert (reading["layers"], reading["bank_layers"]) == ([0], [2])
    assert loaded[-1].language.loaded_layers == 1  # the least that is kept
    assert (
        "no recipe 'logitlens' for reading; use latentlens (--recipe)"
        in run(*words, "--recipe", "logitlens")[2]
    )


def test_the_text_around_an_image(
    run: Run, filled: None, loaded: list[PatchVLM], photos: Path, tmp_path: Path
) -> None:
    words = ("query", "image", photos / "a.png", "--visual-layers", "1", "--tokens", "all", "--answer", "2")
    code, out, err = run(*words, "--json")
    assert code == 0, err
    (reading,) = json.loads(out)
    assert [t["kind"] for t in reading["tokens"]] == ["prompt", *["visual"] * 6, "prompt", "answer", "answer"]
    assert reading["answer"] == "".join(t["label"] for t in reading["tokens"][-2:])
    vlm = loaded[-1].language
    assert vlm.loaded_layers == vlm.num_layers  # an answer needs the whole model
    assert run("query", "image", photos / "a.png", "--visual-layers", "1", "--tokens", "all")[0] == 0
    assert loaded[-1].language.loaded_layers == 1
    assert "  answer, each token → its best word" in run(*words)[1].splitlines()
    folder = tmp_path / "readings"
    assert run(*words, "--parquet", folder)[0] == 0
    code, _, err = run(
        "query", "image", photos / "a.png", "--visual-layers", "1", "--answer", "2", "--parquet", folder
    )
    assert (code, "made with another prompt_tokens (True, not False)" in err) == (2, True)
    code, _, err = run("query", "image", photos / "a.png", "--tokens", "text")
    assert (code, "it can be 'visual' or 'all'" in err) == (2, True)


def test_many_images_as_grids(run: Run, filled: None, loaded: list[PatchVLM], photos: Path) -> None:
    code, out, err = run("query", "image", photos, "--visual-layers", "1", "--top-k", "1")
    assert code == 1  # an image is broken
    assert f"skipped: The image {photos / 'b.png'} cannot be read to its end" in err
    assert "1 image could not be read" in err
    headings = [line for line in out.splitlines() if line.startswith("latent lens, visual layer 1")]
    assert len(headings) == 2
    assert "a.png" in out
    assert "boxes: exact, 2 x 3 patches" in out


def test_a_killed_job_continues_with_the_missing_images(
    run: Run, filled: None, loaded: list[PatchVLM], photos: Path, tmp_path: Path
) -> None:
    picture(5).save(photos / "b.png")
    words = ("query", "image", photos, "--visual-layers", "0,2", "--lens", "latent,embedding", "--batch", "1")
    out_dir = tmp_path / "out"
    code, out, _ = run(*words, "--parquet", out_dir, "--limit", "2")
    assert (code, out) == (0, f"Read 2 images into {out_dir}.\n")
    before = {path.name: path.stat().st_mtime_ns for path in out_dir.glob("*.parquet")}
    assert len(before) == 2
    (out_dir / ".c-000.parquet.1234").write_bytes(b"half a file, left by a kill")

    code, out, _ = run(*words, "--parquet", out_dir, "--pictures", tmp_path / "pictures")
    assert (code, out) == (0, f"Read 1 image into {out_dir}, 2 were there before.\n")
    assert loaded[-1].calls == [1]
    after = {path.name: path.stat().st_mtime_ns for path in out_dir.glob("*.parquet")}
    assert before.items() < after.items()
    (drawn,) = (tmp_path / "pictures").iterdir()
    assert drawn.name.startswith("c-")
    assert Image.open(drawn).format == "PNG"
    frame = pandas.read_parquet(out_dir)
    assert sorted(frame["source"].unique()) == [str(photos / name) for name in ("a.png", "b.png", "c.png")]
    assert len(frame) == 3 * 2 * 2 * 6 * 5

    code, out, _ = run(*words, "--parquet", out_dir)
    assert (code, out) == (0, f"Read 0 images into {out_dir}, 3 were there before.\n")
    code, _, err = run(*words, "--parquet", out_dir, "--top-k", "3")
    assert code == 2
    assert "another top_k (5, not 3)" in err


def test_readings_are_pushed(
    run: Run,
    filled: None,
    loaded: list[PatchVLM],
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    words = (
        "query",
        "image",
        photos,
        "--visual-layers",
        "0",
        "--parquet",
        tmp_path / "out",
        "--push",
        "lab/readings",
    )
    with hub.serving() as double:
        hub.use(double, tmp_path / "hf", monkeypatch, token=None)
        code, _, err = run(*words)
        assert (code, "not logged in" in err, loaded) == (2, True, [])  # known before the model is loaded
        hub.login(monkeypatch, "hf_writer")
        code, out, err = run(*words)
        assert code == 1  # one image is broken; the others are pushed
        assert f"They are in {double.url}/datasets/lab/readings (private), commit " in out
        assert len(double.repositories["datasets", "lab/readings"].files) == 5


def test_pages_and_figures_go_to_files_or_folders(
    run: Run, filled: None, loaded: list[PatchVLM], photos: Path, tmp_path: Path
) -> None:
    words = ("--visual-layers", "0,1", "--top-k", "2")
    page, figure = tmp_path / "out.html", tmp_path / "figure.pdf"
    code, out, err = run("query", "image", photos / "a.png", *words, "--html", page, "--pdf", figure)
    assert code == 0, err
    assert "latent lens, visual layer 1" in out
    assert page.read_text(encoding="utf-8").startswith("<!doctype html>")
    assert figure.read_bytes().startswith(b"%PDF")

    folder = tmp_path / "pages"
    code, _, err = run("query", "image", photos, *words, "--html", folder, "--png", folder, "--svg", folder)
    assert code == 1, err  # an image is broken
    assert sorted(path.suffix for path in folder.iterdir()) == [
        ".html",
        ".html",
        ".png",
        ".png",
        ".svg",
        ".svg",
    ]

    code, _, err = run("query", "image", photos, *words, "--html", page)
    assert (code, err) == (
        2,
        f"latentbank: {page} is one file, but there may be more images; name a folder (--html).\n",
    )


def test_a_lens_without_a_bank(run: Run, model_dir: Path, loaded: list[PatchVLM], photos: Path) -> None:
    code, out, err = run(
        "query", "image", photos / "a.png", "--model", model_dir, "--lens", "embedding", "--visual-layers", "0",
        "--json",
    )  # fmt: skip
    assert code == 0, err
    (reading,) = json.loads(out)
    assert (reading["bank"], reading["bank_layers"]) == ("", [])


def test_the_demos_llm_is_kept_beside_the_banks(
    run: Run, photos: Path, model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = []

    def load(folder: Path, *, say: Any, deepest_layer: Any, **_: Any) -> PatchVLM:
        folders.append(folder)
        say("unpacking ...")
        return PatchVLM(load_language_model(str(model_dir), deepest_layer=deepest_layer))

    monkeypatch.setattr("latentbank.demo.vlm.load_demo", load)
    code, _, err = run("query", "norms", photos / "a.png", "--model", "demo", "--visual-layers", "0")
    assert (code, folders) == (0, [tmp_path / "data" / ".models" / "demo"])
    assert err.count("unpacking") == 1


def test_norms(run: Run, filled: None, loaded: list[PatchVLM], photos: Path, tmp_path: Path) -> None:
    code, out, err = run("query", "norms", photos, "--json")
    assert code == 1, err
    norms = json.loads(out)
    assert [layer["layer"] for layer in norms["layers"]] == [0, 1, 2, 3, 4]
    assert (norms["images"], norms["dtype"]) == (2, "float32")
    text = tmp_path / "text.txt"
    text.write_text("A dog sleeps on the porch.\n" * 3)
    code, out, _ = run(
        "query",
        "norms",
        photos / "a.png",
        "--visual-layers",
        "0,2",
        "--text",
        text,
        "--sentences",
        "1",
        "--json",
    )
    assert code == 0
    few = json.loads(out)["layers"]
    assert [layer["layer"] for layer in few] == [0, 2]
    assert 0 < few[0]["text"]["tokens"] < 20
    code, out, _ = run("query", "norms", photos / "a.png")
    assert code == 0
    assert "norms of the visual tokens of 1 image beside text" in out.replace("\n", " ")
    (tmp_path / "two.jsonl").write_text('{"title": "A title here.", "body": "A dog runs."}\n')
    code, _, err = run("query", "norms", photos / "a.png", "--text", tmp_path / "two.jsonl")
    assert (code, err.count("\n")) == (2, 1)
    assert err.endswith("name one of these: title, body.\n")  # --column is that of the images


def test_a_model_close_to_overflowing_is_warned_about(
    run: Run, model_dir: Path, loaded: list[PatchVLM], photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PatchVLM, "__init__", _louder(PatchVLM.__init__))
    words = (photos / "a.png", "--model", model_dir, "--visual-layers", "0", "--dtype", "float16")
    for command, more in (("image", ("--lens", "embedding")), ("norms", ())):
        code, _, err = run("query", command, *words, *more)
        assert (code, err.count("warning: ")) == (0, 1)
        assert "beyond what float16 holds (65,504): load it in bfloat16 or float32 (--dtype)" in err


def _louder(init: Any) -> Any:
    def changed(self: PatchVLM, language: Any) -> None:
        init(self, language, gain=15_000)

    return changed


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("none.png",), "No such file: none.png"),
        (
            ("a.png", "--lens", "latent,shifted"),
            "There is no lens 'shifted'; there are latent, logit, embedding",
        ),
        (("a.png", "--visual-layers", "x"), "'x' is not a list of layers"),
        (("a.png", "--bank-layers", "1,9"), "no layer 9; it has 1, 2"),
        (("a.png", "--where", "color=red"), "is not a condition"),
        (("a.png", "--unique", "sentence"), "Unknown value 'sentence' for --unique; use context or word"),
        (("a.png", "--json", "--parquet", "out"), "choose --json or --parquet"),
        (("a.png", "--push", "lab/readings"), "A folder of Parquet files is pushed; name one (--parquet)."),
        (("a.png", "--split", "test"), "no column, config, split or revision; leave these out"),
        (("b.png",), "cannot be read to its end"),
    ],
)
def test_an_error_a_user_can_fix_is_one_line(
    run: Run, filled: None, loaded: list[PatchVLM], photos: Path, words: tuple[str, ...], message: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(photos)
    code, _, err = run("query", "image", *words)
    assert code == 2
    assert err.startswith("latentbank: ")
    assert err.count("\n") == 1
    assert message in err


def test_only_broken_images(run: Run, filled: None, loaded: list[PatchVLM], photos: Path) -> None:
    for name in ("a.png", "c.png"):
        (photos / name).write_text("no image")
    code, _, err = run("query", "image", photos)
    assert code == 2
    assert err.count("skipped: ") == 3
    assert "None of the images could be read" in err


def test_a_skipped_image_names_the_option_that_helps(
    run: Run, filled: None, loaded: list[PatchVLM], photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise ModelError("It overflows; load it in float32.", argument="dtype")

    monkeypatch.setattr(PatchVLM, "visual_tokens", fail)
    code, _, err = run("query", "image", photos)
    assert code == 2
    assert f"skipped: {photos / 'a.png'}: It overflows; load it in float32 (--dtype).\n" in err


def test_a_vlm_with_another_backbone(
    run: Run, filled: None, loaded: list[PatchVLM], photos: Path, tmp_path: Path
) -> None:
    other = save_tiny(tmp_path / "other", seed=5)
    code, _, err = run("query", "image", photos / "a.png", "--model", other)
    assert code == 2
    assert "The bank 'tiny-llama' holds contexts of" in err
    assert "not of patch-vlm" in err


def test_a_real_vlm_fills_a_bank_and_reads_images_through_all_lenses(
    run: Run, photos: Path, tmp_path: Path
) -> None:
    """There are no test doubles: the bank is of the VLM's language model, and the VLM is the default."""
    model = save_tiny_vlm(tmp_path / "tiny-vlm", "llava")
    corpus = tmp_path / "few.txt"
    corpus.write_text("\n".join(SENTENCES), encoding="utf-8")
    assert run("ingest", "run", corpus, "--model", model, "--layers", "1,2")[0] == 0
    code, out, err = run(
        "query",
        "image",
        photos / "a.png",
        "--visual-layers",
        "0,2",
        "--lens",
        ",".join(LENSES),
        "-k",
        "2",
        "--json",
    )
    assert code == 0, err
    (reading,) = json.loads(out)
    assert (reading["model"], reading["lenses"], reading["size"]) == (model.name, LENSES, [30, 20])
    assert str(model) not in out
    vlm = load_vision_language_model(str(model))
    (tokens,) = vlm.visual_tokens([picture(ord("a"))], [0, 2])
    assert len(reading["tokens"]) == 3 * 2 * len(tokens)
    own = [token for token in reading["tokens"] if token["lens"] == "logit" and token["layer"] == 2]
    best = vlm.unembedding().logits(tokens.states[2]).argmax(dim=-1)
    assert [token["neighbors"][0]["token_id"] for token in own] == best.tolist()
    assert [token["box"] for token in own] == tokens.boxes.tolist()
    code, out, err = run("query", "norms", photos / "a.png", "--visual-layers", "0,2", "--json")
    assert code == 0, err
    largest = [layer["visual"]["largest"] for layer in json.loads(out)["layers"]]
    assert largest == pytest.approx([float(tokens.norms(layer).max()) for layer in (0, 2)])


def test_a_text_only_model_given_an_image(run: Run, filled: None, photos: Path) -> None:
    code, _, err = run("query", "image", photos / "a.png")
    assert code == 2
    assert "is not a vision-language model" in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("command", ["image", "norms"])
def test_help_names_an_example_and_loads_no_heavy_library(command: str) -> None:
    code = (
        "import sys, latentbank.cli; sys.argv = ['latentbank', 'query', sys.argv[1], '--help']\n"
        "try: latentbank.cli.main()\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'transformers', 'numpy', 'datasets', 'PIL', 'pyarrow'} & set(sys.modules)\n"
        "sys.exit(f'{heavy} loaded' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code, command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert f"Example: latentbank query {command}" in done.stdout


def test_means_are_measured_once_and_used_for_a_centred_bank(
    run: Run,
    loaded: list[PatchVLM],
    photos: Path,
    model_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    corpus = tmp_path / "few.txt"
    corpus.write_text("\n".join(SENTENCES), encoding="utf-8")
    made = ("ingest", "run", corpus, "--model", model_dir, "--layers", "1,2", "--metric", "centred")
    assert run(*made)[0] == 0
    kept = tmp_path / "means.safetensors"
    measure = ("query", "means", model_dir, "--images", photos, "--visual-layers", "0,1")
    code, out, err = run(*measure, "--output", kept, "--json")
    assert code == 1  # an image is broken
    assert "skipped" in err
    assert (json.loads(out)["means"], json.loads(out)["pictures"]) == (str(kept), 2)
    words = ("query", "image", photos / "a.png", "--visual-layers", "1", "--json")
    own = json.loads(run(*words)[1])[0]
    measured = json.loads(run(*words, "--means", kept)[1])[0]
    assert own["query_mean"] == "their own mean"
    assert measured["query_mean"] == "mean of visual tokens of 2 images"
    assert own["tokens"] != measured["tokens"]
    code, _, err = run(*words[:3], "--visual-layers", "2", "--means", kept, "--json")
    assert code == 2
    assert "have no layer 2; they have 0, 1" in err
    # Means kept with the VLM are the default. Of a VLM without a folder none are kept.
    assert json.loads(run(*measure, "--json")[1])["means"] is None
    monkeypatch.setattr(PatchVLM, "means_file", tmp_path / "vlm.means.safetensors")
    assert json.loads(run(*words)[1])[0]["tokens"] == own["tokens"]
    assert run(*measure)[0] == 1
    assert json.loads(run(*words)[1])[0] == measured


def test_a_folder_of_readings_holds_those_of_the_same_means(
    run: Run, loaded: list[PatchVLM], photos: Path, model_dir: Path, tmp_path: Path
) -> None:
    corpus = tmp_path / "few.txt"
    corpus.write_text("\n".join(SENTENCES), encoding="utf-8")
    made = ("ingest", "run", corpus, "--model", model_dir, "--layers", "1,2", "--metric", "centred")
    assert run(*made)[0] == 0
    kept = tmp_path / "means.safetensors"
    read = ("query", "image", photos / "a.png", "--visual-layers", "1", "--means", kept)
    for image, code in (("a.png", 0), ("a.png", 0), ("c.png", 2)):  # all are "of 1 images"
        measure = ("query", "means", model_dir, "--images", photos / image, "--visual-layers", "1")
        assert run(*measure, "--output", kept)[0] == 0
        found, _, err = run(*read, "--parquet", tmp_path / "readings")
        assert (found, "made with another means (" in err) == (code, code == 2)


def test_a_random_projector_is_a_control(
    run: Run,
    model_dir: Path,
    loaded: list[PatchVLM],
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    words = ["query", "image", photos / "a.png", photos / "b.png", "--model", model_dir, "--lens", "logit"]
    words += ["--visual-layers", "0", "--parquet", tmp_path / "noise"]
    code, _, err = run(*words, "--random-projector")
    assert code == 2
    assert "cannot be replaced by one of random weights (--random-projector)" in " ".join(err.split())
    vlm = pixel_vlm(load_language_model(model_dir))
    monkeypatch.setattr("latentbank.models.visual.load_visual_model", lambda *_, **__: vlm)
    code, _, err = run(*words, "--random-projector")
    assert code == 1, err  # one of the images is broken
    assert len(list((tmp_path / "noise").glob("*.parquet"))) == 1
    code, _, err = run(*words)
    assert code == 2
    assert "made with another projector (random, not None)" in " ".join(err.split())
