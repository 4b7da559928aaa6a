"""Filling a layer on a server over gRPC: `Bank.add` side by side with a bare `upload_points` of qdrant-client.

    python -m benchmarks.upload --contexts 20000 --json upload.json

Both send the same contexts (ids, vectors, payloads) from one thread in requests of the same size, and wait until each
is written. The server is the tests' double in a process of its own (see wire.py), with collections of the same
settings. `upload_points` is given finished points. `Bank.add` is given hidden states, which it checks, scales to length
1 and rotates, as in an ingestion. They take turns of a thousand contexts in alternating order, so that other load on
the machine affects both. A first turn, which connects, is not counted. In a third kind of turn, finished requests are
sent without a client: this is the time of the double itself, which is most of it.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
from qdrant_client import QdrantClient, models
from qdrant_client import grpc as messages

from benchmarks.common import Row, machine, parser_of, show, write_json
from benchmarks.limits import copy_speed
from benchmarks.wire import Address, double, made_points
from latentbank.bank.bank import Bank
from latentbank.bank.opening import create_bank
from latentbank.bank.store.base import Points
from latentbank.bank.store.names import collection_name
from latentbank.bank.store.server.messages import point_messages

LAYER = 8
TURN = 1024


def main() -> None:
    """Upload in all ways, in turns, and print the table."""
    arguments = _parser().parse_args()
    with (
        tempfile.TemporaryDirectory(dir=arguments.work) as folder,
        double(Path(folder)) as server,
        _ways(server, arguments.width, arguments.batch) as ways,
    ):
        clocks = {name: _Clock() for name in ways}
        for turn, first in enumerate(range(-TURN, arguments.contexts, TURN)):
            count = min(TURN, arguments.contexts - first)
            points = made_points(count, arguments.width, LAYER, first + TURN)
            for name in list(ways)[:: 1 if turn % 2 else -1]:
                send = ways[name](points)
                if first < 0:
                    send()
                else:
                    clocks[name].time(send)
    sizes = {
        "contexts": arguments.contexts,
        "dimensions": arguments.width,
        "points a request": arguments.batch,
    }
    where = machine()
    measured = {name: vars(clock) for name, clock in clocks.items()}
    rows = _rows(clocks, arguments.contexts, 4 * arguments.contexts * arguments.width)
    show("Uploading contexts over gRPC", sizes, rows, where, ("upload_points", "latentbank"))
    write_json(arguments.json, sizes, rows, measured, where)


def _parser() -> argparse.ArgumentParser:
    parser = parser_of("benchmarks.upload", __doc__)
    add = parser.add_argument
    add("--contexts", type=int, default=20_000)
    add("--width", type=int, default=576, help="dimensions")
    add("--batch", type=int, default=128, help="points in one request")
    add("--work", type=Path, help="folder for the server's files (a temporary one)")
    add("--json", type=Path, help="file for the results")
    return parser


class _Clock:
    """Sums wall-clock seconds of turns, and the processor seconds that this process used in them."""

    def __init__(self) -> None:
        self.seconds = self.own = 0.0

    def time(self, send: Callable[[], None]) -> None:
        """Run a turn and add its seconds."""
        began, used = time.perf_counter(), time.process_time()
        send()
        self.seconds += time.perf_counter() - began
        self.own += time.process_time() - used


@contextmanager
def _ways(
    server: Address, width: int, batch: int
) -> Iterator[dict[str, Callable[[Points], Callable[[], None]]]]:
    """Yield the ways to upload, by name: each prepares contexts and returns the function to time."""
    settings = server.settings().model_copy(update={"upload_batch": batch})
    client = QdrantClient(url=server.url, grpc_port=server.grpc_port, prefer_grpc=True, timeout=600)

    def bare(points: Points) -> Callable[[], None]:
        rows = zip(points.ids, points.vectors.tolist(), points.payloads, strict=True)
        ready = [models.PointStruct(id=id_, vector=row, payload=dict(payload)) for id_, row, payload in rows]
        name = collection_name("bare", LAYER)
        return lambda: client.upload_points(name, ready, batch_size=batch, parallel=1, wait=True)

    def with_bank(bank: Bank) -> Callable[[Points], Callable[[], None]]:
        return lambda points: lambda: bank.add(LAYER, points.ids, points.vectors, points.payloads)

    def ready(channel: grpc.Channel) -> Callable[[Points], Callable[[], None]]:
        call = channel.unary_unary("/qdrant.Points/Upsert")

        def prepared(points: Points) -> Callable[[], None]:
            made = point_messages(points)
            requests = [
                messages.UpsertPoints(
                    collection_name=collection_name("ready", LAYER), wait=True, points=made[at : at + batch]
                ).SerializeToString()
                for at in range(0, len(made), batch)
            ]

            def send() -> None:
                for request in requests:
                    call(request)

            return send

        return prepared

    about: dict[str, Any] = {
        "model": "benchmark",
        "fingerprint": "f00d",
        "num_layers": LAYER + 1,
        "hidden_size": width,
        "layers": [LAYER],
    }
    for name in ("bare", "ready"):
        create_bank(name, settings, **about).close()
    with (
        create_bank("bank", settings, **about) as bank,
        grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel,
    ):
        yield {"upload_points": bare, "latentbank": with_bank(bank), "ready": ready(channel)}
    client.close()


def _rows(clocks: dict[str, _Clock], contexts: int, sent: int) -> list[Row]:
    theirs, ours, server = (clocks[name] for name in ("upload_points", "latentbank", "ready"))
    return [
        Row(
            "contexts a second",
            f"{contexts / theirs.seconds:,.0f}",
            f"{contexts / ours.seconds:,.0f}",
            theirs.seconds / ours.seconds,
            least=0.9,
            share=sent / copy_speed(1) / max(ours.own, 1e-9),
            limit="the speed of copying the bytes sent (the client)",
        ),
        Row("seconds", f"{theirs.seconds:.2f}", f"{ours.seconds:.2f}", None),
        Row("… of them for the double to answer", f"{server.seconds:.2f}", f"{server.seconds:.2f}", None),
        Row("processor seconds of the client", f"{theirs.own:.2f}", f"{ours.own:.2f}", theirs.own / ours.own),
    ]


if __name__ == "__main__":
    main()
