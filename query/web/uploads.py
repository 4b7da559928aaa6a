"""Images that people sent to the page: the last ones, in memory, so that an address can name one."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from dataclasses import dataclass

_KEPT = 32
_KEPT_BYTES = 100_000_000


@dataclass(frozen=True)
class Upload:
    """An image as it was sent, and its name as it may be shown."""

    key: str
    name: str
    data: bytes


class Uploads:
    """The last images that were sent, by a digest of their bytes: 32 at most, and of 100 MB together."""

    def __init__(self) -> None:
        self._kept: OrderedDict[str, Upload] = OrderedDict()
        self._guard = threading.Lock()

    def keep(self, name: str, data: bytes) -> Upload:
        """Keep an image, in place of those looked at longest ago where there are too many."""
        upload = Upload(hashlib.blake2b(data, digest_size=16).hexdigest(), name, data)
        with self._guard:
            self._kept[upload.key] = upload
            self._kept.move_to_end(upload.key)
            while len(self._kept) > 1 and (
                len(self._kept) > _KEPT or sum(len(one.data) for one in self._kept.values()) > _KEPT_BYTES
            ):
                self._kept.popitem(last=False)
        return upload

    def get(self, key: str) -> Upload | None:
        """Give an image; None where it is gone, or never was."""
        with self._guard:
            if key in self._kept:
                self._kept.move_to_end(key)
            return self._kept.get(key)
