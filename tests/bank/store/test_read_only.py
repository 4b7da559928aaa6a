"""Embedded banks that cannot be written to: many processes at once may read them, and they stay as they are."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import portalocker
import pytest

from latentbank.bank.bank import Bank
from latentbank.bank.opening import delete_bank, list_banks, open_bank, use_bank
from latentbank.bank.settings import load_settings
from latentbank.bank.store.embedded import scratch
from latentbank.bank.where import Where
from latentbank.errors import BankBusy, BankUnavailable
from tests.bank.samples import (
    WIDTH,
    Place,
    Start,
    fill,
    ids,
    is_one_sentence,
    next_line,
    payload,
    points,
    put_head,
    sample_bank,
    units,
)

NOBODY = 65534
COUNT = 60
REFUSED = r"The bank 'bank' can be read, but not changed: .*/bank cannot be written \(.+\); make it writable"


@pytest.fixture
def place(data_dir: Path) -> Place:
    return Place("embedded", load_settings(data_dir=data_dir, graph_from=50))


@pytest.fixture
def temporary(quick_disk: Path, data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only folder for temporary files, which everybody may use; also in processes that a test starts."""
    for parent in (quick_disk, data_dir):
        parent.chmod(0o711)
    folder = Path(tempfile.mkdtemp(prefix="temporary-", dir=quick_disk))
    folder.chmod(0o777)
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.chdir(folder)
    return folder


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """Let nobody write to a folder and what is in it; root becomes a user to whom that applies."""
    modes = {path: path.stat().st_mode for path in (folder, *folder.rglob("*"))}
    root = os.geteuid() == 0
    for path in modes:
        path.chmod(0o555 if path.is_dir() else 0o444)
    if root:
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)
        for path, mode in modes.items():
            path.chmod(mode)


def files(folder: Path) -> dict[str, bytes]:
    return {
        str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != "lock"
    }


def scratches(folder: Path) -> set[Path]:
    return {path.parent for path in folder.glob("latentbank-scratch-*/L*")}


def answers(bank: Bank) -> Any:
    """What readers ask of a bank."""
    queries = units(3, seed=9)
    where = Where(caption_contains="red dog") | Where(word="snow")
    return (
        bank.search(queries, "all", 4),
        bank.search(queries, "all", 4, where, exact=True),
        (bank.count(), bank.count(8, where), bank.words(), bank.verify()),
        [
            (p.id, p.payload, p.vector.tolist() if p.vector is not None else None)
            for p in bank.store.scroll(4, vectors=True)
        ],
        [(info.points, info.indexed) for info in bank.info().layers.values()],
        list(bank.corpora),
    )


def made(place: Place, quantization: str, captions: bool) -> Any:
    """Make a bank of which one layer is indexed, one is indexed in part, and return a writer's answers."""
    place = Place(place.kind, place.settings.model_copy(update={"quantization": quantization}))
    with sample_bank(place) as bank:
        fill(bank, COUNT)
        bank.store.index(4)
        bank.store.index(8)
        bank.store.upsert(8, points(20, "late"))
        bank.store.commit()
        bank.store.delete_corpus(8, "late")
        if captions:
            bank.count(8, Where(caption_contains="red"))
        return answers(bank)


@pytest.mark.parametrize(("quantization", "captions"), [("int8", True), ("turbo", False)])
def test_readers_get_what_a_writer_gets(
    place: Place, temporary: Path, quantization: str, captions: bool
) -> None:
    expected = made(place, quantization, captions)
    folder = place.settings.data_dir / "bank"
    before = files(folder)
    with read_only(folder), ExitStack() as stack:
        readers = [stack.enter_context(open_bank("bank", place.settings)) for _ in range(2)]
        assert scratches(temporary) == set()  # only layers that are used are copied
        for reader in readers:
            assert answers(reader) == expected
        assert len(scratches(temporary)) == 4
        readers[0].close()
        assert len(scratches(temporary)) == 2
        assert answers(readers[1]) == expected
    assert [*temporary.iterdir()] == []
    assert files(folder) == before


def test_vectors_are_not_copied(place: Place, temporary: Path) -> None:
    with sample_bank(place) as bank:
        fill(bank, COUNT)
        bank.store.index(4)
    with read_only(place.settings.data_dir / "bank"), open_bank("bank", place.settings) as reader:
        reader.count(4)
        linked = {path.name for path in temporary.rglob("*") if path.is_symlink()}
        assert {"matrix.dat", "quantized.data", "links_compressed.bin"} <= linked
        assert linked <= scratch._LINKED


WRITES: dict[str, Callable[[Bank], object]] = {
    "add": lambda b: b.add(4, ids([0]), units(1), [payload(0)]),
    "commit": lambda b: b.commit(),
    "record": lambda b: b.record(b.corpora["animals"]),
    "drop": lambda b: b.drop_corpus("animals"),
    "index": lambda b: b.store.index(4),
    "defer": lambda b: b.store.defer_index(4, 100),
    "create": lambda b: b.store.create(12, WIDTH, "int8"),
    "head": lambda b: put_head(b.store, {}),
    "shares": lambda b: b.store.write_shares("animals", {"0/2/done": {}}),
    "snapshot": lambda b: b.store.load_snapshot(4, lambda _file: None, {}),
    "delete": lambda b: b.store.delete(),
}


def test_nothing_can_be_changed(place: Place, temporary: Path) -> None:
    with sample_bank(place) as bank:
        fill(bank, 10)
    folder = place.settings.data_dir
    before = files(folder)
    with read_only(folder / "bank"):
        with open_bank("bank", place.settings) as reader:
            for write in WRITES.values():
                with pytest.raises(BankUnavailable, match=REFUSED) as found:
                    write(reader)
                assert is_one_sentence(found.value)
            assert reader.verify() == []
        for attempt in (lambda: sample_bank(place), lambda: delete_bank("bank", place.settings)):
            with pytest.raises(BankUnavailable, match=REFUSED):
                attempt()
    assert files(folder) == before
    delete_bank("bank", place.settings)
    assert list_banks(place.settings) == []


def test_versions_of_a_folder_that_cannot_be_written(place: Place, temporary: Path) -> None:
    for name in ("bank", "bank@2"):
        with sample_bank(place, name) as bank:
            fill(bank, 10 if name == "bank" else 5)
    use_bank("bank@2", place.settings)
    data_dir = place.settings.data_dir
    with read_only(data_dir):
        with open_bank("bank", place.settings) as reader, open_bank("bank@1", place.settings) as first:
            assert (reader.version, reader.count(), first.count()) == (2, 5, 10)
        with pytest.raises(BankUnavailable, match="cannot be written") as found:
            use_bank("bank@1", place.settings)
        assert is_one_sentence(found.value)


def test_a_reader_and_a_writer_do_not_meet(place: Place, temporary: Path) -> None:
    writer = sample_bank(place)
    folder = place.settings.data_dir / "bank"
    with read_only(folder), pytest.raises(BankBusy, match="open in this process already"):
        open_bank("bank", place.settings)
    writer.close()
    with read_only(folder):
        reader = open_bank("bank", place.settings)
    with pytest.raises(BankBusy, match="open in another process"):
        sample_bank(place)
    reader.close()
    sample_bank(place).close()


def read_until_told(data_dir: str) -> None:
    """Read the bank in another process when told to, print how many contexts it has, and wait."""
    input()
    if os.geteuid() == 0:
        os.seteuid(NOBODY)
    with open_bank("bank", data_dir=data_dir) as reader:
        print(reader.count(), flush=True)
        input()


def test_what_a_killed_reader_left_is_removed_at_the_next_opening(
    place: Place, temporary: Path, start: Start
) -> None:
    with sample_bank(place) as bank:
        fill(bank, 10)
    children = [start(read_until_told, place.settings.data_dir) for _ in range(2)]
    with read_only(place.settings.data_dir / "bank"):
        for child in children:
            assert child.stdin is not None
            child.stdin.write("\n")
            child.stdin.flush()
            assert next_line(child) == "10"
        assert len(scratches(temporary)) == 2
        children[0].send_signal(signal.SIGKILL)
        children[0].wait()
        with open_bank("bank", place.settings):
            assert len(scratches(temporary)) == 1
        children[1].communicate("\n")
        assert scratches(temporary) == set()


def test_a_copy_that_is_being_made_is_not_taken_for_a_killed_readers(
    place: Place, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another reader looks for what killed ones have left, before this one holds the lock of its copy."""
    with sample_bank(place) as bank:
        fill(bank, 10)
    lock, looked = portalocker.lock, []

    def after_another(file: Any, flags: portalocker.LockFlags) -> None:
        if file.writable():
            looked.append(file.name)
            scratch.remove_abandoned()
        lock(file, flags)

    with read_only(place.settings.data_dir / "bank"), open_bank("bank", place.settings) as reader:
        monkeypatch.setattr(portalocker, "lock", after_another)
        assert reader.count() == 10
        assert len(looked) == 1
        assert len(scratches(temporary)) == 1


def test_no_room_for_the_copies(place: Place, temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with sample_bank(place) as bank:
        fill(bank, 10)
    with read_only(place.settings.data_dir / "bank"), open_bank("bank", place.settings) as reader:
        with monkeypatch.context() as patch:
            patch.setattr(scratch, "RESERVE_BYTES", 1 << 60)
            with pytest.raises(
                BankUnavailable, match=r"MiB elsewhere, which .* does not have; make room, or"
            ) as found:
                reader.count()
            assert is_one_sentence(found.value)
        assert reader.count() == 10
    assert [*temporary.iterdir()] == []


def read_once(data_dir: str) -> None:
    """Read the bank in another process, after checking that its disk refuses to be written."""
    with pytest.raises(OSError, match="Read-only file system"):
        (Path(data_dir) / "bank" / "new").touch()
    with open_bank("bank", data_dir=data_dir) as reader:
        assert len(reader.search(units(1), "all")[0]) == 5
        print(reader.count(), flush=True)


def test_a_disk_that_is_mounted_read_only(place: Place, temporary: Path, start: Start) -> None:
    with sample_bank(place) as bank:
        fill(bank, 10)
    folder = place.settings.data_dir / "bank"
    (folder / "lock").unlink()  # a copy need not have one
    rights = () if os.geteuid() == 0 else ("--map-root-user",)
    mount = 'mount --bind "$0" "$0" && mount -o remount,ro,bind "$0" && exec "$@"'
    through = ("unshare", "--mount", *rights, "sh", "-c", mount, str(folder))
    try:
        subprocess.run([*through, "true"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("nothing may be mounted here")
    child = start(read_once, place.settings.data_dir, through=through)
    output, complaint = child.communicate()
    assert (child.returncode, output) == (0, "10\n"), complaint
