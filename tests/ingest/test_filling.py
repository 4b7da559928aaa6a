"""Banks created and filled from Python, each in one call."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch

from latentbank.bank.settings import Settings
from latentbank.errors import BankMismatch, BankUnavailable, CorpusError, LatentBankError
from latentbank.ingest.banks import create_bank
from latentbank.ingest.corpus import corpus_from_sentences, open_corpus
from latentbank.ingest.filling import fill, plan
from latentbank.ingest.plan import PlanSettings, load_plan
from latentbank.ingest.sources.base import Read
from latentbank.models.language.model import LanguageModel, load_language_model
from tests.ingest.conftest import Tiny
from tests.ingest.jobs import some_sentences
from tests.tiny import save_tiny

SENTENCES = some_sentences(20)


@pytest.fixture(scope="module")
def model(tiny: Tiny) -> LanguageModel:
    return tiny()


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(url="", data_dir=tmp_path / "banks")


def test_layers_of_a_new_bank_and_of_one_that_exists(model: LanguageModel, settings: Settings) -> None:
    with create_bank("new", model, settings=settings) as bank:
        assert bank.layers == [1, 2]  # up to the middle of the LLM's four blocks
    create_bank("given", model, [0, 4], settings=settings).close()
    with create_bank("given", model, settings=settings) as bank:
        assert bank.layers == [0, 4]
    with pytest.raises(BankMismatch, match="has layers 0, 4"):
        create_bank("given", model, [2], settings=settings)


def test_single_settings_lead_to_the_bank(model: LanguageModel, tmp_path: Path) -> None:
    with create_bank(
        "b", model, [2], metric="centred", url="", data_dir=tmp_path, quantization="none"
    ) as bank:
        assert (bank.metric, bank.manifest.quantization) == ("centred", "none")
    assert (tmp_path / "b" / "manifest.json").is_file()


def test_settings_and_single_settings_exclude_each_other(
    model: LanguageModel, settings: Settings, tmp_path: Path
) -> None:
    with pytest.raises(LatentBankError, match=r"single settings \(data_dir\) are given"):
        create_bank("b", model, [1], settings=settings, data_dir=tmp_path / "elsewhere")
    assert list(tmp_path.iterdir()) == []


def test_every_kind_of_source(model: LanguageModel, settings: Settings, tmp_path: Path) -> None:
    first, second = tmp_path / "first.txt", tmp_path / "second.txt"
    first.write_text("\n".join(SENTENCES[:10]))
    second.write_text("\n".join(SENTENCES[10:]))
    with create_bank("b", model, [1], settings=settings) as bank:
        fill(bank, first, model)
        fill(bank, [str(first), second], model, name="both")
        fill(bank, corpus_from_sentences("listed", SENTENCES), model)
        fill(bank, open_corpus("opened", [first, second]), model)
        fill(bank, str(tmp_path / "*.txt"), model, name="globbed", limit=12)
        corpora = bank.corpora
    assert {name: entry.sentences for name, entry in corpora.items()} == {
        "first": 10,
        "both": 20,
        "listed": 20,
        "opened": 20,
        "globbed": 12,
    }
    hashes = {corpora[name].content_hash for name in ("both", "listed", "opened")}
    assert len(hashes) == 1
    assert all(entry.complete for entry in corpora.values())


@pytest.mark.parametrize("name", [None, "both"])
def test_a_list_holds_paths_never_sentences(
    name: str | None, model: LanguageModel, settings: Settings, tmp_path: Path
) -> None:
    file = tmp_path / "c.txt"
    file.write_text("\n".join(SENTENCES))
    missing = str(tmp_path / "mistyped.txt")
    with create_bank("b", model, [1], settings=settings) as bank:
        for source in ([str(file), missing], [missing], [file, Path(missing)]):
            with pytest.raises(CorpusError, match=rf"^No such file: {re.escape(missing)}; check the path\.$"):
                fill(bank, source, model, name=name)
            with pytest.raises(CorpusError, match=r"^No such file: "):
                plan(source, model, name=name, bank="b", settings=settings)
        with pytest.raises(
            CorpusError, match=r"^No such file: .* and 17 others; check the path\. Sentences in"
        ):
            fill(bank, SENTENCES, model, name="listed")
        assert bank.corpora == {}


def test_a_corpus_is_taken_as_it_is(model: LanguageModel, settings: Settings) -> None:
    corpus = corpus_from_sentences("c", SENTENCES)
    made = plan(corpus, model, bank="b", settings=settings)
    with create_bank("b", model, [1], settings=settings) as bank:
        for given in ({"name": "d"}, {"limit": 3}, {"column": "text"}, {"header": False}):
            with pytest.raises(CorpusError, match="which has settings of its own; leave out") as caught:
                fill(bank, corpus, model, **given)  # type: ignore[arg-type]
            assert str(caught.value).endswith(f"leave out {next(iter(given))}.")
            with pytest.raises(CorpusError, match="The source is the plan of c, which has settings"):
                fill(bank, made, model, **given)  # type: ignore[arg-type]
        assert bank.corpora == {}


def test_standard_input_needs_a_name(model: LanguageModel, settings: Settings) -> None:
    with create_bank("b", model, [1], settings=settings) as bank:
        with pytest.raises(
            CorpusError, match=r"^Standard input has no name; give the corpus one\.$"
        ) as caught:
            fill(bank, "-", model)
        assert caught.value.argument == "name"


def test_arguments_of_a_source_reach_it(model: LanguageModel, settings: Settings, tmp_path: Path) -> None:
    rows = [{"note": sentence, "tag": "A tag."} for sentence in SENTENCES]
    document, table = tmp_path / "my notes.dat", tmp_path / "b.csv"
    document.write_text(json.dumps({"a": [{"note": "no"}], "b": rows}))
    table.write_text("".join(f'"{sentence}",x\n' for sentence in SENTENCES))
    with create_bank("b", model, [1], settings=settings) as bank:
        fill(bank, document, model, format="json", field="b", column="note")
        fill(bank, table, model, header=False, column="1")
        assert list(bank.corpora) == ["my-notes", "b"]
        assert len({entry.content_hash for entry in bank.corpora.values()}) == 1
    made = plan(document, model, bank="b", format="json", field="b", column="note", settings=settings)
    assert made.source == Read(("my notes.dat",), (), "note", "b", tuple(SENTENCES[:3]))
    assert load_plan(made.directory) == made


def test_a_plan_is_found_again_and_can_be_given(
    model: LanguageModel, settings: Settings, tmp_path: Path
) -> None:
    file = tmp_path / "c.txt"
    file.write_text("\n".join(SENTENCES))
    made = plan(file, model, bank="b", skip=0, settings=settings)
    assert made.directory == settings.data_dir / ".plans" / "b" / "c"
    assert made.settings == PlanSettings(skip=0)
    elsewhere = plan(corpus_from_sentences("d", SENTENCES), model, tmp_path / "plan")
    assert elsewhere == load_plan(tmp_path / "plan")
    with create_bank("b", model, [1], settings=settings) as bank:
        before = (made.directory / "plan.json").stat().st_mtime_ns
        report = fill(bank, file, model, skip=0)
        assert (report.encoded, report.complete) == (made.contexts, True)
        assert (made.directory / "plan.json").stat().st_mtime_ns == before
        assert fill(bank, made, model).found == made.contexts
        assert fill(bank, elsewhere, model).corpus == "d"
        sampled = PlanSettings(sampling="reservoir", contexts_per_token=1)
        few = fill(bank, corpus_from_sentences("e", SENTENCES), model, choice=sampled)
        assert (few.complete, bank.corpora["e"].plan) == (True, sampled.to_dict())
        with pytest.raises(LatentBankError, match="choice holds all settings"):
            fill(bank, corpus_from_sentences("e", SENTENCES), model, choice=sampled, skip=0)


def test_another_corpus_takes_a_place_only_when_asked(model: LanguageModel, settings: Settings) -> None:
    with create_bank("b", model, [1], settings=settings) as bank:
        fill(bank, corpus_from_sentences("c", SENTENCES), model)
        with pytest.raises(CorpusError, match="has changed"):
            fill(bank, corpus_from_sentences("c", SENTENCES[:5]), model)
        fill(bank, corpus_from_sentences("c", SENTENCES[:5]), model, replace=True)
        assert bank.corpora["c"].sentences == 5


def test_a_closed_bank_is_not_filled(model: LanguageModel, settings: Settings) -> None:
    corpus = corpus_from_sentences("c", SENTENCES)
    bank = create_bank("b", model, [1], settings=settings)
    bank.close()
    made = plan(corpus, model, bank="b", settings=settings)
    for source in (corpus, made):
        with pytest.raises(BankUnavailable, match=r"^The bank 'b' is closed; open it again\.$"):
            fill(bank, source, model)
    with create_bank("b", model, settings=settings) as again:
        assert again.corpora == {}


def test_a_bank_filled_in_bfloat16_is_asked_in_float32(tmp_path: Path, settings: Settings) -> None:
    path = str(save_tiny(tmp_path / "model"))
    half, whole = (load_language_model(path, device="cpu", dtype=dtype) for dtype in ("bfloat16", "auto"))
    assert (half.dtype, whole.dtype) == (torch.bfloat16, torch.float32)
    assert half.packing == "prefix-packed"
    layers = [1, 4]
    with create_bank("half", half, layers, settings=settings) as bank:
        report = fill(bank, corpus_from_sentences("c", SENTENCES), half, batch=64)
        bank.require_model(whole.name, whole.identity())
        ids = whole.encode(SENTENCES[7])
        states = whole.hidden_states([ids], layers)[0]
        for layer in layers:
            found = bank.search(states[layer][1:].numpy(), bank_layers=[layer], top_k=1, exact=True)
            # Each token's own context, of this sentence or of one that begins alike, is the nearest one.
            assert [hits[0].token_id for hits in found] == ids[1:]
            assert min(hits[0].cosine for hits in found) > 1 - 2e-3
    assert report.complete
