"""Images from files, globs, folders and datasets, and their names."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from latentbank.errors import ImageError
from latentbank.models.vision.sources import find_images, opened
from tests.query.patch_vlm import picture


def png(seed: int = 0) -> bytes:
    buffer = io.BytesIO()
    picture(seed).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of images a, b and deep/c, a text file, and an image with an unusual suffix."""
    (tmp_path / "deep").mkdir()
    for number, name in enumerate(("b.png", "a.JPG", "deep/c.webp", "strange.image")):
        (tmp_path / name).write_bytes(png(number))
    (tmp_path / "notes.txt").write_text("no image")
    return tmp_path


def names(found: Any, folder: Path) -> list[str]:
    return [str(Path(image.name).relative_to(folder)) for image in found]


def test_files_globs_and_folders(folder: Path) -> None:
    everything = find_images([folder])
    assert names(everything, folder) == ["a.JPG", "b.png", "deep/c.webp"]
    assert everything.total == 3
    assert names(everything, folder) == names(everything, folder)  # they can be iterated again
    assert names(find_images([folder / "*.png"]), folder) == ["b.png"]
    assert names(find_images([folder / "**" / "*.webp"]), folder) == ["deep/c.webp"]
    assert names(find_images([folder / "strange.image", folder / "b.png"]), folder) == [
        "strange.image",
        "b.png",
    ]
    assert names(find_images([folder / "b.png", folder]), folder) == ["b.png", "a.JPG", "deep/c.webp"]
    limited = find_images([folder], limit=2)
    assert (limited.total, len(list(limited))) == (2, 2)


def test_names_with_brackets_are_files(tmp_path: Path) -> None:
    path = tmp_path / "cat [1].png"
    path.write_bytes(png())
    (image,) = find_images([path])
    assert image.open().size == (30, 20)


def test_file_names_are_unique_and_safe(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "deep" / "b.png").write_bytes(png(9))
    files = [image.file_name(".parquet") for image in find_images([folder])]
    assert len(set(files)) == 4
    assert files[1].startswith("b-")
    assert files[1].endswith(".parquet")
    monkeypatch.chdir(folder)
    (relative,) = find_images(["b.png"])
    assert relative.file_name(".parquet") == files[1]  # whatever the working directory
    (folder / "ü ?*.png").write_bytes(png())
    (odd,) = find_images([folder / "ü ?*.png"])
    assert set("?*/ ").isdisjoint(odd.file_name(".png"))


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """A Parquet file of three images; the second is broken, the third is missing."""
    cells = [{"bytes": png(1), "path": None}, {"bytes": png(2)[:60], "path": None}, None]
    features = datasets.Features({"picture": datasets.Image(), "caption": datasets.Value("string")})
    rows = pa.table({"picture": cells, "caption": ["one", "two", "three"]}, schema=features.arrow_schema)
    path = tmp_path / "set" / "train-00000-of-00001.parquet"
    path.parent.mkdir()
    pq.write_table(rows, path)
    return path


@pytest.mark.parametrize("given", ["file", "folder"])
def test_datasets_are_streamed_and_a_broken_image_ends_nothing(table: Path, given: str) -> None:
    source = table if given == "file" else table.parent
    found = find_images([source])
    assert found.total is None
    first, second, third = found
    assert first.name == f"{source}/train/000000"
    assert first.open().size == (30, 20)
    with pytest.raises(ImageError, match="train/000001: The image"):
        second.open()
    with pytest.raises(ImageError, match="train/000002: The image"):
        third.open()
    assert len({image.file_name(".png") for image in (first, second, third)}) == 3
    assert len(list(find_images([source], limit=1))) == 1


def test_a_dataset_on_disk(tmp_path: Path) -> None:
    made = datasets.Dataset.from_dict({"image": [picture(1), picture(2)]})
    made.save_to_disk(tmp_path / "saved")
    first, second = find_images([tmp_path / "saved"])
    assert first.open().tobytes() == picture(1).tobytes()
    assert second.open().tobytes() == picture(2).tobytes()


def test_columns_of_datasets(tmp_path: Path) -> None:
    features = datasets.Features({"left": datasets.Image(), "right": datasets.Image()})
    cell = [{"bytes": png(1), "path": None}]
    path = tmp_path / "two.parquet"
    pq.write_table(pa.table({"left": cell, "right": cell}, schema=features.arrow_schema), path)
    with pytest.raises(ImageError, match="there are left, right"):
        list(find_images([path]))
    assert len(list(find_images([path], column="right"))) == 1
    with pytest.raises(ImageError, match="no column 'middle'; it has left, right"):
        list(find_images([path], column="middle"))
    pq.write_table(pa.table({"text": ["a"]}), path)
    with pytest.raises(ImageError, match="its columns are text"):
        list(find_images([path]))
    (paths,) = find_images([path], column="text")  # a column of paths
    with pytest.raises(ImageError, match="The image a does not exist"):
        paths.open()


@pytest.mark.parametrize(
    ("source", "options", "says"),
    [
        ("none.png", {}, "No such file: none.png"),
        ("*.jpeg", {}, "No file matches"),
        ("empty", {}, "holds no image"),
        ("https://example.org/cat.png?token=secret", {}, "A web address cannot be read"),
        ("b.png", {"split": "test"}, "no column, config, split or revision; leave these out"),
        ("b.png", {"limit": 0}, "limit is 0; it must be 1 or more"),
        ("nobody/nothing", {}, "The dataset nobody/nothing cannot be read"),
    ],
)
def test_images_that_cannot_be_found(
    folder: Path, source: str, options: dict[str, Any], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    (folder / "empty").mkdir()
    with pytest.raises(ImageError, match=says) as caught:
        list(find_images([source], **options))
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_one_source_alone_is_no_list_of_letters(folder: Path) -> None:
    assert names(find_images(str(folder)), folder) == names(find_images([folder]), folder)
    assert len(list(find_images(folder / "b.png"))) == 1
    with pytest.raises(ImageError, match="images is one image; give a list of images"):
        list(opened(str(folder / "b.png"), None))
    with pytest.raises(ImageError, match="images is one image"):
        list(opened(Image.new("RGB", (4, 4)), None))


def test_a_folder_is_no_image(folder: Path) -> None:
    with pytest.raises(ImageError, match="deep is a folder; name a file in it"):
        list(opened([folder / "deep"], None))


def test_links_that_cannot_be_followed_are_no_images(folder: Path) -> None:
    before = names(find_images([folder]), folder)
    (folder / "deep" / "link.png").symlink_to("a" * 300)
    assert names(find_images([folder]), folder) == before


def test_no_source_is_given() -> None:
    with pytest.raises(ImageError, match="Name an image"):
        find_images([])


def test_a_folder_names_the_images_that_are_not_read(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("logo.svg", "raw.CR2", "phone.HEIC", "photo.jfif", "notes.txt"):
        (folder / name).write_bytes(b"x")
    found = [Path(image.name).name for image in find_images([folder])]
    assert {"phone.HEIC", "photo.jfif"} < set(found)
    assert not {"logo.svg", "raw.CR2", "notes.txt"} & set(found)
    (message,) = caplog.messages
    assert message.endswith("logo.svg, raw.CR2 left out; Pillow cannot read their formats.")


def test_a_column_of_base64_is_read_and_its_errors_are_short(tmp_path: Path) -> None:
    cells = [base64.b64encode(png(1)).decode(), "A" * 50_000]
    pq.write_table(pa.table({"picture": cells}), tmp_path / "images.parquet")
    one, broken = find_images([tmp_path / "images.parquet"], column="picture")
    assert one.open().size == (30, 20)
    with pytest.raises(ImageError, match=r"images.parquet/train/000001: The image is not an image") as caught:
        broken.open()
    assert len(str(caught.value)) < 400
