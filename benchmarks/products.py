"""What no exact search can be faster than: conversion of float16 vectors, products with all queries, the best kept."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch

_BLOCKS = (1024, 2048, 8192)


def product_limit(
    contexts: int,
    hidden_size: int,
    queries: int,
    dtype: Any,
    top_k: int = 5,
    timer: Callable[[], float] = time.perf_counter,
) -> float:
    """Return the seconds for one layer of contexts, with the fastest of some sizes of blocks.

    The vectors are random, float16, and in memory; of each block the `top_k` best of each query are kept, and the best
    of these at the end.
    """
    generator = torch.Generator().manual_seed(0)
    vectors = torch.empty((contexts, hidden_size), dtype=torch.float16)
    for start in range(0, contexts, 1 << 14):
        part = vectors[start : start + (1 << 14)]
        part.copy_(torch.randn(part.shape, generator=generator))
    asked = torch.randn((queries, hidden_size), generator=generator).to(dtype)

    def run(size: int) -> None:
        block = torch.empty((size, hidden_size), dtype=dtype)
        room = torch.empty((queries, size), dtype=dtype)
        kept = []
        for start in range(0, contexts, size):
            part = vectors[start : start + size]
            # To bfloat16 by way of float32: on a processor PyTorch takes a quarter of the time so.
            block[: len(part)].copy_(part.float() if dtype == torch.bfloat16 else part)
            full = len(part) == size
            scores = torch.mm(asked, block.T, out=room) if full else torch.mm(asked, block[: len(part)].T)
            kept.append(scores.topk(min(top_k, len(part)), dim=1)[0])
        torch.cat(kept, dim=1).topk(top_k, dim=1)

    seconds = []
    with torch.inference_mode():
        for size in 3 * _BLOCKS:
            began = timer()
            run(size)
            seconds.append(timer() - began)
    return min(seconds)


def picture_limits(contexts: int, hidden_size: int, queries: int, layers: int) -> dict[str, float]:
    """Return the seconds for several layers, in float32 and in bfloat16."""
    began = time.perf_counter()
    found = {
        str(dtype).removeprefix("torch."): layers * product_limit(contexts, hidden_size, queries, dtype)
        for dtype in (torch.float32, torch.bfloat16)
    }
    return found | {"measured_seconds": time.perf_counter() - began}
