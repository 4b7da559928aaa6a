"""What a bank needs: bytes per layer, machines of a Qdrant cluster, hours and cost of filling it.

Plain arithmetic, no I/O. benchmarks/estimate_scale.py prints the results, and docs/scale.md compares them with
measurements. A GB is 10⁹ bytes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from latentbank.bank.settings import Quantization
from latentbank.errors import LatentBankError

GB = 10**9

# Bytes of a context on the disk, measured on layers of SmolLM2-135M with 10,000 and 100,000 contexts
# (benchmarks/growth.py): its payload without the caption; the indexes of corpus, word, token_id and position; id and
# version.
_PAYLOAD, _PAYLOAD_INDEXES, _IDS = 200, 205, 30
# Bytes that the engine keeps of a context in its own memory, from the growth for 600,000 (benchmarks/search.py).
_IDS_RAM = 64
# Quantized vectors: bytes per dimension, and further bytes per vector (its offset or its norm).
_CODE = {"int8": (1.0, 4), "turbo": (0.5, 8), "none": (0.0, 0)}
# A graph's link has as many bits as a context's number in its segment needs. Of 2m links per node, up to this share
# was measured.
_LINKS = 1.25
# The index of a caption's words, as a share of the caption. A server builds it while it loads; in an embedded bank the
# first filter by caption does.
_CAPTION_INDEX = 1.5
# Contexts in one segment of a large embedded layer. A search costs more with more segments, and building one takes
# memory that grows with its size.
_SEGMENT = 300_000
# Bytes of a server's segment (qdrant-config.yaml).
_SEGMENT_BYTES = 8_192_000_000
# The write-ahead log of one copy of a shard: two files of 32 MiB (qdrant-config.yaml).
_LOG = 2 * 32 * 2**20
# The share of a node's RAM and disk that the bank may fill. The rest is for the system, for queries and for the page
# cache of original vectors.
USABLE = 0.8

NO_GRAPH = 1 << 62
"""More contexts than any layer has."""

# Seconds of one core to store a context and to quantize it: per context, and per dimension; measured at 576 (104 to 142
# µs) and 4,096 dimensions (334 to 345; benchmarks/writing.py). Seconds to index a context, per dimension: measured at
# 100,000 contexts in segments of 50,000. The model assumes growth with the tenth root of a segment's size;
# docs/scale.md shows the error.
_STORE, _STORE_DIMENSION = 8.4e-5, 6.2e-8
_INDEX_DIMENSION, _INDEX_AT, _INDEX_GROWTH = 4.0e-7, 50_000, 0.1


@dataclass(frozen=True)
class Shape:
    """The shape of a bank that is to be stored.

    Args:
        contexts: contexts in each layer.
        layers: number of layers.
        hidden_size: size of the vectors.
        caption_bytes: bytes of a context's caption, on average.
        quantization: "int8", "turbo" or "none".
        hnsw_m: edges per node of a graph.
        graph_from: contexts from which a layer has a graph; `NO_GRAPH`: it never has.
        server: whether it is a Qdrant server's bank; else an embedded one.
    """

    contexts: int
    layers: int
    hidden_size: int
    caption_bytes: float
    quantization: Quantization = "int8"
    hnsw_m: int = 16
    graph_from: int = 60_000
    server: bool = True

    def __post_init__(self) -> None:
        if min(self.contexts, self.layers, self.hidden_size) < 1:
            raise LatentBankError("A bank has at least one context, layer and dimension.")


@dataclass(frozen=True)
class LayerBytes:
    """Bytes of one copy of one layer, by content; `ids_ram` is what the engine keeps of ids in its memory."""

    originals: float
    codes: float
    graph: float
    payload: float
    payload_indexes: float
    caption_index: float
    ids: float
    ids_ram: float
    server: bool

    @property
    def disk(self) -> float:
        """Bytes on the disk: everything, also what is held in RAM."""
        stored = self.originals + self.codes + self.graph + self.payload
        return stored + self.payload_indexes + self.caption_index + self.ids

    @property
    def ram(self) -> float:
        """Bytes in RAM: what a search reads in random order, that is quantized vectors (else originals), graph and ids.

        A server also holds the payload indexes, except that of captions. In an embedded bank they are read when a
        filter needs them.
        """
        indexes = self.payload_indexes if self.server else 0.0
        return (self.codes or self.originals) + self.graph + self.ids_ram + indexes


def layer_bytes(shape: Shape) -> LayerBytes:
    """Return the bytes of one copy of one layer."""
    n, width = shape.contexts, shape.hidden_size
    each, beside = _CODE[shape.quantization]
    graph = 0.0
    if n >= shape.graph_from:
        graph = n * 2 * shape.hnsw_m * _LINKS * math.ceil(math.log2(_segment(shape) + 1)) / 8
    return LayerBytes(
        originals=n * 2 * width,
        codes=n * (each * width + beside),
        graph=graph,
        payload=n * (_PAYLOAD + shape.caption_bytes),
        payload_indexes=n * _PAYLOAD_INDEXES,
        caption_index=n * _CAPTION_INDEX * shape.caption_bytes if shape.server else 0.0,
        ids=n * _IDS,
        ids_ram=n * _IDS_RAM,
        server=shape.server,
    )


def _segment(shape: Shape) -> float:
    """Return the number of contexts in each segment of a large layer."""
    if shape.server:
        return min(shape.contexts, max(_SEGMENT_BYTES // (2 * shape.hidden_size), 2))
    return shape.contexts / segments_of(shape.contexts)


def segments_of(contexts: int) -> int:
    """Return how many segments an embedded layer with a graph has: at least two, to be searched in parallel."""
    return max(2, round(contexts / _SEGMENT))


@dataclass(frozen=True)
class Machines:
    """The machines that hold a bank and fill it.

    Prices, in any currency, and a GPU's speed depend on your machines; the defaults are only round numbers.

    Args:
        replicas: copies of each shard (`replication_factor`).
        shards: least number of shards of each layer (`shard_number`).
        node_ram: bytes of RAM of a node.
        node_disk: bytes of disk of a node.
        node_cores: cores of a node.
        node_price: price of a node's hour.
        gpus: GPUs that run the LLM, each with its own worker on one core.
        gpu_flops: floating-point operations per second that the LLM reaches on a GPU, not the vendor's peak.
        gpu_price: price of a GPU's hour.
    """

    replicas: int = 1
    shards: int = 1
    node_ram: float = 64 * GB
    node_disk: float = 1000 * GB
    node_cores: int = 16
    node_price: float = 1.0
    gpus: int = 1
    gpu_flops: float = 1e14
    gpu_price: float = 2.0

    def __post_init__(self) -> None:
        counts = (self.replicas, self.shards, self.node_cores, self.gpus)
        if min(counts) < 1 or min(self.node_ram, self.node_disk, self.gpu_flops) <= 0:
            raise LatentBankError(
                "An estimate needs at least one replica, shard, core and GPU, and RAM, disk and speed above zero."
            )
        prices = (self.node_price, self.gpu_price)
        if min(prices) < 0:
            raise LatentBankError("The price of an hour cannot be negative.")
        if not all(map(math.isfinite, (self.node_ram, self.node_disk, self.gpu_flops, *prices))):
            raise LatentBankError("An estimate needs finite numbers.")


@dataclass(frozen=True)
class Sizing:
    """What a bank needs.

    Bytes are those of the whole bank with all its copies; disk includes the space for indexing. `hours` is the time to
    fill it: the LLM runs and contexts are stored at the same time, indexing follows. `shards` is the `shard_number`
    with which every node holds the same share of each layer. `weights_bytes` are the LLM's weights in 16 bits, which
    every worker's GPU holds.
    """

    layer: LayerBytes
    ram_bytes: float
    disk_bytes: float
    nodes: int
    shards: int
    replicas: int
    node_ram_bytes: float
    node_disk_bytes: float
    weights_bytes: float
    llm_hours: float
    store_hours: float
    index_hours: float
    hours: float
    gpu_cost: float
    node_cost: float
    cost: float
    month_cost: float


def size(shape: Shape, machines: Machines, tokens: float, parameters: float) -> Sizing:
    """Return what a bank needs on a Qdrant cluster.

    Args:
        shape: the bank.
        machines: the machines that hold and fill it.
        tokens: tokens that the LLM runs on, such as a plan's `prefixes`.
        parameters: parameters of the LLM's blocks up to the deepest layer; the unembedding never runs.

    Raises:
        LatentBankError: a node's disk is smaller than the logs of its shards.
    """
    layer, copies = layer_bytes(shape), machines.replicas
    # A shard is rewritten while it is indexed, layer by layer: one layer at a time is stored twice.
    ram, data = copies * shape.layers * layer.ram, copies * (shape.layers + 1) * layer.disk
    # The largest number of shards of a layer that a node can have; see _shards.
    logs = shape.layers * (machines.shards + copies) * _LOG
    room = USABLE * machines.node_disk - logs
    if room <= 0:
        raise LatentBankError(
            f"The logs of {shape.layers} layers alone take {logs / GB:.1f} GB of a node's disk; choose a larger one."
        )
    nodes = max(copies, math.ceil(ram / (USABLE * machines.node_ram)), math.ceil(data / room))
    shards = _shards(nodes, copies, machines.shards)
    disk = data + shape.layers * shards * copies * _LOG

    llm = 2.0 * parameters * tokens / (machines.gpus * machines.gpu_flops) / 3600
    store = shape.contexts * shape.layers * store_seconds(shape) / machines.gpus / 3600
    index = shape.contexts * shape.layers * copies * index_seconds(shape)
    index /= nodes * machines.node_cores * 3600
    hours = max(llm, store) + index
    gpu_cost = machines.gpus * machines.gpu_price * max(llm, store)
    node_cost = nodes * machines.node_price * hours
    return Sizing(
        layer=layer,
        ram_bytes=ram,
        disk_bytes=disk,
        nodes=nodes,
        shards=shards,
        replicas=copies,
        node_ram_bytes=ram / nodes,
        node_disk_bytes=disk / nodes,
        weights_bytes=2.0 * parameters,
        llm_hours=llm,
        store_hours=store,
        index_hours=index,
        hours=hours,
        gpu_cost=gpu_cost,
        node_cost=node_cost,
        cost=gpu_cost + node_cost,
        month_cost=nodes * machines.node_price * 730,
    )


def _shards(nodes: int, replicas: int, least: int) -> int:
    """Return the smallest number of shards, at least `least`, of which every node gets the same number of copies."""
    step = nodes // math.gcd(nodes, replicas)
    return -(-least // step) * step


def store_seconds(shape: Shape) -> float:
    """Return the seconds of one core that it takes to store a context in one layer."""
    return _STORE + _STORE_DIMENSION * shape.hidden_size


def index_seconds(shape: Shape) -> float:
    """Return the seconds of one core that it takes to index a context of one layer; 0 without a graph."""
    if shape.contexts < shape.graph_from:
        return 0.0
    return float(_INDEX_DIMENSION * shape.hidden_size * (_segment(shape) / _INDEX_AT) ** _INDEX_GROWTH)
