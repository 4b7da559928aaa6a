"""Properties of the embedded store: its lock, damaged manifests, folders that cannot be used."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from latentbank.bank.bank import Bank
from latentbank.bank.opening import delete_bank, list_banks, open_bank
from latentbank.bank.settings import Settings, load_settings
from latentbank.errors import BankBusy, BankMismatch, BankNotFound, BankUnavailable
from tests.bank.samples import Place, Start, fill, is_one_sentence, next_line, sample_bank, units


@pytest.fixture
def place(data_dir: Path) -> Place:
    return Place("embedded", load_settings(data_dir=data_dir))


def sample_bank_there(name: str, settings: Settings) -> Bank:
    return sample_bank(Place("embedded", settings), name)


# -- the lock ----------------------------------------------------------------------------------------


def hold(data_dir: str) -> None:
    """Keep the bank open, in another process, until a line on standard input says to close it."""
    bank = open_bank("bank", data_dir=data_dir)
    print("open", flush=True)
    sys.stdin.readline()
    bank.close()
    print("closed", flush=True)
    sys.stdin.readline()


@pytest.mark.parametrize("end", ["closed", "killed"])
def test_a_bank_open_in_another_process_is_busy(place: Place, start: Start, end: str) -> None:
    with sample_bank(place) as made:
        fill(made, 10)
    holder = start(hold, place.settings.data_dir)
    assert next_line(holder) == "open"
    for attempt in (open_bank, sample_bank_there, open_bank, delete_bank):
        with pytest.raises(
            BankBusy, match=rf"'bank' is open in another process \(pid {holder.pid}\);"
        ) as found:
            attempt("bank", place.settings)
        assert is_one_sentence(found.value)
    assert list_banks(place.settings) == ["bank"]
    with sample_bank(place, "other") as other:
        assert other.count() == 0
    if end == "closed":
        assert holder.stdin is not None
        print(file=holder.stdin, flush=True)
        assert next_line(holder) == "closed"
        assert holder.poll() is None
    else:
        holder.kill()
        assert holder.wait() == -signal.SIGKILL
    with open_bank("bank", place.settings) as opened:
        assert opened.count() == 10
        assert opened.verify() == []


def test_a_bank_open_in_this_process_is_busy(place: Place) -> None:
    first = sample_bank(place)
    for _ in range(2):  # a refused attempt must not free the lock
        with pytest.raises(BankBusy, match="'bank' is open in this process already; close it there"):
            open_bank("bank", place.settings)
    first.close()
    open_bank("bank", place.settings).close()


def test_an_opening_that_fails_frees_the_lock(place: Place) -> None:
    sample_bank(place).close()
    for _ in range(2):
        with pytest.raises(BankMismatch):
            open_bank("bank", place.settings, model="another", fingerprint="beef")
        with pytest.raises(BankMismatch):
            sample_bank(place, layers=[1])
    open_bank("bank", place.settings).close()


# -- damaged and wrong folders -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda good: b"", r"cannot be read \(JSONDecodeError\); restore .*manifest.json from a backup"),
        (lambda good: json.dumps(good).encode()[:-20], r"cannot be read \(JSONDecodeError\)"),
        (lambda good: b"\xff\xfe\x00", r"cannot be read \(UnicodeDecodeError\)"),
        (lambda good: [good], r"cannot be read \(it is not a JSON object\)"),
        (lambda good: None, r"cannot be read \(it is not a JSON object\)"),
        (lambda good: {}, "has manifest schema None"),
        (lambda good: good | {"schema": 2, "version": "9.9"}, r"has manifest schema 2, .*wrote it \(9.9\)"),
        (
            lambda good: {k: v for k, v in good.items() if k != "layers"},
            r"of bank 'bank' is damaged \(layers",
        ),
        (lambda good: good | {"hidden_size": "wide"}, r"damaged \(hidden_size"),
        (lambda good: good | {"corpora": ["animals"]}, r"damaged \(corpora"),
        (lambda good: good | {"corpora": {"animals": {"contexts": 3}}}, r"damaged \(corpora\.animals"),
    ],
)
def test_a_damaged_manifest(place: Place, damage: Callable[[Any], Any], message: str) -> None:
    """The error is one sentence, nothing is changed, and with the manifest restored the bank is usable."""
    with sample_bank(place) as made:
        fill(made, 20)
    manifest = place.settings.data_dir / "bank" / "manifest.json"
    good = manifest.read_bytes()
    bad = damage(json.loads(good))
    manifest.write_bytes(bad if isinstance(bad, bytes) else json.dumps(bad).encode())
    written = manifest.read_bytes()
    for attempt in (open_bank, sample_bank_there, open_bank):
        with pytest.raises((BankUnavailable, BankMismatch), match=message) as found:
            attempt("bank", place.settings)
        assert is_one_sentence(found.value)
    assert manifest.read_bytes() == written
    assert list_banks(place.settings) == ["bank"]
    manifest.write_bytes(good)
    with open_bank("bank", place.settings) as opened:
        assert opened.count() == 20
        assert opened.verify() == []


def test_a_damaged_layer_is_named_and_the_others_can_be_read(place: Place) -> None:
    with sample_bank(place) as made:
        fill(made, 20)
    for file in (place.settings.data_dir / "bank" / "L04").rglob("*.json"):
        file.write_text("damaged")
    with open_bank("bank", place.settings) as opened:
        with pytest.raises(BankUnavailable, match="The bank 'bank' cannot be used") as found:
            opened.search(units(1), 4)
        assert is_one_sentence(found.value)
        assert len(opened.search(units(1), 8)[0]) == 5


def test_opening_a_missing_bank_makes_no_folder(place: Place) -> None:
    shutil.rmtree(place.settings.data_dir)
    for attempt in (open_bank, delete_bank):
        with pytest.raises(BankNotFound, match="There is no bank 'bank'"):
            attempt("bank", place.settings)
    assert list_banks(place.settings) == []
    assert not place.settings.data_dir.exists()


@pytest.mark.parametrize("instead", ["data_dir", "data_dir/bank"])
def test_a_file_in_place_of_a_folder(data_dir: Path, instead: str) -> None:
    place = Place("embedded", load_settings(data_dir=data_dir / "data_dir"))
    file = data_dir / instead
    file.parent.mkdir(exist_ok=True)
    file.write_text("mine")
    assert list_banks(place.settings) == []
    for attempt in (open_bank, delete_bank):
        with pytest.raises(BankNotFound):
            attempt("bank", place.settings)
    with pytest.raises(BankUnavailable, match=r"cannot be used \(.+\); set LATENTBANK_DATA_DIR") as found:
        sample_bank(place)
    assert is_one_sentence(found.value)
    assert file.read_text() == "mine"


@contextmanager
def without_rights(folder: Path, mode: int) -> Iterator[None]:
    """Set the mode of `folder`, and become a user to whom it applies: it does not apply to root."""
    before, root = folder.stat().st_mode, os.geteuid() == 0
    folder.chmod(mode)
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)
        folder.chmod(before)


@pytest.mark.parametrize(
    ("protected", "mode", "attempt", "message"),
    [
        ("", 0o555, "make new", r"The folder .*/new cannot be used \(Permission denied\)"),
        ("", 0o000, "make new", r"The folder .*/new cannot be used \(Permission denied\)"),
        ("", 0o000, "open bank", r"The folder .*/bank cannot be used \(Permission denied\)"),
        ("bank", 0o000, "open bank", r"The folder .*/bank cannot be used \(Permission denied\)"),
        (
            "bank",
            0o555,
            "make bank",
            r"The bank 'bank' can be read, but not changed: .*\(Permission denied\);",
        ),
    ],
)
def test_a_folder_without_rights(
    place: Place, quick_disk: Path, protected: str, mode: int, attempt: str, message: str
) -> None:
    sample_bank(place).close()
    for parent in (quick_disk, place.settings.data_dir):
        parent.chmod(0o711)
    action, name = attempt.split()
    do = sample_bank_there if action == "make" else open_bank
    with without_rights(place.settings.data_dir / protected, mode):
        with pytest.raises(BankUnavailable, match=message) as found:
            do(name, place.settings)
        assert is_one_sentence(found.value)
    assert list_banks(place.settings) == ["bank"]
    open_bank("bank", place.settings).close()
