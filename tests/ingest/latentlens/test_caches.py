"""Caches saved by the reference library itself, imported into a bank."""

from __future__ import annotations

import functools
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import latentlens
import numpy as np
import pytest
import torch

import latentbank.ingest.latentlens.contexts
from latentbank.bank.bank import Bank
from latentbank.bank.opening import create_bank, open_bank
from latentbank.bank.store.embedded.store import EmbeddedStore
from latentbank.errors import BankMismatch, BankUnavailable, CorpusError, LayerNotFound, ModelError
from latentbank.ingest.corpus import corpus_from_sentences
from latentbank.ingest.job import store_plan
from latentbank.ingest.latentlens.caches import CacheReport, cache_layers, import_latentlens
from latentbank.ingest.plan import PlanSettings
from latentbank.ingest.planning import plan_for
from latentbank.models.language.model import LanguageModel
from tests.bank.samples import is_one_sentence
from tests.ingest.conftest import Tiny, contents
from tests.ingest.jobs import some_sentences

LAYERS = (1, 3)
SENTENCES = [*some_sentences(25), "A dog, 猫 and a café.", "A <|im_end|> dog runs over the green grass."]


@dataclass(frozen=True)
class Cache:
    """A saved cache, the index that it was saved from, and a folder for banks."""

    folder: Path
    index: Any
    model: LanguageModel
    banks: Path

    def file(self, layer: int) -> Path:
        return self.folder / f"layer_{layer}" / "embeddings_cache.pt"

    def load(self, layer: int) -> dict[str, Any]:
        data: dict[str, Any] = torch.load(self.file(layer), weights_only=True)
        return data

    def bank(self, name: str = "bank", **given: Any) -> Bank:
        model: LanguageModel = given.pop("model", self.model)
        arguments: dict[str, Any] = {
            "model": model.name,
            "fingerprint": model.fingerprint(),
            "layers": LAYERS,
            "num_layers": model.num_layers,
            "hidden_size": model.hidden_size,
        }
        return create_bank(name, data_dir=self.banks, **{**arguments, **given})

    def take(self, name: str = "bank", **given: Any) -> CacheReport:
        """Import the cache as corpus `c`."""
        with self.bank(name, **given) as opened:
            return import_latentlens(opened, given.get("model", self.model), self.folder, "c")


Save = Callable[..., Cache]


@pytest.fixture(scope="module")
def built(tiny: Tiny, tiny_dir: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Save:
    """Return a function that builds and saves an index with latentlens, once for the same arguments."""

    @functools.cache
    def build(tokenizer: str = "plain", layers: tuple[int, ...] = LAYERS) -> Cache:
        path = tiny_dir("llama", tokenizer)
        network, tokens = latentlens.load_model(str(path), device="cpu", dtype=torch.float32)
        index = latentlens.build_index(
            str(path),
            SENTENCES,
            layers=list(layers),
            max_contexts_per_token=100,
            show_progress=False,
            model=network,
            tokenizer=tokens,
        )
        folder = tmp_path_factory.mktemp("latentlens") / "cache"
        index.save(folder)
        return Cache(folder, index, tiny("llama", tokenizer), folder)

    return build


@pytest.fixture
def saved(built: Save, tmp_path: Path) -> Save:
    """Return a cache that a test may change."""

    def copy(tokenizer: str = "plain", layers: tuple[int, ...] = LAYERS) -> Cache:
        saved = built(tokenizer, layers)
        shutil.copytree(saved.folder, tmp_path / "cache")
        return replace(saved, folder=tmp_path / "cache", banks=tmp_path / "banks")

    return copy


@pytest.mark.parametrize("tokenizer", ["plain", "bos", "metaspace"])
def test_a_cache_becomes_what_an_ingestion_of_its_sentences_gives(
    saved: Save, tokenizer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(latentbank.ingest.latentlens.contexts, "_ROWS", 50)
    cache = saved(tokenizer)
    report = cache.take()
    assert report.move.wrong == []
    assert report.rows == len(cache.index) / len(LAYERS)
    assert all(cosine > 0.9999 for cosine in report.cosines.values())
    with cache.bank("ours") as ours:
        # latentlens reads names of special tokens as these tokens, which changes the last sentence.
        corpus = corpus_from_sentences("c", SENTENCES[:-1])
        choice = PlanSettings(contexts_per_token=100)
        store_plan(ours, plan_for(ours, corpus, cache.model, tmp_path / "plan", choice), cache.model)
        expected = contents(ours)
    with open_bank("bank", data_dir=cache.banks) as bank:
        found = contents(bank)
        assert bank.verify() == []
        entry = bank.corpora["c"]
    assert entry.complete
    assert entry.contexts == report.rows - report.left_out / len(LAYERS)
    last = SENTENCES[-1]
    for layer in LAYERS:
        # latentlens leaves out the first two tokens, special or not; latentbank the first one that is not special.
        theirs = {id_: pair for id_, pair in found[layer].items() if pair[0]["caption"] != last}
        assert theirs.keys() == {
            id_ for id_, (payload, _) in expected[layer].items() if payload["position"] >= 2
        }
        for id_, (payload, vector) in theirs.items():
            assert {**payload, "sentence": 0} == {**expected[layer][id_][0], "sentence": 0}
            np.testing.assert_allclose(vector, expected[layer][id_][1], atol=2e-3)


def test_both_libraries_find_the_same_neighbors(saved: Save) -> None:
    cache = saved()
    cache.take()
    queries = np.random.default_rng(0).normal(size=(20, cache.model.hidden_size)).astype(np.float32)
    theirs = cache.index.search(torch.from_numpy(queries), top_k=3)
    with open_bank("bank", data_dir=cache.banks) as bank:
        ours = bank.search(queries, "all", top_k=3, exact=True)
    for left, right in zip(theirs, ours, strict=True):
        np.testing.assert_allclose([n.similarity for n in left], [n.cosine for n in right], atol=2e-3)
        assert (left[0].caption, left[0].token_str, left[0].contextual_layer) == (
            right[0].caption,
            right[0].token,
            right[0].bank_layer,
        )


def test_names_of_special_tokens_are_special_tokens_as_in_latentlens(saved: Save) -> None:
    cache = saved()
    special = set(cache.model.tokenizer.all_special_ids)
    there = [meta["token_id"] in special for layer in LAYERS for meta in cache.load(layer)["metadata"]]
    assert any(there)
    assert cache.take().left_out == sum(there)
    with open_bank("bank", data_dir=cache.banks) as bank:
        rows = [payload for payload, _ in contents(bank)[1].values() if payload["caption"] == SENTENCES[-1]]
    ids = cache.model.tokenizer(SENTENCES[-1])["input_ids"]
    expected = {at: id_ for at, id_ in enumerate(ids) if at >= 2 and id_ not in special}
    assert {row["position"]: row["token_id"] for row in rows} == expected


def test_an_import_that_stopped_goes_on(saved: Save, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latentbank.ingest.latentlens.contexts, "_ROWS", 50)
    cache = saved()
    real, done = EmbeddedStore.upsert, 0

    def failing(self: EmbeddedStore, layer: int, points: Any) -> None:
        nonlocal done
        done += len(points.ids)
        if done > 250:
            raise BankUnavailable("The disk is full.")
        real(self, layer, points)
        self.commit()

    with monkeypatch.context() as patch:
        patch.setattr(EmbeddedStore, "upsert", failing)
        with pytest.raises(BankUnavailable):
            cache.take()
    with open_bank("bank", data_dir=cache.banks) as bank:
        kept = sum(bank.store.count(layer) for layer in LAYERS)
        assert not bank.corpora["c"].complete
    assert 0 < kept <= 250
    report = cache.take()
    assert (report.move.written, report.move.wrong) == (report.move.contexts * len(LAYERS) - kept, [])
    assert cache.take().move.written == 0


def test_layers_may_have_their_rows_in_other_orders_and_not_all_of_them(saved: Save) -> None:
    cache = saved()
    whole = cache.take("whole").move
    data = cache.load(3)
    order = torch.randperm(len(data["metadata"]), generator=torch.Generator().manual_seed(0))[20:]
    order = torch.cat([order, order[:5]])
    torch.save(
        {
            "embeddings": data["embeddings"][order],
            "metadata": [data["metadata"][i] for i in order.tolist()],
        },
        cache.file(3),
    )
    report = cache.take()
    assert (report.move.contexts, report.repeated, report.not_everywhere) == (whole.contexts - 20, 5, 20)
    with (
        open_bank("whole", data_dir=cache.banks) as first,
        open_bank("bank", data_dir=cache.banks) as other,
    ):
        all_, fewer = contents(first), contents(other)
    for layer in LAYERS:
        for id_, (payload, vector) in fewer[layer].items():
            assert payload == all_[layer][id_][0]
            np.testing.assert_allclose(vector, all_[layer][id_][1], atol=1e-3)


def test_tokens_are_known_by_their_text_where_a_cache_has_no_ids(saved: Save) -> None:
    cache = saved()
    for layer in LAYERS:
        data = cache.load(layer)
        for meta in data["metadata"]:
            del meta["token_id"]
        torch.save(data, cache.file(layer))
    assert cache.take().move.wrong == []
    data["metadata"][7]["token_str"] = "other"
    torch.save(data, cache.file(3))
    with pytest.raises(CorpusError, match="Row 7 of"):
        cache.take("again")


# -- what is refused ---------------------------------------------------------------------------


class Touches:
    """Content of a malicious file: unpickling it creates a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


def _wicked(cache: Cache, data: dict[str, Any]) -> None:
    data["metadata"][3]["note"] = Touches(cache.folder / "made")
    torch.save(data, cache.file(1))


def _old(cache: Cache, data: dict[str, Any]) -> None:
    torch.save(data, cache.file(1), _use_new_zipfile_serialization=False)


def _cut(cache: Cache, data: dict[str, Any]) -> None:
    raw = cache.file(1).read_bytes()
    cache.file(1).write_bytes(raw[: len(raw) // 2])


def _text(cache: Cache, data: dict[str, Any]) -> None:
    cache.file(1).write_text("version https://git-lfs.github.com/spec/v1")


def _bare(cache: Cache, data: dict[str, Any]) -> None:
    torch.save(data["embeddings"], cache.file(1))


def _short(cache: Cache, data: dict[str, Any]) -> None:
    torch.save({**data, "embeddings": data["embeddings"][1:]}, cache.file(1))


def _whole_numbers(cache: Cache, data: dict[str, Any]) -> None:
    torch.save({**data, "embeddings": data["embeddings"].int()}, cache.file(1))


def _no_caption(cache: Cache, data: dict[str, Any]) -> None:
    del data["metadata"][4]["caption"]
    torch.save(data, cache.file(1))


def _far(cache: Cache, data: dict[str, Any]) -> None:
    data["metadata"][4]["position"] = 1000
    torch.save(data, cache.file(1))


WRONG: list[tuple[Callable[[Cache, dict[str, Any]], None], str]] = [
    (_wicked, "can run any code"),
    (_old, "old format"),
    (_cut, "cannot be read|old format"),
    (_text, "no file of PyTorch's"),
    (_bare, "a dict of embeddings and metadata"),
    (_short, "its embeddings are"),
    (_whole_numbers, "torch.int32"),
    (_no_caption, "row 4 of its metadata has no caption"),
    (_far, "Row 4 of"),
]


def test_files_that_cannot_be_imported_say_why_and_store_nothing(saved: Save) -> None:
    cache = saved()
    raw = cache.file(1).read_bytes()
    for change, saying in WRONG:
        change(cache, cache.load(1))
        with pytest.raises(CorpusError, match=saying) as caught:
            cache.take()
        assert is_one_sentence(caught.value)
        cache.file(1).write_bytes(raw)
    assert not (cache.folder / "made").exists()
    with open_bank("bank", data_dir=cache.banks) as bank:
        assert not bank.corpora
        assert [bank.store.count(layer) for layer in LAYERS] == [0] * len(LAYERS)


def test_a_cache_of_another_llm_is_found_out(saved: Save, tiny: Tiny) -> None:
    cache = saved()
    with pytest.raises(ModelError, match="median cosine") as caught:
        cache.take("other", model=tiny("llama", seed=1))
    assert is_one_sentence(caught.value)
    with pytest.raises(CorpusError, match="name the LLM that the cache was made with") as refused:
        cache.take("tokens", model=tiny("llama", "metaspace"))
    assert is_one_sentence(refused.value)
    with pytest.raises(ModelError, match="have 64"):
        cache.take("wide", model=tiny("llama", hidden_size=64))


def test_a_layer_under_another_number_is_found_out(saved: Save) -> None:
    cache = saved()
    cache.file(1).replace(cache.file(3))
    with pytest.raises(LayerNotFound, match="no layer 1; it has 3"):
        cache_layers(cache.folder, [1])
    with pytest.raises(ModelError, match="median cosine"):
        cache.take(layers=(3,))


def test_layers_that_are_missing_or_after_the_final_norm(saved: Save) -> None:
    cache = saved(layers=(1, 4))
    with pytest.raises(LayerNotFound, match="no layer 3; it has 1, 4"):
        cache.take()
    with pytest.raises(LayerNotFound, match="after the final norm") as caught:
        cache.take("last", layers=(1, 4))
    assert is_one_sentence(caught.value)
    assert cache.take("rest", layers=(1,)).move.wrong == []


def test_centred_banks_take_no_caches(saved: Save) -> None:
    with pytest.raises(BankMismatch, match="plain cosine") as caught:
        saved().take(metric="centred")
    assert is_one_sentence(caught.value)


def test_layers_without_a_common_context_are_refused(saved: Save) -> None:
    cache = saved()
    for layer, part in ((1, slice(0, 20)), (3, slice(20, 40))):
        data = cache.load(layer)
        torch.save({name: rows[part] for name, rows in data.items()}, cache.file(layer))
    with pytest.raises(CorpusError, match="no context in common") as caught:
        cache.take(layers=(1, 3))
    assert is_one_sentence(caught.value)


def test_a_folder_without_a_cache(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="no layer_N") as caught:
        cache_layers(tmp_path)
    assert is_one_sentence(caught.value)


def test_another_ingestion_under_that_name_is_not_mixed_in(saved: Save, tmp_path: Path) -> None:
    cache = saved()
    cache.take()
    with cache.bank() as bank:
        corpus = corpus_from_sentences("c", SENTENCES)
        with pytest.raises(CorpusError, match="imported=latentlens cache"):
            plan_for(bank, corpus, cache.model, tmp_path / "plan")
