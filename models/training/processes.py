"""The processes that train together."""

from __future__ import annotations

from datetime import timedelta

import torch
from accelerate import PartialState


def processes(device: str | None = None) -> PartialState:
    """Return the processes that train together: one, or those of `accelerate launch`.

    The timeout is long, because the first process may encode images for hours while the others wait.

    Args:
        device: as for `load_language_model`.
    """
    cpu = device == "cpu" or not torch.cuda.is_available()
    return PartialState(cpu=cpu, timeout=timedelta(days=7))
