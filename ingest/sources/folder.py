"""Which files of a folder are read: those of known kinds, of one split if the names say it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence

from latentbank.errors import CorpusError
from latentbank.ingest.sources.base import LeftOut
from latentbank.ingest.sources.lines import compression_of
from latentbank.ingest.sources.registry import format_of
from latentbank.text import listed

TRAIN = "train"
"""The split that is read when none is asked for."""

ABOUT = "tells about the data"
"""Why files such as README.txt, LICENSE.txt and dataset_info.json are left out."""
_UNKNOWN = "no format of a corpus"

_WORDS = {
    TRAIN: ("train", "training"),
    "validation": ("validation", "valid", "dev", "val"),
    "test": ("test", "testing", "eval", "evaluation"),
}
_ABOUT = re.compile(
    r"(readme|licen[cs]e|copying|changelog)([-_ .].*)?"
    r"|(notice|citation|authors|contributing|copyright|credits|requirements)\.\w+"
    r"|(config|dataset_infos?|dataset_dict|state)\.json",
    re.I,
)


def files_in(folder: str, split: str | None) -> tuple[list[str], list[LeftOut]]:
    """Return the files of a folder that are read, as paths inside it, sorted; and those that are left out.

    If no file is of a known kind, they are those of the unknown kind that most files are of: `datasets` may read them.

    If every data file's name (or its folder's) says its split, only the files of `split` are read; "train" if none is
    asked for. Else all files of known kinds are read, or those whose names say the split asked for.

    Args:
        folder: a folder; the folders in it are searched too.
        split: the split asked for; None: none.

    Raises:
        CorpusError: the names say other splits only.
    """
    known: list[str] = []
    others: dict[tuple[str, str], list[str]] = {}
    formats: dict[str, bool] = {}  # by suffix: a folder may hold 100,000 pictures
    for file in sorted(_walk(folder)):
        name = os.path.basename(file)
        suffix = os.path.splitext(name)[1].lower()
        ending = name.lower() if compression_of(name) else suffix
        if ending not in formats:
            formats[ending] = format_of(name) is not None
        if any(part.startswith((".", "__")) for part in file.split(os.sep)):
            if formats[ending]:
                others.setdefault((suffix, "hidden"), []).append(file)
        elif tells_about_data(name):
            others.setdefault((suffix, ABOUT), []).append(file)
        elif not formats[ending]:
            others.setdefault((suffix, _UNKNOWN), []).append(file)
        else:
            known.append(file)
    unknown = {key: of for key, of in others.items() if key[1] == _UNKNOWN}
    if unknown and not known:
        known = others.pop(max(unknown, key=lambda key: len(unknown[key])))
    left = [LeftOut(name, reason) for (suffix, reason), of in others.items() for name in _few(of, suffix)]
    splits = {file: split_of(file, split) for file in known}
    if split is None and not (known and all(splits.values())):
        return known, left
    wanted = canonical_split(split or TRAIN)
    taken = [file for file in known if splits[file] == wanted]
    if known and not taken:
        there = listed(sorted({found for found in splits.values() if found})) or "none"
        raise no_split(folder, split or TRAIN, there)
    left += [
        LeftOut(file, f"of the split {splits[file]}" if splits[file] else "its name says no split")
        for file in known
        if splits[file] != wanted
    ]
    return taken, left


def tells_about_data(file: str) -> bool:
    """Return whether a file, by its name, tells about data that lies beside it."""
    return bool(_ABOUT.fullmatch(os.path.basename(file)))


def no_split(where: str, split: str, there: str) -> CorpusError:
    """Return the error for a split that is not there."""
    return CorpusError(f"{where} has no split {split!r}; choose one of these: {there}.", argument="split")


def canonical_split(split: str) -> str:
    """Return the name of a split for which there are several: "val" and "dev" are "validation"."""
    return next((name for name, words in _WORDS.items() if split.lower() in words), split)


def split_of(file: str, asked: str | None = None) -> str | None:
    """Return the split that a path says, by its file's name or else by the folders'; None: it says none, or several.

    Args:
        file: a path inside the folder that is read.
        asked: the split asked for, which may have a name of its own.
    """
    words = _WORDS if asked is None or canonical_split(asked) in _WORDS else {**_WORDS, asked: (asked,)}
    for part in reversed(file.split(os.sep)):
        said = {name for name, known in words.items() if _says(part, known)}
        if said:
            return said.pop() if len(said) == 1 else None
    return None


def has_configurations(folder: str) -> bool:
    """Return whether a folder's README.md declares configurations, which `datasets` reads."""
    try:
        with open(os.path.join(folder, "README.md"), encoding="utf-8", errors="replace") as file:
            head = file.read(1 << 20)
    except OSError:
        return False
    parts = re.split(r"^---\s*$", head, maxsplit=2, flags=re.M)
    return len(parts) == 3 and not parts[0].strip() and bool(re.search(r"^configs:", parts[1], re.M))


def _few(files: Sequence[str], suffix: str) -> Sequence[str]:
    """Return up to three files; of more, their number only."""
    if len(files) <= 3:
        return files
    return [f"{len(files):,} files {f'in {suffix}' if suffix else 'without a suffix'}"]


def _says(part: str, words: Sequence[str]) -> bool:
    any_word = "|".join(map(re.escape, words))
    return bool(re.search(rf"(?:^|[-._ 0-9])(?:{any_word})(?:[-._ 0-9]|$)", part, re.I))


def _walk(folder: str) -> Iterator[str]:
    """Yield all files as paths inside a folder, also behind links; a folder that is met again is not entered."""
    met: set[str] = set()
    for path, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(path)
        if real in met:
            folders.clear()
            continue
        met.add(real)
        for file in files:
            yield os.path.relpath(os.path.join(path, file), folder)
