"""Uploaded images: the last ones are kept in memory, so that an address can name them."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from dataclasses import dataclass

_KEPT = 32
_KEPT_BYTES = 100_000_000


@dataclass(frozen=True)
class Upload:
    """An image file as it was sent.

    Attributes:
        key: 32 hex digits of its bytes.
        name: its file name, made safe to show.
        data: its bytes.
    """

    key: str
    name: str
    data: bytes


class Uploads:
    """The last uploaded images, by a digest of their bytes: at most 32, and at most 100 MB altogether."""

    def __init__(self) -> None:
        self._kept: OrderedDict[str, Upload] = OrderedDict()
        self._lock = threading.Lock()

    def keep(self, name: str, data: bytes) -> Upload:
        """Keep an image; if there are too many, the least recently used ones are dropped."""
        upload = Upload(hashlib.blake2b(data, digest_size=16).hexdigest(), name, data)
        with self._lock:
            self._kept[upload.key] = upload
            self._kept.move_to_end(upload.key)
            while len(self._kept) > 1 and (
                len(self._kept) > _KEPT or sum(len(other.data) for other in self._kept.values()) > _KEPT_BYTES
            ):
                self._kept.popitem(last=False)
        return upload

    def get(self, key: str) -> Upload | None:
        """Return an image; None if it is not kept any more, or never was."""
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
            return self._kept.get(key)
