"""How contexts get into an embedded layer: in the form the engine reads, and by processes that write for this one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import qdrant_edge as edge

from latentbank.bank.store.embedded.engine import engine_points, layer_config
from tests.bank.samples import points


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.float64])
def test_the_engine_reads_the_numbers_that_it_is_given(dtype: type) -> None:
    """Also of an array whose rows are not contiguous."""
    given = points(3)
    wide = np.repeat(given.vectors.astype(dtype), 2, axis=1)
    numbers = [point.vector for point in engine_points(replace(given, vectors=wide[:, ::2]))]
    np.testing.assert_array_equal(np.array(numbers), given.vectors.astype(dtype).astype(np.float32))


def test_bytes_are_no_numbers(tmp_path: Path) -> None:
    """Why `engine_points` passes views: the engine takes bytes without a word, as four times as many numbers."""
    given = points(1)
    row = given.vectors[0]
    misread = edge.Point(given.ids[0], row.tobytes())
    assert misread.vector == list(row.tobytes())
    (point,) = engine_points(given)
    assert len(point.vector) == len(row)
    shard = edge.EdgeShard.create(str(tmp_path), layer_config(len(row), "int8", 100))
    with pytest.raises(Exception, match="dimension"):
        shard.update(edge.UpdateOperation.upsert_points([misread]))
    shard.close()
