"""Sizes of banks: how they grow, whether the machines hold them, and how they compare to a real bank."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from latentbank.bank.settings import Settings
from latentbank.bank.sizing import (
    GB,
    USABLE,
    LayerBytes,
    Machines,
    Shape,
    index_seconds,
    layer_bytes,
    size,
    store_seconds,
)
from latentbank.errors import LatentBankError
from tests.bank.samples import Place, fill, payload, sample_bank

shapes = st.builds(
    Shape,
    contexts=st.integers(1, 10**9),
    layers=st.integers(1, 12),
    hidden_size=st.integers(64, 16384),
    caption_bytes=st.floats(1, 5000),
    quantization=st.sampled_from(["int8", "turbo", "none"]),
    hnsw_m=st.integers(4, 64),
    server=st.booleans(),
)
machines = st.builds(
    Machines,
    replicas=st.integers(1, 3),
    shards=st.integers(1, 12),
    node_ram=st.floats(4 * GB, 2000 * GB),
    node_disk=st.floats(200 * GB, 20000 * GB),
    node_cores=st.integers(1, 128),
    node_price=st.floats(0, 100),
    gpus=st.integers(1, 1000),
    gpu_flops=st.floats(1e11, 1e15),
    gpu_price=st.floats(0, 100),
)
TOKENS, PARAMETERS = 8e6, 7e9


@settings(deadline=None)
@given(shapes, st.sampled_from(["contexts", "hidden_size", "caption_bytes", "hnsw_m"]), st.integers(2, 9))
def test_more_contexts_or_dimensions_make_no_layer_smaller(shape: Shape, field: str, times: int) -> None:
    less = layer_bytes(shape)
    more = layer_bytes(replace(shape, **{field: getattr(shape, field) * times}))
    assert more.disk >= less.disk * (1 - 1e-9)
    assert more.ram >= less.ram * (1 - 1e-9)
    if field == "contexts":
        assert more.disk >= less.disk * times * (1 - 1e-9)


@settings(deadline=None)
@given(shapes)
def test_fewer_bits_take_less_ram_and_no_codes_take_most(shape: Shape) -> None:
    none, int8, turbo = (layer_bytes(replace(shape, quantization=kind)) for kind in ("none", "int8", "turbo"))
    assert turbo.ram < int8.ram < none.ram
    assert turbo.originals == int8.originals == none.originals
    assert none.disk < turbo.disk < int8.disk  # codes take disk space too


@settings(deadline=None)
@given(shapes, machines)
def test_every_node_holds_its_part(shape: Shape, on: Machines) -> None:
    found = size(shape, on, TOKENS, PARAMETERS)
    assert found.node_ram_bytes <= USABLE * on.node_ram * (1 + 1e-9)
    assert found.node_disk_bytes <= USABLE * on.node_disk * (1 + 1e-9)
    assert found.nodes >= on.replicas  # no two copies of a shard share a node
    assert found.shards >= on.shards
    assert found.shards * on.replicas % found.nodes == 0
    assert found.ram_bytes == pytest.approx(on.replicas * shape.layers * found.layer.ram)


@settings(deadline=None)
@given(shapes, machines)
def test_not_a_node_more_than_it_takes(shape: Shape, on: Machines) -> None:
    found = size(shape, on, TOKENS, PARAMETERS)
    fewer = found.nodes - 1
    if fewer >= on.replicas:
        logs = shape.layers * (on.shards + on.replicas) * 2 * 32 * 2**20
        disk = on.replicas * (shape.layers + 1) * found.layer.disk
        fits = found.ram_bytes <= fewer * USABLE * on.node_ram
        assert not (fits and disk <= fewer * (USABLE * on.node_disk - logs))


@settings(deadline=None)
@given(shapes, machines, st.integers(2, 4))
def test_more_of_the_bank_takes_no_fewer_machines_and_no_less_time(
    shape: Shape, on: Machines, times: int
) -> None:
    less = size(shape, on, TOKENS, PARAMETERS)
    copies = size(shape, replace(on, replicas=on.replicas * times), TOKENS, PARAMETERS)
    assert copies.ram_bytes > less.ram_bytes
    assert copies.nodes >= less.nodes
    for field in ("contexts", "layers", "hidden_size"):
        more = size(replace(shape, **{field: getattr(shape, field) * times}), on, TOKENS, PARAMETERS)
        assert more.nodes >= less.nodes
        assert more.store_hours > less.store_hours
        assert more.month_cost >= less.month_cost


@settings(deadline=None)
@given(shapes, machines, st.integers(2, 9))
def test_time_and_prices(shape: Shape, on: Machines, times: int) -> None:
    once = size(shape, on, TOKENS, PARAMETERS)
    many = size(shape, replace(on, gpus=on.gpus * times), TOKENS, PARAMETERS)
    assert many.llm_hours == pytest.approx(once.llm_hours / times)
    assert many.store_hours == pytest.approx(once.store_hours / times)
    assert many.index_hours == once.index_hours  # the nodes' work
    assert once.hours == pytest.approx(max(once.llm_hours, once.store_hours) + once.index_hours)
    dear = replace(on, gpu_price=on.gpu_price * times, node_price=on.node_price * times)
    assert size(shape, dear, TOKENS, PARAMETERS).cost == pytest.approx(once.cost * times)
    assert once.gpu_cost == pytest.approx(
        on.gpus * on.gpu_price * max(once.llm_hours, once.store_hours), abs=1e-12
    )


def test_the_llm_multiplies_and_adds_once_for_each_parameter_and_token() -> None:
    shape = Shape(1000, 1, 576, 100.0)
    found = size(shape, Machines(gpus=2, gpu_flops=1e12), tokens=3.6e9, parameters=1e6)
    assert found.llm_hours == pytest.approx(1.0)


def test_a_graph_from_where_the_bank_has_one() -> None:
    shape = Shape(59_999, 1, 576, 100.0)
    assert layer_bytes(shape).graph == index_seconds(shape) == 0
    larger = replace(shape, contexts=60_000)
    assert layer_bytes(larger).graph > 0
    assert index_seconds(larger) > 0
    # Indexing a context takes longer in a larger segment, and with wider vectors; storing depends on the width only.
    assert index_seconds(replace(shape, contexts=600_000)) > index_seconds(larger)
    assert store_seconds(replace(shape, contexts=600_000)) == store_seconds(shape)
    assert store_seconds(replace(shape, hidden_size=4096)) > store_seconds(shape)


@pytest.mark.parametrize("wrong", [{"contexts": 0}, {"layers": 0}, {"hidden_size": 0}])
def test_impossible_shapes(wrong: dict[str, int]) -> None:
    with pytest.raises(LatentBankError, match="at least one context, layer and dimension"):
        replace(Shape(1, 1, 1, 1.0), **wrong)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"gpus": 0}, "at least one replica, shard, core and GPU"),
        ({"node_ram": 0}, "above zero"),
        ({"gpu_flops": -1}, "above zero"),
        ({"node_price": -1}, "cannot be negative"),
    ],
)
def test_impossible_machines(wrong: dict[str, Any], says: str) -> None:
    with pytest.raises(LatentBankError, match=says):
        Machines(**wrong)


def test_a_disk_that_holds_not_even_the_logs() -> None:
    with pytest.raises(LatentBankError, match=r"The logs of 8 layers alone take 1\.1 GB"):
        size(Shape(1000, 8, 576, 100.0), Machines(node_disk=GB), TOKENS, PARAMETERS)


# -- beside a real bank --------------------------------------------------------------------------


def blocks(folder: Path, *names: str) -> int:
    return sum(f.stat().st_size for name in names for f in folder.rglob(name))


@pytest.mark.parametrize("quantization", ["int8", "turbo", "none"])
def test_a_real_embedded_layer_is_as_large_as_computed(data_dir: Path, quantization: Any) -> None:
    count, width = 4000, 576
    place = Place("embedded", Settings(data_dir=data_dir, quantization=quantization))
    captions = sum(len(payload(n)["caption"].encode()) for n in range(count))
    with sample_bank(place, layers=[4], hidden_size=width) as bank:
        fill(bank, count)
        bank.store.index(4)
    # Those files are of one size, most of it holes, which a file system in memory fills.
    used = sum(f.stat().st_blocks * 512 for f in data_dir.rglob("*.*") if f.name != "flags_a.dat")
    computed: LayerBytes = layer_bytes(
        Shape(count, 1, width, captions / count, quantization=quantization, server=False)
    )
    assert computed.disk == pytest.approx(used, rel=0.15)
    assert blocks(data_dir, "matrix.dat") == pytest.approx(computed.originals, rel=0.01)
    assert blocks(data_dir, "quantized.data") == pytest.approx(computed.codes, rel=0.01)


def test_a_real_graph_is_no_larger_than_computed_and_not_much_smaller(data_dir: Path) -> None:
    count = 4000
    place = Place("embedded", Settings(data_dir=data_dir, graph_from=1))
    with sample_bank(place, layers=[4], hidden_size=64) as bank:
        fill(bank, count)
        bank.store.index(4)
    computed = layer_bytes(Shape(count, 1, 64, 50.0, graph_from=1, server=False)).graph
    real = blocks(data_dir, "links*")
    assert 0.5 * computed < real <= computed
