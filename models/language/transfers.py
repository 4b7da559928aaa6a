"""Moving tensors between the CPU and a GPU while the GPU computes: pinned buffers, and copies in a stream of their own.

A copy from ordinary memory makes the CPU wait until all that the GPU was given before is done, so nothing would run at
the same time. From pinned memory it only stands in the queue. Other devices copy as usual.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

_streams: dict[torch.device, torch.cuda.Stream] = {}


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Return a tensor on a device; on a GPU the copy only stands in its queue, and the CPU goes on."""
    if device.type != "cuda" or tensor.device.type != "cpu":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


class HostCopy:
    """Tensors on their way to the CPU: on a GPU they are copied while it computes what it is given next."""

    def __init__(self, tensors: Mapping[int, Tensor]) -> None:
        """Begin to copy tensors of one device, by layer, as float32.

        The pinned memory that they are copied to is of PyTorch's own pool, which uses it again once nobody holds the
        arrays.
        """
        self._found: dict[int, Tensor] = {}
        self._arrived: torch.cuda.Event | None = None
        wide = {layer: tensor.float() for layer, tensor in tensors.items()}
        device = next((tensor.device for tensor in wide.values()), torch.device("cpu"))
        if device.type != "cuda":
            self._found = {layer: tensor.cpu() for layer, tensor in wide.items()}
            return
        stream = _copies_of(device)
        stream.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(stream):
            for layer, tensor in wide.items():
                self._found[layer] = torch.empty(tensor.shape, dtype=torch.float32, pin_memory=True)
                self._found[layer].copy_(tensor, non_blocking=True)
                tensor.record_stream(stream)  # its memory is not given to others before the copy is done
            self._arrived = stream.record_event()

    def arrays(self) -> dict[int, npt.NDArray[np.float32]]:
        """Return the arrays by layer, once they have arrived."""
        if self._arrived is not None:
            self._arrived.synchronize()
        return {layer: tensor.numpy() for layer, tensor in self._found.items()}


def _copies_of(device: torch.device) -> torch.cuda.Stream:
    """Return a GPU's stream for copies to the CPU; the GPU copies and computes at the same time."""
    if device not in _streams:
        _streams[device] = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    return _streams[device]
