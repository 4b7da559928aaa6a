"""The machine's own limits, of which benchmarks report shares: copying in memory, products of matrices, writing a file.

A ratio between two programs changes from machine to machine; so does each program's share of what the machine can do.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

_COPIED = 1 << 28  # bytes, more than any processor's cache
_SIDE = 1536  # of the matrices; a product takes some hundredths of a second on one core
_REPEATS = 5


@dataclass(frozen=True)
class Limits:
    """What the machine does at best, at the moment of measuring.

    Attributes:
        copy: bytes a second that one thread copies in memory; as many are read as are written.
        copy_all: the same with a thread for each core.
        gemm: floating-point operations a second of a large product of matrices in float32, by PyTorch with its threads.
        gemm_bfloat16: the same in bfloat16.
        threads: PyTorch's threads.
        write: bytes a second that a new file gets, until it is on the disk; 0: not measured.
    """

    copy: float
    copy_all: float
    gemm: float
    gemm_bfloat16: float
    threads: int
    write: float = 0.0

    def product_seconds(self, queries: int, contexts: int, width: int) -> float:
        """Return how long the product of queries with contexts, float32, takes at this speed."""
        return 2.0 * queries * contexts * width / self.gemm

    def copy_seconds(self, count: float) -> float:
        """Return how long all cores take to copy so many bytes once."""
        return count / self.copy_all

    def to_dict(self) -> dict[str, Any]:
        """Return the limits as JSON-ready data."""
        return asdict(self)


def measure_limits(folder: Path | None = None) -> Limits:
    """Measure in about two seconds; with a folder, also how fast a file there is written."""
    import torch

    cores = len(os.sched_getaffinity(0))
    return Limits(
        copy=copy_speed(1),
        copy_all=copy_speed(cores),
        gemm=gemm_speed(torch.float32),
        gemm_bfloat16=gemm_speed(torch.bfloat16),
        threads=torch.get_num_threads(),
        write=0.0 if folder is None else _write_speed(folder),
    )


def copy_speed(threads: int, size: int = _COPIED) -> float:
    """Return the bytes per second at which `size` bytes are copied in memory, the best of some trials."""
    source = np.ones(size, np.uint8)
    target = np.empty_like(source)
    parts = [slice(i * size // threads, (i + 1) * size // threads) for i in range(threads)]
    with ThreadPoolExecutor(threads) as pool:
        return size / best(lambda: list(pool.map(lambda at: np.copyto(target[at], source[at]), parts)))


def gemm_speed(dtype: Any, side: int = _SIDE, device: str = "cpu") -> float:
    """Return floating-point operations per second of a product of two square matrices, the best of some trials."""
    import torch

    with torch.inference_mode():
        a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
        out = torch.empty_like(a)

        def run() -> None:
            torch.mm(a, b, out=out)
            if device != "cpu":
                torch.cuda.synchronize()

        run()
        return 2.0 * side**3 / best(run)


def _write_speed(folder: Path) -> float:
    block = os.urandom(1 << 20)
    with tempfile.NamedTemporaryFile(dir=folder) as file:
        began = time.perf_counter()
        for _ in range(_COPIED >> 20):
            file.write(block)
        file.flush()
        os.fsync(file.fileno())
        return _COPIED / (time.perf_counter() - began)


def best(
    run: Callable[[], object], repeats: int = _REPEATS, clock: Callable[[], float] = time.perf_counter
) -> float:
    """Return the seconds of the fastest of some calls, by a clock."""
    seconds = []
    for _ in range(repeats):
        began = clock()
        run()
        seconds.append(clock() - began)
    return min(seconds)
