"""Snapshots of a shard, in the form in which a server streams them.

This is a tar with the files of each segment under `segments/{id}/files/`, a write-ahead log, and the server's record
of the shard's replicas. The engine cannot make snapshots, but lists the files of a segment, and can read this tar as
it reads a server's. In contrast to a server's snapshot, the write-ahead log is only a name, the two JSON files
are empty, and there is an index of words only if words were asked for: it takes 32 MB.
"""

import io
import tarfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

_BESIDE = ("wal/open-1", "shard_config.json", "replica_state.json")
_PART = 1 << 20


class Out(Protocol):
    """The target that a snapshot is written to."""

    def write(self, data: bytes) -> Any:
        """Write the next bytes."""


class Snapshot:
    """A shard's files as a tar, made while it is sent."""

    def __init__(
        self, directory: Path, manifest: Callable[[], dict[str, Any]], lock: threading.RLock
    ) -> None:
        """Use the shard in `directory`, whose segments `manifest` names; `lock` prevents changes meanwhile."""
        self._directory, self._manifest, self._lock = directory, manifest, lock

    def write(self, out: Out) -> None:
        """Write the tar."""
        with self._lock, tarfile.open(fileobj=out, mode="w|", bufsize=_PART) as tar:  # type: ignore[call-overload]
            for file, name in self._files():
                tar.add(file, name)
            for name in _BESIDE:
                tar.addfile(tarfile.TarInfo(name), io.BytesIO())

    def _files(self) -> Iterator[tuple[Path, str]]:
        for segment, about in self._manifest().items():
            folder = self._directory / "segments" / segment
            for name in sorted({*about["file_versions"], "segment.json", "version.info"}):
                yield folder / name, f"segments/{segment}/files/{name}"
