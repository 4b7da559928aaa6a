"""The cache of vision features: encoded once, shared between rows, continued after a kill."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from latentbank.errors import CorpusError, ModelError
from latentbank.models.training.features import cache_features
from latentbank.models.training.pairs import Pair, Skipped
from tests.models.pixels import PixelEncoder, pairs


def test_features_are_the_encoders_in_half_precision(tmp_path: Path) -> None:
    encoder = PixelEncoder()
    data = list(pairs(9, regions=True))
    features = cache_features(encoder, data, tmp_path, "colours", batch=4)
    assert encoder.encoded == 9  # not 27: several rows share an image
    assert (len(features), features.width, features.values.shape) == (27, 7, (9, 4, 7))
    for number, pair in enumerate(data):
        own = encoder.encode([pair.image])[0].half()
        expected = own if pair.patches is None else own[list(pair.patches)]
        assert torch.equal(features.tokens(number), expected)
        assert features.count(number) == len(expected)
        assert features.rows[number].caption == pair.caption
    assert np.load(next(tmp_path.glob("*/features.npy"))).shape == (9, 4, 7)


def test_a_cache_is_used_again_only_for_the_same_encoder_and_data(tmp_path: Path) -> None:
    first = cache_features(PixelEncoder(), pairs(5), tmp_path, "colours")

    def never() -> Iterator[Pair]:
        raise AssertionError("the data was read again")
        yield

    again = cache_features(PixelEncoder(), never(), tmp_path, "colours")
    assert again.digest() == first.digest()
    other = PixelEncoder("other")
    assert cache_features(other, pairs(5), tmp_path, "colours").digest() != first.digest()
    assert other.encoded == 5
    assert cache_features(PixelEncoder(), pairs(6), tmp_path, "more colours").digest() != first.digest()


def _killed(source: Iterable[Pair | Skipped], after: int) -> Iterator[Pair | Skipped]:
    yield from islice(source, after)
    raise KeyboardInterrupt


def test_a_killed_run_continues(tmp_path: Path) -> None:
    data: list[Pair | Skipped] = list(pairs(20, regions=True))
    data[4:4] = [Skipped("broken image"), Skipped("no caption")]
    whole = cache_features(PixelEncoder(), data, tmp_path / "a", "colours", batch=3)
    for after in (10, 35):
        with pytest.raises(KeyboardInterrupt):
            cache_features(PixelEncoder(), _killed(data, after), tmp_path / "b", "colours", batch=3)
    # The state after a kill in the middle of writing.
    folder = next((tmp_path / "b").iterdir())
    with (folder / "features.npy").open("ab") as file:
        file.write(b"\x01\x02\x03")
    with (folder / "rows.jsonl").open("a") as file:
        file.write('{"image": 9')
    encoder = PixelEncoder()
    continued = cache_features(encoder, data, tmp_path / "b", "colours", batch=3)
    assert 0 < encoder.encoded < 20
    assert continued.digest() == whole.digest()
    assert np.array_equal(continued.values, whole.values)
    assert continued.skipped == {"broken image": 1, "no caption": 1}


def test_two_runs_at_once_encode_an_image_once(tmp_path: Path) -> None:
    """The second waits for the first, then reads what it wrote; both had appended to the same files."""
    slow, other, begun, go = PixelEncoder(), PixelEncoder(), threading.Event(), threading.Event()

    def gated() -> Iterator[Pair]:
        for number, pair in enumerate(pairs(9)):
            if number == 5:
                begun.set()
                assert go.wait(30)
            yield pair

    with ThreadPoolExecutor() as pool:
        first = pool.submit(cache_features, slow, gated(), tmp_path, "colours", batch=2)
        assert begun.wait(30)
        second = pool.submit(cache_features, other, pairs(9), tmp_path, "colours", batch=2)
        go.set()
        assert first.result(30).digest() == second.result(30).digest()
    assert (slow.encoded, other.encoded) == (9, 0)


def test_skipped_rows_are_counted(tmp_path: Path) -> None:
    image = Image.new("RGB", (8, 8))
    data = [Skipped("broken image"), Pair(image, "a"), Pair(image, "  "), Skipped("broken image")]
    features = cache_features(PixelEncoder(), data, tmp_path, "data")
    assert features.skipped == {"broken image": 2, "no caption": 1}
    assert [row.caption for row in features.rows] == ["a"]


def test_nothing_to_train_on_is_an_error_with_the_reason(tmp_path: Path) -> None:
    data = [Skipped("broken image"), Skipped("no caption"), Skipped("broken image")]
    with pytest.raises(CorpusError, match="2 broken image, 1 no caption"):
        cache_features(PixelEncoder(), data, tmp_path, "data")
    with pytest.raises(CorpusError, match="no image with a caption"):
        cache_features(PixelEncoder(), [], tmp_path, "empty")


def test_patches_the_encoder_does_not_have(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="0 to 3"):
        cache_features(PixelEncoder(), [Pair(Image.new("RGB", (8, 8)), "a", (4,))], tmp_path, "data")


def test_features_that_are_not_finite(tmp_path: Path) -> None:
    class Broken(PixelEncoder):
        def encode(self, images: object) -> torch.Tensor:
            return torch.full((1, 4, 7), float("nan"))

    with pytest.raises(ModelError, match="not finite"):
        cache_features(Broken(), pairs(1), tmp_path, "data")


def test_a_split_has_no_image_on_both_sides(tmp_path: Path) -> None:
    """The data has several copies of each image, which must stay together too."""
    features = cache_features(PixelEncoder(), pairs(60, regions=True), tmp_path, "colours")
    training, validation = features.split(0.2, 500, seed=3)
    sides = [{features.values[row.image].tobytes() for row in part.rows} for part in (training, validation)]
    different = len({image.tobytes() for image in features.values})
    assert not sides[0] & sides[1]
    assert different < 60
    assert [len(side) for side in sides] == [different - round(different * 0.2), round(different * 0.2)]
    assert len(training) + len(validation) == len(features)
    assert len(features.split(0.2, 5, seed=3)[1]) == 5
    assert features.split(0.2, 500, seed=3)[1].digest() == validation.digest()
    assert features.split(0.2, 500, seed=4)[1].digest() != validation.digest()


def test_copies_of_one_image_cannot_be_split(tmp_path: Path) -> None:
    image = Image.new("RGB", (8, 8))
    features = cache_features(PixelEncoder(), [Pair(image, "a"), Pair(image.copy(), "b")], tmp_path, "data")
    with pytest.raises(ModelError, match="too few to keep any for validation"):
        features.split(0.5, 5, seed=0)


def test_digests_tell_rows_apart(tmp_path: Path) -> None:
    features = cache_features(PixelEncoder(), pairs(4, regions=True), tmp_path, "colours")
    assert features.select(range(12)).digest() == features.digest()
    assert features.select(range(11)).digest() != features.digest()
    changed = (replace(features.rows[0], caption="other"), *features.rows[1:])
    assert replace(features, rows=changed).digest() != features.digest()
    card = json.loads(next(tmp_path.glob("*/features.json")).read_text())
    assert (card["images"], card["rows"], card["encoder"]) == (4, 12, "pixels")
