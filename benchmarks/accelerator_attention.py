"""Attention over prefix trees, alone: PyTorch's scaled dot product with a mask, and flex_attention, beside no mask."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import cycle, islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention

from benchmarks.accelerator_models import Size, plan_of, random_model, sentences
from benchmarks.accelerator_steps import Result, Setup
from benchmarks.limits import best
from benchmarks.packed import Batch, batch_of
from latentbank.ingest.encode import fill_rows

_ROWS = (128, 256, 512, 1024)  # nodes in a row
_FAILURES = (torch.OutOfMemoryError, RuntimeError, ValueError, NotImplementedError)


def attention(setup: Setup) -> Iterator[Result]:
    """Time one block's attention on as many tokens, packed into rows of each length.

    `flex_attention, one row` holds all rows in one, in which blocks of 128 × 128 that no token attends to are skipped.
    `without a mask` is the bound: what a causal row of that length takes, whatever its tokens may see.
    """
    for size in (setup.small, setup.large):
        dtype = torch.bfloat16 if setup.device == "cuda" else torch.float32
        tokenizer_only = random_model(size, setup.device, dtype, blocks=1)
        with TemporaryDirectory() as folder:
            planned = list(
                plan_of(tokenizer_only, sentences(max(64, setup.tokens // 6)), Path(folder)).read()
            )
        del tokenizer_only
        for length in _ROWS:
            if length > setup.tokens:
                break
            rows = list(islice(cycle(fill_rows(planned, length)), setup.tokens // length))
            batch = batch_of(rows, setup.device)
            yield from _row_length(setup, size, batch, length, dtype)
            setup.clear()


def _row_length(setup: Setup, size: Size, batch: Batch, length: int, dtype: torch.dtype) -> Iterator[Result]:
    rows, width = batch.ids.shape
    shape = (rows, size.heads, width, size.hidden // size.heads)
    q, k, v = (torch.randn(shape, device=setup.device, dtype=dtype) for _ in range(3))
    added = torch.zeros(batch.visible.shape, device=setup.device, dtype=dtype)[:, None]
    added.masked_fill_(~batch.visible[:, None], torch.finfo(dtype).min)
    ways: dict[str, Callable[[], Any]] = {
        "without a mask": lambda: scaled_dot_product_attention(q, k, v, is_causal=True),
        "SDPA, boolean mask": lambda: scaled_dot_product_attention(q, k, v, batch.visible[:, None]),
        "SDPA, added mask": lambda: scaled_dot_product_attention(q, k, v, added),
    }
    true, bound = ways["SDPA, boolean mask"](), 0.0
    makers = {"flex_attention, rows": _flex_rows, "flex_attention, one row": _flex_one_row}
    for name, way in ways.items():
        what, found = _result(setup, size, batch, length, name, way, true, 0.0)
        bound = bound or found["seconds"]
        yield what, found | {"bound_seconds": bound}
    for name, maker in makers.items():
        try:
            way, seconds = maker(setup, batch.visible, q, k, v)
            what, found = _result(setup, size, batch, length, name, way, true, seconds)
            yield what, found | {"bound_seconds": bound}
        except _FAILURES as error:  # no compiler, or shapes that it does not know
            yield (
                f"{size.name}, rows of {length}: {name}",
                {"failed": f"{type(error).__name__}: {error}"[:200]},
            )


def _result(
    setup: Setup, size: Size, batch: Batch, length: int, name: str, way: Any, true: Any, mask: float
) -> Result:
    def run() -> None:
        with torch.inference_mode():
            way()
        setup.wait()

    run()
    seconds = best(run)
    found = {
        "row": length,
        "tokens": batch.tokens,
        "seconds": seconds,
        "mask_seconds": mask,
        "tokens_per_second": batch.tokens / seconds,
    }
    if name != "without a mask":
        found["furthest"] = float((way().float() - true.float()).abs().max())
    return f"{size.name}, rows of {length}: {name}", found


def _flex_rows(
    setup: Setup, visible: torch.Tensor, q: Any, k: Any, v: Any
) -> tuple[Callable[[], Any], float]:
    """Return flex_attention on rows as they are, and the seconds that its mask of blocks takes to make."""

    def sees(row: Any, _head: Any, query: Any, key: Any) -> Any:
        return visible[row, query, key]

    return _flex(setup, sees, (len(q), q.shape[2]), (q, k, v))


def _flex_one_row(
    setup: Setup, visible: torch.Tensor, q: Any, k: Any, v: Any
) -> tuple[Callable[[], Any], float]:
    """Return flex_attention on all rows as one, whose result is shaped like that of rows."""
    width = q.shape[2]

    def sees(_row: Any, _head: Any, query: Any, key: Any) -> Any:
        same = query // width == key // width
        return same & visible[query // width, query % width, key % width]

    def joined(tensor: Any) -> Any:
        return tensor.transpose(0, 1).reshape(1, tensor.shape[1], -1, tensor.shape[3]).contiguous()

    run, seconds = _flex(setup, sees, (1, len(q) * width), (joined(q), joined(k), joined(v)))
    heads, rows = q.shape[1], len(q)
    return lambda: run()[0].reshape(heads, rows, width, -1).transpose(0, 1), seconds


def _flex(
    setup: Setup, sees: Any, shape: tuple[int, int], tensors: tuple[Any, Any, Any]
) -> tuple[Callable[[], Any], float]:
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    torch._dynamo.reset()  # it compiles for a few shapes only
    rows, width = shape
    q, k, v = tensors
    # Without a GPU there is nothing to gain from compiling, which takes longer than all of this.
    compiled: Any = torch.compile(flex_attention) if setup.device == "cuda" else flex_attention

    def make() -> Any:
        return create_block_mask(
            sees, rows, None, width, width, device=setup.device, _compile=setup.device == "cuda"
        )

    def made() -> None:
        make()
        setup.wait()

    mask = make()
    return lambda: compiled(q, k, v, block_mask=mask), best(made, 3)
