"""The records that recipes clean: of files on this machine, and of datasets, streamed from where a job stopped."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

from latentbank.errors import CorpusError
from latentbank.ingest.recipes.regions import read_regions
from latentbank.ingest.sources.base import Asked
from latentbank.ingest.sources.dataset import plain_errors
from latentbank.ingest.sources.folder import TRAIN
from latentbank.ingest.sources.reading import Request, Trace, read_source
from latentbank.ingest.sources.registry import format_of


@dataclass(frozen=True)
class Source:
    """What records are read from.

    Attributes:
        sources: files and folders, or the id of one dataset on the hub.
        column: the column with the text, in files that have columns; None: found.
        config: configuration of a dataset.
        split: split of a dataset or a folder; None: "train".
        revision: revision of a dataset on the hub.
        regions: whether JSON documents are Visual Genome's lists of images with regions.
    """

    sources: tuple[str, ...]
    column: str | None = None
    config: str | None = None
    split: str | None = None
    revision: str | None = None
    regions: bool = False

    @property
    def is_stream(self) -> bool:
        """Whether it is a dataset on the hub, which is streamed."""
        return len(self.sources) == 1 and not os.path.exists(self.sources[0])

    def identity(self) -> str:
        """Return a text that is another one if other records may be read: the files' names, sizes and times.

        Raises:
            CorpusError: a file is not there.
        """
        files = () if self.is_stream else tuple(_file(path) for path in self.sources)
        named = self.sources if self.is_stream else ()
        return json.dumps([files, named, self.column, self.config, self.split, self.revision])


@dataclass
class Records:
    """Records, one after the other, and where they can be gone on from.

    Attributes:
        state: returns what `read` takes to go on after the record that was yielded last; JSON-ready.
    """

    texts: Iterator[str | None]
    state: Callable[[], Any]


def read(source: Source, after: int, state: Any) -> Records:
    """Read records.

    Args:
        source: what is read.
        after: how many were read before.
        state: what `Records.state` returned then; None: nothing was read before.

    Raises:
        CorpusError: while reading, something cannot be read.
    """
    if source.is_stream:
        return _streamed(source, state)
    texts = (text for path in source.sources for text in _of_path(path, source))
    return Records(islice(texts, after, None), lambda: None)


def _of_path(path: str, source: Source) -> Iterator[str | None]:
    if source.regions and path.lower().removesuffix(".gz").removesuffix(".zst").endswith((".json", ".zip")):
        yield from read_regions(path)
        return
    # Text has no columns, and is taken as it is.
    has_columns = os.path.isdir(path) or getattr(format_of(path), "columns", True)
    asked = Asked(source.column if has_columns else None, None, None)
    form = None if has_columns else "txt"
    yield from read_source(path, Request(asked, form, source.config, source.split, None), Trace())


def _streamed(source: Source, state: Any) -> Records:
    """Stream a dataset of the hub; no copy is kept, and what was read before is not fetched again."""
    import datasets

    where, split = source.sources[0], source.split or TRAIN
    with plain_errors(where):
        stream = datasets.load_dataset(
            where, source.config, split=split, revision=source.revision, streaming=True
        )
        columns = stream.column_names
        column = source.column or "text"
        if columns is not None and column not in columns:
            raise CorpusError(
                f"{where} has no column {column!r}; it has {', '.join(columns)}.", argument="column"
            )
        stream = stream.select_columns([column])
        if state is not None:
            stream.load_state_dict(state)

    def texts() -> Iterator[str | None]:
        with plain_errors(where):
            for row in stream:
                text = row[column]
                if text is not None and not isinstance(text, str):
                    raise CorpusError(
                        f"{where}: column {column!r} holds no text; name another one.", argument="column"
                    )
                yield text

    return Records(texts(), stream.state_dict)


def _file(path: str) -> list[Any]:
    """Return what tells a file, or the files of a folder, from others."""
    if os.path.isdir(path):
        inside = sorted(os.path.join(folder, name) for folder, _, names in os.walk(path) for name in names)
        return [os.path.basename(os.path.realpath(path)), [_file(file) for file in inside]]
    try:
        status = os.stat(path)
    except OSError as error:
        raise CorpusError(f"{path} cannot be read ({error.strerror}); check the path.") from None
    return [os.path.basename(path), status.st_size, status.st_mtime_ns]
