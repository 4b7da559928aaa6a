"""Checkpoints of a run that makes a lens: what it has computed so far, so that a killed run continues."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from latentbank.files import replacing
from latentbank.models.training.texts import Ids

if TYPE_CHECKING:
    from latentbank.models.language.model import LanguageModel

EVERY = 60.0
"""Seconds between two checkpoints, at least."""
_KEY = "latentbank_checkpoint"


class Checkpoint:
    """The file that keeps what a run has computed; it is written whole or not at all, and nothing in it is a pickle.

    Args:
        path: the file. One of another run, with other text, layers or settings, is left alone until it is written over.
        every: seconds between two checkpoints, at least.
    """

    def __init__(self, path: Path, every: float = EVERY) -> None:
        """Name the file; nothing is read or written yet."""
        self._path, self._every = path, every
        self._key = ""
        self._saved = time.monotonic()

    def begin(
        self,
        language: LanguageModel,
        sentences: Iterable[Ids],
        layers: Iterable[int],
        settings: Mapping[str, Any],
    ) -> tuple[int, dict[str, Tensor]]:
        """Say which run this is, and return how many steps of it were done, with the tensors kept then.

        Args:
            language: the LLM.
            sentences: the text, as token ids.
            layers: the layers.
            settings: how the lens is made, JSON-ready.

        Returns:
            0 and no tensors if there is no checkpoint of this run, or it cannot be read.
        """
        told = json.dumps(
            [language.identity().to_dict(), list(sentences), list(layers), dict(settings)], sort_keys=True
        )
        self._key = hashlib.blake2b(told.encode(), digest_size=16).hexdigest()
        self._saved = time.monotonic()
        return self._load(language.device)

    def save(self, steps: int, tensors: Callable[[], Mapping[str, Tensor]]) -> None:
        """Keep what was computed, if the last checkpoint is long enough ago.

        Args:
            steps: steps that are done.
            tensors: returns what was computed.

        Raises:
            LatentBankError: the file cannot be written.
        """
        if time.monotonic() - self._saved < self._every:
            return
        from safetensors.torch import save_file

        kept = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors().items()}
        with replacing(self._path) as unfinished:
            save_file(kept, unfinished, {_KEY: json.dumps([self._key, steps])})
        self._saved = time.monotonic()

    def remove(self) -> None:
        """Remove the file, once the lens itself is kept."""
        self._path.unlink(missing_ok=True)

    def _load(self, device: torch.device) -> tuple[int, dict[str, Tensor]]:
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(str(self._path), framework="pt") as file:
                key, steps = json.loads((file.metadata() or {})[_KEY])
                if key == self._key:
                    names = file.keys()
                    return int(steps), {name: file.get_tensor(name).to(device) for name in names}
        except (OSError, SafetensorError, ValueError, KeyError, TypeError):
            pass  # there is none, or of another version: the run begins anew
        return 0, {}
