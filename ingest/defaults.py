"""What an ingestion takes where nothing is named: the bank's name and layers, and the plan's folder."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from pathlib import Path, PurePath
from typing import TYPE_CHECKING

from latentbank.bank.versions import LONGEST_NAME
from latentbank.files import existing

if TYPE_CHECKING:
    from latentbank.bank.settings import Settings


def default_layers(num_layers: int) -> list[int]:
    """Return the layers of a new bank when none are named: four, evenly spaced up to the middle of the LLM.

    Args:
        num_layers: blocks of the whole LLM.
    """
    return sorted({max(1, round(num_layers * eighth / 8)) for eighth in (1, 2, 3, 4)})


def bank_name(model: str) -> str:
    """Return the name of a new bank when none is named: the last part of the LLM's name or path, as a valid name.

    A valid name stays as it is. In others accents go, and what a bank's name cannot hold becomes a hyphen. If a name is
    too long, or nothing is left of it, a hash makes up for the difference.
    """
    path = existing(model)
    last = (path.name if path else PurePath(model).name).removesuffix(".gguf")
    plain = unicodedata.normalize("NFKD", last).encode("ascii", "ignore").decode()
    name = re.sub("-{2,}", "-", re.sub("[^a-zA-Z0-9._-]+", "-", plain)).lstrip("._-")
    if name != last:
        name = name.rstrip("-")
    if 0 < len(name) <= LONGEST_NAME:
        return name
    mark = hashlib.blake2b(last.encode("utf-8", "surrogateescape"), digest_size=4).hexdigest()
    return f"{name[: LONGEST_NAME - 9].rstrip('-') or 'bank'}-{mark}"


def plan_folder(settings: Settings, bank: str, corpus: str) -> Path:
    """Return the folder where the plan of a bank's corpus is kept, in the folder of embedded banks."""
    return settings.data_dir / ".plans" / bank / corpus  # no bank's name begins with a dot
