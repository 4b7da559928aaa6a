"""A corpus: named sentences from files, standard input, a dataset or Python, read one at a time."""

from __future__ import annotations

import dataclasses
import glob
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from latentbank.errors import CorpusError
from latentbank.ingest.naming import is_corpus_name, name_of_path
from latentbank.ingest.sources.base import Asked, Read
from latentbank.ingest.sources.lines import STANDARD_INPUT, where_of
from latentbank.ingest.sources.reading import Request, Trace, read_source, require_uses, uses
from latentbank.ingest.sources.registry import described_formats, format_named, format_of
from latentbank.text import is_hub_id, is_unicode, listed
from latentbank.values import whole

_FIRST = 3  # sentences kept to be shown
_SHOWN = 200  # characters of each


@dataclass(frozen=True)
class Corpus:
    """A named set of sentences and where they come from.

    Created by `open_corpus` or `corpus_from_sentences`. Raises CorpusError if the name or the limit is not allowed.
    """

    name: str
    """1 to 64 characters of [a-zA-Z0-9._-], the first a letter or a digit."""
    sources: tuple[str, ...]
    """Files, dataset folders, "-" (standard input, which can be read only once) or ids of hub datasets."""
    column: str | None = None
    """The column that holds the sentences, the same in all files; None: found."""
    field: str | None = None
    """The list of records inside JSON documents; None: found."""
    header: bool | None = None
    """Whether the first row of CSV files names the columns; None: found."""
    format: str | None = None
    """Format of the files and of standard input; None: by the files' names, and lines of text."""
    config: str | None = None
    """Configuration of a dataset."""
    split: str | None = None
    """Split of a dataset; None: "train"."""
    revision: str | None = None
    """Revision of a hub dataset."""
    limit: int | None = None
    """Read at most this many sentences."""
    sentences: Iterable[str] | None = dataclasses.field(default=None, repr=False, compare=False)
    """Sentences from Python, read after the sources; they can be iterated over repeatedly."""
    numbers: Sequence[int] | None = dataclasses.field(default=None, repr=False, compare=False)
    """The numbers that the payloads give the sentences, where they were chosen from another corpus; None: from 0 on."""

    def __post_init__(self) -> None:
        """Check the name and the limit."""
        if not is_corpus_name(self.name):
            raise CorpusError(
                f"{self.name!r} cannot name a corpus: use 1 to 64 letters, digits, '.', '_' and '-', "
                "starting with a letter or a digit.",
                argument="name",
            )
        if self.limit is not None:
            object.__setattr__(self, "limit", whole(self.limit, "limit", 1, error=CorpusError))


@dataclass
class Counts:
    """What has been read of a corpus so far."""

    sentences: int = 0
    """Sentences."""
    blank: int = 0
    """Records left out because they were empty, white space or null."""
    trace: Trace = dataclasses.field(default_factory=Trace, compare=False)
    """The files and the column."""
    first: list[str] = dataclasses.field(default_factory=list, compare=False)
    """The first three sentences, cut after 200 characters."""

    def read(self) -> Read:
        """Return what was read so far."""
        trace = self.trace
        return Read(tuple(trace.files), tuple(trace.left_out), trace.column, trace.field, tuple(self.first))


def open_corpus(
    name: str | None,
    sources: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    *,
    column: str | None = None,
    field: str | None = None,
    header: bool | None = None,
    format: str | None = None,
    config: str | None = None,
    split: str | None = None,
    revision: str | None = None,
    limit: int | None = None,
) -> Corpus:
    """Return a corpus of files or datasets: check its name, expand globs, check that files exist. Read nothing yet.

    Args:
        name: the corpus's name in the bank; None: the first file's, with a hyphen for what a name cannot hold.
        sources: files, globs (expanded here, sorted; `**` descends into folders), folders, "-" for
            standard input, or ids of hub datasets; read in this order.
        column: the column that holds the sentences, in every file that has columns. None: the one named text,
            sentence, caption or content, or the only one that holds text.
        field: the list of records inside JSON documents, such as "annotations". None: the only one that holds text.
        header: whether the first row of CSV files names the columns. None: if it looks unlike the others.
        format: txt, csv, tsv, jsonl, json, parquet or arrow, for standard input and for files whose names do not tell.
            None: by the names; standard input is lines of text.
        config: configuration of a dataset.
        split: split of a folder or a dataset ("train" if None).
        revision: revision of a hub dataset.
        limit: read at most this many sentences.

    Raises:
        CorpusError: the name is not allowed, files are missing or of an unknown format, a glob matches
            nothing, or an option is given that no source has a use for.
    """
    several = [sources] if isinstance(sources, str | os.PathLike) else sources
    given = [os.fspath(source) for source in several]
    if not given:
        raise CorpusError("The corpus has no source; give a file, a dataset or - for standard input.")
    found = _found(given)
    if name is None:
        name = name_of_path(found[0])
    asked = Asked(column, field, header)
    _check_options(found, Request(asked, format, config, split, revision))
    return Corpus(name, tuple(found), column, field, header, format, config, split, revision, limit)


def corpus_from_sentences(
    name: str, sentences: Iterable[str], numbers: Sequence[int] | None = None
) -> Corpus:
    """Return a corpus of Python strings.

    Args:
        name: the corpus's name in the bank.
        sentences: a list, or anything else that starts anew each time it is iterated over.
        numbers: the number of each sentence, none of them blank, in a corpus they were chosen from; None: from 0 on.

    Raises:
        CorpusError: the name is not allowed, or the sentences are a single string or can be iterated over only once.
    """
    if isinstance(sentences, str | bytes):
        raise CorpusError(f"Corpus {name} is a single string; give a list of sentences.")
    if iter(sentences) is sentences:
        raise CorpusError(f"Corpus {name} can be iterated over only once; give a list of sentences.")
    return Corpus(name, (), sentences=sentences, numbers=numbers)


def read_sentences(corpus: Corpus, counts: Counts) -> Iterator[str]:
    """Yield a corpus's sentences in order, stripped of white space, without blank ones.

    Memory does not grow with the corpus, except that a .json file (not .jsonl) is read whole.

    Args:
        corpus: what to read.
        counts: updated while reading.

    Raises:
        CorpusError: a source cannot be read or is not text, or there is no sentence at all.
    """
    read = 0
    for record in _records(corpus, counts):
        sentence = record.strip() if record else ""
        if not sentence:
            counts.blank += 1
            continue
        if "\0" in sentence or not (sentence.isascii() or is_unicode(sentence)):
            raise CorpusError(
                f"Corpus {corpus.name}: sentence {read + 1} holds a NUL or half a surrogate pair; remove it."
            )
        read += 1
        counts.sentences += 1
        if read <= _FIRST:
            counts.first.append(sentence if len(sentence) <= _SHOWN else f"{sentence[: _SHOWN - 1]}…")
        yield sentence
        if read == corpus.limit:
            break
    limited = read == corpus.limit and len(corpus.sources) > 1  # later sources may have a use for it
    if corpus.sources and not limited:
        require_uses(Asked(corpus.column, corpus.field, corpus.header), counts.trace.uses)
    if not read:
        column = f" in column {counts.trace.column!r}" if counts.trace.column else ""
        raise CorpusError(
            f"Corpus {corpus.name} holds no sentence{column}; check {_first_sources(corpus) or 'the list'}."
        )


def check_readable(corpus: Corpus) -> None:
    """Read the first sentence, to find what is wrong with the sources before a model is loaded.

    Standard input is left alone: it can be read only once.

    Raises:
        CorpusError: the first source cannot be read, or its column is not found.
    """
    if STANDARD_INPUT not in corpus.sources:
        for _ in read_sentences(dataclasses.replace(corpus, limit=1), Counts()):
            pass


def _records(corpus: Corpus, counts: Counts) -> Iterator[str | None]:
    """Yield the records of all sources as they are; None is a null."""
    asked = Asked(corpus.column, corpus.field, corpus.header)
    request = Request(asked, corpus.format, corpus.config, corpus.split, corpus.revision)
    for source in corpus.sources:
        yield from read_source(source, request, counts.trace)
    for number, sentence in enumerate(corpus.sentences or (), 1):
        if sentence is not None and not isinstance(sentence, str):
            kind = type(sentence).__name__
            raise CorpusError(f"Corpus {corpus.name}, sentence {number}: a string is needed, not {kind}.")
        yield sentence


def _found(given: Sequence[str]) -> list[str]:
    """Return the sources with globs expanded.

    Raises:
        CorpusError: one of them is not there.
    """
    found: list[str] = []
    missing: list[str] = []
    for source in given:
        if "://" in source:  # not repeated in the message: an address may hold a token
            raise CorpusError(
                "A web address cannot be read as a corpus; download the file and give its path."
            )
        path = os.path.expanduser(source)
        if source == STANDARD_INPUT or os.path.exists(path):
            found.append(path)
        elif glob.has_magic(source):
            files = sorted(glob.glob(path, recursive=True))
            if "**" in source:  # the files in folders are matched themselves
                files = [file for file in files if not os.path.isdir(file)]
            if not files:
                raise CorpusError(f"No file matches {source}; check the pattern.")
            found += files
        elif _may_be_hub_id(source):
            found.append(source)
        else:
            missing.append(source)
    if missing:
        more = f" and {len(missing) - 3} others" if len(missing) > 4 else ""
        names = listed(missing[:3] if more else missing)
        like_text = " " in missing[0] and not re.search(r"\.\w+$", missing[0])
        hint = " Sentences in memory become a corpus with corpus_from_sentences." if like_text else ""
        raise CorpusError(f"No such file: {names}{more}; check the path.{hint}")
    return found


def _check_options(sources: Sequence[str], request: Request) -> None:
    """Check that every option is of use for at least one source.

    Raises:
        CorpusError: one is not, or a file has an unknown format.
    """
    files = [source for source in sources if source == STANDARD_INPUT or os.path.exists(source)]
    files = [file for file in files if not os.path.isdir(file)]
    only_files = len(files) == len(sources)
    for file in files:
        if file != STANDARD_INPUT and not os.path.isfile(file):
            raise CorpusError(f"{file} is a pipe or a device; give it on standard input, as -.")
    if request.format is not None:
        formats = [format_named(request.format)]
        if not files:
            raise CorpusError(
                "The format is for files and standard input, not for datasets.", argument="format"
            )
        if STANDARD_INPUT in files and not formats[0].compressed:
            raise CorpusError(
                f"Standard input cannot be read in the format {request.format}; save it as a file.",
                argument="format",
            )
    else:
        unknown = [file for file in files if file != STANDARD_INPUT and format_of(file) is None]
        if unknown:
            raise CorpusError(
                f"{listed(unknown)}: unknown format; give {described_formats()}.", argument="format"
            )
        known = [format_named("txt") if file == STANDARD_INPUT else format_of(file) for file in files]
        formats = [each for each in known if each is not None]
    if only_files and (request.config or request.split or request.revision):
        raise CorpusError(
            "The sources are files, which have no config, split or revision; leave these out, or give a folder or a "
            "dataset."
        )
    if only_files:
        require_uses(request.asked, {use for each in formats for use in uses(each)})


def _may_be_hub_id(source: str) -> bool:
    """Return whether a source that is not a file can be the id of a hub dataset."""
    folder = os.path.dirname(source)  # if it exists, a file in it is meant
    return is_hub_id(source) and not os.path.isdir(folder) and format_of(source) is None


def _first_sources(corpus: Corpus) -> str:
    return listed(map(where_of, corpus.sources[:3])) + (" and others" if len(corpus.sources) > 3 else "")
