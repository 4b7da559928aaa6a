"""Exports: a bank as files in open formats, written and read back in parts."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import load_file, save

import latentbank.bank.transfer.export
from latentbank.bank.bank import Bank
from latentbank.bank.ledger import replacement_name
from latentbank.bank.opening import list_banks, open_bank
from latentbank.bank.rotation import unit
from latentbank.bank.store.embedded.store import EmbeddedStore
from latentbank.bank.transfer.export import DESCRIPTION, SUMS, export_bank
from latentbank.bank.transfer.load import import_bank
from latentbank.bank.transfer.receive import MoveReport
from latentbank.bank.where import Where
from latentbank.errors import BankMismatch, BankUnavailable, CorpusError, LatentBankError
from latentbank.locks import alone_in
from tests.bank.samples import Place, entry, fill, is_one_sentence, payload, sample_bank, units
from tests.bank.transfer.test_copy import assert_equal_banks, stored_contexts, supersede


@pytest.fixture(autouse=True)
def small_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latentbank.bank.transfer.export, "PART", 32)
    monkeypatch.setattr(latentbank.bank.transfer.export, "BATCH", 10)
    monkeypatch.setattr("latentbank.bank.transfer.load.BATCH", 10)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "export"


@pytest.fixture
def embedded(data_dir: Path) -> Place:
    from latentbank.bank.settings import load_settings

    return Place("embedded", load_settings(data_dir=data_dir))


@pytest.fixture
def exported(embedded: Place, folder: Path) -> Iterator[Bank]:
    """A bank of 100 contexts, open, and its export."""
    with sample_bank(embedded) as opened:
        fill(opened, 100)
        export_bank(opened, folder)
        yield opened


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def sum_again(folder: Path) -> None:
    """Write the sums of files as they are now."""
    kept = {name: data for name, data in files(folder).items() if name != SUMS}
    lines = [f"{hashlib.sha256(data).hexdigest()}  {name}\n" for name, data in kept.items()]
    (folder / SUMS).write_text("".join(lines))


def test_an_exported_bank_comes_back(place: Place, folder: Path) -> None:
    with sample_bank(place) as source:
        fill(source, 100)
        fill(source, 20, "plants")
        source.record(entry("unfinished", 7, complete=False))
        report = export_bank(source, folder)
        assert (report.corpora, report.contexts, report.left_out) == (
            ["animals", "plants"],
            120,
            ["unfinished"],
        )
        found = files(folder)
        assert (report.files, report.written, report.bytes) == (
            len(found),
            len(found) - 1,
            sum(map(len, found.values())),
        )
        moved = import_bank(folder, place.settings, "back")
        assert moved == MoveReport("back", [4, 8], ["animals", "plants"], 120, 240, [], [])
        with open_bank("back", place.settings) as back:
            for corpus in ("animals", "plants"):
                assert_equal_banks(source, back, corpus=corpus)
                assert back.corpora[corpus] == source.corpora[corpus]
            assert back.verify() == []
        assert import_bank(folder, place.settings, "back").written == 0


def test_two_exports_to_one_folder(exported: Bank, folder: Path) -> None:
    found = files(folder)
    with (
        alone_in(folder, "exports"),
        pytest.raises(LatentBankError, match=f"exports to {folder}; wait for it to end"),
    ):
        export_bank(exported, folder)
    assert files(folder) == found


def test_a_path_can_be_a_string(embedded: Place, folder: Path) -> None:
    with sample_bank(embedded) as source:
        fill(source, 10)
        report = export_bank(source, str(folder))
    assert report.directory == str(folder)
    moved = import_bank(str(folder), name="back", data_dir=str(embedded.settings.data_dir), url="")
    assert (moved.written, list_banks(embedded.settings)) == (20, ["back", "bank"])


def test_a_replaced_corpus_comes_back_as_it_is_stored(place: Place, folder: Path) -> None:
    with sample_bank(place) as source:
        fill(source, 50)
        supersede(source, 40)
        report = export_bank(source, folder)
        assert (report.corpora, report.contexts) == (["animals"], 40)
        rows = pq.read_table(folder / "animals/contexts-00000.parquet").to_pylist()
        assert {row["corpus"] for row in rows} == {"animals@2"}
        assert import_bank(folder, place.settings, "back").wrong == []
        with open_bank("back", place.settings) as back:
            assert_equal_banks(source, back, corpus="animals@2")
            assert back.corpora == source.corpora
            (found,) = back.search(units(1), "all", 100)
            assert {item.corpus for item in found} == {"animals"}
            assert back.count(where=Where(corpus="animals")) == 40
            assert back.verify() == []
            # Its replacement there gets a stored name of its own.
            assert replacement_name(back.corpora["animals"]) == "animals@3"
        assert import_bank(folder, place.settings, "back").written == 0


def test_files_are_what_anyone_can_read(exported: Bank, folder: Path) -> None:
    described = json.loads((folder / DESCRIPTION).read_text())
    assert described["manifest"] == exported.manifest.to_dict()
    states = {layer: units(100, seed=layer) for layer in (4, 8)}
    all_numbers: list[int] = []
    for number in range(4):
        rows = pq.read_table(folder / f"animals/contexts-{number:05d}.parquet").to_pylist()
        assert len(rows) == (32 if number < 3 else 4)
        # Sample contexts are numbered in their captions.
        numbers = [int(row["caption"].split()[-1].rstrip(".")) for row in rows]
        all_numbers += numbers
        assert [{"id": row["id"], **payload(n)} for row, n in zip(rows, numbers, strict=True)] == rows
        for layer in (4, 8):
            tensors = load_file(folder / f"animals/L{layer:02d}-{number:05d}.safetensors")
            assert tensors["vectors"].dtype == np.float16
            np.testing.assert_allclose(tensors["vectors"], states[layer][numbers], atol=1e-3)
            assert [bytes(row).hex() for row in tensors["ids"]] == [
                row["id"].replace("-", "") for row in rows
            ]
    assert sorted(all_numbers) == list(range(100))
    listed = dict(line.split("  ")[::-1] for line in (folder / SUMS).read_text().splitlines())
    assert listed == {
        name: hashlib.sha256(data).hexdigest() for name, data in files(folder).items() if name != SUMS
    }


def test_a_centred_banks_vectors_are_without_its_means(embedded: Place, folder: Path) -> None:
    means = {layer: units(1, seed=layer + 1)[0] for layer in (4, 8)}
    with sample_bank(embedded, metric="centred") as source:
        source.fix_means(means)
        states = fill(source, 20)
        export_bank(source, folder)
        rows = pq.read_table(folder / "animals/contexts-00000.parquet").to_pylist()
        numbers = [int(row["caption"].split()[-1].rstrip(".")) for row in rows]
        left = unit(states[4][numbers]) - means[4]
        vectors = load_file(folder / "animals/L04-00000.safetensors")["vectors"]
        np.testing.assert_allclose(vectors, left / np.linalg.norm(left, axis=1, keepdims=True), atol=1e-3)
        import_bank(folder, embedded.settings, "back")
        with open_bank("back", embedded.settings) as back:
            assert back.manifest.means == source.manifest.means
            assert_equal_banks(source, back)


@pytest.mark.parametrize("after", [0, 5, 13])
def test_an_export_that_stopped_goes_on_with_the_missing_files(
    embedded: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    whole, folder = tmp_path / "whole", tmp_path / "export"
    real, done = latentbank.bank.transfer.export.write_whole, 0

    def full(path: Path, data: bytes) -> Path:
        nonlocal done
        if done == after:
            raise LatentBankError(f"{path} cannot be written.")
        done += 1
        return real(path, data)

    with sample_bank(embedded) as source:
        fill(source, 100)
        export_bank(source, whole)
        with monkeypatch.context() as patch:
            patch.setattr(latentbank.bank.transfer.export, "write_whole", full)
            with pytest.raises(LatentBankError, match="cannot be written"):
                export_bank(source, folder)
        assert len(files(folder)) == after
        with pytest.raises(CorpusError, match="not whole" if after else "no export") as caught:
            import_bank(folder, embedded.settings, "back")
        assert is_one_sentence(caught.value)
        report = export_bank(source, folder)
        assert report.written == len(files(whole)) - 1 - after
        assert files(folder) == files(whole)
        assert export_bank(source, folder).written == 0


def test_exporting_again_mends_a_damaged_file(exported: Bank, folder: Path) -> None:
    before = files(folder)
    victim = folder / "animals/L08-00002.safetensors"
    victim.write_bytes(victim.read_bytes()[:-1] + b"\x00")
    (folder / "animals/contexts-00001.parquet").unlink()
    # Payloads are always written with the first layer's vectors.
    assert export_bank(exported, folder).written == 3
    assert files(folder) == before


def test_a_folder_holds_one_state_of_one_bank(exported: Bank, embedded: Place, folder: Path) -> None:
    fill(exported, 10, "plants")
    with pytest.raises(BankMismatch, match="another folder") as caught:
        export_bank(exported, folder)
    assert is_one_sentence(caught.value)


def test_the_order_of_a_ledger_does_not_matter(
    embedded: Place, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server returns its metadata in any order."""
    real = EmbeddedStore.read_manifest

    def backwards(self: EmbeddedStore) -> Any:
        head, corpora = real(self) or ({}, {})
        return dict(reversed(head.items())), dict(reversed(corpora.items()))

    with sample_bank(embedded) as source:
        fill(source, 40)
        fill(source, 10, "plants")
        export_bank(source, folder)
        monkeypatch.setattr(EmbeddedStore, "read_manifest", backwards)
        assert list(source.corpora) == ["plants", "animals"]
        assert export_bank(source, folder).written == 0


def test_layers_that_differ_are_not_exported(embedded: Place, folder: Path) -> None:
    with sample_bank(embedded) as source:
        fill(source, 40)
        source.store.delete_corpus(8, "animals")
        with pytest.raises(BankMismatch, match="Layer 8 of bank 'bank' holds other contexts"):
            export_bank(source, folder)
        assert not (folder / SUMS).exists()


def test_a_corpus_whose_name_is_a_path_is_not_exported(embedded: Place, folder: Path) -> None:
    with sample_bank(embedded) as source:
        fill(source, 10, "../out")
        with pytest.raises(CorpusError, match="cannot be exported"):
            export_bank(source, folder)
    assert not folder.exists()


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-10])


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("damage", "name"),
    [
        (_cut, "animals/L08-00001.safetensors"),
        (_flip, "animals/contexts-00001.parquet"),
        (Path.unlink, "animals/L08-00001.safetensors"),
        (_flip, "bank.json"),
        (Path.unlink, "bank.json"),
    ],
)
def test_damaged_files_stop_an_import(
    exported: Bank, embedded: Place, folder: Path, damage: Any, name: str
) -> None:
    mended = (folder / name).read_bytes()
    damage(folder / name)
    with pytest.raises(CorpusError, match=r"damaged|no export") as caught:
        import_bank(folder, embedded.settings, "back")
    assert is_one_sentence(caught.value)
    assert name in str(caught.value) or name == "bank.json"
    (folder / name).write_bytes(mended)
    assert import_bank(folder, embedded.settings, "back").wrong == []


def test_vectors_that_cannot_be_are_refused_even_with_a_right_sum(
    exported: Bank, embedded: Place, folder: Path
) -> None:
    path = folder / "animals/L04-00000.safetensors"
    sound = load_file(path)
    changes: list[tuple[dict[str, Any], str]] = [
        ({"vectors": np.full((32, 32), np.nan, np.float16)}, "length 1"),
        ({"vectors": np.ones((32, 32), np.float16)}, "length 1"),
        ({"vectors": units(32)}, "float32"),
        ({"vectors": units(31).astype(np.float16)}, r"\[31, 32\]"),
        ({"ids": np.zeros((32, 16), np.uint8)}, "other contexts"),
    ]
    for change, saying in changes:
        path.write_bytes(save({**sound, **change}))
        sum_again(folder)
        with pytest.raises(CorpusError, match=saying):
            import_bank(folder, embedded.settings, "back")
    with open_bank("back", embedded.settings) as back:
        assert stored_contexts(back) == 0


def test_payloads_of_another_corpus_are_refused_even_with_a_right_sum(
    embedded: Place, exported: Bank, folder: Path
) -> None:
    path = folder / "animals/contexts-00000.parquet"
    table = pq.read_table(path)
    pq.write_table(table.set_column(1, "corpus", pa.array(["plants"] * 32)), path)
    sum_again(folder)
    with pytest.raises(CorpusError, match="not hold 32 contexts of 'animals'"):
        import_bank(folder, embedded.settings, "back")
    pq.write_table(table.drop_columns(["word"]), path)
    sum_again(folder)
    with pytest.raises(CorpusError, match="damaged"):
        import_bank(folder, embedded.settings, "back")


def test_an_export_of_another_format_names_it(exported: Bank, embedded: Place, folder: Path) -> None:
    described = json.loads((folder / DESCRIPTION).read_text())
    (folder / DESCRIPTION).write_text(json.dumps({**described, "format": 2}))
    sum_again(folder)
    with pytest.raises(CorpusError, match="format 2, this latentbank reads format 1") as caught:
        import_bank(folder, embedded.settings, "back")
    assert is_one_sentence(caught.value)


def test_an_import_that_stopped_goes_on(
    exported: Bank, embedded: Place, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, done = EmbeddedStore.upsert, 0

    def failing(self: EmbeddedStore, layer: int, points: Any) -> None:
        nonlocal done
        done += len(points.ids)
        if done > 110:
            raise BankUnavailable("The disk is full.")
        real(self, layer, points)

    with monkeypatch.context() as patch:
        patch.setattr(EmbeddedStore, "upsert", failing)
        with pytest.raises(BankUnavailable):
            import_bank(folder, embedded.settings, "back")
    with open_bank("back", embedded.settings) as back:
        assert not back.corpora["animals"].complete
        assert stored_contexts(back) > 64
    report = import_bank(folder, embedded.settings, "back")
    assert (report.written, report.wrong) == (
        200 - 96,
        [],
    )  # whole files that are stored are not stored again
    with open_bank("back", embedded.settings) as back:
        assert_equal_banks(exported, back)


def test_an_import_joins_a_bank_of_the_same_llm_only(exported: Bank, embedded: Place, folder: Path) -> None:
    with sample_bank(embedded, "other", fingerprint="beef") as other:
        other.close()
        with pytest.raises(BankMismatch, match="not of tiny/llama"):
            import_bank(folder, embedded.settings, "other")
    with sample_bank(embedded, "same") as same:
        fill(same, 10, "plants")
    assert import_bank(folder, embedded.settings, "same").wrong == []
    with open_bank("same", embedded.settings) as same:
        assert sorted(same.corpora) == ["animals", "plants"]
        assert same.verify() == []


def test_a_folder_without_an_export_says_how_to_make_one(embedded: Place, tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="export a bank first") as caught:
        import_bank(tmp_path, embedded.settings)
    assert is_one_sentence(caught.value)
    assert not list(embedded.settings.data_dir.iterdir())


def test_a_copied_export_is_imported_from_wherever_it_is(
    exported: Bank, embedded: Place, folder: Path, tmp_path: Path
) -> None:
    shutil.copytree(folder, tmp_path / "elsewhere")
    shutil.rmtree(folder)
    assert import_bank(tmp_path / "elsewhere", embedded.settings, "back").wrong == []
