"""A bank, a lens or a file name of the wrong kind is told in one sentence wherever one is given."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import latentbank as lb
from latentbank.errors import LatentBankError, QueryError
from latentbank.ingest.corpus import corpus_from_sentences
from latentbank.models.language.model import LanguageModel
from latentbank.query.lenses.embedding import EmbeddingLens
from latentbank.query.reading.audio import read_audio
from latentbank.query.reading.video import read_video
from tests.query.patch_vlm import PatchVLM, picture

SENTENCES = corpus_from_sentences("two", ["A red kite.", "A dog on a beach."])


@pytest.mark.parametrize(
    "use",
    [
        lambda bank, model: lb.read_text(bank, model, "A dog"),
        lambda bank, _: lb.read_hidden(bank, np.ones((2, 8))),
        lambda bank, model: lb.read_image(bank, model, "cat.png"),
        lambda bank, model: read_audio(bank, model, "cat.wav"),
        lambda bank, model: read_video(bank, model, "cat.mp4"),
        lambda bank, model: lb.fill(bank, SENTENCES, model),
        lambda bank, _: lb.export_bank(bank, "exported"),
        lambda bank, model: lb.lenses_of("latent", lb.LensOptions(model, bank)),
    ],
)
def test_an_open_bank_is_needed(
    use: Callable[[Any, Any], object], tiny: LanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("small", Path("small")):
        with pytest.raises(QueryError, match="The bank is only a name, small; open it with open_bank"):
            use(name, tiny)
    with pytest.raises(QueryError, match="is of type LanguageModel; give one that open_bank returns"):
        use(tiny, tiny)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", [3, None, ["a"]])
def test_what_is_no_name_of_a_bank_is_refused(name: Any, tmp_path: Path) -> None:
    for use in (lb.open_bank, lb.delete_bank):
        with pytest.raises(LatentBankError, match="cannot name a bank"):
            use(name, data_dir=tmp_path, url="")


def test_settings_are_made_by_load_settings() -> None:
    with pytest.raises(LatentBankError, match="settings is of type dict; make settings with load_settings"):
        lb.open_bank("small", {"url": "http://127.0.0.1:1"})  # type: ignore[arg-type]


def test_sentences_are_not_taken_for_paths_without_a_word(tiny: LanguageModel, tmp_path: Path) -> None:
    with pytest.raises(
        LatentBankError, match="Sentences in memory become a corpus with corpus_from_sentences"
    ):
        lb.plan(["A red kite.", "A dog on a beach."], tiny, tmp_path)


def test_lenses_are_a_list_of_lenses(bank: lb.Bank, tiny: LanguageModel) -> None:
    vlm, one = PatchVLM(tiny), EmbeddingLens(tiny.embedding, tiny.tokenizer)
    reads: list[Callable[[Any], object]] = [
        lambda lenses: list(lb.read_images(vlm, [picture()], lenses, [0])),
        lambda lenses: lb.read_image(bank, vlm, picture(), [0], lenses=lenses),
        lambda lenses: lb.read_text(bank, tiny, "A dog", lenses=lenses),
        lambda lenses: lb.evaluate(vlm, lenses, []),
    ]
    for read in reads:
        for lenses, message in (
            (one, "lenses is one lens, embedding; give a list of lenses"),
            ("embedding", "A lens is the name 'embedding'; make lenses with lenses_of"),
            (["embedding"], "A lens is the name 'embedding'; make lenses with lenses_of"),
            ([bank], "A lens is of type Bank; make lenses with lenses_of"),
            (iter([one]), "lenses is of type list_iterator; give a list of lenses"),
        ):
            with pytest.raises(QueryError, match=message):
                read(lenses)


def test_a_file_is_of_the_format_that_its_name_says(
    bank: lb.Bank, tiny: LanguageModel, tmp_path: Path
) -> None:
    reading = lb.read_image(bank, PatchVLM(tiny), picture(), [0])
    with pytest.raises(QueryError, match=r"drawn as PNG; let the name of .*cat\.jpg end in \.png"):
        lb.save_reading(reading, tmp_path / "cat.jpg")
    with pytest.raises(QueryError, match=r"written as HTML; let the name of .*cat\.png end in \.html"):
        lb.save_html(reading, tmp_path / "cat.png")
    assert list(tmp_path.iterdir()) == []
    for name in ("cat", "cat.PNG", "cat 1.5"):
        assert lb.save_reading(reading, tmp_path / name).read_bytes().startswith(b"\x89PNG")
    for name in ("cat.htm", "cat.html", "cat 2.5"):
        assert lb.save_html(reading, tmp_path / name).read_bytes().startswith(b"<!")
