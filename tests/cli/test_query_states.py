"""`query states` as a user types it, over the bank of a tiny LLM."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from latentbank.models.language.model import load_language_model
from tests.cli.commands import Run


def test_states_of_a_file(run: Run, model_dir: Path, tmp_path: Path) -> None:
    corpus = tmp_path / "few.txt"
    corpus.write_text("The dog chased a cat.\nA red apple lies on the table.", encoding="utf-8")
    assert run("ingest", "run", corpus, "--model", model_dir, "--layers", "1,2")[0] == 0
    _, states = load_language_model(str(model_dir)).text_hidden_states("The dog chased a cat.", [2])
    file, names = tmp_path / "s.npy", tmp_path / "names.txt"
    np.save(file, states[2][-2:].numpy())
    names.write_text("first\nsecond, too\n", encoding="utf-8")

    code, out, err = run(
        "query", "states", file, "--layer", 2, "--labels", names, "--lens", "latent,logit", "-k", 1, "--json"
    )
    assert code == 0, err
    reading = json.loads(out)
    tokens = reading["tokens"]
    assert [(t["lens"], t["label"], t["layer"]) for t in tokens] == [
        (lens, label, 2) for lens in ("latent", "logit") for label in ("first", "second, too")
    ]
    assert tokens[0]["neighbors"][0]["caption"] == "The dog chased a cat."
    assert tokens[2]["neighbors"][0]["probability"] > 0

    code, out, err = run("query", "states", file, "--labels", "a, b", "--lens", "latent,embedding")
    assert (code, "│ lens " in out.replace("┃", "│"), "embedding" in out) == (0, True, True), err
    code, _, err = run("query", "states", file, "--layer", "1,2")
    assert (code, err) == (
        2,
        "latentbank: s.npy holds one tensor, so its states come from one layer; name one (--layer).\n",
    )
    assert run("query", "states", file, "--query-mean", "text")[2].endswith("(--query-mean).\n")
