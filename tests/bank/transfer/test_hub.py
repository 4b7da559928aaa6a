"""Banks pushed to a hub and imported from it, over a real socket that also breaks."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from latentbank.bank.opening import open_bank
from latentbank.bank.settings import load_settings
from latentbank.bank.transfer.export import DESCRIPTION
from latentbank.bank.transfer.load import import_bank
from latentbank.bank.transfer.push import push_bank
from latentbank.errors import BankMismatch, CorpusError, LatentBankError, LayerNotFound
from latentbank.hub import Pushed
from tests.bank.samples import Place, entry, fill, is_one_sentence, sample_bank
from tests.bank.transfer.test_copy import assert_equal_banks
from tests.hub import HubDouble, Stored, environment, login, serving, use

ID = "lab/animals"
KEY = ("datasets", ID)
LARGE = (".parquet", ".safetensors")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[HubDouble]:
    with serving() as hub:
        use(hub, tmp_path / "hf", monkeypatch)
        yield hub


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    """An embedded place; files hold 32 contexts."""
    monkeypatch.setattr("latentbank.bank.transfer.export.PART", 32)
    return Place("embedded", load_settings(data_dir=tmp_path / "banks"))


def push(place: Place, *corpora: str, contexts: int = 40, **options: Any) -> Pushed:
    """Push the bank of some corpora, which is made where it does not exist."""
    with sample_bank(place) as bank:
        for corpus in corpora:
            if corpus not in bank.corpora:
                fill(bank, contexts, corpus)
        return push_bank(bank, ID, data_dir=place.settings.data_dir, **options)[1]


def large(names: list[str]) -> set[str]:
    return {name for name in names if name.endswith(LARGE)}


def fails(call: Callable[[], object]) -> str:
    with pytest.raises(LatentBankError) as caught:
        call()
    assert is_one_sentence(caught.value)
    assert "hf_" not in str(caught.value)
    return str(caught.value)


def test_a_pushed_bank_comes_back(place: Place, hub: HubDouble, tmp_path: Path) -> None:
    with sample_bank(place) as source:
        fill(source, 100)
        fill(source, 20, "plants")
        source.record(entry("unfinished", 7, complete=False))
        report, pushed = push_bank(
            source, ID, data_dir=place.settings.data_dir, licenses=["mit", "plants=cc-by-4.0"]
        )
        stored = hub.repositories[KEY]
        assert (pushed.url, pushed.private, stored.private) == (f"{hub.url}/datasets/{ID}", True, True)
        assert (pushed.commit, len(stored.commits)) == (stored.commits[-1][0], 2)
        assert (pushed.files, report.left_out) == (len(stored.files) - 2, ["unfinished"])
        assert not any((place.settings.data_dir / ".exports" / "bank").iterdir())
        moved = import_bank(f"{ID}@{pushed.commit}", place.settings, "back")
        assert (moved.corpora, moved.layers, moved.written) == (["animals", "plants"], [4, 8], 240)
        with open_bank("back", place.settings) as back:
            for corpus in ("animals", "plants"):
                assert_equal_banks(source, back, corpus=corpus)
            assert back.verify() == []
        assert import_bank(ID, place.settings, "back").written == 0
    everything = b"".join(stored.files.values())
    kept = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    for secret in (b"hf_writer", str(tmp_path).encode()):
        assert secret not in everything
    assert b"hf_writer" not in kept


def test_the_payloads_are_a_dataset_for_everybody(
    place: Place, hub: HubDouble, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from datasets import load_dataset
    from huggingface_hub import DatasetCard, HfFileSystem

    monkeypatch.setattr("datasets.config.HF_ENDPOINT", hub.url)
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", False)
    HfFileSystem.clear_instance_cache()
    push(place, "animals", "plants", licenses=["mit", "plants=cc-by-4.0"])
    card = DatasetCard(hub.repositories[KEY].files["README.md"].decode())
    assert card.data.to_dict()["license"] == ["mit", "cc-by-4.0"]
    for word in ("tiny/llama", "4, 8 of 16", "| plants | 8 | 80 | 40 | cc-by-4.0 |", "2602.00462", ID):
        assert word in card.text
    with sample_bank(place) as bank:
        rows = load_dataset(ID, "plants", split="train", cache_dir=str(tmp_path / "datasets"))
        stored = bank.store.scroll(4, None, payloads=True)
        captions = {item.payload["caption"] for item in stored if item.payload}
    assert rows.num_rows == 40
    assert {row["corpus"] for row in rows} == {"plants"}
    assert set(rows["caption"]) <= captions
    HfFileSystem.clear_instance_cache()


def test_only_requested_layers_are_fetched(place: Place, hub: HubDouble) -> None:
    push(place, "animals")
    moved = import_bank(ID, place.settings, "part", layers=[8])
    assert (moved.layers, moved.written) == ([8], 40)
    assert large(hub.files()) == {
        f"animals/{name}"
        for number in ("00000", "00001")
        for name in (f"contexts-{number}.parquet", f"L08-{number}.safetensors")
    }
    with pytest.raises(LayerNotFound, match="has no layer 5; it has 4, 8"):
        import_bank(ID, place.settings, "part", layers=[5])


def test_an_upload_that_broke_off_goes_on(place: Place, hub: HubDouble) -> None:
    hub.line = 8_000
    said = fails(lambda: push(place, "animals", contexts=100))
    assert f"{ID} could not be pushed to the hub" in said
    assert "the same call goes on" in said
    hub.line, first = None, set(hub.blobs)
    assert first
    assert len(hub.repositories[KEY].commits) == 1  # nothing of it is seen yet
    hub.forget()
    push(place, "animals")
    assert len(hub.repositories[KEY].commits) == 2
    assert not first & set(hub.files("PUT"))
    assert import_bank(ID, place.settings, "back").wrong == []


def test_a_download_that_broke_off_goes_on(place: Place, hub: HubDouble) -> None:
    push(place, "animals", contexts=100)
    hub.forget()
    hub.line = 12_000
    said = fails(lambda: import_bank(ID, place.settings, "back"))
    assert f"{ID} could not be downloaded from the hub" in said
    hub.line, first = None, large(hub.files())
    hub.forget()
    assert import_bank(ID, place.settings, "back").wrong == []
    assert first
    assert len(first | large(hub.files())) == 12
    assert not first & large(hub.files())


def test_a_line_that_breaks_and_mends_is_gone_on_with_in_the_file(
    place: Place, hub: HubDouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 256)
    monkeypatch.setattr("latentbank.hub._THREADS", 1)  # files in one order: it breaks in the middle of one
    push(place, "animals", contexts=100)
    hub.line, hub.mends = 9_000, True
    assert import_bank(ID, place.settings, "back").wrong == []
    assert hub.ranges
    assert hub.ranges[0] > 0
    assert len(large(hub.files())) == 12


@pytest.mark.parametrize("what", ["push", "import"])
def test_a_killed_process_is_gone_on_with(place: Place, hub: HubDouble, tmp_path: Path, what: str) -> None:
    with sample_bank(place) as bank:
        fill(bank, 100)
    words = ["bank", "export", "bank", "--push", ID]
    if what == "import":
        push(place)
        words = ["bank", "import", ID, "--name", "back"]
    code = (
        "import latentbank.bank.transfer.export as export; export.PART = 32\n"
        "import latentbank.hub as hub; hub._SENT = 1; hub._THREADS = 1\n"
        f"import sys; sys.argv = ['latentbank', *{words!r}]\n"
        "from latentbank.cli import main; main()\n"
    )
    hub.forget()
    hub.free = 5
    settings = {"LATENTBANK_DATA_DIR": str(place.settings.data_dir), "LATENTBANK_URL": ""}
    variables = {**os.environ, **environment(hub, tmp_path / "hf", "hf_writer"), **settings}
    process = subprocess.Popen([sys.executable, "-c", code], env=variables, stderr=subprocess.PIPE)
    assert hub.held.wait(60)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    method = "PUT" if what == "push" else "GET"
    passed = set(hub.files(method))
    assert len(passed) == 5
    hub.free = None
    hub.gate.set()
    hub.forget()
    if what == "push":
        push(place)
    assert import_bank(ID, place.settings, "back").wrong == []
    assert hub.files(method)
    assert not passed & set(hub.files(method))


def test_pushing_again_replaces_what_has_changed(place: Place, hub: HubDouble) -> None:
    first = push(place, "animals", "plants", licenses=["mit"])
    stored = hub.repositories[KEY]
    text = stored.files["README.md"].decode().replace("license: mit", "license: mit\nlanguage: en")
    stored.commit(
        stored.files | {"README.md": f"{text}\n## Notes\n\nMine.\n".encode(), "plants/mine.txt": b"x"}
    )
    hub.forget()
    with sample_bank(place) as bank:
        bank.drop_corpus("plants")
        fill(bank, 10, "things")
    second = push(place)
    assert hub.files("PUT")
    assert {name for name in stored.files if name.startswith("plants/")} == {"plants/mine.txt"}
    card = stored.files["README.md"].decode()
    for word in ("Mine.", "license: mit", "language: en", "| things |"):
        assert word in card
    assert "| plants |" not in card
    assert import_bank(ID, place.settings, "new").corpora == ["animals", "things"]
    stored.tags["v1"] = first.commit
    assert import_bank(f"{ID}@v1", place.settings, "old").corpora == ["animals", "plants"]
    commits = len(stored.commits)
    assert push(place).commit == second.commit or len(stored.commits) == commits  # nothing new, no commit


def test_the_last_files_of_another_push_are_not_lost(
    place: Place, hub: HubDouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    push(place, "animals")
    stored = hub.repositories[KEY]
    import latentbank.hub

    real = latentbank.hub._batches

    def meanwhile(sizes: Any) -> Any:
        stored.commit(stored.files | {"notes.txt": b"x"})
        return real(sizes)

    with sample_bank(place) as bank:
        fill(bank, 10, "things")
    monkeypatch.setattr(latentbank.hub, "_batches", meanwhile)
    assert fails(lambda: push(place)) == f"{ID} was changed by others in the meantime; push again."
    assert "notes.txt" in stored.files


def test_a_damaged_download_is_fetched_again(place: Place, hub: HubDouble, tmp_path: Path) -> None:
    push(place, "animals")
    import_bank(ID, place.settings, "one")
    (victim,) = (tmp_path / "hf").rglob("L04-00000.safetensors")
    data = victim.read_bytes()
    victim.resolve().write_bytes(b"\0" * len(data))
    assert import_bank(ID, place.settings, "two").wrong == []
    stored = hub.repositories[KEY]
    stored.commit({name: data for name, data in stored.files.items() if "L08-00001" not in name})
    said = fails(lambda: import_bank(ID, place.settings, "three"))
    assert said.endswith("on the hub lacks animals/L08-00001.safetensors; ask its owner to push it again.")


def test_public_only_when_asked_for(place: Place, hub: HubDouble) -> None:
    assert push(place, "animals", public=True).private is False
    assert fails(lambda: push(place)).startswith(f"{ID} can be read by everybody")
    hub.repositories[KEY].private = True
    assert push(place, public=True).private is True


def test_other_repositories_are_left_alone(place: Place, hub: HubDouble) -> None:
    hub.repositories[KEY] = Stored(private=True)
    hub.repositories[KEY].commit({".gitattributes": b"", "README.md": b"Pictures.", "train.csv": b"a,b"})
    assert fails(lambda: push(place, "animals")) == (
        f"{ID} holds other files, and no bank.json; choose another repository."
    )
    described = {"manifest": {"bank": "other", "model": "tiny/gpt", "fingerprint": "beef"}}
    hub.repositories[KEY].commit({DESCRIPTION: json.dumps(described).encode()})
    with pytest.raises(BankMismatch, match=r"holds the bank 'other' of another model \(tiny/gpt\)"):
        push(place, "animals")
    assert not hub.files("PUT")


@pytest.mark.parametrize(
    ("token", "repository", "said"),
    [
        (None, ID, "You are not logged in to the hub; log in with `hf auth login`, or set HF_TOKEN."),
        ("hf_reader", ID, f"Your login may not write {ID}; use a token that may"),
        ("hf_stranger", ID, "The hub does not know your login; log in again"),
        ("hf_writer", "other/animals", "Your login may not write other/animals"),
        ("hf_writer", "animals", "'animals' is no repository on the hub; write it as USER/NAME."),
        (
            "hf_writer",
            f"{ID}@v1",
            "Files are pushed to the main branch of lab/animals; leave the revision out.",
        ),
    ],
)
def test_a_push_that_cannot_be(
    place: Place,
    hub: HubDouble,
    monkeypatch: pytest.MonkeyPatch,
    token: str | None,
    repository: str,
    said: str,
) -> None:
    login(monkeypatch, token)
    with sample_bank(place) as bank:
        fill(bank, 10)
        found = fails(lambda: push_bank(bank, repository, data_dir=place.settings.data_dir))
        wrong = fails(lambda: push_bank(bank, ID, licenses=["plants=mit"]))
    assert found.startswith(said)
    assert wrong.startswith("'plants=mit' names no licence of a corpus")
    assert not (place.settings.data_dir / ".exports").exists()  # known before anything is exported


def test_a_licence_that_the_hub_does_not_know(place: Place, hub: HubDouble) -> None:
    said = fails(lambda: push(place, "animals", licenses=["mine"]))
    assert said.startswith("The hub refuses what is pushed to lab/animals (")
    assert '"license" must be one of' in said
    assert not hub.files("PUT")


@pytest.mark.parametrize(
    ("token", "source", "said"),
    [
        (None, ID, "There is no dataset repository lab/animals on the hub, or your login may not read it"),
        ("hf_stranger", ID, "There is no dataset repository lab/animals on the hub"),
        ("hf_reader", "lab/nothing", "There is no dataset repository lab/nothing on the hub"),
        (
            "hf_reader",
            f"{ID}@v9",
            "lab/animals has no revision 'v9'; name a branch, a tag or a commit of it.",
        ),
        ("hf_reader", "lab/pictures", "lab/pictures on the hub holds no export of a bank"),
        ("hf_reader", "animals", "animals holds no export of a bank; name the folder of one"),
    ],
)
def test_an_import_that_cannot_be(
    place: Place, hub: HubDouble, monkeypatch: pytest.MonkeyPatch, token: str | None, source: str, said: str
) -> None:
    push(place, "animals", contexts=5)
    hub.repositories["datasets", "lab/pictures"] = Stored()
    hub.repositories["datasets", "lab/pictures"].commit({"a.csv": b"x"})
    login(monkeypatch, token)
    assert fails(lambda: import_bank(source, place.settings, "back")).startswith(said)


def test_no_network(place: Place, hub: HubDouble, monkeypatch: pytest.MonkeyPatch) -> None:
    push(place, "animals", contexts=5)
    hub.line = 0
    assert "could not be downloaded from the hub" in fails(lambda: import_bank(ID, place.settings, "back"))
    assert "could not be pushed to the hub" in fails(lambda: push(place))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    offline = "The hub is not asked while HF_HUB_OFFLINE is set; unset it."
    assert fails(lambda: push(place)) == offline
    said = fails(lambda: import_bank("lab/new", place.settings, "back"))
    assert said == f"lab/new is nothing on this machine. {offline}"


def test_a_folder_stays_a_folder(
    place: Place, hub: HubDouble, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "lab" / "animals").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CorpusError, match="lab/animals holds no export of a bank; name the folder"):
        import_bank(ID, place.settings)
    assert not hub.asked
