"""`bank context` and `query … --follow` as a user types them."""

from __future__ import annotations

import json
from pathlib import Path

from tests.cli.commands import Run
from tests.query.patch_vlm import PatchVLM

SENTENCES = ["The dog chased a cat.", "A red apple lies on the table.", "The river bank was muddy."]


def test_one_token_is_followed(
    run: Run, filled: None, loaded: list[PatchVLM], photos: Path, tmp_path: Path
) -> None:
    code, out, err = run("bank", "context", "--where", "word=dog", "--json")
    assert code == 0, err
    context = json.loads(out)
    assert (context["label"], [step["layer"] for step in context["steps"]]) == (" dog", [1, 2])
    code, out, err = run("bank", "context", context["context"]["id"], "-k", "1")
    assert code == 0, err
    assert "[dog]" in out

    code, out, err = run(
        "query", "text", "A dog sleeps.", "--token", "dog", "--follow", "--lens", "embedding", "--json"
    )
    assert code == 0, err
    text = json.loads(out)
    assert (text["kind"], text["lenses"], text["span"]) == ("text", ["latent", "embedding"], [2, 5])

    picture = tmp_path / "a.svg"
    code, out, err = run("query", "image", photos / "a.png", "--follow", "1,2", "--svg", picture, "-k", "2")
    assert code == 0, err
    assert picture.exists()
    assert "visual token 1,2 of a.png" in out
    vlm = loaded[-1]
    assert vlm.language.loaded_layers == vlm.num_layers  # all layers were read


def test_what_cannot_be_followed(run: Run, filled: None, loaded: list[PatchVLM], photos: Path) -> None:
    for words, message in (
        (("bank", "context"), "give its id, or --where"),
        (("bank", "context", "--where", "word=dog", "--unique", "no"), "for --unique; use context or word"),
        (("query", "text", "A dog.", "--follow"), "One token is followed; name it (--token)"),
        (("query", "text", "A dog.", "-o", "x.png"), "Only a token that is followed is drawn (--follow)"),
        (("query", "image", photos, "--follow", "0,0"), "name one image"),
        (("query", "image", photos / "a.png", "--follow", "0,0", "--fdr", "0.1"), "together; leave this out (--fdr)"),
        (("query", "image", photos / "a.png", "--follow", "0,0", "--parquet", "p"), "not one token's (--parquet)"),
        (("query", "image", photos / "a.png", "--follow", "9,9"), "has no visual token 9,9"),
    ):  # fmt: skip
        code, out, err = run(*words)
        assert (code, out) == (2, ""), words
        assert message in " ".join(err.split()), err
