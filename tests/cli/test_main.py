"""The command line as a user types it, with an embedded bank of a tiny LLM."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import latentbank
from latentbank.ingest.defaults import default_layers
from latentbank.layers import paper_layers, paper_visual_layers
from tests import children
from tests.cli.commands import Run
from tests.tiny import save_tiny

SENTENCES = ["The dog chased a cat.", "", "A red apple lies on the table.", "The river bank was muddy."]


def test_a_bank_from_plan_to_delete(run: Run, corpus: Path, model_dir: Path) -> None:
    code, out, _ = run("ingest", "plan", corpus, "--model", model_dir, "--layers", "1,2", "--json")
    plan = json.loads(out)
    assert (code, plan["sentences"], plan["blank"], plan["layers"]) == (0, 3, 1, [1, 2])
    assert plan["seconds"] > 0
    source = {"files": ["few.txt"], "left_out": [], "column": None, "field": None}
    assert plan["source"] == source | {"first": [sentence for sentence in SENTENCES if sentence]}
    assert plan["disk_bytes_per_layer"] > plan["ram_bytes_per_layer"] > 0

    code, out, err = run("ingest", "run", corpus, "--model", model_dir, "--layers", "1,2", "--json")
    report = json.loads(out)
    assert (code, report["contexts"], report["encoded"]) == (0, plan["contexts"], plan["contexts"])
    assert "prefix-packed on cpu, float32" in err
    assert report["source"] == plan["source"]
    assert re.search(r"read from\s+few\.txt\s+begins with\s+The dog chased a cat\.\s+A red apple", err)

    code, out, _ = run("ingest", "run", corpus, "--bank", "tiny-llama", "--json")
    assert (code, json.loads(out)["encoded"]) == (0, 0)

    code, out, _ = run("bank", "list", "--json")
    assert json.loads(out)["banks"] == ["tiny-llama"]

    code, out, _ = run("ingest", "status", "--json")
    (entry,) = json.loads(out)["corpora"]
    assert (entry["name"], entry["complete"], entry["stored"]) == ("few", True, plan["contexts"])

    code, out, _ = run("bank", "info", "--json")
    info = json.loads(out)
    assert info["layers"] == [1, 2]
    assert info["state"]["1"]["points"] == info["state"]["2"]["points"] == plan["contexts"]

    code, out, _ = run("bank", "verify", "--json")
    assert (code, json.loads(out)) == (0, {"bank": "tiny-llama", "sound": True, "wrong": []})
    code, out, _ = run("bank", "index", "--json")
    assert (code, json.loads(out)) == (0, {"bank": "tiny-llama", "layers": []})

    code, out, _ = run(
        "query", "text", SENTENCES[0], "--layer", "2", "--bank-layers", "2", "-k", "1", "--json"
    )
    reading = json.loads(out)
    assert code == 0
    assert all(token["neighbors"][0]["cosine"] > 0.999 for token in reading["tokens"][1:])

    code, out, _ = run("bank", "drop-corpus", "tiny-llama", "few")
    assert code == 0
    assert f"{plan['contexts']:,} contexts" in out
    code, out, _ = run("bank", "delete", "tiny-llama", "--yes")
    assert code == 0
    assert json.loads(run("bank", "list", "--json")[1])["banks"] == []


def test_the_papers_layers(run: Run, corpus: Path, model_dir: Path) -> None:
    """Of the paper's layers, an LLM of four blocks has 1, 2 and 3."""
    words = ("ingest", "plan", corpus, "--model", model_dir, "--layers", "paper", "--no-calibrate", "--json")
    assert json.loads(run(*words)[1])["layers"] == [1, 2, 3]
    filling = ("ingest", "run", corpus, "--model", model_dir, "--layers", "paper", "--json")
    assert json.loads(run(*filling)[1])["layers"] == [1, 2, 3]
    assert json.loads(run(*filling)[1])["encoded"] == 0
    for layers in ("paper", "all"):
        words = ("query", "text", SENTENCES[0], "--layer", "2", "--bank-layers", layers, "--json")
        assert json.loads(run(*words)[1])["bank_layers"] == [1, 2, 3]
    code, _, err = run("ingest", "run", corpus, "--layers", "papers")
    assert (code, "is not a list of layers" in err) == (2, True)


@pytest.mark.parametrize(
    ("blocks", "layers"),
    [
        (32, [1, 2, 4, 8, 16, 24, 30, 31]),
        (28, [1, 2, 4, 8, 16, 24, 26, 27]),
        (24, [1, 2, 4, 8, 16, 22, 23]),
        (2, [1]),
        (1, []),
    ],
)
def test_layers_of_the_paper(blocks: int, layers: list[int]) -> None:
    assert paper_layers(blocks) == layers
    assert paper_visual_layers(blocks) == [0, *layers]


def test_tables(run: Run, corpus: Path, model_dir: Path) -> None:
    plan = run("ingest", "plan", corpus, "--model", model_dir)[1]
    assert re.search(r"sentences\s+3 \(1 blank lines, 0 cut\)", plan)
    assert re.search(r"time\s+about", plan)
    assert "is complete" in run("ingest", "run", corpus, "--model", model_dir)[1]
    assert "complete" in run("ingest", "status")[1]
    assert run("bank", "list")[1].split() == ["tiny-llama"]
    assert "fingerprint" in run("bank", "info")[1]
    assert "is sound" in run("bank", "verify")[1]
    assert "is indexed" in run("bank", "index")[1]
    code, out, _ = run("doctor", "tiny-llama")
    assert code == 0
    assert re.search(r"ok +lock +no other process has the bank open", out)
    assert out.splitlines()[-1].startswith("Nothing is wrong")
    code, out, _ = run("doctor", "nothing", "--json")
    found = json.loads(out)
    assert (code, found["bank"], found["well"]) == (1, "nothing", False)
    assert found["checks"][-1] == {
        "name": "bank",
        "state": "wrong",
        "seen": "there is no bank 'nothing' here",
        "remedy": "List the banks there are.",
    }
    table = run(
        "query", "text", SENTENCES[0], "--token", "dog", "--bank-layers", "all", "--unique", "context"
    )[1]
    assert SENTENCES[0] in table
    assert "latent lens, bank tiny-llama" in table


def test_layers_of_a_new_bank_are_spread_to_the_middle() -> None:
    assert default_layers(32) == [4, 8, 12, 16]
    assert default_layers(30) == [4, 8, 11, 15]
    assert default_layers(2) == [1]


def test_an_embedded_plan_can_be_run_from_its_folder(
    run: Run, corpus: Path, model_dir: Path, tmp_path: Path
) -> None:
    made = tmp_path / "plan"
    assert run("ingest", "plan", corpus, "--model", model_dir, "--plan", made, "--no-calibrate")[0] == 0
    corpus.unlink()
    code, out, _ = run("ingest", "run", "--plan", made, "--json")
    assert (code, json.loads(out)["corpus"]) == (0, "few")
    assert json.loads(out)["source"]["files"] == ["few.txt"]
    code, _, err = run("ingest", "run", "--plan", made, "--column", "text", "--no-header")
    assert (code, err) == (
        2,
        "latentbank: The plan says which corpus is stored; leave out --column, --no-header.\n",
    )


def test_a_plan_says_what_it_read_and_left_out(run: Run, model_dir: Path, tmp_path: Path) -> None:
    folder = tmp_path / "my data"
    folder.mkdir()
    for number in range(6):
        (folder / f"{number}.csv").write_text("A dog \x1b[31mruns fast.,1\nA red apple lies.,2\n")
    (folder / "info.json").write_text('{"license": "CC"}')
    words = ("--model", model_dir, "--layers", "1", "--no-calibrate")
    code, _, err = run("ingest", "plan", f"{folder}/*.csv", *words)
    assert (code, err.count("\n")) == (2, 1)
    assert err.endswith("say whether it has a header (--header, --no-header).\n")
    code, _, err = run("ingest", "run", f"{folder}/*.csv", *words[:-1])
    assert (code, err.count("\n")) == (2, 1)
    assert json.loads(run("bank", "list", "--json")[1])["banks"] == []  # said before anything was made
    code, out, _ = run("ingest", "plan", folder, *words, "--no-header")
    assert code == 0
    for fact in (
        r"corpus\s+my-data\s",
        r"read from\s+my data/0\.csv, my data/1\.csv, my data/2\.csv, my data/3\.csv and 2 others\s",
        r"left out\s+info\.json \(holds no list of records\)\s",
        r"column\s+1\s",
        r"begins with\s+A dog �\[31mruns fast\.\s+A red apple lies\.\s+A dog �",
    ):
        assert re.search(fact, out), fact
    code, out, _ = run("ingest", "plan", f"{folder}/[12].csv", *words, "--no-header", "--json")
    assert (code, json.loads(out)["corpus"]) == (0, "1")
    assert json.loads(out)["source"]["files"] == ["1.csv", "2.csv"]


def test_a_plan_for_a_bank_is_sized_by_the_quantization_of_that_bank(
    run: Run, corpus: Path, model_dir: Path
) -> None:
    words = ("ingest", "plan", corpus, "--model", model_dir, "--no-calibrate", "--json")
    quantized = json.loads(run(*words)[1])["ram_bytes_per_layer"]
    assert run("ingest", "run", corpus, "--model", model_dir, "--quantization", "none")[0] == 0
    # Without quantization, the original vectors are kept in RAM.
    assert json.loads(run(*words)[1])["ram_bytes_per_layer"] > quantized
    code, _, err = run(*words, "--quantization", "turbo")
    assert code == 2
    assert "is quantized as none; leave --quantization out" in err


def test_the_estimate_of_a_cluster(
    run: Run, corpus: Path, model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("ingest", "plan", corpus, "--model", model_dir, "--layers", "1,2", "--no-calibrate")
    assert json.loads(run(*words, "--json")[1])["cluster"] is None
    monkeypatch.setenv("LATENTBANK_REPLICATION_FACTOR", "3")
    monkeypatch.setenv("LATENTBANK_SHARD_NUMBER", "2")
    code, out, _ = run(*words, "--node-price", "2.5", "--gpus", "4", "--json")
    plan = json.loads(out)
    assert (code, plan["machines"]["gpus"], plan["machines"]["node_price"]) == (0, 4, 2.5)
    cluster = plan["cluster"]
    assert (cluster["nodes"], cluster["replicas"], cluster["shards"]) == (3, 3, 2)
    assert cluster["ram_bytes"] > 6 * plan["ram_bytes_per_layer"] * 0.99  # three copies of two layers
    assert cluster["month_cost"] == pytest.approx(3 * 2.5 * 730)

    code, out, _ = run(*words, "--estimate")
    text = " ".join(out.split())
    assert code == 0
    assert "3 nodes of 64.0 GB RAM" in text
    assert "2 shards (LATENTBANK_SHARD_NUMBER), 3 copies of each (LATENTBANK_REPLICATION_FACTOR)" in text

    code, _, err = run(*words, "--node-ram", "0")
    assert (code, err.count("\n")) == (2, 1)
    assert "RAM, disk and speed above zero" in err


def test_planning_a_centred_bank_is_calibrated_like_any_other(
    run: Run, corpus: Path, model_dir: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("LATENTBANK_METRIC", "centred")
    code, out, err = run("ingest", "plan", corpus, "--model", model_dir, "--json")
    assert (code, err) == (0, "")
    assert json.loads(out)["contexts_stored_per_second"] > 0
    assert not list((tmp_path / "data").glob(".calibration-*"))


def test_a_plan_is_calibrated_where_the_banks_are(
    run: Run, corpus: Path, model_dir: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "file"
    folder.write_text("")
    words = ("ingest", "plan", corpus, "--model", model_dir, "--plan", tmp_path / "plan")
    code, _, err = run("--data-dir", folder, *words)
    assert code == 2
    assert f"The folder {folder} cannot be used (File exists); set LATENTBANK_DATA_DIR, or plan with" in err
    assert run("--data-dir", folder, *words, "--no-calibrate")[0] == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("bank", "info", "nothing"), "or create it (latentbank bank list, latentbank ingest run).\n"),
        (("bank", "use", "one"), "Name a version of 'one' to use, such as one@2 (latentbank bank use).\n"),
        (("bank", "info"), "there is none yet"),
        (("bank", "delete", "a--b", "--yes"), "cannot name a bank"),
        (("query", "text", "hello"), "Name a bank"),
        (("query", "text", "hello", "--layer", "x"), "'x' is not a list of layers"),
        (("query", "text", "hello", "--layer", "4,,8"), "'4,,8' is not a list of layers"),
        (("query", "text", "hello", "--layer", ""), "'' is not a list of layers"),
        (("query", "text", "hello", "--where", "color=red"), "'color=red' is not a condition"),
        (("ingest", "run", "missing.txt", "--model", "m"), "No such file: missing.txt"),
        (("ingest", "run", "--model", "m"), "Name a corpus"),
        (
            ("ingest", "run", "-", "--model", "m"),
            "Standard input has no name; give the corpus one (--name).\n",
        ),
        (("ingest", "run", "--plan", "nowhere"), "There is no plan in nowhere"),
        (("--url", "ftp://x", "bank", "list"), "The setting url is wrong: "),
    ],
)
def test_an_error_a_user_can_fix_is_one_line_and_exit_code_2(
    run: Run, words: tuple[str, ...], message: str
) -> None:
    code, out, err = run(*words)
    assert code == 2
    assert out == ""
    assert err.startswith("latentbank: ")
    assert err.count("\n") == 1
    assert message in err


def test_bad_models_and_layers(run: Run, corpus: Path, model_dir: Path, tmp_path: Path) -> None:
    code, _, err = run("ingest", "run", corpus, "--model", tmp_path / "none")
    assert (code, err.count("\n")) == (2, 1)
    code, _, err = run("ingest", "run", corpus, "--model", model_dir, "--layers", "1,99")
    assert code == 2
    assert "no layer 99" in err
    assert run("ingest", "run", corpus, "--model", model_dir, "--layers", "1")[0] == 0
    code, _, err = run("query", "text", "A dog.", "--bank-layers", "3")
    assert code == 2
    assert "has no layer 3; it has 1" in err
    code, _, err = run("ingest", "run", corpus, "--model", model_dir, "--layers", "2", "--bank", "tiny-llama")
    assert code == 2
    assert "has layers 1, not 2" in err
    other = save_tiny(tmp_path / "other", seed=3)
    code, _, err = run("query", "text", "A dog.", "--model", other)
    assert code == 2
    assert "other" in err
    assert "tiny-llama" in err


def test_a_second_corpus_goes_into_the_existing_bank(
    run: Run, corpus: Path, model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bank's layers and model are the defaults; a relative path to the model is the same model."""
    monkeypatch.chdir(model_dir.parent)
    assert run("ingest", "run", corpus, "--model", model_dir.name, "--layers", "1,2")[0] == 0
    for number, model in enumerate((("--model", model_dir), ())):
        code, out, _ = run("ingest", "run", corpus, *model, "--name", f"more{number}", "--json")
        assert (code, json.loads(out)["layers"]) == (0, [1, 2])
    code, _, err = run("ingest", "run", corpus, "--name", "x", "--quantization", "none")
    assert code == 2
    assert "'tiny-llama' is quantized as int8; leave --quantization out" in err
    monkeypatch.chdir("/")
    assert run("query", "text", SENTENCES[0], "--token", "dog")[0] == 0


def test_a_centred_bank(run: Run, corpus: Path, model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, words in (("centred", ("--metric", "centred")), ("plain", ())):
        given = ("ingest", "run", corpus, "--model", model_dir, "--layers", "1,2", "--bank", name, *words)
        assert run(*given)[0] == 0
        info = json.loads(run("bank", "info", name, "--json")[1])
        assert info["metric"] == ("centred" if words else "cosine")
        assert "means" not in info
        assert run("bank", "verify", name)[0] == 0
        table = run("query", "text", SENTENCES[0], "--layer", "2", "--bank", name, "-k", "1")[1]
        assert ("centred by" in table) == bool(words)
    assert re.search(r"metric\s+centred", run("bank", "info", "centred")[1])
    code, _, err = run("ingest", "run", corpus, "--bank", "plain", "--name", "x", "--metric", "centred")
    assert code == 2
    assert "'plain' was made with metric cosine; leave --metric out" in err
    assert run("ingest", "run", corpus, "--bank", "centred", "--name", "x")[0] == 0
    code, _, err = run("query", "text", SENTENCES[0], "--bank", "centred", "--layer", "0")
    assert code == 2
    assert "does not know the mean of text at layer 0" in err
    code, _, err = run("ingest", "run", corpus, "--model", model_dir, "--bank", "new", "--metric", "dot")
    assert (code, "metric is 'dot'" in err) == (2, True)
    monkeypatch.setenv("LATENTBANK_METRIC", "centred")
    assert run("ingest", "run", corpus, "--model", model_dir, "--layers", "1", "--bank", "new")[0] == 0
    assert json.loads(run("bank", "info", "new", "--json")[1])["metric"] == "centred"


def test_the_bank_can_be_named_by_a_setting(
    run: Run, corpus: Path, model_dir: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("one", "two"):
        assert run("ingest", "run", corpus, "--model", model_dir, "--layers", "1", "--bank", name)[0] == 0
    assert "Name a bank; there are one, two" in run("bank", "info")[2]
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".env").write_text("LATENTBANK_BANK=two\n")
    assert json.loads(run("bank", "info", "--json")[1])["bank"] == "two"
    (tmp_path / ".env").write_text("LATENTBANK_BANK=three\n")
    assert run("ingest", "run", corpus, "--model", model_dir, "--layers", "1")[0] == 0
    assert json.loads(run("bank", "list", "--json")[1])["banks"] == ["one", "three", "two"]


def test_plans_are_deleted_with_their_corpora(
    run: Run, corpus: Path, model_dir: Path, tmp_path: Path
) -> None:
    """Plans hold the sentences, which must not outlive a dropped corpus."""

    def captions() -> list[Path]:
        return [path for path in (tmp_path / "data").rglob("*.arrow") if path.is_file()]

    for name in ("one", "two"):
        assert run("ingest", "run", corpus, "--model", model_dir, "--layers", "1", "--name", name)[0] == 0
    assert len(captions()) == 2
    assert run("bank", "drop-corpus", "tiny-llama", "one")[0] == 0
    assert len(captions()) == 1
    assert run("bank", "delete", "tiny-llama", "--yes")[0] == 0
    assert captions() == []


def test_ctrl_c_reports_that_nothing_is_lost(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("latentbank.bank.opening.list_versions", interrupted)
    code, _, err = run("bank", "list")
    assert code == 130
    assert "the same command continues" in err


def test_one_layer_is_named_without_each_of(run: Run, corpus: Path, model_dir: Path) -> None:
    code, out, _ = run("ingest", "run", corpus, "--model", model_dir, "--layers", "1")
    assert (code, "contexts in layer 1 (0 were there before)" in " ".join(out.split())) == (0, True)
    _, out, _ = run(
        "ingest", "plan", corpus, "--no-calibrate", "--bank", "two", "--model", model_dir, "--layers", "1,2"
    )
    assert "in each of the layers 1, 2" in out


@pytest.mark.parametrize("command", ["plan", "run"])
def test_a_bank_that_is_not_there_is_told_before_a_model_is_asked_for(
    run: Run, corpus: Path, command: str
) -> None:
    code, _, err = run("ingest", command, corpus, "--bank", "captoins")
    assert (code, "There is no bank 'captoins' yet" in err) == (2, True)


def test_a_second_ctrl_c_prints_no_traceback(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("latentbank.cli._Root.main", interrupted)  # as while the first one ended the command
    code, _, err = run("bank", "list")
    assert code == 130
    assert "the same command continues" in err


def test_a_changed_corpus_is_refused(run: Run, corpus: Path, model_dir: Path) -> None:
    assert run("ingest", "run", corpus, "--model", model_dir, "--layers", "1")[0] == 0
    corpus.write_text("Something else entirely.", encoding="utf-8")
    code, _, err = run("ingest", "run", corpus, "--bank", "tiny-llama")
    assert code == 2
    assert "'few' has changed" in err


def test_debug_shows_the_traceback(run: Run) -> None:
    code, _, err = run("--debug", "bank", "info", "nothing")
    assert code == 2
    assert "Traceback" in err


def test_a_busy_bank_names_the_process(run: Run, corpus: Path, model_dir: Path, tmp_path: Path) -> None:
    assert run("ingest", "run", corpus, "--model", model_dir, "--layers", "1")[0] == 0
    hold = (
        "import sys; from latentbank.bank.opening import open_bank; b = open_bank('tiny-llama'); "
        "print('open', flush=True); "
        "sys.stdin.read()"
    )
    with children.Popen(
        [sys.executable, "-c", hold], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "open\n"
        code, _, err = run("bank", "info", "tiny-llama")
        assert code == 2
        assert f"open in another process (pid {holder.pid})" in err
        assert holder.stdin is not None
        holder.stdin.close()
    assert run("bank", "info", "tiny-llama")[0] == 0


HELPED: tuple[tuple[str, ...], ...] = (
    (),
    ("ingest",),
    ("ingest", "run"),
    ("bank",),
    ("bank", "verify"),
    ("query", "text"),
    ("query", "means"),
    ("evaluate", "scenes"),
    ("experiment", "metric"),
)
HELPS = """
import contextlib, io, json, sys
import latentbank.cli

told = []
for command in json.loads(sys.argv[1]):
    sys.argv[1:] = [*command, "--help"]
    with contextlib.redirect_stdout(io.StringIO()) as text, contextlib.suppress(SystemExit):
        latentbank.cli.main()
    heavy = {"torch", "transformers", "numpy", "datasets", "qdrant_client", "qdrant_edge"} & set(sys.modules)
    told.append([text.getvalue(), sorted(heavy)])
print(json.dumps(told))
"""


@pytest.fixture(scope="module")
def helped() -> dict[tuple[str, ...], tuple[str, list[str]]]:
    """The help of commands in a fresh process, each with the heavy libraries that are loaded after it."""
    words = [sys.executable, "-c", HELPS, json.dumps(HELPED)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return dict(zip(HELPED, json.loads(done.stdout), strict=True))


@pytest.mark.parametrize("command", HELPED)
def test_help_names_an_example_and_loads_no_heavy_library(
    helped: dict[tuple[str, ...], tuple[str, list[str]]], command: tuple[str, ...]
) -> None:
    text, heavy = helped[command]
    assert heavy == []
    assert "Usage:" in text
    if len(command) == 2:
        assert f"Example: latentbank {' '.join(command)}" in text


def test_the_public_face_gives_what_it_names() -> None:
    for name in latentbank.__all__:
        assert getattr(latentbank, name) is not None
    with pytest.raises(AttributeError):
        _ = latentbank.nothing  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("view", "--port", "99999"), "Invalid value for '--port': .*65535; see latentbank view --help."),
        (
            ("query", "text", "--top-k", "0", "x"),
            "Invalid value for '--top-k' .* 1; see latentbank query text --help.",
        ),
        (
            ("query", "image", "--batch", "x", "y"),
            "Invalid value for '--batch': .* integer.*; see",
        ),
        (
            ("bank", "verify", "--sample", "-1"),
            "Invalid value for '--sample': .* 0; see latentbank bank",
        ),
        (("query", "text"), "Missing argument 'sentence'; see latentbank query text --help."),
        (("query", "nosuch"), "No such command 'nosuch'; see latentbank query --help."),
        (("--nosuch",), "No such option: --nosuch; see latentbank --help."),
        (("view", "--token"), "Option '--token' requires an argument; see latentbank"),
    ],
)
def test_what_is_wrong_with_a_line_is_one_line(run: Run, words: tuple[str, ...], message: str) -> None:
    code, out, err = run(*words)
    assert (code, out) == (2, "")
    assert re.fullmatch(rf"latentbank: {message}.*\n", err), err
    assert err.count("\n") == 1


def test_a_group_alone_shows_its_help(run: Run) -> None:
    code, out, err = run("bank")
    assert code == 2
    assert "Manage banks." in out + err
    assert "╭─ Error" not in out + err
