"""Recipes: what cleaning leaves, Visual Genome's document read a little at a time, and jobs that are broken off."""

from __future__ import annotations

import gzip
import json
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from latentbank.bank.settings import Settings, load_settings
from latentbank.errors import CorpusError
from latentbank.ingest.corpus import Counts, read_sentences
from latentbank.ingest.planning import content_hash
from latentbank.ingest.recipes import preparing, regions
from latentbank.ingest.recipes.cleaning import Cleaned, Cleaner, lower_phrase, sentences_of_text
from latentbank.ingest.recipes.preparing import Prepared, prepare
from latentbank.ingest.recipes.table import RECIPES
from latentbank.progress import Silent

# -- cleaning ------------------------------------------------------------------------------------


@given(st.lists(st.none() | st.text("aB \n\t\0.\ud800é\u2028", max_size=6), max_size=30), st.integers(0, 30))
def test_phrases_are_lower_case_and_each_comes_once(records: list[str | None], at: int) -> None:
    cleaner = Cleaner(lower_phrase)
    first = [sentence for record in records[:at] for sentence in cleaner.sentences(record)]
    # A job that goes on knows what was kept before.
    cleaner = Cleaner(lower_phrase, cleaner.counts, first)
    kept = first + [sentence for record in records[at:] for sentence in cleaner.sentences(record)]
    assert len(set(kept)) == len(kept) == cleaner.counts.sentences
    for sentence in kept:
        assert sentence == sentence.lower() == " ".join(sentence.split()) != ""
        assert lower_phrase(sentence) == [sentence]
        sentence.encode()
    counts = cleaner.counts
    assert counts.records == len(records) == counts.sentences + counts.empty + counts.duplicates
    assert counts.fragments == 0


def test_sentences_of_an_article() -> None:
    text = (
        'History\n\nDr. Smith met J. R. Tolkien at Oxford. "It was late!" he said. (It was.) Then 3 trains came, i.e. '
        "nearly all.\n\n* a list\nSee also\nThe U.S. Navy owns it.   It is 3.5 km long.\u2028No. 7 is the longest?"
    )
    assert [sentence for sentence in sentences_of_text(text) if sentence] == [
        "Dr. Smith met J. R. Tolkien at Oxford.",
        '"It was late!" he said.',
        "Then 3 trains came, i.e. nearly all.",
        "The U.S. Navy owns it.",
        "It is 3.5 km long.",
        "No. 7 is the longest?",
    ]
    assert (
        sentences_of_text(text).count("") == 4
    )  # two headings, an entry of a list, and two words in brackets


@given(
    st.lists(st.sampled_from(["One dog runs.", "It is late!", 'She said "no."', "(All of it.)"]), min_size=1)
)
def test_sentences_joined_are_split_again(sentences: list[str]) -> None:
    assert sentences_of_text(" ".join(sentences)) == sentences


# -- Visual Genome -------------------------------------------------------------------------------

PHRASES = ["The clock is green", "a man\n", "", "a  man", "Shade is over the café", 'sign says "STOP"']


def document(phrases: list[str]) -> bytes:
    """Return a document as Visual Genome's, with two phrases for each image."""
    images = [
        {"id": i, "regions": [{"region_id": 1, "x": 2, "phrase": phrase} for phrase in phrases[i : i + 2]]}
        for i in range(0, len(phrases), 2)
    ]
    return json.dumps(images, indent=1, ensure_ascii=False).encode()


@pytest.fixture
def place(tmp_path: Path) -> Settings:
    return load_settings(data_dir=tmp_path / "data")


def sentences(ready: Prepared) -> list[str]:
    return list(read_sentences(ready.corpus, Counts()))


def test_regions_are_read_a_little_at_a_time(
    place: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(regions, "_CHUNK", 7)
    plain, packed, archive = (tmp_path / f"regions.json{ending}" for ending in ("", ".gz", ".zip"))
    plain.write_bytes(document(PHRASES))
    packed.write_bytes(gzip.compress(document(PHRASES)))
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("regions.json", document(PHRASES))
    for path in (plain, packed, archive):
        assert list(regions.read_regions(str(path))) == PHRASES
    ready = prepare("visual-genome", [str(plain)], settings=place)
    assert sentences(ready) == ["the clock is green", "a man", "shade is over the café", 'sign says "stop"']
    assert ready.cleaned == Cleaned(records=6, sentences=4, empty=1, duplicates=1)
    assert ready.choice == RECIPES["visual-genome"].choice
    # A file of phrases, as the authors have it, gives the same corpus, here and on another machine.
    phrases = tmp_path / "vg_phrases.txt"
    phrases.write_text("\n".join(" ".join(phrase.lower().split()) for phrase in PHRASES), encoding="utf-8")
    elsewhere = prepare("visual-genome", [str(phrases)], settings=load_settings(data_dir=tmp_path / "other"))
    assert content_hash(elsewhere.corpus) == content_hash(ready.corpus)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (document(PHRASES)[:-20], "the file is truncated or damaged"),
        (document(PHRASES).replace(b"green", b"green\xff"), "not valid UTF-8"),
        (b'{"regions": []}', "is no list of images with their regions"),
        (b'[{"region": []}]', "is no list of images with their regions"),
        (document([" "]), "no sentence is left after cleaning"),
    ],
)
def test_documents_that_are_none(data: bytes, message: str, place: Settings, tmp_path: Path) -> None:
    file = tmp_path / "regions.json"
    file.write_bytes(data)
    with pytest.raises(CorpusError, match=message):
        prepare("visual-genome", [str(file)], settings=place)


@pytest.mark.parametrize(
    ("name", "sources", "message"),
    [
        ("visual-genom", [], "choose one of these: visual-genome, wikipedia, pixmo-cap, concepts"),
        ("visual-genome", [], r"needs a file: region_descriptions.json .* Its licence is CC BY 4\.0"),
        ("wikipedia", ["none.parquet"], "No such file: none.parquet; the recipe wikipedia reads wikimedia/"),
    ],
)
def test_sources_that_are_none(name: str, sources: list[str], message: str, place: Settings) -> None:
    with pytest.raises(CorpusError, match=message):
        prepare(name, sources, settings=place)


def test_the_installed_sentences(place: Settings) -> None:
    ready = prepare("concepts", limit=1000, settings=place)
    assert len(sentences(ready)) == 1000
    assert ready.corpus.name == "concepts"


# -- broken off ----------------------------------------------------------------------------------


class Stop(Silent):
    """Progress that interrupts at the n-th call."""

    def __init__(self, calls: int) -> None:
        self.calls = calls

    def update(self, done: float, total: float | None = None) -> None:
        self.calls -= 1
        if self.calls < 0:
            raise KeyboardInterrupt


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A dataset `owner/captions` of three files, streamed by `datasets` as those of the hub are; returns its captions.

    Each has two sentences, of which the first is the same in every fourth caption.
    """
    captions = [f"Dog number {i % 4} runs fast. Cat number {i} sleeps well." for i in range(60)]
    folder = tmp_path / "hub"
    folder.mkdir()
    for part in range(3):
        table = pa.table({"image_url": ["x"] * 20, "caption": captions[20 * part : 20 * part + 20]})
        pq.write_table(table, folder / f"train-{part}.parquet", row_group_size=5)
    load: Callable[..., Any] = datasets.load_dataset

    def here(where: str, config: str | None, **given: Any) -> Any:
        assert (where, given.pop("revision")) == ("owner/captions", None)
        return load(str(folder), config, **given)

    monkeypatch.setattr(datasets, "load_dataset", here)
    return captions


@pytest.mark.parametrize("stop", [0, 5, 17, 33, 59])
def test_a_stream_that_was_broken_off_goes_on(
    stop: int, hub: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preparing, "_PART", 7)
    whole = prepare("pixmo-cap", ["owner/captions"], settings=load_settings(data_dir=tmp_path / "whole"))
    expected = [f"Dog number {i} runs fast." for i in range(4)] + [
        f"Cat number {i} sleeps well." for i in range(60)
    ]
    assert sorted(sentences(whole)) == sorted(expected)
    assert whole.cleaned == Cleaned(records=60, sentences=64, duplicates=56)
    place = load_settings(data_dir=tmp_path / "broken")
    with pytest.raises(KeyboardInterrupt):
        prepare("pixmo-cap", ["owner/captions"], settings=place, progress=Stop(stop))
    state = max(tmp_path.glob("broken/.recipes/*/cleaned.json"), default=None)
    before = json.loads(state.read_text())["cleaned"]["records"] if state else 0
    assert stop - 7 <= before <= stop
    count = Stop(1000)
    again = prepare("pixmo-cap", ["owner/captions"], settings=place, progress=count)
    assert 1000 - count.calls == 60 - before  # nothing that was kept is read again
    assert again.cleaned == whole.cleaned
    assert sentences(again) == sentences(whole)
    assert content_hash(again.corpus) == content_hash(whole.corpus)
    ended = Stop(0)
    assert sentences(prepare("pixmo-cap", ["owner/captions"], settings=place, progress=ended)) == sentences(
        whole
    )


def test_a_limit_ends_the_stream_and_a_larger_one_goes_on(
    hub: list[str], place: Settings, tmp_path: Path
) -> None:
    few = prepare("pixmo-cap", ["owner/captions"], limit=9, settings=place)
    assert len(sentences(few)) == 9
    assert few.cleaned.records == 5
    more = prepare("pixmo-cap", ["owner/captions"], limit=30, settings=place)
    whole = prepare("pixmo-cap", ["owner/captions"], settings=load_settings(data_dir=tmp_path / "whole"))
    assert sentences(more) == sentences(whole)[:30]
    assert sentences(prepare("pixmo-cap", ["owner/captions"], limit=9, settings=place)) == sentences(few)
    with pytest.raises(CorpusError, match="has no column 'text'; it has image_url, caption"):
        prepare("pixmo-cap", ["owner/captions"], column="text", settings=place)


def test_a_file_that_was_broken_off_or_changed(
    place: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preparing, "_PART", 5)
    file = tmp_path / "vg_phrases.txt"
    file.write_text("\n".join(f"phrase {i % 13} of all" for i in range(30)))
    with pytest.raises(KeyboardInterrupt):
        prepare("visual-genome", [str(file)], settings=place, progress=Stop(11))
    ready = prepare("visual-genome", [str(file)], settings=place)
    assert sentences(ready) == [f"phrase {i} of all" for i in range(13)]
    assert ready.cleaned == Cleaned(records=30, sentences=13, duplicates=17)
    # Kept sentences that are missing are made again, and another file is cleaned anew.
    Path(ready.corpus.sources[0]).unlink()
    assert sentences(prepare("visual-genome", [str(file)], settings=place)) == sentences(ready)
    file.write_text("a longer phrase\n")
    assert sentences(prepare("visual-genome", [str(file)], settings=place)) == ["a longer phrase"]


def test_a_folder_of_files(place: Settings, tmp_path: Path) -> None:
    folder = tmp_path / "dump"
    folder.mkdir()
    for part in range(2):
        table = pa.table({"title": ["T"], "text": [f"Heading\n\nThis is article {part}. It ends here."]})
        pq.write_table(table, folder / f"train-{part}.parquet")
    ready = prepare("wikipedia", [str(folder)], settings=place)
    assert sentences(ready) == ["This is article 0.", "It ends here.", "This is article 1."]
    assert ready.cleaned == Cleaned(records=2, sentences=3, fragments=2, duplicates=1)
    assert ready.corpus.limit == 1_000_000
    assert re.fullmatch(r"wikipedia-00000\.txt", Path(ready.corpus.sources[0]).name)
