"""An exact scan: products of all queries with all vectors, block by block, of which the best are kept."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import torch

Halves = npt.NDArray[np.float16]
Floats = npt.NDArray[np.float32]

# Rows of a block: its vectors, scores and the queries fit into the caches of a processor's core.
_ROWS, _ROWS_CUDA = 2048, 1 << 16
# Rows that are converted at once by way of float32.
_CONVERTED = 2048
# Columns of a block's products that are one group: a group is looked into only if its best is good enough.
GROUP = 16
# Groups of a block, for each query on average, from which it is worth while to find those that are not good enough.
_MANY = 8
# Queries whose products are held at once.
_QUERIES = 2048
# Candidates that are rescored in float32 for each query besides those asked for, if the products are bfloat16.
MORE = 45
# Numbers of candidates' vectors that are held at once to be rescored.
_RESCORED = 1 << 21


@dataclass(frozen=True)
class Precision:
    """How a scan multiplies.

    Attributes:
        dtype: "float32", or "bfloat16": then the best `limit` and 45 more of each query are rescored in float32.
        device: "cpu" or "cuda".
    """

    dtype: str = "float32"
    device: str = "cpu"

    def __str__(self) -> str:
        """Return it for people."""
        rescored = "" if self.dtype == "float32" else ", the best rescored in float32"
        return f"{self.dtype}{' on CUDA' if self.device == 'cuda' else ''}{rescored}"


FLOAT32 = Precision()


@dataclass(frozen=True)
class Scan:
    """How a layer is scanned.

    Attributes:
        precision: how vectors are multiplied.
        filter_last: all of them are, and a filter is asked about the nearest contexts only; else the contexts that it
            selects are found first, which takes longer the more they are.
    """

    precision: Precision = FLOAT32
    filter_last: bool = False


def nearest(
    parts: Sequence[Halves],
    chosen: Sequence[npt.NDArray[np.intp] | None],
    queries: Floats,
    limit: int,
    precision: Precision = FLOAT32,
) -> tuple[Floats, npt.NDArray[np.int64]]:
    """Return each query's best vectors by product.

    Queries are rounded to float16, as Qdrant does to compare them with vectors of float16. A product is then the same
    number here and there, up to the order of float32 sums.

    Args:
        parts: float16 `[rows, hidden]` each, at least one.
        chosen: the rows of each part that are compared, ascending; None: all of them.
        queries: float32 `[queries, hidden]`.
        limit: how many are kept for each query.
        precision: how products are computed.

    Returns:
        Products, best first, float32 `[queries, limit]`, and the vectors' numbers, counted through all parts, int64;
        minus infinity and -1 if there are fewer.
    """
    import torch

    rounded = queries.astype(np.float16).astype(np.float32)
    kept = limit if precision.dtype == "float32" else limit + MORE
    dtype = getattr(torch, precision.dtype)
    found = [(np.empty((0, limit), np.float32), np.empty((0, limit), np.int64))]
    with torch.inference_mode():
        for start in range(0, len(rounded), _QUERIES):
            some = rounded[start : start + _QUERIES]
            rows = _best(parts, chosen, torch.from_numpy(some).to(precision.device, dtype), kept).cpu()
            found.append(_rescored(parts, some, rows.numpy(), limit))
    scores, numbers = zip(*found, strict=True)
    return np.concatenate(scores), np.concatenate(numbers)


def _best(
    parts: Sequence[Halves],
    chosen: Sequence[npt.NDArray[np.intp] | None],
    queries: torch.Tensor,
    kept: int,
) -> torch.Tensor:
    """Return the numbers of each query's best vectors, int64 `[queries, kept]`; -1 if there are fewer."""
    import torch

    device, count = queries.device, len(queries)
    size = _ROWS_CUDA
    if device.type != "cuda":
        # In bfloat16 more are kept, so a block's selection takes longer beside its product: fewer blocks are better.
        halved = queries.dtype == torch.bfloat16
        size = _ROWS * (max(1, min(4, 2304 // queries.shape[1])) if halved else 1)
    most = -(-size // GROUP) * GROUP
    block = torch.empty((most, queries.shape[1]), dtype=queries.dtype, device=device)
    room = torch.empty((count, most), dtype=queries.dtype, device=device)
    wide = room_to_convert(queries)
    best = torch.full((count, kept), -torch.inf, device=device)
    where = torch.full((count, kept), -1, dtype=torch.int64, device=device)
    for vectors, rows in _blocks(parts, chosen, size):
        width = len(vectors)
        groups = -(-width // GROUP)
        padded = groups * GROUP
        convert(block[:width], torch.from_numpy(vectors), wide)
        out = room if padded == most else room.new_empty((count, padded))
        torch.mm(queries, block[:padded].T, out=out)
        out[:, width:] = -torch.inf
        query, column, score = better(out.view(count, GROUP, groups), best)
        numbers = torch.full((padded,), -1, device=device)
        numbers[:width] = torch.as_tensor(rows, device=device)
        # Beside what each query keeps: its first, its second and so on.
        counts = torch.bincount(query, minlength=count)
        place = torch.arange(len(query), device=device) - (counts.cumsum(0) - counts)[query]
        more = best.new_full((count, int(counts.max())), -torch.inf)
        which = where.new_full(more.shape, -1)
        more[query, place], which[query, place] = score.float(), numbers[column]
        best, order = torch.cat([best, more], dim=1).topk(kept, dim=1)
        where = torch.cat([where, which], dim=1).gather(1, order)
    return where


def better(scores: torch.Tensor, best: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the scores that may be among the best of their query, with their queries and columns; queries ascend.

    Args:
        scores: those of a block, `[queries, members, groups]`; the columns are the members of all groups, flattened.
        best: the best before it, descending, `[queries, kept]`.
    """
    least = best[:, -1:].to(scores.dtype)
    # What is better lies in groups whose best is.
    tops = scores.amax(dim=1)
    good = tops > least
    if good.sum() > _MANY * len(best) and tops.shape[1] >= best.shape[1]:
        # As many groups as are kept have a score that is at least this.
        good &= tops >= tops.topk(best.shape[1], dim=1)[0][:, -1:]
    query, group = good.nonzero(as_tuple=True)
    members = scores[query, :, group]
    pair, member = (members > least[query]).nonzero(as_tuple=True)
    return query[pair], member * scores.shape[2] + group[pair], members[pair, member]


def room_to_convert(queries: torch.Tensor) -> torch.Tensor | None:
    """Return the room that `convert` needs for queries `[queries, hidden]`; None: it needs none."""
    import torch

    if queries.device.type != "cpu" or queries.dtype != torch.bfloat16:
        return None
    return torch.empty((_CONVERTED, queries.shape[1]))


def convert(block: torch.Tensor, vectors: torch.Tensor, wide: torch.Tensor | None) -> None:
    """Copy vectors of float16 `[rows, hidden]` to a block of another type, some at a time by way of `wide`.

    On a processor PyTorch converts them to float32 and that to bfloat16 in a quarter of the time of one step (490,000
    vectors of 576 numbers: 0.036 and 0.14 s; AMD EPYC, 2 cores, 2026-11-29).
    """
    if wide is None:
        block.copy_(vectors)
        return
    for start in range(0, len(vectors), len(wide)):
        some = vectors[start : start + len(wide)]
        block[start : start + len(some)].copy_(wide[: len(some)].copy_(some))


def _blocks(
    parts: Sequence[Halves], chosen: Sequence[npt.NDArray[np.intp] | None], size: int
) -> Iterator[tuple[Halves, npt.NDArray[np.int64]]]:
    """Yield vectors, at most `size` together, with their numbers."""
    before = 0
    for part, rows in zip(parts, chosen, strict=True):
        total = len(part) if rows is None else len(rows)
        for start in range(0, total, size):
            if rows is None:
                stop = min(start + size, total)
                yield part[start:stop], np.arange(before + start, before + stop)
            else:
                some = rows[start : start + size]
                yield part[some], some.astype(np.int64) + before
        before += len(part)


def _rescored(
    parts: Sequence[Halves], queries: Floats, rows: npt.NDArray[np.int64], limit: int
) -> tuple[Floats, npt.NDArray[np.int64]]:
    """Return each query's best `limit` of what was found by their products, and these.

    They are computed in float32 one by one, so they do not depend on what else is asked at the same time, as those of a
    product of matrices do in their last digits.
    """
    import torch

    scores = np.empty(rows.shape, np.float32)
    step = max(1, _RESCORED // (rows.shape[1] * queries.shape[1]))
    for start in range(0, len(queries), step):
        some = slice(start, start + step)
        # PyTorch converts them in a third of the time.
        vectors = torch.from_numpy(take(parts, rows[some].ravel())).float().numpy()
        scores[some] = np.einsum("qnh,qh->qn", vectors.reshape(*rows[some].shape, -1), queries[some])
    scores[rows < 0] = -np.inf
    order = np.lexsort((rows, -scores))[:, :limit]
    return np.take_along_axis(scores, order, 1), np.take_along_axis(rows, order, 1)


def take(parts: Sequence[Any], numbers: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
    """Return the rows of arrays of the same kind by their numbers, counted through all of them; -1 takes any row."""
    if len(parts) == 1:
        return np.asarray(parts[0][np.maximum(numbers, 0)])
    ends = np.cumsum([len(part) for part in parts])
    of = np.searchsorted(ends, numbers, side="right")
    taken = np.empty((len(numbers), *parts[0].shape[1:]), parts[0].dtype)
    for place, part in enumerate(parts):
        here = of == place
        taken[here] = part[np.maximum(numbers[here] - (ends[place] - len(part)), 0)]
    return taken
