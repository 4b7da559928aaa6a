"""Banks of images: the same on an embedded bank, on a server over gRPC, and over REST alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from latentbank.bank.images.bank import ImageBank
from latentbank.bank.images.opening import create_images, delete_images, list_images, open_images
from latentbank.bank.images.points import patch_ids
from latentbank.bank.opening import list_banks, list_versions
from latentbank.bank.rotation import unit
from latentbank.bank.search import prepare
from latentbank.bank.settings import load_settings
from latentbank.bank.store.captions import Ids
from latentbank.bank.store.embedded.engine import graph_of
from latentbank.bank.where import WhereImage
from latentbank.errors import BankMismatch, BankNotFound, LayerNotFound
from tests.bank.images.filled import VLM, put
from tests.bank.samples import WIDTH, Place, fill, nearest, sample_bank, soon, soon_raises, units


@pytest.fixture
def images(place: Place) -> Iterator[ImageBank]:
    """The images of a VLM in a bank that has a corpus of contexts."""
    with sample_bank(place) as bank:
        fill(bank, 20)
    with create_images("bank", place.settings, **VLM) as images:  # type: ignore[arg-type]
        yield images


def test_visual_tokens_have_no_graph(data_dir: Path) -> None:
    place = Place("embedded", load_settings(data_dir=data_dir, graph_from=10))
    with sample_bank(place) as bank:
        fill(bank, 20)
        bank.store.index(4)
        with create_images("bank", place.settings, **VLM) as images:  # type: ignore[arg-type]
            put(images, "ab")
            images.store.index(8)
            folder = data_dir / images.stored
    assert graph_of(data_dir / "bank" / "L04").edges == 16
    assert graph_of(folder / "L08").edges == 0


class TestImages:
    """What is stored of images, in every place."""

    def test_patches_are_found_as_by_plain_cosine(self, images: ImageBank) -> None:
        stored = put(images, "abcde")
        queries = units(7, seed=99)
        for layer in images.layers:
            best, cosines = nearest(stored[layer], queries, 3)
            found = images.search(queries * 5, layer, 3, search="exact")
            assert [[p.token for p in row] for row in found] == (best % 16).tolist()
            assert [[p.image for p in row] for row in found] == [
                ["abcde"[i // 16] + ".png" for i in r] for r in best
            ]
            assert np.allclose([[p.cosine for p in row] for row in found], cosines, atol=2e-3)
        patch = found[0][0]
        assert (patch.layer, patch.corpus, patch.size, patch.norm) == (8, "photos", (64, 48), 3.0)
        assert patch.box == (patch.token, 0.0, patch.token + 1.0, 1.0)

    def test_filters_select_images_places_and_corpora(self, images: ImageBank) -> None:
        put(images, "abc")
        put(images, "ab", "scenes", seed=50)
        query = units(1, seed=3)
        for where, count in (
            (WhereImage(image="a.png"), 32),
            (WhereImage(image="a.png", corpus="scenes"), 16),
            (WhereImage(corpus=["photos", "scenes"], row_min=1, row_max=2), 40),
            (WhereImage(column_max=0) & ~WhereImage(corpus="photos"), 8),
            (WhereImage(token=0), 5),
            (WhereImage(word="dog"), 0),
        ):
            assert images.count(8, where) == count
            found = images.search(query, 8, 100, where)[0]
            assert len(found) == count
        assert {p.column for p in images.search(query, 0, 100, WhereImage(column_max=0))[0]} == {0}

    @pytest.mark.parametrize(("wanted", "size"), [(3, 1), (4, 3), (9, 2), (40, 20)])
    def test_groups_are_of_the_best_images(self, images: ImageBank, wanted: int, size: int) -> None:
        names = "abcdefghijkl"
        stored = put(images, names)[8]
        # One image's tokens stand so near to the query that the best points are all of it.
        query = units(1, seed=7)[0]
        stored[:16] = query + 0.7 * units(16, seed=8)
        payloads = {p.id: (p, v) for p, v in images.patches(8, WhereImage(image="a.png"))}
        ids = patch_ids("photos", "digest-a", 16)
        fields = [payloads[id_][0].to_dict() for id_ in ids]
        for one in fields:
            del one["id"], one["layer"], one["cosine"], one["word"]
        images.add(8, ids, stored[:16], fields)
        images.commit()
        vector = prepare(query, "query", WIDTH, images.manifest.rotation_seed)[0]
        found = images.nearest_by_image(vector, 8, wanted, size, exact=True)
        cosines = (unit(stored) @ query).reshape(len(names), 16)
        best = np.argsort(-cosines.max(axis=1))[:wanted]
        assert [group[0].image[0] for group in found] == [names[i] for i in best]
        for group, image in zip(found, best, strict=True):
            assert [patch.token for patch in group] == np.argsort(-cosines[image])[:size].tolist()
        rows = WhereImage(row_min=2)
        assert {p.row for g in images.nearest_by_image(vector, 8, 5, 3, rows) for p in g} == {2, 3}

    def test_images_are_listed_with_their_pictures(self, images: ImageBank) -> None:
        put(images, "abc")
        listed = sorted(images.images(pictures=True), key=lambda one: one.image)
        assert [(one.image, one.tokens, one.picture) for one in listed] == [
            (f"{name}.png", 16, f"jpeg {name}".encode()) for name in "abc"
        ]
        assert {one.picture for one in images.images(WhereImage(corpus="photos"))} == {b""}
        found = images.search(units(2), 8, 5)
        pictures = images.pictures([patch for row in found for patch in row])
        assert all(
            pictures[p.corpus, p.digest] == f"jpeg {p.image[0]}".encode() for row in found for p in row
        )
        assert images.facet("image", WhereImage(row_max=0)) == dict.fromkeys(["a.png", "b.png", "c.png"], 4)

    def test_words_are_stored_beside_the_vectors(self, images: ImageBank) -> None:
        put(images, "ab")
        before = {patch.id: vector for patch, vector in images.patches(8)}
        first = patch_ids("photos", "digest-a", 16)
        points = list(images.store.scroll(8, Ids(frozenset(first)), vectors=True, payloads=True))
        images.set_words(8, {id_: "dog" if number < 3 else "" for number, id_ in enumerate(first)}, points)
        images.commit()
        assert images.facet("word", WhereImage(word=["dog", "cat"]), layer=8) == {"dog": 3}
        assert images.count(8, WhereImage(word="")) == 13
        assert images.count(0, WhereImage(word="dog")) == 0
        after = {patch.id: vector for patch, vector in images.patches(8)}
        assert after.keys() == before.keys()
        assert max(abs(after[key] - before[key]).max() for key in after) < 1e-3

    def test_a_bank_keeps_the_images_of_each_vlm_apart(self, images: ImageBank, place: Place) -> None:
        put(images, "abc")
        other = {**VLM, "model": "tiny/other", "fingerprint": "cd" * 16, "layers": [4]}
        with create_images("bank", place.settings, **other) as second:  # type: ignore[arg-type]
            assert second.count() == 0
        images.close()
        both = [("tiny/vlm", (0, 8)), ("tiny/other", (4,))]
        assert soon(lambda: [(one.model, one.layers) for one in list_images("bank", place.settings)] == both)
        several = r"tiny/vlm \(abababab\), tiny/other"
        assert soon_raises(BankMismatch, several, lambda: open_images("bank", place.settings).close())
        with open_images("bank", place.settings, "ab" * 16) as found:
            assert found.count() == 48
            assert found.verify() == []
        with pytest.raises(BankNotFound, match="no images of this VLM"):
            open_images("bank", place.settings, "ef" * 16)

    def test_images_are_no_banks(self, images: ImageBank, place: Place) -> None:
        put(images, "a")
        assert list_banks(place.settings) == ["bank"]
        assert [one.versions for one in list_versions(place.settings)] == [(1,)]

    def test_other_layers_and_widths_are_refused(self, images: ImageBank, place: Place) -> None:
        images.close()
        with pytest.raises(BankMismatch, match="visual layers 0, 8, not 4"):
            create_images("bank", place.settings, **{**VLM, "layers": [4]})  # type: ignore[arg-type]
        with pytest.raises(BankMismatch, match="32 numbers"):
            create_images("bank", place.settings, **{**VLM, "hidden_size": 8})  # type: ignore[arg-type]
        with pytest.raises(BankNotFound, match="no bank 'none'"):
            create_images("none", place.settings, **VLM)  # type: ignore[arg-type]
        with open_images("bank", place.settings) as again, pytest.raises(LayerNotFound, match="at 0, 8"):
            again.search(units(1), 4)

    def test_images_are_deleted_alone(self, images: ImageBank, place: Place) -> None:
        put(images, "ab")
        stored = images.stored
        images.close()
        delete_images(stored, place.settings)
        assert soon(lambda: list_images("bank", place.settings) == [])
        with sample_bank(place) as bank:
            assert bank.count() == 20
