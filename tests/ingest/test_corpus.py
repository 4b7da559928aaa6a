"""Every kind of source, read from real files: its sentences, and the messages of errors."""

import csv
import gzip
import io
import json
import os
import subprocess
import sys
import tracemalloc
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from latentbank.errors import CorpusError
from latentbank.ingest.corpus import Counts, corpus_from_sentences, open_corpus, read_sentences

THREE = ["A dog runs.", "Zwei Straßen, 「三つ」.", "NA"]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """An empty folder to work in, with a hub that cannot be reached."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / ".cache")
    return tmp_path


def read(*sources, counts=None, **options):
    return list(read_sentences(open_corpus("c", list(sources), **options), counts or Counts()))


def refusal(*sources, **options):
    """Return the error's message, checked to be one sentence."""
    with pytest.raises(CorpusError) as caught:
        read(*sources, **options)
    message = str(caught.value)
    assert "\n" not in message
    assert message.endswith(".")
    assert caught.value.__cause__ is None
    return message


def write(name, content):
    data = content.encode() if isinstance(content, str) else content
    if name.endswith(".gz"):
        data = gzip.compress(data)
    if name.endswith(".zst"):
        data = zstandard.ZstdCompressor().compress(data)
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    Path(name).write_bytes(data)
    return name


def table(rows, delimiter=","):
    out = io.StringIO()
    csv.writer(out, delimiter=delimiter).writerows(rows)
    return out.getvalue()


def in_format(suffix, sentences):
    rows = list(enumerate(sentences))
    if suffix == ".txt":
        return "".join(f"{s}\n" for s in sentences)
    if suffix in (".csv", ".tsv"):
        return table([["id", "text"], *rows], "," if suffix == ".csv" else "\t")
    if suffix == ".json":
        return json.dumps([{"id": i, "text": s} for i, s in rows])
    return "".join(json.dumps({"id": i, "text": s}) + "\n" for i, s in rows)


# -- formats -------------------------------------------------------------------------------------


@pytest.mark.parametrize("compression", ["", ".gz", ".zst"])
@pytest.mark.parametrize("suffix", [".txt", ".csv", ".tsv", ".jsonl", ".ndjson", ".TXT"])
def test_line_formats_plain_and_compressed(suffix, compression):
    write(f"f{suffix}{compression}", in_format(suffix.lower(), THREE))
    assert read(f"f{suffix}{compression}") == THREE


def test_json_documents_of_objects_of_strings_and_lines():
    assert read(write("a.json", in_format(".json", THREE))) == THREE
    assert read(write("b.json", json.dumps(THREE))) == THREE
    assert read(write("c.json", in_format(".jsonl", THREE))) == THREE
    assert read(write("d[1]*.json", json.dumps(THREE))) == THREE


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())])
def test_parquet_strings_of_any_kind(kind):
    cells = pa.array([*THREE, None, "  "], pa.string()).cast(kind)
    pq.write_table(pa.table({"id": range(5), "my.text": cells}), "f[1].parquet", row_group_size=2)
    counts = Counts()
    assert read("f[1].parquet", counts=counts) == THREE
    assert counts == Counts(sentences=3, blank=2)


@pytest.mark.parametrize("compress", [gzip.compress, zstandard.ZstdCompressor().compress])
def test_several_compressed_members_are_one_file(compress, folder):
    suffix = ".gz" if compress is gzip.compress else ".zst"
    (folder / f"f.txt{suffix}").write_bytes(compress(b"one\ntw") + compress(b"o\nthree"))
    assert read(f"f.txt{suffix}") == ["one", "two", "three"]


# -- lines and cells -----------------------------------------------------------------------------


def test_only_line_feeds_end_a_line_and_only_outer_white_space_goes():
    text = "\ufeffone\r\n  two\u2028half\x0b \x85 three\t\r\n\r\n \u3000 \nfour\x0cfour\rfour"
    counts = Counts()
    assert read(write("f.txt", text), counts=counts) == [
        "one",
        "two\u2028half\x0b \x85 three",
        "four\x0cfour\rfour",
    ]
    assert counts == Counts(sentences=3, blank=2)


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl"])
def test_a_byte_order_mark_is_no_part_of_the_first_column(suffix):
    assert read(write(f"f{suffix}", "\ufeff" + in_format(suffix, THREE)), column="text") == THREE


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".json"])
def test_line_ends_quotes_and_delimiters_within_sentences_stay(suffix):
    sentences = ['He said: "No."', "a, b\tc", "one\ntwo\r\nthree", "null", "None", "nan", "007", "1e5"]
    assert read(write(f"f{suffix}", in_format(suffix, sentences))) == sentences


def test_cells_that_look_like_numbers_or_dates_stay_text():
    assert read(write("a.csv", "text\n007\n1.50\n2020-01-01\n")) == ["007", "1.50", "2020-01-01"]
    assert read(write("b.csv", "id,text\n1,007\n2,3\n")) == ["007", "3"]
    assert read(write("c.jsonl", '{"text": "2020-01-01"}\n{"text": "12"}\n')) == ["2020-01-01", "12"]


def test_nulls_missing_keys_and_empty_rows_are_blank():
    counts = Counts()
    lines = '{"text": null}\n\n{"n": 1}\n{"text": " "}\n{"text": "yes"}\n'
    assert read(write("a.jsonl", lines), counts=counts) == ["yes"]
    assert counts == Counts(sentences=1, blank=4)
    counts = Counts()
    assert read(write("a.csv", "id,text\n1,\n\n2,yes\n"), counts=counts) == ["yes"]
    assert counts == Counts(sentences=1, blank=2)
    counts = Counts()
    rows = [{"text": None}, {"text": "yes"}]
    assert read(write("a.json", json.dumps(rows)), counts=counts) == ["yes"]
    assert counts == Counts(sentences=1, blank=1)


def test_a_type_that_changes_far_into_the_file_is_noticed_on_its_line():
    lines = ['{"text": "a"}'] * 5000 + ['{"text": 5}']
    assert "f.jsonl, line 5001: column 'text' holds int" in refusal(write("f.jsonl", "\n".join(lines)))


def test_a_column_of_nulls_at_the_start_is_still_found():
    lines = '{"text": null}\n' * 300 + '{"text": "late"}\n'
    assert read(write("f.jsonl", lines)) == ["late"]


text_of_any_script = st.lists(
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1)
    .map(str.strip)
    .filter(bool),
    min_size=1,
    max_size=8,
)


@given(text_of_any_script)
@example(['"', "''", ",", "\ufeffa", 'a"b,\r\nc', "a\x1cb", "\\N", "N/A", "-"])
@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".parquet", "python"])
def test_any_sentence_comes_back_as_it_went_in(suffix, sentences):
    if suffix == "python":
        assert list(read_sentences(corpus_from_sentences("c", sentences), Counts())) == sentences
        return
    if suffix == ".parquet":
        pq.write_table(pa.table({"id": range(len(sentences)), "text": sentences}), "f.parquet")
    else:
        write(f"f{suffix}", in_format(suffix, sentences))
    assert read(f"f{suffix}", column="text") == sentences


# -- columns -------------------------------------------------------------------------------------


def line(suffix, row):
    if suffix == ".parquet":
        pq.write_table(pa.table({name: [value] for name, value in row.items()}), "f.parquet")
        return "f.parquet"
    if suffix == ".json":
        return write("f.json", json.dumps([row]))
    return write(f"f{suffix}", json.dumps(row) if suffix == ".jsonl" else table([row.keys(), row.values()]))


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".json", ".parquet"])
def test_finding_the_column(suffix):
    assert read(line(suffix, {"id": 5, "phrase": "yes"})) == ["yes"]
    assert read(line(suffix, {"content": "no", "caption": "yes", "url": "no"})) == ["yes"]
    assert read(line(suffix, {"url": "no", "text": "no", "other": "yes"}), column="other") == ["yes"]
    unclear = refusal(line(suffix, {"title": "x", "body": "y", "n": 1}))
    assert f"f{suffix}" in unclear
    assert "title, body, n" in unclear
    missing = refusal(line(suffix, {"url": "x", "n": 1}), column="text")
    assert f"f{suffix} has no column 'text'" in missing
    assert "url, n" in missing


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".parquet"])
def test_a_column_that_is_no_text_is_named(suffix):
    assert "column 'n' is not text" in refusal(line(suffix, {"text": "x", "n": 1}), column="n")
    assert "column 'n' " in refusal(line(suffix, {"text": "x", "n": ["a"]}), column="n")
    assert "(n, m)" in refusal(line(suffix, {"n": 1, "m": 2.5}))


def test_one_column_for_the_whole_corpus_and_none_for_lines():
    write("a.jsonl", '{"caption": "one"}\n')
    write("b.csv", "id,caption\n1,two\n")
    write("c.txt", "three\n")
    write("d.jsonl", '{"text": "no", "caption": "four"}\n')
    assert read("a.jsonl", "b.csv", "c.txt", "d.jsonl") == ["one", "two", "three", "four"]
    write("e.csv", "id,sentence\n1,five\n")
    assert "e.csv has no column 'caption'; choose one of these: id, sentence." in refusal("a.jsonl", "e.csv")
    write("f.json", '["six", "seven"]')
    assert "f.json has no columns, so it has no column 'caption'" in refusal("a.jsonl", "f.json")
    write("g.jsonl", '{"caption": ["eight"]}\n')
    assert refusal("g.jsonl").endswith("column 'caption' is not text; convert it.")


# -- sources -------------------------------------------------------------------------------------


def test_globs_are_sorted_and_sources_keep_their_order():
    for name in ("b.txt", "a.txt", "in/c.txt", "d[1].txt", "x.csv"):
        write(name, f"text\n{name}\n" if name.endswith("csv") else name)
    assert read("x.csv", "*.txt") == ["x.csv", "a.txt", "b.txt", "d[1].txt"]
    assert read("**/c.txt", "b.txt", "d[1].txt") == ["in/c.txt", "b.txt", "d[1].txt"]
    assert open_corpus("c", Path("in") / "c.txt").sources == (os.path.join("in", "c.txt"),)


def in_process(code, standard_input=b""):
    root = Path(__file__).resolve().parents[2]
    env = {**os.environ, "PYTHONPATH": str(root), "HF_HUB_OFFLINE": "1", "HF_DATASETS_CACHE": ".cache"}
    return subprocess.run(
        [sys.executable, "-c", code], input=standard_input, capture_output=True, env=env, check=True
    )


def test_standard_input_is_lines_of_text():
    code = (
        "from latentbank.ingest.corpus import *\n"
        "c = Counts()\n"
        "print(ascii(list(read_sentences(open_corpus('c', '-'), c))), c.blank)"
    )
    done = in_process(code, "one\r\n\nzwölf\u2028x".encode())
    assert done.stdout.decode().strip() == r"['one', 'zw\xf6lf\u2028x'] 1"


def test_broken_standard_input_names_its_line(monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"fine\n\xe9t\xe9\n")))
    assert "standard input, line 2: not valid UTF-8" in refusal("-")


def test_a_corpus_of_python_strings_can_be_read_again():
    corpus = corpus_from_sentences("c", (" one ", "", "two\nlines"))
    counts = Counts()
    assert list(read_sentences(corpus, counts)) == ["one", "two\nlines"]
    assert list(read_sentences(corpus, counts)) == ["one", "two\nlines"]
    assert counts == Counts(sentences=4, blank=2)
    assert "two" not in repr(corpus)


def test_invalid_python_sentences():
    with pytest.raises(CorpusError, match="single string"):
        corpus_from_sentences("c", "one")
    with pytest.raises(CorpusError, match="only once"):
        corpus_from_sentences("c", (s for s in ["one"]))
    with pytest.raises(CorpusError, match="sentence 2: a string is needed, not int"):
        list(read_sentences(corpus_from_sentences("c", ["one", 2]), Counts()))
    for bad in ("\ud800 half", "a\0b"):
        with pytest.raises(CorpusError, match="sentence 2 holds"):
            list(read_sentences(corpus_from_sentences("c", ["one", bad]), Counts()))


@pytest.mark.parametrize("suffix", [".txt", ".csv", ".jsonl", ".json"])
def test_a_limit_counts_sentences_and_stops_there(suffix):
    sentences = ["one", "", "two", "three"]
    write(f"f{suffix}", in_format(suffix, sentences))
    counts = Counts()
    assert read(f"f{suffix}", limit=2, counts=counts) == ["one", "two"]
    assert counts == Counts(sentences=2, blank=1)


def test_what_is_broken_after_the_limit_does_no_harm():
    assert read(write("f.txt", b"one\n\xff\n"), limit=1) == ["one"]
    assert "line 2" in refusal("f.txt", limit=2)


def test_reading_a_long_file_takes_little_memory():
    write("f.txt", "a sentence of some forty characters, yes\n" * 100_000)  # 4 MB
    tracemalloc.start()
    try:
        assert sum(1 for _ in read_sentences(open_corpus("c", "f.txt"), Counts())) == 100_000
        assert tracemalloc.get_traced_memory()[1] < 2_000_000
    finally:
        tracemalloc.stop()


# -- datasets ------------------------------------------------------------------------------------


def test_a_folder_with_configurations_and_splits():
    head = "---\nconfigs:\n"
    for config in ("one", "two"):
        head += f"- config_name: {config}\n  data_files:\n"
        for split in ("train", "test"):
            head += f"  - split: {split}\n    path: {config}-{split}.jsonl\n"
            write(
                f"data/{config}-{split}.jsonl", json.dumps({"id": 1, "caption": f"{config} {split}"}) + "\n"
            )
    write("data/README.md", head + "---\n")
    assert read("data", config="two") == ["two train"]
    assert read("data", config="one", split="test") == ["one test"]
    assert "'one', 'two'" in refusal("data")
    assert "three" in refusal("data", config="three")
    assert "no split 'dev'; choose one of these: train, test." in refusal("data", config="one", split="dev")
    assert "data/one-train.jsonl has no column 'text'" in refusal("data", config="one", column="text")


def test_a_folder_of_csv_keeps_words_that_pandas_takes_for_missing():
    write("data/train.csv", "id,text\n1,NA\n2,null\n3,\n4,007\n")
    counts = Counts()
    assert read("data", counts=counts) == ["NA", "null", "007"]
    assert counts.blank == 1
    assert not [path for path in Path(".cache").rglob("*") if path.is_file()]  # no copy


def test_a_folder_of_csv_does_not_guess_types_block_by_block():
    sentences = ["words"] * 12_000 + ["007"] * 30_000
    write("data/train.csv", in_format(".csv", sentences))
    assert read("data") == sentences


def test_columns_beside_the_text_are_never_read():
    Path("data").mkdir()
    pq.write_table(
        pa.table({"image": [b"x" * 999, b"y" * 999], "caption": ["one", None]}),
        "data/a.parquet",
        compression=None,
    )
    image = pq.read_metadata("data/a.parquet").row_group(0).column(0)
    whole = bytearray(Path("data/a.parquet").read_bytes())
    whole[4 : 4 + image.total_compressed_size] = b"\xff" * image.total_compressed_size
    Path("data/a.parquet").write_bytes(whole)
    with pytest.raises(OSError, match="deserialize"):
        pq.read_table("data/a.parquet", columns=["image"])
    assert read("data") == ["one"]
    assert read("data/a.parquet") == ["one"]


def test_a_folder_of_text_says_where_it_is_broken():
    write("data/train/a.txt", "one\u2028half\n\n two")
    write("data/train/b.txt.gz", "three\n")
    assert read("data") == ["one\u2028half", "two", "three"]
    write("data/train/c.txt", b"fine\n\xff\n")
    assert "c.txt, line 2: not valid UTF-8" in refusal("data")


def test_a_folder_without_data_and_a_hub_out_of_reach():
    Path("empty").mkdir()
    assert refusal("empty").startswith("empty: ")
    for source in ("nobody/nothing", "nothing"):
        assert refusal(source, revision="main").startswith(f"{source} is neither a file here")


def test_datasets_says_nothing_of_its_own_and_no_token_gets_out():
    write("data/a.parquet", b"PAR1 but no parquet file PAR1")
    code = (
        "from latentbank.ingest.corpus import *\n"
        "for config in (None, 'hf_secret'):\n"
        "    try: list(read_sentences(open_corpus('c', 'data', config=config), Counts()))\n"
        "    except CorpusError as error: print(error)"
    )
    done = in_process(code)
    assert done.stderr == b""
    output = done.stdout.decode()
    assert output.startswith("data/a.parquet: not a parquet file, or truncated or damaged")
    assert output.count("data: Hugging Face datasets cannot read it") == 1
    assert output.count("\n") == 2
    assert "secret" not in output


# -- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a", "0", "coco_2017-val.en", "A" * 64])
def test_names(name):
    assert corpus_from_sentences(name, ["x"]).name == name


@pytest.mark.parametrize("name", ["", "-a", ".a", "_a", "a b", "a/b", "é", "a\n", "A" * 65])
def test_invalid_names(name):
    write("f.txt", "one")
    with pytest.raises(CorpusError, match="cannot name a corpus"):
        open_corpus(name, "f.txt")
    with pytest.raises(CorpusError, match="cannot name a corpus"):
        corpus_from_sentences(name, ["one"])


@pytest.mark.parametrize("suffix", [".txt", ".csv", ".jsonl", ".txt.gz", ".tsv.zst"])
def test_broken_utf8_names_file_and_line(suffix):
    kind = suffix.split(".")[1]
    data = in_format("." + kind, ["one", "two", "three"]).encode().replace(b"two", b"t\xffo")
    number = 3 if kind in ("csv", "tsv") else 2
    assert f"f{suffix}, line {number}: not valid UTF-8" in refusal(write(f"f{suffix}", data))


def test_binary_files_and_other_encodings():
    png = b"\x89PNG\r\n\x1a\n" + bytes(range(256))
    for data in (png, b"PK\x03\x04\x14\x00\x00", "zwölf\n".encode("latin-1"), "one\n".encode("utf-16")):
        for suffix in (".txt", ".csv", ".jsonl", ".json", ".parquet"):
            assert f"f{suffix}" in refusal(write(f"f{suffix}", data))
    assert "f.txt, line 2: it holds a NUL" in refusal(write("f.txt", b"one\ntw\0o\n"))
    assert "f.txt, line 1: longer than" in refusal(write("f.txt", b"a" * 5_000_000))


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_truncated_damaged_and_misnamed_compression(suffix, folder):
    name = f"f.txt{suffix}"
    whole = Path(write(name, "".join(f"sentence {i}\n" for i in range(50_000)))).read_bytes()
    assert len(read(name)) == 50_000
    for data in (whole[:-9], whole[: len(whole) // 2], whole[:20], whole + b"rest", b"plain text\n"):
        (folder / name).write_bytes(data)
        assert f"{name}, after line" in refusal(name)


def test_a_damaged_parquet_file(folder):
    pq.write_table(pa.table({"text": [f"sentence {i}" for i in range(50_000)]}), "f.parquet")
    whole = Path("f.parquet").read_bytes()
    middle = len(whole) // 2
    for data in (whole[:-100], whole[:middle], whole[:middle] + b"\xff" * 50_000 + whole[middle + 50_000 :]):
        (folder / "f.parquet").write_bytes(data)
        assert "f.parquet: not a parquet file, or truncated" in refusal("f.parquet")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("f.csv", 'id,text\n1,"open\n2,two\n', "f.csv, line 3: "),
        ("f.csv", 'id,text\n1,"a" b\n', "f.csv, line 2: "),
        (
            "f.csv",
            "text\nHello, world\n",
            "f.csv, line 2: the row and the header differ in length (2 and 1 cells)",
        ),
        (
            "f.csv",
            "id,text\n1,one\n2\n",
            "f.csv, line 3: the row and the header differ in length (1 and 2 cells)",
        ),
        ("f.csv", "id;text\n1;one\n", "f.csv: its columns are not separated by ','"),
        ("f.jsonl", '{"text": "a"}\n{"text": \n', "f.jsonl, line 2: not a JSON object"),
        ("f.jsonl", '{"text": "a"} {"text": "b"}\n', "f.jsonl, line 1: not a JSON object"),
        ("f.jsonl", '["a"]\n', "f.jsonl, line 1: not a JSON object"),
        ("f.jsonl", "[" * 100_000, "f.jsonl, line 1: not a JSON object"),
        ("f.jsonl", '{"text": "\\ud800"}\n', "sentence 1 holds a NUL or half a surrogate"),
        ("f.json", '[{"text": "a', "f.json"),
    ],
)
def test_malformed_files(name, content, message):
    assert message in refusal(write(name, content))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("f.txt", ""),
        ("f.txt", " \n\r\n"),
        ("f.csv", ""),
        ("f.csv", "id,text\n"),
        ("f.jsonl", "\n"),
        ("f.json", ""),
        ("f.json", "[]"),
        ("f.txt.gz", ""),
    ],
)
def test_a_corpus_without_a_sentence(name, content):
    column = " in column 'text'" if "text" in content else ""
    assert refusal(write(name, content)) == f"Corpus c holds no sentence{column}; check {name}."


def test_an_empty_python_list():
    with pytest.raises(CorpusError, match="no sentence"):
        list(read_sentences(corpus_from_sentences("c", [" "]), Counts()))


def test_sources_that_are_not_there_or_not_readable():
    write("data/here.txt", "one")
    write("data/picture.png", "x")
    missing = refusal("data/here.txt", "nope.txt", "data/nope", "./nope", "/nope/nope/nope")
    assert missing.startswith("No such file: nope.txt, data/nope, ./nope, /nope/nope/nope;")
    assert "No file matches data/*.csv" in refusal("data/*.csv")
    assert "data/picture.png" in refusal("data/*")
    assert "notes.docx" in refusal(write("notes.docx", "x"))
    assert "f.parquet.gz" in refusal(write("f.parquet.gz", "x"))
    assert "no source" in refusal()
    address = refusal("https://example.org/corpus.txt?token=hf_secret")
    assert "web address" in address
    assert "secret" not in address
    assert "leave these out, or give a folder or a dataset." in refusal("data/here.txt", split="test")
    assert "limit" in refusal("data/here.txt", limit=0)


def test_a_file_that_goes_away_between_opening_and_reading():
    corpus = open_corpus("c", write("f.txt", "one"))
    Path("f.txt").unlink()
    with pytest.raises(CorpusError, match=r"f\.txt"):
        list(read_sentences(corpus, Counts()))
