"""Files that are there whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

from latentbank_errors import LatentBankError


def write_whole(path: Path, data: bytes) -> Path:
    """Write a file so that it is never there in part, also after a kill.

    Raises:
        LatentBankError: it cannot be written.
    """
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with unfinished.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    except OSError as error:
        raise LatentBankError(
            f"{path} cannot be written ({error.strerror or error}); check the folder and the disk."
        ) from None
    return path
