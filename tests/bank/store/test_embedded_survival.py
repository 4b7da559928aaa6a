"""The embedded store survives kill -9 in the middle of its work, and full disks."""

from __future__ import annotations

import itertools
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from latentbank.bank.bank import Bank
from latentbank.bank.opening import delete_bank, list_banks, open_bank
from latentbank.bank.rotation import rotate
from latentbank.bank.settings import load_settings
from latentbank.bank.store.embedded import optimizing
from latentbank.bank.store.embedded.scratch import RESERVE_BYTES
from latentbank.errors import BankBusy, BankNotFound, BankUnavailable
from tests.bank.samples import (
    WIDTH,
    Place,
    Start,
    entry,
    fill,
    ids,
    is_one_sentence,
    next_line,
    payload,
    sample_bank,
    units,
)

BATCH = 150


@pytest.fixture
def place(data_dir: Path) -> Place:
    return Place("embedded", load_settings(data_dir=data_dir))


# -- kills -------------------------------------------------------------------------------------------


def states(number: int, layer: int) -> Any:
    """The hidden states of corpus `number` in a layer."""
    return units(BATCH, seed=100 * number + layer)


def write(bank: Bank, number: int) -> None:
    """Put corpus `number` into every layer and commit it."""
    corpus, numbers = f"corpus{number}", range(BATCH)
    for layer in bank.layers:
        bank.add(layer, ids(numbers, corpus), states(number, layer), [payload(n, corpus) for n in numbers])
    bank.commit()


def record(bank: Bank, number: int) -> None:
    bank.record(entry(f"corpus{number}", BATCH))


def check_content(bank: Bank, corpora: int) -> None:
    """Check that the first `corpora` corpora are there, and every context as it was written."""
    for layer in bank.layers:
        stored = {p.id: p for p in bank.store.scroll(layer, vectors=True, payloads=True)}
        for number in range(corpora):
            corpus = f"corpus{number}"
            rows = rotate(states(number, layer), bank.manifest.rotation_seed)
            found = [stored[item] for item in ids(range(BATCH), corpus)]
            assert [p.payload for p in found] == [payload(n, corpus) for n in range(BATCH)]
            np.testing.assert_allclose([p.vector for p in found], rows, atol=1e-3)


def write_on(data_dir: str, first: str, other_process_from: str) -> None:
    """Write corpora in another process, beginning with number `first`, and print which are committed."""
    optimizing._OTHER_PROCESS_FROM = int(other_process_from)
    with open_bank("bank", data_dir=data_dir) as bank:
        for number in itertools.count(int(first)):
            write(bank, number)
            print(number, flush=True)
            record(bank, number)
            if number % 3 == 0:
                bank.store.index(4)


@pytest.mark.parametrize(
    "other_process_from", [1_000_000, 0], ids=["indexed by it", "indexed by another process"]
)
def test_nothing_committed_is_lost_in_a_kill(place: Place, start: Start, other_process_from: int) -> None:
    sample_bank(place).close()
    recorded = 0
    for pause in (0.0, 0.03, 0.08, 0.25):  # kills at different moments of the work
        writer = start(write_on, place.settings.data_dir, recorded, other_process_from)
        lines = [next_line(writer) for _ in range(3)]
        time.sleep(pause)
        writer.send_signal(signal.SIGKILL)
        lines += writer.communicate()[0].split()
        assert writer.returncode == -signal.SIGKILL
        committed = int(lines[-1]) + 1
        with open_bank("bank", place.settings) as bank:
            check_content(bank, committed)
            recorded = len(bank.corpora)
            assert recorded in (committed - 1, committed)
            names = list(bank.corpora)
            assert names == [f"corpus{number}" for number in range(recorded)]
            assert not [wrong for wrong in bank.verify() if any(f"'{name}'" in wrong for name in names)]
            # What was under way is written again, as a rerun of the same command would do.
            write(bank, recorded)
            record(bank, recorded)
            recorded += 1
            # The writer indexes after every third corpus only.
            assert [wrong for wrong in bank.verify() if "are not indexed" not in wrong] == []
            assert bank.count() == recorded * BATCH
    assert recorded >= 9


CHANGES = ("os.mkdir", "os.remove", "os.rename", "os.rmdir")


def delete_and_make(data_dir: str, last: str) -> None:
    """Delete and create a bank of several layers, in another process, which is killed before step `last` (0: never).

    Steps change folders. Their number is printed after the deletion and at the end.
    """
    place = Place("embedded", load_settings(data_dir=data_dir))
    sample_bank(place, layers=range(3)).close()
    steps = 0

    def count(event: str, _: object) -> None:
        nonlocal steps
        if event in CHANGES:
            steps += 1
            if steps == int(last):
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(count)
    delete_bank("bank", place.settings)
    print(steps, flush=True)
    sample_bank(place, layers=range(3)).close()
    print(steps, flush=True)


def test_a_killed_creation_or_deletion_leaves_a_whole_bank_or_no_bank(place: Place, start: Start) -> None:
    whole_run = start(delete_and_make, place.settings.data_dir, 0)
    deleted, made = map(int, whole_run.communicate()[0].split())
    delete_bank("bank", place.settings)
    # At the beginning, in the middle and at the end of each of the two.
    for last in (1, deleted // 2, deleted - 2, deleted, (deleted + made) // 2, made - 1, made):
        maker = start(delete_and_make, place.settings.data_dir, last)
        maker.communicate()
        assert maker.returncode == -signal.SIGKILL
        if list_banks(place.settings):
            with open_bank("bank", place.settings) as whole:
                assert whole.store.layers() == list(range(3))
                assert whole.verify() == []
            delete_bank("bank", place.settings)
        else:
            with pytest.raises(BankNotFound):
                open_bank("bank", place.settings)
        check_a_new_bank(place)
        delete_bank("bank", place.settings)


def check_a_new_bank(place: Place) -> None:
    """Check that a bank can be created, holds nothing of the earlier one, and works."""
    with sample_bank(place) as made:
        assert made.store.layers() == [4, 8]
        assert [made.count(layer) for layer in made.layers] == [0, 0]
        fill(made, 20)
        made.store.index(4)
        assert made.verify() == []
    there = {path.name for path in (place.settings.data_dir / "bank").iterdir()}
    assert there == {"L04", "L08", "manifest.json", "lock"}


@pytest.mark.parametrize("left", ["L04.new", "L04.new and L12.new", "an empty L04", "a deletion"])
def test_what_a_kill_left_half_made_is_cleaned(place: Place, left: str) -> None:
    with sample_bank(place, layers=[4]) as made:
        fill(made, 30)
    folder = place.settings.data_dir / "bank"
    (folder / "manifest.json").unlink()
    match left:
        case "L04.new":
            (folder / "L04").rename(folder / "L04.new")
            shutil.rmtree(next((folder / "L04.new" / "segments").iterdir()))
        case "L04.new and L12.new":
            shutil.copytree(folder / "L04", folder / "L12.new")
            (folder / "L04").rename(folder / "L04.new")
        case "an empty L04":
            shutil.rmtree(folder / "L04")
            (folder / "L04").mkdir()
        case "a deletion":
            (folder / "deleting").touch()
            shutil.rmtree(next((folder / "L04" / "segments").iterdir()))
    assert list_banks(place.settings) == []
    with pytest.raises(BankNotFound):
        open_bank("bank", place.settings)
    check_a_new_bank(place)


# -- no room -----------------------------------------------------------------------------------------


@contextmanager
def little_room(folder: Path, left: int) -> Iterator[None]:
    """Leave `left` bytes on the disk of `folder`."""
    ballast = folder / "ballast"
    with ballast.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, shutil.disk_usage(folder).free - left)
    yield
    ballast.unlink()


@contextmanager
def small_files(largest: int) -> Iterator[None]:
    """Let no file grow beyond `largest` bytes: a way to run out of room without privileges."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def fails(action: Callable[[], object]) -> None:
    with pytest.raises(BankUnavailable, match=r"is full.*make room and run the command again") as found:
        action()
    assert is_one_sentence(found.value)


def check_it_goes_on(place: Place, bank: Bank, corpora: int) -> None:
    """Check that with room again the bank can be written to, closed and opened, and nothing is missing."""
    check_content(bank, corpora)
    write(bank, corpora)
    bank.store.index(4)
    for number in range(corpora + 1):
        record(bank, number)
    bank.close()
    with open_bank("bank", place.settings) as opened:
        check_content(opened, corpora + 1)
        assert opened.verify() == []
        assert opened.count() == (corpora + 1) * BATCH
        opened.store.index(4)
        assert opened.store.info(4).indexed == (corpora + 1) * BATCH


def on_a_small_disk(data_dir: str, other_process_from: str) -> None:
    """Fill the disk of `data_dir`, in another process, until nothing more can be written."""
    optimizing._OTHER_PROCESS_FROM = int(other_process_from)
    place = Place("embedded", load_settings(data_dir=data_dir))
    folder = Path(data_dir)
    bank = sample_bank(place, layers=[4])
    write(bank, 0)
    record(bank, 0)
    committed = 1

    def fill_up() -> None:
        nonlocal committed
        while committed < 1000:
            write(bank, committed)
            committed += 1

    with little_room(folder, RESERVE_BYTES + (2 << 20)):
        fails(fill_up)
        assert committed > 1
        fails(lambda: bank.store.index(4))
        check_content(bank, committed)
        assert bank.search(units(1), 4)[0]
    with little_room(folder, 0):
        fails(lambda: bank.store.create(8, WIDTH, "int8"))
        fails(lambda: record(bank, 1))
        fails(lambda: bank.drop_corpus("corpus0"))
        bank.close()
    (folder / "bank" / "lock").unlink()
    # There is no room even for a process id.
    with little_room(folder, 0), open_bank("bank", place.settings) as reader:
        with pytest.raises(BankBusy, match=r"pid \?"):
            open_bank("bank", place.settings)
        assert list(reader.corpora) == ["corpus0"]
        check_content(reader, committed)  # from a copy elsewhere: loading a layer writes too
        assert reader.search(units(1), 4)[0]
        fails(lambda: write(reader, committed))
        fails(lambda: reader.store.delete_corpus(4, "corpus0"))
        fails(lambda: reader.store.index(4))
        check_content(reader, committed)
    # The same bank goes on, also with the layer that it had read from a copy.
    check_it_goes_on(place, open_bank("bank", place.settings), committed)


def with_small_files(data_dir: str, other_process_from: str) -> None:
    """Create, fill and index a bank, in another process, while large files are forbidden."""
    optimizing._OTHER_PROCESS_FROM = int(other_process_from)
    place = Place("embedded", load_settings(data_dir=data_dir))
    with small_files(100_000):
        fails(lambda: sample_bank(place))
    with pytest.raises(BankNotFound):
        open_bank("bank", place.settings)
    bank = sample_bank(place)
    write(bank, 0)
    with small_files(100_000):
        fails(lambda: bank.store.index(4))
        check_content(bank, 1)
        assert bank.search(units(1), 4)[0]
    with small_files(10):
        fails(lambda: record(bank, 0))
    assert bank.corpora == {}
    check_it_goes_on(place, bank, 1)


def on_a_disk_of(size: str, folder: Path) -> tuple[str, ...] | None:
    """Return a command that runs another with its own disk in `folder`; None if that is not permitted."""
    rights = () if os.geteuid() == 0 else ("--map-root-user",)
    mount = f'mount -t tmpfs -o size={size} tmpfs "$0" && exec "$@"'
    through = ("unshare", "--mount", *rights, "sh", "-c", mount, str(folder))
    try:
        subprocess.run([*through, "true"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return through


@pytest.mark.parametrize(
    "other_process_from", [1_000_000, 0], ids=["indexed by it", "indexed by another process"]
)
@pytest.mark.parametrize("limit", ["disk", "files"])
def test_work_goes_on_when_there_is_room_again(
    data_dir: Path, start: Start, limit: str, other_process_from: int
) -> None:
    through = on_a_disk_of("320m", data_dir) if limit == "disk" else None
    work = with_small_files if through is None else on_a_small_disk
    child = start(work, data_dir, other_process_from, through=through or ())
    _, complaint = child.communicate()
    assert child.returncode == 0, complaint
