"""Whether a model is a bank's, and where this machine finds the bank's own model."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from latentbank.bank.bank import Bank
from latentbank.bank.manifest import Manifest
from latentbank.bank.model import own_model
from latentbank.bank.opening import create_bank, open_bank, use_bank
from latentbank.bank.settings import Settings
from latentbank.bank.transfer.copy import copy_bank
from latentbank.bank.transfer.export import export_bank
from latentbank.bank.transfer.load import import_bank
from latentbank.errors import BankMismatch, ModelError
from latentbank.found_models import find, remember
from latentbank.identity import Digest, Digests, Identity, write_sketch
from tests.bank.samples import HEAD, Place, fill, sample_bank


def identity(*blocks: int | None, fingerprint: str = "f00d", dtype: str = "bfloat16") -> Identity:
    """An identity whose digests are told by numbers; None for a block that is not known."""

    def digest(number: int | None) -> Digest | None:
        sketch = write_sketch(np.array([number or 0, 2 * (number or 0)], np.float32))
        exact = "" if dtype in ("float16", "8bit", "4bit") else f"{number:016x}" if number else ""
        return None if number is None else Digest(exact, sketch, 2.0**-8)

    known = tuple(digest(number) for number in blocks)
    return Identity(fingerprint, Digests(dtype, "v0cab", digest(99), known))


WHOLE = identity(*range(1, 17))


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data_dir=tmp_path / "banks", url="")


@pytest.fixture
def bank(settings: Settings) -> Bank:
    with create(settings) as made:
        fill(made, 4)
    return made


def create(settings: Settings, fingerprint: str | Identity = WHOLE, **given: Any) -> Bank:
    return sample_bank(Place("embedded", settings), fingerprint=fingerprint, **given)


def test_a_fine_tune_of_a_block_up_to_the_deepest_layer_is_refused(place: Place) -> None:
    sample_bank(place, fingerprint=WHOLE).close()
    tuned = identity(1, 2, 3, 4, 5, 6, 77, *range(8, 17), dtype="float32")
    message = (
        r"^The bank 'bank' holds contexts of tiny/llama \(fingerprint f00d, bfloat16\), not of tuned "
        r"\(fingerprint f00d, float32\): they differ in block 7; choose that bank's model or another bank, or allow "
        r"another model\.$"
    )
    with pytest.raises(BankMismatch, match=message) as error:
        open_bank("bank", place.settings, model="tuned", fingerprint=tuned)
    assert error.value.argument == "allow_other_model"
    with pytest.raises(BankMismatch, match="block 7"):
        sample_bank(place, model="tuned", fingerprint=tuned)
    # The bank's deepest layer is 8: later blocks do not count, nor those that are not loaded or not known.
    for same in (
        identity(*range(1, 9), *range(101, 109)),
        identity(1, 2, 3),
        identity(1, None, 3, 4),
        replace(WHOLE, fingerprint="rounded"),
    ):
        open_bank("bank", place.settings, model="same", fingerprint=same).close()


def adapted(adapter: str | None, last: int) -> Identity:
    """An LLM whose last block is told by a number, with an adapter, without one (""), or not known (None)."""
    known = identity(1, 2, last)
    assert known.digests is not None
    return replace(known, digests=replace(known.digests, adapter=adapter))


@pytest.mark.parametrize(
    ("own", "other", "advice"),
    [
        ("org/lora", "", "the bank was filled with the adapter org/lora: load the model with it,"),
        ("org/lora", None, "the bank was filled with the adapter org/lora: load the model with it,"),
        ("", "org/lora", "the bank was filled without an adapter: load the model without org/lora,"),
        (
            None,
            "org/lora",
            "unless the bank was filled with the adapter org/lora, load the model without it,",
        ),
        (
            "org/lora",
            "other",
            "the bank was filled with the adapter org/lora, not with other: load the model with",
        ),
    ],
)
def test_an_adapter_that_makes_another_model_is_named(
    settings: Settings, own: str | None, other: str | None, advice: str
) -> None:
    create(settings, adapted(own, 3)).close()
    with pytest.raises(
        BankMismatch, match=rf"they differ in block 3; {advice}.*or choose another bank\.$"
    ) as error:
        open_bank("bank", settings, model="tiny", fingerprint=adapted(other, 4))
    assert error.value.argument == "adapter"
    with pytest.raises(BankMismatch, match="choose that bank's model"):
        open_bank(
            "bank", settings, model="tiny", fingerprint=adapted(own, 4)
        )  # no adapter makes the difference
    open_bank("bank", settings, model="tiny", fingerprint=adapted(other, 3)).close()


def test_the_adapter_is_added_to_a_manifest_that_lacks_it(settings: Settings) -> None:
    with create(settings, adapted(None, 3)) as made:
        made.add_digests(adapted("org/lora", 3))
        assert made.manifest.identity.adapter == "org/lora"
        made.add_digests(adapted("another", 3))
        assert made.manifest.identity.adapter == "org/lora"


def test_another_model_is_allowed_with_a_warning(
    settings: Settings, bank: Bank, caplog: pytest.LogCaptureFixture
) -> None:
    other = identity(1, 77, fingerprint="beef")
    with (
        caplog.at_level(logging.WARNING, "latentbank"),
        open_bank("bank", settings, model="other", fingerprint=other, allow_other_model=True) as opened,
    ):
        opened.require_model("other", other)
        opened.add_digests(other)
        assert opened.manifest.identity == WHOLE
    assert [record.getMessage() for record in caplog.records] == [
        "The bank 'bank' holds contexts of tiny/llama (fingerprint f00d, bfloat16), not of other (fingerprint beef, "
        "bfloat16): they differ in block 2. It is used all the same."
    ]
    with sample_bank(
        Place("embedded", settings), model="other", fingerprint=other, allow_other_model=True
    ) as again:
        assert again.manifest.identity == WHOLE
    with open_bank("bank", settings) as plain, pytest.raises(BankMismatch):
        plain.require_model("other", other)


def test_a_manifest_of_an_earlier_version_is_compared_by_its_fingerprint(settings: Settings) -> None:
    with create(settings, "f00d") as made:
        fill(made, 4)
    path = settings.data_dir / "bank" / "manifest.json"
    written = json.loads(path.read_text())
    # As earlier versions wrote it: no digests, and a path for a name.
    assert {key for key in written if key not in ("corpora", "shares")} == HEAD.keys()
    path.write_text(json.dumps(written | {"model": "/home/me/models/tiny"}))
    open_bank("bank", settings, model="tiny", fingerprint=WHOLE).close()
    open_bank("bank", settings, model="tiny", fingerprint="f00d").close()
    with pytest.raises(BankMismatch, match="they differ in their fingerprints; choose"):
        open_bank("bank", settings, model="tiny", fingerprint=identity(1, fingerprint="beef"))
    half = identity(1, fingerprint="rounded", dtype="float16")
    with pytest.raises(
        BankMismatch, match=r"contexts of tiny .*, float16\).* load it in float32 or bfloat16, choose"
    ):
        open_bank("bank", settings, model="tiny", fingerprint=half)


def test_a_later_writer_adds_the_digests_that_are_missing(settings: Settings) -> None:
    with create(settings, "f00d") as made:
        made.add_digests(identity(1, None, 3))
        assert made.manifest.identity == identity(1, None, 3)
        made.add_digests(identity(1, 2))
        made.add_digests(identity(77, 2, 3, 4))  # another LLM
        assert made.manifest.identity == identity(1, 2, 3)
        made.add_digests(WHOLE)
        fill(made, 4)
    with open_bank("bank", settings) as opened:
        assert opened.manifest.identity == WHOLE
        assert opened.manifest.corpora["animals"].complete
    with create(settings, "f00d") as again:
        assert again.manifest.identity == WHOLE


def test_digests_move_with_the_bank(settings: Settings, bank: Bank, tmp_path: Path) -> None:
    other = settings.model_copy(update={"data_dir": tmp_path / "other"})
    with open_bank("bank", settings) as opened:
        copy_bank(opened, other)
        export_bank(opened, tmp_path / "export")
    import_bank(tmp_path / "export", other, name="imported")
    for name in ("bank", "imported"):
        with open_bank(name, other) as copied:
            assert copied.manifest.identity == WHOLE
    tuned = identity(1, 77)
    with create(other, tuned, name="another") as another:
        assert another.manifest.identity == tuned
    with pytest.raises(BankMismatch, match="block 2"):
        import_bank(tmp_path / "export", other, name="another")


def test_a_path_in_a_manifest_of_an_earlier_version_does_not_move(settings: Settings, tmp_path: Path) -> None:
    other = settings.model_copy(update={"data_dir": tmp_path / "other"})
    with create(settings, model="/home/me/tiny") as opened:
        fill(opened, 4)
        copy_bank(opened, other)
        export_bank(opened, tmp_path / "export")
    assert "/home/me" not in (tmp_path / "export" / "bank.json").read_text()
    with open_bank("bank", other) as copied:
        assert (copied.manifest.model, copied.manifest.local) == ("tiny", True)


def test_damaged_digests_are_named() -> None:
    assert WHOLE.digests is not None
    digests = WHOLE.digests.to_dict()
    with pytest.raises(BankMismatch, match="damaged"):
        Manifest.from_dict(
            HEAD | {"digests": digests | {"blocks": [{"exact": "a", "sketch": "é", "rounding": 0}]}}, {}
        )
    with pytest.raises(BankMismatch, match="damaged"):
        Manifest.from_dict(HEAD | {"digests": {"dtype": "float32"}}, {})
    assert Manifest.from_dict(HEAD | {"digests": digests}, {}).identity == WHOLE


# -- where models are ------------------------------------------------------------------------------


def local(settings: Settings, model: str, **given: Any) -> Callable[[], str]:
    """A bank of a local model; returns what finds that model on this machine."""
    create(settings, model=model, local=True, **given).close()

    def found() -> str:
        with open_bank("bank", settings) as opened:
            return own_model(opened.manifest, settings)

    return found


def folder(path: Path) -> Path:
    path.mkdir(parents=True)
    return path


def test_a_local_model_is_found_where_it_was_used(settings: Settings, tmp_path: Path) -> None:
    found = local(settings, "tiny model")
    with pytest.raises(
        ModelError, match=r"^The model of the bank 'bank' is the local model tiny model, which"
    ) as error:
        found()
    assert error.value.argument == "model"
    path, copy = folder(tmp_path / "a" / "tiny model"), folder(tmp_path / "b" / "copy")
    other, vlm = folder(tmp_path / "c" / "tiny model"), folder(tmp_path / "vlm")
    with open_bank("bank", settings) as opened:
        opened.require_model(str(path), identity(1, 2, 3, dtype="float16", fingerprint="rounded"))
        opened.require_model(str(copy), WHOLE)
        opened.require_model(str(vlm), WHOLE)
        with pytest.raises(BankMismatch):
            opened.require_model(str(other), identity(77))
    assert found() == str(path)
    path.rename(tmp_path / "moved")
    assert found() == str(vlm)  # the last one used
    vlm.rmdir()
    assert found() == str(copy)


def test_a_hub_model_is_loaded_by_its_id(settings: Settings, tmp_path: Path) -> None:
    with create(settings) as made:
        made.require_model(str(folder(tmp_path / "llama")), WHOLE)
        assert own_model(made.manifest, settings) == "tiny/llama"


def test_a_manifest_with_a_path_finds_the_model_there_or_where_it_was_used(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there, gone = folder(tmp_path / "models" / "tiny"), tmp_path / "gone" / "tiny"
    monkeypatch.chdir(folder(tmp_path / "elsewhere"))
    for path in (str(gone), ".models/tiny", "C:\\models\\tiny"):
        manifest = Manifest.from_dict(HEAD | {"model": path}, {})
        with pytest.raises(ModelError, match="the local model tiny, which"):
            own_model(manifest, settings)
    for path in (str(there), "../models/tiny"):
        assert own_model(Manifest.from_dict(HEAD | {"model": path}, {}), settings) == path
    remember(settings.data_dir, str(there), WHOLE)
    for path in (str(gone), ".models/tiny", "C:\\models\\tiny"):
        assert own_model(Manifest.from_dict(HEAD | {"model": path}, {}), settings) == str(there)


def test_jobs_that_remember_at_once_lose_nothing(tmp_path: Path) -> None:
    paths = [tmp_path / f"model-{number}" for number in range(16)]
    for path in paths:
        path.mkdir()
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda path: remember(tmp_path, str(path), WHOLE), paths))
    entries = json.loads((tmp_path / ".models" / "found.json").read_text())
    assert sorted(entry["path"] for entry in entries) == sorted(map(str, paths))
    assert [path.name for path in (tmp_path / ".models").iterdir()] == ["found.json"]


def test_what_is_remembered_may_be_damaged_or_unwritable(tmp_path: Path) -> None:
    model = str(folder(tmp_path / "model"))
    file = tmp_path / "banks" / ".models" / "found.json"
    for damaged in (
        "{",
        "{}",
        '[1, {"path": 2}]',
        '[{"path": "a"}]',
        '[{"path": "a", "fingerprint": "b", "digests": {}}]',
    ):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(damaged)
        assert find(tmp_path / "banks", "model", WHOLE) is None
    remember(tmp_path / "banks", model, WHOLE)
    assert find(tmp_path / "banks", "model", WHOLE) == model
    before = file.stat().st_mtime_ns
    remember(tmp_path / "banks", model, WHOLE)
    assert file.stat().st_mtime_ns == before
    (tmp_path / "file").write_text("")
    remember(tmp_path / "file" / "banks", model, WHOLE)
    assert find(tmp_path / "file" / "banks", "model", WHOLE) is None


def test_a_version_of_another_model_is_not_followed(settings: Settings, bank: Bank) -> None:
    with create(settings, WHOLE, name="bank@2") as second:
        fill(second, 4)
    assert use_bank("bank@2", settings) == 1
    with open_bank("bank", settings, fingerprint=WHOLE) as opened:
        assert opened.version == 2


def test_settings_are_needed_only_to_create(settings: Settings) -> None:
    with create_bank(
        "b", settings, model="m", fingerprint=WHOLE, layers=[0], num_layers=16, hidden_size=32
    ) as made:
        made.require_model("m", identity(77))  # layer 0 depends on no block
