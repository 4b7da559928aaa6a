"""A bank's images go where the bank goes: copies, exports, tokens, copies of shards, deletion."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import latentbank.bank.transfer.snapshots
from latentbank.bank.images.bank import ImageBank
from latentbank.bank.images.opening import create_images, list_images, open_images, verify_images
from latentbank.bank.opening import delete_bank, list_banks
from latentbank.bank.settings import Settings, load_settings
from latentbank.bank.token import read_token
from latentbank.bank.transfer.images import copy_images, export_images, import_images
from latentbank.errors import BankNotFound, BankUnavailable
from tests.bank.images.filled import VLM, put
from tests.bank.samples import Place, fill, sample_bank, soon, soon_raises, units
from tests.wire.double import QdrantDouble

KEY = "an admin key"


def filled(settings: Settings) -> None:
    """A bank with a corpus of contexts and one of images."""
    with sample_bank(Place("any", settings)) as bank:
        fill(bank, 10)
    with create_images("bank", settings, **VLM) as images:  # type: ignore[arg-type]
        put(images, "abc")
    assert soon(lambda: len(list_images("bank", settings)) == 1)  # on a cluster, other nodes learn of it late


class Content:
    """What collections hold: equal to another one if the vectors differ by rounding alone."""

    def __init__(self, images: ImageBank) -> None:
        points = [
            (layer, point)
            for layer in images.layers
            for point in images.store.scroll(layer, vectors=True, payloads=True)
        ]
        self.payloads = {(layer, point.id): point.payload for layer, point in points}
        self.vectors = np.stack([np.asarray(point.vector) for _, point in points])

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Content)
            and self.payloads == other.payloads
            and np.allclose(self.vectors, other.vectors, atol=1e-3)
        )


def held(settings: Settings) -> Content:
    with open_images("bank", settings) as images:
        assert images.corpora["photos"].complete
        return Content(images)


def test_images_are_copied_to_a_server_and_back(
    shared: QdrantDouble, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = load_settings(data_dir=data_dir / "a"), load_settings(data_dir=data_dir / "b")
    server = load_settings(url=shared.url, grpc_port=shared.grpc_port, data_dir=data_dir)
    filled(here)
    for source, target in ((here, server), (server, there)):
        (report,) = copy_images("bank", source, target)
        assert (report.contexts, report.written, report.wrong) == (48, 96, [])
        assert soon(lambda: len(list_images("bank", server)) == 1)
        assert held(target) == held(here)
    assert copy_images("bank", server, there)[0].written == 0
    monkeypatch.setattr(latentbank.bank.transfer.snapshots, "SNAPSHOT_FROM", 1)
    by_snapshot = load_settings(data_dir=data_dir / "c")
    (report,) = copy_images("bank", server, by_snapshot, by="snapshot")
    assert (report.snapshots, report.wrong) == (2, [])
    assert held(by_snapshot) == held(here)


def test_images_are_exported_and_imported(data_dir: Path, tmp_path: Path) -> None:
    here, there = load_settings(data_dir=data_dir / "a"), load_settings(data_dir=data_dir / "b")
    filled(here)
    with open_images("bank", here) as images:
        point = next(iter(images.store.scroll(8, vectors=True, payloads=True)))
        images.set_words(8, {point.id: "dog"}, [point])
        images.commit()
    (report,) = export_images("bank", here, tmp_path)
    assert (report.contexts, report.corpora) == (48, ["photos"])
    assert (tmp_path / "images" / "Vabababab" / "photos" / "L08-00000.parquet").is_file()
    assert export_images("bank", here, tmp_path)[0].written == 0
    with sample_bank(Place("embedded", there), "other"):
        pass
    (moved,) = import_images(tmp_path, there, "other")
    assert (moved.wrong, moved.written) == ([], 96)
    with open_images("other", there) as images, open_images("bank", here) as original:
        assert Content(images) == Content(original)


def test_a_token_opens_the_images_of_its_bank(double: Any) -> None:
    server = double(api_key=KEY)

    def settings(key: str) -> Settings:
        return load_settings(url=server.url, grpc_port=server.grpc_port, api_key=key, retries=0)

    filled(settings(KEY))
    (images,) = list_images("bank", settings(KEY))
    until = datetime.now(UTC) + timedelta(days=1)
    reader = settings(read_token(KEY, ["bank"], [4, 8], until, images={images.bank: images.layers}))
    with open_images("bank", reader) as opened:
        assert len(opened.search(units(1), 8, 5)[0]) == 5
        with pytest.raises(BankUnavailable, match="refuses the key"):
            opened.drop_corpus("photos")
    others = settings(read_token(KEY, ["bank"], [4, 8], until))
    assert list_images("bank", others) == []


def test_a_deleted_bank_takes_its_images_with_it(place: Place) -> None:
    filled(place.settings)
    assert verify_images("bank", place.settings) == []
    with open_images("bank", place.settings) as images:
        images.store.delete_corpus(8, "photos")
        images.store.commit()
    assert any("tiny/vlm: Layer 8 holds 0" in one for one in verify_images("bank", place.settings))
    delete_bank("bank", place.settings)
    assert soon(lambda: list_banks(place.settings) == [])
    assert soon_raises(BankNotFound, "holds no images", lambda: open_images("bank", place.settings))
