"""Where local models were found on this machine, kept in the folder of embedded banks by what identifies them.

Manifests and the cards of projectors hold no path, because both are shared and copied. So each machine remembers where
it has read a model.
"""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

from latentbank.errors import LatentBankError, ModelError
from latentbank.files import existing, make_folder, write_whole
from latentbank.identity import Identity, difference
from latentbank.locks import locked
from latentbank.text import is_path, public_name

_MOST = 200  # paths that are remembered; the oldest are forgotten first


def remember(data_dir: Path, path: str, identity: Identity, part: str = "") -> None:
    """Record that a model was read from a path; nothing if the folder cannot be written.

    Args:
        data_dir: folder of embedded banks.
        path: the model's folder or file.
        identity: what tells the model from others. It replaces what was recorded for the same part of the same path.
        part: what of the model was read, such as a layer of a vision encoder, which has an identity of its own.
    """
    file = _file(data_dir)
    entry = {"path": path, **({"part": part} if part else {}), **identity.to_dict()}
    if any(other == entry for other in _read(data_dir)):
        return
    with contextlib.suppress(LatentBankError, OSError):
        make_folder(file.parent)
        # Without the lock, a path that another job adds at the same moment would be lost.
        with locked(file.with_name(".lock"), f"writes {file}"):
            known = _read(data_dir)
            others = [other for other in known if (other["path"], other.get("part", "")) != (path, part)]
            write_whole(file, json.dumps([entry, *others][:_MOST], indent=1).encode())


def find(data_dir: Path, name: str, identity: Identity) -> str | None:
    """Return a path that still exists at which the model was read; None if none is known.

    Args:
        data_dir: folder of embedded banks.
        name: the last part of the path it had elsewhere; the same one is preferred.
        identity: what tells the model from others.
    """
    found = [
        entry["path"]
        for entry in _read(data_dir)
        if existing(entry["path"]) and difference(Identity.from_dict(entry), identity) is None
    ]
    return min(found, key=lambda path: public_name(path) != name, default=None)


def known_as(data_dir: Path, name: str) -> list[str]:
    """Return the paths that end with a name at which whole models were read; the latest first, and they may be gone.

    Args:
        data_dir: folder of embedded banks.
        name: the last part of the path.
    """
    return [
        entry["path"]
        for entry in _read(data_dir)
        if not entry.get("part") and public_name(entry["path"]) == name
    ]


def locate(data_dir: Path, name: str, identity: Identity, *, local: bool, whose: str) -> str:
    """Return what a model is loaded by on this machine: its id on the hub, or a path.

    Args:
        data_dir: folder of embedded banks.
        name: the name in a manifest or plan; those of earlier versions hold paths, which are used if they exist.
        identity: what tells the model from others.
        local: whether it was read from a folder or file, not from the hub.
        whose: what needs the model, for the message, such as "the bank 'captions'".

    Raises:
        ModelError: it is a local model, and this machine does not know where it is.
    """
    if not local and not is_path(name) and not name.startswith((".", "~")):
        return name
    if not local and existing(name):
        return name
    last = public_name(name) if is_path(name) else Path(name).name
    if path := find(data_dir, last, identity):
        return path
    raise ModelError(
        f"The model of {whose} is the local model {last}, which this machine has not used yet, or which has moved: "
        "give its folder or file.",
        argument="model",
    )


def _file(data_dir: Path) -> Path:
    return data_dir / ".models" / "found.json"  # no bank's name begins with a dot


def _read(data_dir: Path) -> list[dict[str, Any]]:
    """Return what was recorded, the newest first; nothing if it cannot be read."""
    try:
        data = json.loads(_file(data_dir).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    return [entry for entry in data if _is_entry(entry)] if isinstance(data, list) else []


def _is_entry(entry: object) -> bool:
    if not isinstance(entry, dict) or not isinstance(entry.get("path"), str):
        return False
    try:
        Identity.from_dict(entry)
    except (ValueError, TypeError, LookupError):
        return False
    return True
