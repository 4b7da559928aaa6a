"""A corpus: named sentences from files, standard input, a dataset or Python, read one at a time."""

from __future__ import annotations

import glob
import os
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from latentbank.errors import CorpusError
from latentbank.ingest.sources.dataset import read_dataset
from latentbank.ingest.sources.lines import read_lines
from latentbank.ingest.sources.registry import described_formats, format_of, read_file
from latentbank.text import is_hub_id, listed
from latentbank.values import whole

_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9._-]{0,63}")


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
    """The column that holds the sentences; None: found in each file."""
    config: str | None = None
    """Configuration of a dataset."""
    split: str | None = None
    """Split of a dataset; None: "train"."""
    revision: str | None = None
    """Revision of a hub dataset."""
    limit: int | None = None
    """Read at most this many sentences."""
    sentences: Iterable[str] | None = field(default=None, repr=False, compare=False)
    """Sentences from Python, read after the sources; they can be iterated over repeatedly."""

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


def is_corpus_name(text: str) -> bool:
    """Return whether a corpus can have this name: 1 to 64 of [a-zA-Z0-9._-], the first a letter or a digit."""
    return bool(_NAME.fullmatch(text))


def open_corpus(
    name: str,
    sources: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    *,
    column: str | None = None,
    config: str | None = None,
    split: str | None = None,
    revision: str | None = None,
    limit: int | None = None,
) -> Corpus:
    """Return a corpus of files or datasets: check its name, expand globs, check that files exist. Read nothing yet.

    Args:
        name: the corpus's name in the bank.
        sources: files, globs (expanded here, sorted; `**` descends into folders), dataset folders, "-" for
            standard input, or ids of hub datasets; read in this order.
        column: the column that holds the sentences. None: the only string column, or the one
            named text, sentence, caption or content.
        config: configuration of a dataset.
        split: split of a dataset ("train" if None).
        revision: revision of a hub dataset.
        limit: read at most this many sentences.

    Raises:
        CorpusError: the name is not allowed, files are missing or of an unknown format, a glob matches
            nothing, or dataset options are given for plain files.
    """
    several = [sources] if isinstance(sources, str | os.PathLike) else sources
    given = [os.fspath(source) for source in several]
    if not given:
        raise CorpusError(f"Corpus {name} has no source; give a file, a dataset or - for standard input.")
    found: list[str] = []
    missing: list[str] = []
    for source in given:
        if "://" in source:  # not repeated in the message: an address may hold a token
            raise CorpusError(
                f"Corpus {name}: a web address cannot be read; download the file and give its path."
            )
        path = os.path.expanduser(source)
        if source == "-" or os.path.exists(path):
            found.append(path)
        elif glob.has_magic(source):
            files = sorted(f for f in glob.glob(path, recursive=True) if not os.path.isdir(f))
            if not files:
                raise CorpusError(f"No file matches {source}; check the pattern.")
            found += files
        elif _may_be_hub_id(source):
            found.append(source)
        else:
            missing.append(source)
    if missing:
        more = f" and {len(missing) - 3} others" if len(missing) > 4 else ""
        raise CorpusError(f"No such file: {listed(missing[:3] if more else missing)}{more}; check the path.")
    files = [
        source for source in found if source != "-" and os.path.exists(source) and not os.path.isdir(source)
    ]
    unknown = [file for file in files if format_of(file) is None]
    if unknown:
        raise CorpusError(f"{listed(unknown)}: unknown format; give {described_formats()}.")
    if (config or split or revision) and len(files) + found.count("-") == len(found):
        raise CorpusError(
            f"Corpus {name} is read from files: config, split and revision are for datasets only."
        )
    return Corpus(name, tuple(found), column, config, split, revision, limit)


def corpus_from_sentences(name: str, sentences: Iterable[str]) -> Corpus:
    """Return a corpus of Python strings.

    Args:
        name: the corpus's name in the bank.
        sentences: a list, or anything else that starts anew each time it is iterated over.

    Raises:
        CorpusError: the name is not allowed, or the sentences are a single string or can be iterated over only once.
    """
    if isinstance(sentences, str | bytes):
        raise CorpusError(f"Corpus {name} is a single string; give a list of sentences.")
    if iter(sentences) is sentences:
        raise CorpusError(f"Corpus {name} can be iterated over only once; give a list of sentences.")
    return Corpus(name, (), sentences=sentences)


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
    for record in _records(corpus):
        sentence = record.strip() if record else ""
        if not sentence:
            counts.blank += 1
            continue
        if "\0" in sentence or not (sentence.isascii() or _encodable(sentence)):
            raise CorpusError(
                f"Corpus {corpus.name}: sentence {read + 1} holds a NUL or half a surrogate pair; remove it."
            )
        read += 1
        counts.sentences += 1
        yield sentence
        if read == corpus.limit:
            return
    if not read:
        raise CorpusError(
            f"Corpus {corpus.name} holds no sentence; check {_first_sources(corpus) or 'the list'}."
        )


def _records(corpus: Corpus) -> Iterator[str | None]:
    """Yield the records of all sources as they are; None is a null."""
    for source in corpus.sources:
        if source == "-":
            for _, line in read_lines("standard input", sys.stdin.buffer):
                yield line
        elif os.path.isdir(source) or not os.path.exists(source):
            yield from read_dataset(
                source, corpus.column, corpus.config, corpus.split or "train", corpus.revision
            )
        else:
            yield from read_file(source, corpus.column)
    for number, sentence in enumerate(corpus.sentences or (), 1):
        if sentence is not None and not isinstance(sentence, str):
            kind = type(sentence).__name__
            raise CorpusError(f"Corpus {corpus.name}, sentence {number}: a string is needed, not {kind}.")
        yield sentence


def _may_be_hub_id(source: str) -> bool:
    """Return whether a source that is not a file can be the id of a hub dataset."""
    folder = os.path.dirname(source)  # if it exists, a file in it is meant
    return is_hub_id(source) and not os.path.isdir(folder) and format_of(source) is None


def _encodable(text: str) -> bool:
    """Return whether a string can be written as UTF-8: half a surrogate pair cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _first_sources(corpus: Corpus) -> str:
    return listed(corpus.sources[:3]) + (" and others" if len(corpus.sources) > 3 else "")
