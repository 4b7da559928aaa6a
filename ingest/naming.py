"""Names of corpora: which are allowed, and the one that a path gives."""

from __future__ import annotations

import hashlib
import os
import re
import unicodedata

from latentbank.errors import CorpusError

_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9._-]{0,63}")


def is_corpus_name(text: str) -> bool:
    """Return whether a corpus can have this name: 1 to 64 of [a-zA-Z0-9._-], the first a letter or a digit."""
    return bool(_NAME.fullmatch(text))


def name_of_path(path: str) -> str:
    """Return the name of a corpus that is read from a path: the last part of it, without endings.

    Accents are dropped, and everything else that a name cannot hold becomes a hyphen. If nothing is left, the name is
    "corpus-" and a hash of the file's name.

    Args:
        path: a file, a folder, or the id of a hub dataset.

    Raises:
        CorpusError: it is standard input, which has no name.
    """
    if path == "-":
        raise CorpusError("Standard input has no name; give the corpus one.", argument="name")
    last = os.path.basename(os.path.normpath(path))
    if last in ("", ".", "..") or os.path.isdir(path):
        last = os.path.basename(os.path.realpath(path))
    stem = last.lstrip(".").split(".")[0]
    if is_corpus_name(stem):
        return stem
    plain = unicodedata.normalize("NFKD", stem).encode("ascii", "ignore").decode()
    name = re.sub(r"[^a-zA-Z0-9._]+", "-", plain)[:64].strip("-._")
    if any(map(str.isalnum, name)):
        return name
    return f"corpus-{hashlib.blake2b(stem.encode(errors='surrogateescape'), digest_size=4).hexdigest()}"
