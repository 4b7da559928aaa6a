"""Ingesting images: what is stored, what is read again, and what a kill costs; embedded and on a server."""

from __future__ import annotations

import base64
import io
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from latentbank.bank.images.bank import ImageBank
from latentbank.bank.images.opening import open_images
from latentbank.bank.rotation import unrotate
from latentbank.bank.where import WhereImage
from latentbank.errors import CorpusError, ImageError, LatentBankError
from latentbank.ingest.images.job import ingest_images
from latentbank.ingest.images.naming import image_name, named_images
from latentbank.ingest.images.planning import plan_images
from latentbank.ingest.workers.shares import Share
from latentbank.models.vision.sources import find_images
from latentbank.progress import Silent
from tests import real_server
from tests.ingest.images.jobs import COLUMNS, LAYERS, ROWS, ColourVLM, Site, kill_job, picture

TOKENS = ROWS * COLUMNS
COUNT = 30
Content = dict[int, dict[str, tuple[dict[str, Any], npt.NDArray[np.float32]]]]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 30 images, some of them in a folder inside."""
    folder = tmp_path_factory.mktemp("here") / "photos"
    (folder / "inside").mkdir(parents=True)
    for number in range(COUNT):
        name = f"{'inside/' if number % 5 == 0 else ''}{number:02d}.png"
        picture(number, (300, 200) if number == 0 else (30, 20)).save(folder / name)
    return folder


@pytest.fixture(params=["embedded", "server"])
def site(request: pytest.FixtureRequest, photos: Path, quick_folder: Path) -> Iterator[Site]:
    """The photos, and no bank yet: in a folder, or on a server."""
    if request.param == "embedded":
        yield Site(photos, quick_folder / "banks")
        return
    with real_server.serving() as server:
        yield Site(photos, quick_folder / "banks", server.url, server.grpc_port)


@pytest.fixture
def own(photos: Path, quick_folder: Path) -> Site:
    """An embedded place, and photos that a test may change."""
    return Site(Path(shutil.copytree(photos, quick_folder / "own" / "photos")), quick_folder / "banks")


@pytest.fixture(scope="module")
def unbroken(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Content:
    """What an unbroken job stores."""
    site = Site(photos, tmp_path_factory.mktemp("unbroken"))
    site.job()
    return content(site)


def content(site: Site) -> Content:
    with open_images("bank", site.settings) as bank:
        assert bank.verify() == []
        return {
            layer: {
                point.id: (dict(point.payload or {}), np.asarray(point.vector))
                for point in bank.store.scroll(layer, vectors=True, payloads=True)
            }
            for layer in bank.layers
        }


def equal(found: Content, expected: Content) -> bool:
    return found.keys() == expected.keys() and all(
        found[layer].keys() == expected[layer].keys()
        and all(
            payload == expected[layer][id_][0] and np.abs(vector - expected[layer][id_][1]).max() < 1e-3
            for id_, (payload, vector) in found[layer].items()
        )
        for layer in found
    )


def names(bank: ImageBank) -> dict[str, str]:
    return {one.image: one.digest for one in bank.images()}


def test_tokens_are_stored_with_their_places_and_pictures(site: Site) -> None:
    vlm = ColourVLM()
    report = site.job(vlm)
    assert (report.encoded, report.images, report.points, report.failed) == (30, 30, 180, 0)
    assert (report.complete, report.corpus, sum(vlm.read)) == (True, "photos", 30)
    with open_images("bank", site.settings) as bank:
        (first,) = bank.images(WhereImage(image="photos/inside/00.png"), pictures=True)
        with Image.open(io.BytesIO(first.picture)) as small:
            assert (small.format, small.size, first.size) == ("JPEG", (256, 171), (300, 200))
        states = vlm.visual_tokens([picture(7)], LAYERS)[0]
        for layer in LAYERS:
            for patch, vector in bank.patches(layer, WhereImage(image="photos/07.png")):
                state = states.states[layer][patch.token].numpy()
                direction = unrotate(vector, bank.manifest.rotation_seed)
                assert np.abs(direction - state / np.linalg.norm(state)).max() < 1e-3
                assert patch.norm == pytest.approx(np.linalg.norm(state), rel=1e-3)
                assert (patch.row, patch.column) == divmod(patch.token, COLUMNS)
                assert patch.box == tuple(states.boxes[patch.token])
        entry = bank.corpora["photos"]
        assert (entry.sentences, entry.contexts, entry.complete) == (30, 180, True)
        assert bank.verify() == []
    again = site.job(vlm)
    assert (again.found, again.encoded, sum(vlm.read)) == (30, 0, 31)
    with open_images("bank", site.settings) as bank:
        assert bank.corpora["photos"] == entry  # also the time of the last change


@pytest.mark.parametrize(("moment", "times"), [("upsert", 3), ("commit", 2), ("index", 2)])
def test_a_job_killed_and_run_again_equals_an_unbroken_one(
    site: Site, unbroken: Content, moment: str, times: int
) -> None:
    if site.url and moment != "upsert":
        pytest.skip("a server's requests are safe once they are answered")
    kill_job(site, moment, times)
    vlm = ColourVLM()
    report = site.job(vlm)
    assert report.complete
    assert report.found + report.encoded == COUNT
    assert sum(vlm.read) == report.encoded
    assert report.found >= (4 if moment == "commit" else COUNT if moment == "index" else 0)
    assert equal(content(site), unbroken)


def test_shares_of_workers_make_the_whole(unbroken: Content, photos: Path, quick_folder: Path) -> None:
    with real_server.serving() as server:
        site = Site(photos, quick_folder / "banks", server.url, server.grpc_port)
        first = site.job(share=Share(1, 2))
        assert (first.seen, first.encoded, first.complete) == (15, 15, False)
        with open_images("bank", site.settings) as bank:
            assert not bank.corpora["photos"].complete
            assert len(list(bank.images())) == 15  # shown while others work
        second = site.job(share=Share(0, 2))
        assert (second.encoded, second.complete, second.images) == (15, True, 30)
        assert equal(content(site), unbroken)


def test_what_cannot_be_read_is_counted_and_the_job_goes_on(own: Site) -> None:
    (own.photos / "03.png").write_bytes(b"not an image")
    picture(0, (1, 1)).save(own.photos / "07.png")
    told: list[str] = []
    with own.bank() as bank:
        report = ingest_images(
            bank, own.images(), ColourVLM(), broken=lambda name, error: told.append(f"{name}: {error}")
        )
        assert (report.encoded, report.failed, len(told)) == (COUNT - 2, 2, 2)
        assert any("03.png is not an image" in text for text in told)
        assert any("07.png: The image has one pixel." in text for text in told)
        assert bank.verify() == []
    with pytest.raises(ImageError, match="None of the images"):
        own.job(images=named_images(find_images([own.photos / "03.png"]), ["x"], "other"))


def test_changed_renamed_and_exchanged_files_are_found_by_their_digests(own: Site) -> None:
    own.job()
    with own.bank() as bank:
        before = names(bank)
    picture(99).save(own.photos / "01.png")  # another image
    (own.photos / "02.png").rename(own.photos / "renamed.png")
    for one, other in (("03", "other"), ("04", "03"), ("other", "04")):
        (own.photos / f"{one}.png").rename(own.photos / f"{other}.png")
    shutil.copy(own.photos / "06.png", own.photos / "zz.png")
    (own.photos / "07.png").unlink()
    picture(100).save(own.photos / "new.png")
    vlm = ColourVLM()
    report = own.job(vlm)
    assert sum(vlm.read) == report.encoded == 2
    assert (report.renamed, report.copies, report.changed, report.gone) == (3, 4, 3, 1)
    with own.bank() as bank:
        after = names(bank)
        assert bank.verify() == []
    assert after["photos/03.png"] == before["photos/04.png"]
    assert after["photos/04.png"] == before["photos/03.png"]
    assert after["photos/renamed.png"] == before["photos/02.png"]
    assert after["photos/01.png"] != before["photos/01.png"]
    assert before["photos/01.png"] not in after.values()
    assert {"photos/07.png", "photos/new.png"} <= after.keys()
    assert not {"photos/02.png", "photos/zz.png"} & after.keys()
    assert own.job().encoded == 0


@pytest.mark.parametrize("calls", [0, 1, 3])
def test_a_job_that_fails_while_it_removes_old_files_goes_on(
    own: Site, calls: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    own.job()
    for number in (1, 2, 3):
        picture(number + 200).save(own.photos / f"0{number}.png")
    (own.photos / "04.png").rename(own.photos / "renamed.png")
    with own.bank() as bank:
        real, left = bank.store.delete_points if calls < 2 else bank.store.upsert, calls

        def failing(*given: Any) -> None:
            nonlocal left
            left -= 1
            if left < 0:
                raise RuntimeError("killed")
            real(*given)

        monkeypatch.setattr(bank.store, "delete_points" if calls < 2 else "upsert", failing)
        with pytest.raises(RuntimeError, match="killed"):
            ingest_images(bank, own.images(), ColourVLM(), batch=4)
    (own.photos / "02.png").unlink()  # what is half removed or half stored is never seen again
    own.job()
    with own.bank() as bank:
        assert bank.verify() == []
        held = names(bank)
    fresh = own.at(own.banks.parent / "fresh")
    fresh.job()
    with fresh.bank() as bank:
        assert names(bank).items() <= held.items()
        assert held.keys() - names(bank).keys() <= {"photos/02.png"}


def test_corpora_of_images_are_dropped_alone(own: Site) -> None:
    own.job()
    own.job(images=own.images("again"))
    with own.bank() as bank:
        assert bank.count() == 2 * COUNT * TOKENS
        assert bank.drop_corpus("photos") == COUNT * TOKENS
        assert set(bank.corpora) == {"again"}
        assert {one.corpus for one in bank.images()} == {"again"}
        assert bank.verify() == []
        with pytest.raises(LatentBankError, match="no corpus 'photos'; it has again"):
            bank.drop_corpus("photos")
    with pytest.raises(CorpusError, match="another name"):
        own.job(images=own.images("again"), prompt="Describe.")


def test_datasets_are_read_by_their_image_column(own: Site, tmp_path: Path) -> None:
    file = tmp_path / "pictures.parquet"
    cells = [{"bytes": _png(number)} for number in range(3)] + [{"bytes": b"broken"}]
    features = datasets.Features({"picture": datasets.Image(), "text": datasets.Value("string")})
    table = datasets.Dataset.from_dict({"picture": cells, "text": list("abcd")}, features)
    table.to_parquet(file)
    report = own.job(images=named_images(find_images([file]), [file], None))
    assert (report.corpus, report.encoded, report.failed) == ("pictures", 3, 1)
    with own.bank() as bank:
        assert sorted(names(bank)) == [f"pictures.parquet/train/{number:06d}" for number in range(3)]


def _png(seed: int) -> bytes:
    file = io.BytesIO()
    picture(seed).save(file, "PNG")
    return file.getvalue()


def test_names_hold_no_paths_of_this_machine(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(photos)
    assert image_name("a/b.png") == "a/b.png"
    assert image_name(str(photos / "inside" / "00.png"), [photos]) == "photos/inside/00.png"
    assert image_name(str(photos / "01.png")) == "photos/01.png"
    assert image_name("../photos/01.png") == "photos/01.png"
    twins = [photos / "inside" / "00.png", photos.parent / "inside" / "00.png"]
    twins[1].parent.mkdir(exist_ok=True)
    picture(5).save(twins[1])
    with pytest.raises(ImageError, match=r"the name inside/00\.png"):
        list(named_images(find_images(twins), twins, "twins"))


def test_a_plan_says_what_is_stored_and_stores_nothing(own: Site) -> None:
    images = own.images()
    plan = plan_images(ColourVLM(), images, "photos", images.total, LAYERS, own.settings, Silent(), batch=4)
    assert (plan.images, plan.points, plan.tokens_per_image) == (30, 180, 6)
    assert plan.seconds is not None
    assert plan.seconds > 0
    assert not own.banks.exists()
    assert plan.picture_bytes == pytest.approx(len(base64.b64encode(_png(1))), rel=2)
