"""What becomes a corpus is what was meant, or the error says what is unclear: columns, records, files, headers."""

from __future__ import annotations

import csv
import gzip
import io
import json
import sys
import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import datasets
import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from latentbank.errors import CorpusError
from latentbank.ingest.corpus import Counts, open_corpus, read_sentences
from latentbank.ingest.naming import is_corpus_name
from latentbank.ingest.sources.base import LeftOut, Read
from latentbank.ingest.sources.columns import is_reference, is_reference_name
from latentbank.ingest.sources.folder import split_of

ROWS = 100  # records that are looked at first


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / ".cache")
    return tmp_path


def write(name: str, content: str | bytes) -> str:
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    Path(name).write_bytes(content.encode() if isinstance(content, str) else content)
    return name


def lines(rows: Iterable[object]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def document(name: str, value: object) -> str:
    return write(name, json.dumps(value))


def read(*sources: str, **options: Any) -> tuple[list[str], Read]:
    counts = Counts()
    sentences = list(read_sentences(open_corpus("c", sources, **options), counts))
    return sentences, counts.read()


def refusal(*sources: str, **options: Any) -> tuple[str, str | None]:
    """Return the message of the error, and the argument it names."""
    with pytest.raises(CorpusError) as caught:
        read(*sources, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value), caught.value.argument


# -- columns -------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "json", "parquet"])
@pytest.mark.parametrize("name", ["text", "Caption"])
def test_a_known_name_wins_while_it_is_empty(suffix: str, name: str) -> None:
    rows = [{name: None, "url": "http://x", "title": "A title here."}] * ROWS
    rows.append({name: "A sentence.", "url": "http://x", "title": "No."})
    file = f"f.{suffix}"
    if suffix == "jsonl":
        write(file, lines(rows))
    elif suffix == "json":
        document(file, rows)
    elif suffix == "csv":
        out = io.StringIO()
        csv.writer(out).writerows([rows[0], *(row.values() for row in rows)])
        write(file, out.getvalue())
    else:
        pq.write_table(pa.Table.from_pylist(rows), file, row_group_size=ROWS)
    sentences, source = read(file)
    assert (sentences, source.column) == (["A sentence."], name)


def test_a_shard_whose_column_is_all_null_gives_nothing() -> None:
    write("a.jsonl", lines([{"text": "One.", "title": "No."}]))
    write("b.jsonl", lines([{"text": None, "title": "No."}]))
    pq.write_table(pa.table({"text": pa.nulls(2), "title": ["No.", "No."]}), "c.parquet")
    write("d.jsonl", lines([{"text": "Two."}]))
    assert read("a.jsonl", "b.jsonl", "c.parquet", "d.jsonl")[0] == ["One.", "Two."]


@pytest.mark.parametrize("shard", ["b.jsonl", "b.csv", "b.json", "b.parquet"])
def test_a_shard_without_the_column_is_named(shard: str) -> None:
    write("in/a.jsonl", lines([{"text": "One."}]))
    row = {"title": "A title.", "n": 1}
    if shard == "b.parquet":
        pq.write_table(pa.Table.from_pylist([row]), "in/b.parquet")
    else:
        contents = {"b.jsonl": lines([row]), "b.csv": "title,n\nA title.,1\n", "b.json": json.dumps([row])}
        write(f"in/{shard}", contents[shard])
    for sources in (["in"], ["in/a.jsonl", f"in/{shard}"], [f"in/{shard}"]):
        message, argument = refusal(*sources, column="text")
        assert message == f"in/{shard} has no column 'text'; choose one of these: title, n."
        assert argument == "column"
    assert refusal("in")[0].startswith(f"in/{shard} has no column 'text'")


def test_a_key_that_comes_late() -> None:
    write("a.jsonl", lines([{"url": "http://x"}] * ROWS + [{"url": "http://x", "text": "Late."}]))
    assert read("a.jsonl", column="text")[0] == ["Late."]
    assert "cannot tell which column" in refusal("a.jsonl")[0]
    write("b.jsonl", lines([{"title": "A title."}] * ROWS + [{"title": "No.", "text": "Late."}]))
    assert refusal("b.jsonl")[0].startswith("b.jsonl, line 101: column 'text' appears first here")
    assert len(read("b.jsonl", column="title")[0]) == ROWS + 1
    write("c.jsonl", lines([{"title": "A title."}] * (ROWS + 1)))
    assert refusal("c.jsonl", column="text")[0].startswith("c.jsonl has no column 'text'")


@pytest.mark.parametrize(
    "row",
    [
        {"url": "http://x/y"},
        {"target": "https://example.org/a_b"},
        {"target": "images/a.jpg"},
        {"target": "a photo.jpg"},
        {"target": "C:\\data\\a"},
        {"target": "n01440764"},
        {"target": "2024-01-31 10:00:00"},
        {"target": "b7f1d2"},
        {"doc_id": "abcd"},
        {"imageUrl": "see there"},
        {"file_name": "a cat"},
        {"split": "train"},
        {"name": "Some One"},
        {"license": "all rights reserved"},
    ],
)
@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_addresses_ids_and_paths_are_no_sentences(row: dict[str, str], suffix: str) -> None:
    rows = [{**row, "n": 1}]
    if suffix == "jsonl":
        write("f.jsonl", lines(rows))
    else:
        pq.write_table(pa.Table.from_pylist(rows), "f.parquet")
    message, argument = refusal(f"f.{suffix}")
    assert "cannot tell which column holds the sentences" in message
    assert argument == "column"
    assert read(f"f.{suffix}", column=next(iter(row)))[0] == list(row.values())


def test_what_is_no_reference() -> None:
    for text in ("A dog.", "dog", "第3章です", "日本語の文章", "It costs 5 $.", "don't", "See photo 3"):
        assert not is_reference(text), text
    for name in ("phrase", "image_caption", "title", "fileText", "en"):
        assert not is_reference_name(name), name


def test_lists_of_sentences_beside_a_column_make_it_unclear() -> None:
    row = {"title": "A title here.", "sentences": ["A dog runs.", "A cat sits."]}
    write("f.jsonl", lines([row]))
    pq.write_table(pa.Table.from_pylist([row]), "f.parquet")
    for file in ("f.jsonl", "f.parquet"):
        assert "cannot tell which column" in refusal(file)[0]
    pq.write_table(
        pa.Table.from_pylist([{"caption": ["A dog runs."], "title": "A title here."}]), "g.parquet"
    )
    assert "column 'caption' holds lists, not text" in refusal("g.parquet")[0]
    write("g.jsonl", lines([{"title": "A title here.", "tags": ["dog", "cat"], "meta": {"lang": "en"}}]))
    assert read("g.jsonl")[0] == ["A title here."]


def test_an_empty_column_is_named_where_there_is_no_sentence() -> None:
    write("f.jsonl", lines([{"text": None, "caption": "A dog."}]))
    assert refusal("f.jsonl")[0] == "Corpus c holds no sentence in column 'text'; check f.jsonl."


# -- JSON documents ------------------------------------------------------------------------------

COCO = {
    "info": {"description": "A data set of captions"},
    "licenses": [{"url": "http://c", "id": 1, "name": "Attribution License"}],
    "images": [{"file_name": "1.jpg", "coco_url": "http://c", "date_captured": "2013-11-14 17:02:52"}],
    "annotations": [{"image_id": 1, "id": 2, "caption": "A bike."}, {"id": 3, "caption": None}],
}
NESTED = {
    "images": [
        {"split": "train", "filename": "a.jpg", "sentences": [{"tokens": ["a", "dog"], "raw": "A dog."}]},
        {"split": "val", "filename": "b.jpg", "sentences": [{"raw": "A cat."}, {"raw": "It sits."}]},
    ],
    "dataset": "flickr",
}


@pytest.mark.parametrize(
    ("value", "field", "column", "sentences"),
    [
        (
            {"type": "captions", "annotations": [{"caption": "A sentence."}]},
            "annotations",
            "caption",
            ["A sentence."],
        ),
        (COCO, "annotations", "caption", ["A bike."]),
        ({"data": {"rows": [{"phrase": "A dog runs."}]}}, "data.rows", "phrase", ["A dog runs."]),
        ({"name": "x y", "sentences": ["A b.", "C d."]}, "sentences", None, ["A b.", "C d."]),
        ({"tags": ["a", "b"], "said": ["A dog runs."]}, "said", None, ["A dog runs."]),
        ({"n": 1, "said": ["犬が走る。"]}, "said", None, ["犬が走る。"]),
    ],
)
def test_records_inside_an_object(
    value: object, field: str, column: str | None, sentences: list[str]
) -> None:
    found, source = read(document("f.json", value))
    assert (found, source.field, source.column) == (sentences, field, column)
    assert read("f.json", field=field)[0] == sentences
    write("f.json.gz", gzip.compress(json.dumps(value, indent=1).encode()))
    assert read("f.json.gz")[0] == sentences


def test_records_that_are_not_clear_are_named() -> None:
    message, argument = refusal(document("f.json", NESTED))
    assert argument == "field"
    assert message.endswith("name one of these: images, images.sentences, images.sentences.tokens.")
    assert read("f.json", field="images.sentences")[0] == ["A dog.", "A cat.", "It sits."]
    assert read("f.json", field="images.sentences.tokens")[0] == ["a", "dog"]
    splits = {"train": [{"text": "Yes."}], "test": [{"text": "No."}]}
    assert "name one of these: train, test" in refusal(document("g.json", splits))[0]
    assert read("g.json", field="train")[0] == ["Yes."]
    assert "no list of records 'dev'; name one of these: train, test" in refusal("g.json", field="dev")[0]
    regions = [{"id": 1, "regions": [{"phrase": "the clock is green"}]}]
    assert "these lists: regions" in refusal(document("h.json", regions))[0]
    assert read("h.json", field="regions")[0] == ["the clock is green"]
    said = [{"id": "1", "turns": [{"who": "user", "value": "What is it?"}]}]
    assert read(document("i.json", said), field="turns", column="value")[0] == ["What is it?"]


@pytest.mark.parametrize(
    "value",
    [{"license": "CC BY"}, {"text": "A sentence."}, {}, "A sentence.", 5, [1, 2], [["A b."]], ["a", {}]],
)
def test_a_scalar_is_never_the_corpus(value: object) -> None:
    assert "f.json holds no list of objects or of strings" in refusal(document("f.json", value))[0]


def test_json_lines_in_a_json_file_are_streamed() -> None:
    rows = [{"text": "One."}, {"text": "Two."}]
    assert read(write("f.json", "\n" + lines(rows)))[0] == ["One.", "Two."]
    assert refusal("f.json", field="text")[1] == "field"
    write("f.json.gz", gzip.compress(lines(rows).encode()))
    assert read("f.json.gz")[0] == ["One.", "Two."]
    write("g.json", lines(rows) + '{"text": \n')
    assert "g.json, line 3: not a JSON object" in refusal("g.json")[0]
    document("h.json", {"annotations": [{"caption": f"Caption number {i}."} for i in range(150_000)]})
    assert len(read("h.json")[0]) == 150_000  # 5 MB in one line


# -- folders -------------------------------------------------------------------------------------


def test_all_files_of_known_kinds_are_read_with_one_column() -> None:
    write("data/one.txt", "One.\n")
    write("data/b.csv", "id,text\n1,Two.\n")
    write("data/c.jsonl", lines([{"text": "Three.", "title": "No."}]))
    write("data/in/deep/d.txt.gz", gzip.compress(b"Four.\n"))
    sentences, source = read("data")
    assert sentences == ["Two.", "Three.", "Four.", "One."]
    assert source == Read(
        ("data/b.csv", "data/c.jsonl", "data/in/deep/d.txt.gz", "data/one.txt"),
        column="text",
        first=("Two.", "Three.", "Four."),
    )


def test_what_tells_about_the_data_is_left_out_and_named() -> None:
    document("data/info.json", {"license": "All rights reserved"})
    write("data/a.txt", "A line.\n")
    for name in (
        "LICENSE.txt",
        "README.md",
        "README.txt",
        "requirements.txt",
        "dataset_infos.json",
        ".a.txt",
    ):
        write(f"data/{name}", "Not this.\n")
    for number in range(5):
        write(f"data/{number}.jpg", b"")
    sentences, source = read("data")
    assert (sentences, source.files) == (["A line."], ("data/a.txt",))
    assert set(source.left_out) == {
        LeftOut("info.json", "holds no list of records"),
        LeftOut("README.md", "tells about the data"),
        LeftOut("LICENSE.txt", "tells about the data"),
        LeftOut("README.txt", "tells about the data"),
        LeftOut("requirements.txt", "tells about the data"),
        LeftOut("dataset_infos.json", "tells about the data"),
        LeftOut(".a.txt", "hidden"),
        LeftOut("5 files in .jpg", "no format of a corpus"),
    }
    assert read("data/README.txt")[0] == ["Not this."]  # named, it is read


def test_a_folder_with_nothing_to_read() -> None:
    document("a/info.json", {"license": "CC"})
    assert "a/info.json holds no list" in refusal("a")[0]
    write("b/LICENSE.txt", "All rights reserved\n")
    assert refusal("b")[0].startswith("b: it holds no data file")
    write("c/a.zip", b"")
    assert refusal("c")[0].startswith("c: ")


def test_splits_are_told_by_names_only_if_all_of_them_say_it() -> None:
    write("a/train.txt", "Train.\n")
    write("a/chapter2.txt", "Two.\n")
    assert read("a")[0] == ["Two.", "Train."]
    assert read("a", split="train")[0] == ["Train."]
    for split in ("train2017", "val2017"):
        write(f"b/captions_{split}.jsonl", lines([{"caption": split}]))
    write("b/test/x.jsonl", lines([{"caption": "test"}]))
    sentences, source = read("b")
    assert sentences == ["train2017"]
    assert source.left_out == (
        LeftOut("captions_val2017.jsonl", "of the split validation"),
        LeftOut("test/x.jsonl", "of the split test"),
    )
    for name in ("val", "validation", "dev"):
        assert read("b", split=name)[0] == ["val2017"]
    message, argument = refusal("b", split="extra")
    assert (message, argument) == (
        "b has no split 'extra'; choose one of these: test, train, validation.",
        "split",
    )
    write("c/test.txt", "Test.\n")
    assert "c has no split 'train'; choose one of these: test." in refusal("c")[0]


def test_which_split_a_path_says() -> None:
    said = {
        "train.txt": "train",
        "data/train-00000-of-00002.parquet": "train",
        "training/a.csv": "train",
        "my_dev.csv": "validation",
        "train/test.csv": "test",
        "contest.txt": None,
        "trainspotting.txt": None,
        "train_test.txt": None,
    }
    assert {path: split_of(path) for path in said} == said


def test_a_folder_of_pictures_with_metadata() -> None:
    for split, text in (("train", "A red dog."), ("test", "No.")):
        write(f"a/{split}/metadata.csv", f"file_name,text\na.jpg,{text}\n")
        write(f"a/{split}/a.jpg", b"")
    assert read("a")[0] == ["A red dog."]
    write("b/metadata.jsonl", lines([{"file_name": "a.jpg", "note": "A red dog."}]))
    write("b/a.jpg", b"")
    assert read("b")[0] == ["A red dog."]


def test_links_are_followed_once() -> None:
    write("elsewhere/a.txt", "One.\n")
    write("data/b.txt", "Two.\n")
    Path("data/linked").symlink_to(Path("elsewhere").absolute())
    Path("data/round").symlink_to(Path("data").absolute())
    assert read("data")[0] == ["Two.", "One."]
    write("globbed/in/a.txt", "One.\n")
    write("globbed/b.txt", "Two.\n")
    assert read("globbed/*")[0] == ["Two.", "One."]
    assert read("globbed/**")[0] == ["Two.", "One."]


def test_what_datasets_saves_is_read_file_by_file() -> None:
    first = {"text": [None, "One."], "url": ["http://x"] * 2}
    saved = datasets.DatasetDict(
        {"train": datasets.Dataset.from_dict(first), "test": datasets.Dataset.from_dict(first)}
    )
    saved.save_to_disk("saved")
    sentences, source = read("saved")
    assert (sentences, source.files) == (["One."], ("saved/train/data-00000-of-00001.arrow",))
    assert LeftOut("5 files in .json", "tells about the data") in source.left_out
    table = pa.table({"url": ["http://x"], "phrase": ["A dog runs."], "tags": [["dog"]]})
    with pa.OSFile("b.arrow", "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)
    assert read("b.arrow")[0] == ["A dog runs."]
    assert read("b.arrow", column="url")[0] == ["http://x"]
    assert refusal("saved/train", "b.arrow")[0].startswith("b.arrow has no column 'text'")
    whole = Path("b.arrow").read_bytes()
    for data in (whole[:100], whole[20:], b""):
        write("b.arrow", data)
        assert refusal("b.arrow")[0].startswith("b.arrow: not an Arrow file")


def test_files_that_only_datasets_reads_have_their_column_found_too() -> None:
    Path("data").mkdir()
    with tarfile.open("data/a.tar", "w") as tar:
        for number in range(2):
            for suffix, content in (("cls", b"1"), ("txt", b"A dog runs.")):
                entry = tarfile.TarInfo(f"{number}.{suffix}")
                entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content))
    write("data/LICENSE.txt", "Not this.\n")
    write("data/picture.png", b"")
    sentences, source = read("data")
    assert (sentences, source.column, source.files) == (["A dog runs."] * 2, "txt", ("data/a.tar",))
    assert source.left_out == (
        LeftOut("LICENSE.txt", "tells about the data"),
        LeftOut("picture.png", "no format of a corpus"),
    )
    assert refusal("data", column="text")[0].startswith("data has no column 'text'; choose one of these: ")
    assert refusal("data", field="a")[1] == "field"


# -- files on the hub ----------------------------------------------------------------------------


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Put the files of a dataset on a file system that is not this machine's, as on the hub; returns a function."""
    load = datasets.load_dataset_builder

    def put(files: dict[str, str | bytes], head: str) -> None:
        write("card/README.md", f"---\nconfigs:\n- config_name: default\n{head}---\n")
        memory = fsspec.filesystem("memory")
        for name, content in files.items():
            write(f"card/{name}", content)
            memory.pipe(f"/datasets/who/what@abc/{name}", Path(f"card/{name}").read_bytes())

        def builder(source: str, *args: Any, **kwargs: Any) -> Any:
            assert source == "who/what"
            made = load("card", *args, **kwargs)
            for split, paths in made.config.data_files.items():
                names = [str(Path(path).relative_to(Path("card").absolute())) for path in paths]
                made.config.data_files[split] = [f"memory://datasets/who/what@abc/{name}" for name in names]
            return made

        monkeypatch.setattr(datasets, "load_dataset_builder", builder)

    return put


def test_the_shards_of_a_hub_dataset_have_one_column(hub: Any) -> None:
    files = {
        "a.jsonl": lines([{"text": None, "url": "http://x"}] * ROWS + [{"text": "One."}]),
        "b.jsonl": lines([{"url": "http://x", "text": "Two."}]),
        "test.jsonl": lines([{"text": "No."}]),
    }
    head = "  data_files:\n  - split: train\n    path: [a.jsonl, b.jsonl]\n  - split: test\n    path: test.jsonl\n"
    hub(files, head)
    sentences, source = read("who/what")
    assert sentences == ["One.", "Two."]
    assert source.files == ("who/what/a.jsonl", "who/what/b.jsonl")
    assert source.left_out == (LeftOut("1 file", "of the split test"),)
    assert read("who/what", split="test")[0] == ["No."]
    assert "has no split 'dev'; choose one of these: train, test." in refusal("who/what", split="dev")[0]
    hub({**files, "b.jsonl": lines([{"url": "http://x"}])}, head)
    assert "b.jsonl has no column 'text'" in refusal("who/what")[0]


def test_parquet_and_compressed_files_of_a_hub_dataset(hub: Any) -> None:
    out = io.BytesIO()
    pq.write_table(pa.table({"text": ["One."], "url": ["http://x"]}), out)
    whole = out.getvalue()
    hub({"a.parquet": whole, "b.parquet": whole}, "  data_files: '*.parquet'\n")
    assert read("who/what")[0] == ["One.", "One."]
    hub({"c.json.gz": gzip.compress(lines([{"text": "Two."}] * 2).encode())}, "  data_files: c.json.gz\n")
    assert read("who/what")[0] == ["Two.", "Two."]
    hub({"d.csv": "Some words.\nOther words.\n"}, "  data_files: d.csv\n")
    assert refusal("who/what")[1] == "header"
    assert read("who/what", header=False)[0] == ["Some words.", "Other words."]


def test_what_tells_about_a_hub_dataset_is_left_out(hub: Any) -> None:
    files = {"LICENSE.txt": "Not this.\n", "info.json": '{"license": "CC"}', "a.txt": "A line.\n"}
    hub({**files, "b.json": '[{"text": "Two."}]'}, "  data_files: ['*.json', LICENSE.txt, a.txt]\n")
    sentences, source = read("who/what")
    assert sorted(sentences) == ["A line.", "Two."]
    assert set(source.left_out) == {
        LeftOut("LICENSE.txt", "tells about the data"),
        LeftOut("info.json", "holds no list of records"),
    }
    hub(files, "  data_files: LICENSE.txt\n")
    assert refusal("who/what")[0].startswith("who/what: it holds no data file")


def test_the_format_is_that_of_files_not_of_folders() -> None:
    write("a.dat", lines([{"text": "One."}]))
    write("in/b.txt", "Two.\n")
    assert read("a.dat", "in", format="jsonl")[0] == ["One.", "Two."]


def test_settings_of_a_dataset_card_count(hub: Any) -> None:
    write("data/a.csv", "text|n\nNA|1\nTwo, three.|2\n")
    write("data/README.md", "---\nconfigs:\n- config_name: default\n  data_files: a.csv\n  sep: '|'\n---\n")
    assert read("data")[0] == ["NA", "Two, three."]
    assert read("data")[1].column == "text"


# -- options that have no use --------------------------------------------------------------------


def test_an_option_that_no_source_has_a_use_for_is_refused() -> None:
    write("a.txt", "One.\n")
    write("in/a.txt", "One.\n")
    write("b.csv", "text\nTwo.\n")
    for source in ("a.txt", "in"):
        for given in ({"column": "text"}, {"field": "annotations"}, {"header": True}, {"header": False}):
            message, argument = refusal(source, **given)
            assert argument == next(iter(given))
            assert message.startswith("No source ")
            assert refusal(source, limit=1, **given)[1] == argument
    assert read("a.txt", "b.csv", column="text")[0] == ["One.", "Two."]
    assert read("a.txt", "b.csv", column="text", limit=1)[0] == ["One."]
    assert refusal("b.csv", field="annotations")[1] == "field"
    assert refusal("in", format="csv")[1] == "format"
    assert refusal("a.txt", format="docx")[1] == "format"


@pytest.mark.parametrize("name", ["-", "f.txt"])
def test_json_lines_are_no_sentences(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data = "\n" + lines([{"caption": "One.", "url": "http://x"}, {"caption": "Two.", "url": "http://x"}])
    write("f.txt", data)

    def given(**options: Any) -> list[str]:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data.encode())))
        return read(name, **options)[0]

    with pytest.raises(CorpusError, match="holds JSON, not sentences") as caught:
        given()
    assert caught.value.argument == "format"
    assert given(format="jsonl") == given(format="json") == ["One.", "Two."]
    assert given(format="jsonl", column="url") == ["http://x"] * 2
    assert given(format="txt") == data.split("\n")[1:3]
    with pytest.raises(CorpusError, match="No source has columns"):
        given(column="caption")


def test_tables_and_lines_from_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    for options, text in (
        ({"format": "csv"}, "id,text\n1,One.\n"),
        ({"format": "tsv", "header": False, "column": "2"}, "1\tOne.\n"),
        ({"format": "json", "field": "a"}, '{"a": [{"text": "One."}]}'),
        ({}, "One.\n{but no JSON\n"),
    ):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
        sentences, source = read("-", **options)
        assert sentences[0] == "One."
        assert source.files == ("standard input",)
    assert "Standard input cannot be read in the format parquet" in refusal("-", format="parquet")[0]


@pytest.mark.parametrize("name", ["f.txt", "f.csv", "f.jsonl", "f.json", "f.parquet", "f.txt.gz"])
def test_pointers_that_git_keeps_are_no_text(name: str) -> None:
    write(f"data/{name}", "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 12345\n")
    for source in ("data", f"data/{name}"):
        assert refusal(source)[0].startswith(f"data/{name} is a Git LFS pointer")


# -- headers, line ends, long cells --------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "A dog runs.\nA cat sits.\n",
        "1,A dog runs.\n2,A cat sits.\n",
        "a.jpg,A dog\nb.jpg,A cat\n",
        "cat\ndog\n",
        "A dog runs.\ncat\n",
        "Dogs.\nA cat sits.\n",
        "A black and white photo\nA cat\n",
        "photo\nA\n",
        "1,photo\n2,cat\n",
        "犬が走る。\n猫\n",
        '"A dog, a cat",5\n"A cat",6\n',
        "A dog runs.\n",
    ],
)
def test_a_csv_file_that_may_have_no_header(text: str) -> None:
    message, argument = refusal(write("f.csv", text))
    assert argument == "header"
    assert "f.csv: cannot tell whether its first row" in message
    rows = list(csv.reader(io.StringIO(text)))
    column = next(place for place, cell in enumerate(rows[0]) if not is_reference(cell))
    assert read("f.csv", header=False)[0] == [row[column] for row in rows]
    if len(rows) > 1:
        assert read("f.csv", header=True, column=rows[0][column])[0] == [row[column] for row in rows[1:]]


@pytest.mark.parametrize(
    "header",
    ["text", "id,phrase", "phrase", "Name,Description", "file_name,en", "key,Sentence", "word,definition"],
)
def test_a_csv_file_with_a_header(header: str) -> None:
    rows = "A dog runs.\nA cat sits.\n" if "," not in header else "rex,A dog runs.\ntom,A cat sits.\n"
    columns = {"Name,Description": "Description", "word,definition": "definition"}
    assert read(write("f.csv", f"{header}\n{rows}"), column=columns.get(header))[0] == [
        "A dog runs.",
        "A cat sits.",
    ]


def test_blank_lines_before_the_header() -> None:
    assert read(write("f.csv", "\n ,\nid,text\n1,One.\n"))[0] == ["One."]
    assert read(write("g.csv", "No.,phrase\n1,A dog runs.\n2,Cats.\n"))[0] == ["A dog runs.", "Cats."]


def test_two_columns_of_one_name() -> None:
    assert "several columns 'text'" in refusal(write("f.csv", "text,text\na,b\n"))[0]


@pytest.mark.parametrize("size", [1, 200_000])
def test_a_carriage_return_ends_a_line_where_nothing_else_does(size: int) -> None:
    many = [f"Sentence number {i}." for i in range(size + 1)]
    write("f.txt", "\ufeff" + "\r".join(many))
    assert read("f.txt")[0] == many
    write("f.csv", "id,text\r" + "".join(f"{i},{text}\r" for i, text in enumerate(many)))
    assert read("f.csv")[0] == many
    write("g.txt", "one\rhalf\ntwo")
    assert read("g.txt")[0] == ["one\rhalf", "two"]
    if size > 1:
        write("h.txt", "\r".join(many) + "\n")
        assert "longer than 4 MiB" in refusal("h.txt")[0]


def test_long_cells() -> None:
    long = "many words " * 20_000
    before = csv.field_size_limit()
    assert read(write("f.csv", f'id,text\n1,{long}\n2,"{long}"\n3,short\n'))[0] == [long.strip()] * 2 + [
        "short"
    ]
    message, _ = refusal(write("g.csv", 'id,text\n1,short\n2,"open\n' + "words\n" * 800_000))
    assert message.startswith("g.csv, line 3: a cell is longer than 4,194,304 characters; close its quotes")
    assert csv.field_size_limit() == before


# -- names and what was read ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("my captions é.txt", "my-captions-e"),
        ("a/(1) Überschrift.csv.gz", "1-Uberschrift"),
        ("-x.txt", "x"),
        (".hidden.txt", "hidden"),
        ("v1.txt", "v1"),
        ("x" * 90 + ".txt", "x" * 64),
    ],
)
def test_a_corpus_gets_a_valid_name_from_its_path(path: str, name: str) -> None:
    write(path, "text\nOne.\n")
    assert open_corpus(None, path).name == name
    assert is_corpus_name(name)


def test_names_of_paths_without_a_name() -> None:
    write("日本語.txt", "One.\n")
    write("other/中文.txt", "One.\n")
    write("parts/a b.txt", "One.\n")
    names = [open_corpus(None, path).name for path in ("日本語.txt", "other/中文.txt")]
    assert all(map(is_corpus_name, names))
    assert len(set(names)) == 2
    assert open_corpus(None, "parts/*.txt").name == "a-b"
    assert open_corpus(None, "parts/").name == open_corpus(None, "parts/../parts").name == "parts"
    assert open_corpus(None, ".").name
    with pytest.raises(CorpusError) as caught:
        open_corpus(None, "-")
    assert caught.value.argument == "name"


def test_no_path_of_this_machine_is_kept(tmp_path: Path) -> None:
    write("data/a.txt", "x" * 500 + "\nTwo.\nThree.\nFour.\n")
    for source in (tmp_path / "data", tmp_path / "data" / "a.txt"):
        found = read(str(source))[1]
        assert found.files in (("data/a.txt",), ("a.txt",))
        assert str(tmp_path) not in repr(found)
        assert found.first == ("x" * 199 + "…", "Two.", "Three.")
