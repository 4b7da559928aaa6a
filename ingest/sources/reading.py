"""Reading the sources of a corpus one after the other, and keeping what was read."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace

from latentbank.errors import CorpusError
from latentbank.ingest.sources import csv, json, text
from latentbank.ingest.sources.base import Asked, Format, LeftOut, TableFormat, Texts
from latentbank.ingest.sources.columns import find_column
from latentbank.ingest.sources.dataset import open_dataset, open_stream, plain_errors
from latentbank.ingest.sources.folder import ABOUT, TRAIN, files_in, has_configurations, tells_about_data
from latentbank.ingest.sources.lines import STANDARD_INPUT, is_remote, refuse_pointer, where_of
from latentbank.ingest.sources.records import NoRecords
from latentbank.ingest.sources.registry import described_formats, format_named, format_of

_FOR_DATASETS = 10_000  # files of a format unknown here that `datasets` is asked to read


@dataclass(frozen=True)
class Request:
    """How sources are read."""

    asked: Asked
    format: str | None
    config: str | None
    split: str | None
    revision: str | None


@dataclass
class Trace:
    """What was read so far."""

    files: list[str] = dataclasses.field(default_factory=list)
    """The files that were opened, in their order."""
    left_out: list[LeftOut] = dataclasses.field(default_factory=list)
    """The files that were left out of folders and datasets."""
    column: str | None = None
    """The column that holds the sentences, once a file with columns was opened."""
    field: str | None = None
    """The list of records inside the JSON documents."""
    uses: set[str] = dataclasses.field(default_factory=set)
    """Which of column, field and header the files could make use of."""


def uses(known: Format | TableFormat) -> set[str]:
    """Return which of column, field and header files of a format can make use of."""
    found = {"column"} if known.columns else set()
    if known is json.DOCUMENT:
        found.add("field")
    if known in (csv.CSV, csv.TSV):
        found.add("header")
    return found


def require_uses(asked: Asked, found: set[str]) -> None:
    """Check that what was asked for is of use for some file.

    Raises:
        CorpusError: it is not.
    """
    needed = {"column": "has columns", "field": "is a JSON document", "header": "is a CSV or TSV file"}
    for argument, what in needed.items():
        if getattr(asked, argument) is not None and argument not in found:
            raise CorpusError(
                f"No source {what}; leave out the {argument}, or name the sources' format (csv, tsv, jsonl, json).",
                argument=argument,
            )


def read_source(source: str, request: Request, trace: Trace) -> Texts:
    """Yield the texts of a source in order; None stands for a missing one.

    Args:
        source: a file, a folder, "-" for standard input, or the id of a hub dataset.
        request: how it is read.
        trace: updated while reading. The column it holds is the one that is taken.

    Raises:
        CorpusError: the source cannot be read or is no text, or its column is not found.
    """
    if os.path.isdir(source):
        if request.config or has_configurations(source):
            yield from _read_dataset(source, request, trace)
        else:
            yield from _read_folder(source, request, trace)
    elif source == STANDARD_INPUT or os.path.exists(source):
        name = os.path.basename(source) if os.path.isabs(source) else where_of(source)
        yield from _read_file(source, name, request, trace)
    elif format_of(source) is not None:
        raise CorpusError(f"{source} is not there any more; check it.")
    else:
        yield from _read_dataset(source, request, trace)


def _read_file(path: str, name: str, request: Request, trace: Trace) -> Texts:
    """Yield the texts of a file; `name` is what the trace calls it."""
    trace.files.append(name)
    refuse_pointer(path)
    known = _format(path, request.format)
    trace.uses |= uses(known)
    column = trace.column or request.asked.column
    if isinstance(known, Format):
        trace.column = column if known.columns else trace.column
        yield from known.read(path, column if known.columns else None)
        return
    with known.open(path, replace(request.asked, column=column)) as table:
        trace.field = table.field or trace.field
        if table.columns:
            column = find_column(where_of(path), table.columns, column)
            trace.column = column
        yield from table.texts(column if table.columns and column else "")


def _format(path: str, asked: str | None) -> Format | TableFormat:
    if asked is None and path == STANDARD_INPUT:
        return text.FORMAT
    known = format_named(asked) if asked else format_of(path)
    if known is None:
        raise CorpusError(f"{path}: unknown format; give {described_formats()}.")
    return known


def _read_folder(folder: str, request: Request, trace: Trace) -> Texts:
    """Yield the texts of a folder's files."""
    files, left = files_in(folder, request.split)
    trace.left_out += left
    if files and format_of(files[0]) is None:
        if len(files) > _FOR_DATASETS:
            raise CorpusError(f"{folder}: it holds no data file; give {described_formats()}.")
        yield from _read_dataset(folder, request, trace, files)
        return
    root = os.path.basename(os.path.realpath(folder))
    yield from _read_several(
        folder, [(os.path.join(folder, file), os.path.join(root, file)) for file in files], request, trace
    )


def _read_dataset(source: str, request: Request, trace: Trace, files: Sequence[str] = ()) -> Texts:
    """Yield the texts of a dataset, or of some files of a folder: one by one where they are of kinds we know."""
    dataset = open_dataset(source, request.config, request.split or TRAIN, request.revision, files)
    trace.left_out += dataset.left_out
    if dataset.files:
        paths = [
            file if is_remote(file) else os.path.join(source, os.path.relpath(file, source))
            for file in dataset.files
        ]
        yield from _read_several(source, list(zip(paths, dataset.names, strict=True)), request, trace)
        return
    trace.files += dataset.names
    with open_stream(source, dataset.builder, request.split or TRAIN, request.asked) as table:
        trace.uses.add("column")
        if table.columns:
            trace.column = find_column(source, table.columns, trace.column or request.asked.column)
            yield from table.texts(trace.column)


def _read_several(source: str, files: Sequence[tuple[str, str]], request: Request, trace: Trace) -> Texts:
    """Yield the texts of files with their names. Those that tell about the data or hold no records are left out."""
    request = replace(request, format=None)  # for single files
    data = [(path, name) for path, name in files if not tells_about_data(name)]
    trace.left_out += [
        LeftOut(_inside(source, name), ABOUT) for path, name in files if tells_about_data(name)
    ]
    trace.uses.update(use for path, _ in data for use in uses(_format(path, None)))
    error = CorpusError(f"{source}: it holds no data file; give a folder with some, or name the files.")
    read = 0
    for path, name in data:
        try:
            with plain_errors(source) if is_remote(path) else nullcontext():
                yield from _read_file(path, name, request, trace)
        except NoRecords as caught:
            trace.files.remove(name)
            trace.left_out.append(LeftOut(_inside(source, name), "holds no list of records"))
            error = caught
        else:
            read += 1
    if not read:
        raise error from None


def _inside(source: str, name: str) -> str:
    """Return a file's path inside its folder or dataset, whose name it begins with."""
    return name.partition(os.sep)[2] if os.path.isdir(source) else name.removeprefix(f"{source}/")
