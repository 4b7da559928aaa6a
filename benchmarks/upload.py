"""Filling a layer on a server over gRPC: `Bank.add` side by side with a bare `upload_points` of qdrant-client.

    python -m benchmarks.upload --contexts 20000 --json upload.json

Both send the same contexts (ids, vectors, payloads) in requests of the same size and wait until each has been written,
from one thread of a process of its own, to the tests' double of a server in another (see wire.py), into collections of
the same settings. `upload_points` is given points that are ready; `Bank.add` is given hidden states, which it checks,
scales to length 1 and rotates, as an ingestion does. One request before, which connects, is not counted. Both sides
take turns, and the median of each counts. How long the double itself takes, which is most of it, is measured by sending
requests that are ready, without any client.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.common import Row, answer_child, in_child, machine, show, write_json
from benchmarks.wire import Address, double, made_points

LAYER = 8


def main() -> None:
    """Upload both ways, in turns, and print the table."""
    arguments = _parser().parse_args()
    given = {"contexts": arguments.contexts, "width": arguments.width, "batch": arguments.batch}
    seconds: dict[str, list[float]] = {"upload_points": [], "bank": [], "ready": []}
    own: dict[str, list[float]] = {way: [] for way in seconds}
    for turn in range(arguments.turns):
        for way in seconds:
            # A server for each, so that none is handed one that others have filled.
            with (
                tempfile.TemporaryDirectory(dir=arguments.work) as folder,
                double(Path(folder)) as server,
            ):
                found = in_child(
                    "benchmarks.upload", way, url=server.url, grpc_port=server.grpc_port, **given
                )
            seconds[way].append(found["seconds"])
            own[way].append(found["own"])
            print(f"turn {turn + 1}: {way} {found['seconds']:.1f} s", file=sys.stderr)
    sizes = {
        "contexts": arguments.contexts,
        "dimensions": arguments.width,
        "points a request": arguments.batch,
        "turns": arguments.turns,
    }
    where = machine()
    rows = _rows(seconds, own, arguments.contexts)
    show("Uploading contexts over gRPC", sizes, rows, where, ("upload_points", "latentbank"))
    write_json(arguments.json, sizes, rows, {"seconds": seconds, "own": own}, where)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.upload",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--contexts", type=int, default=20_000)
    add("--width", type=int, default=576, help="dimensions")
    add("--batch", type=int, default=128, help="points in one request")
    add("--turns", type=int, default=3, help="how often each side is measured")
    add("--work", type=Path, help="folder for the server's files (a temporary one)")
    add("--json", type=Path, help="file for the results")
    return parser


def _rows(seconds: dict[str, list[float]], own: dict[str, list[float]], contexts: int) -> list[Row]:
    theirs, ours, server = (statistics.median(seconds[way]) for way in ("upload_points", "bank", "ready"))
    cpu = [statistics.median(own[way]) for way in ("upload_points", "bank")]
    return [
        Row(
            "contexts a second",
            f"{contexts / theirs:,.0f}",
            f"{contexts / ours:,.0f}",
            theirs / ours,
            least=0.9,
        ),
        Row("seconds", f"{theirs:.1f}", f"{ours:.1f}", None),
        Row("… of them for the double to answer", f"{server:.1f}", f"{server:.1f}", None),
        Row("processor seconds of the client", f"{cpu[0]:.2f}", f"{cpu[1]:.2f}", cpu[0] / cpu[1]),
    ]


class _Clock:
    """Seconds from now on: those that have passed, and those that this process has used."""

    def __init__(self) -> None:
        self._began, self._used = time.perf_counter(), time.process_time()

    def read(self) -> dict[str, float]:
        """Give both."""
        return {
            "seconds": time.perf_counter() - self._began,
            "own": time.process_time() - self._used,
        }


def upload_points(url: str, grpc_port: int, contexts: int, width: int, batch: int) -> dict[str, Any]:
    """Upload points that are ready with qdrant-client alone."""
    from qdrant_client import QdrantClient, models

    points = made_points(contexts, width, LAYER)
    name = _collection(Address(url, grpc_port), width)
    rows = zip(points.ids, points.vectors.tolist(), points.payloads, strict=True)
    ready = [models.PointStruct(id=id_, vector=row, payload=dict(payload)) for id_, row, payload in rows]
    client = QdrantClient(url=url, grpc_port=grpc_port, prefer_grpc=True, timeout=600)
    client.upload_points(name, ready[:batch], batch_size=batch, wait=True)
    clock = _Clock()
    client.upload_points(name, ready, batch_size=batch, parallel=1, wait=True)
    found = clock.read()
    _all_there(client.count(name).count, contexts)
    client.close()
    return found


def upload_with_bank(url: str, grpc_port: int, contexts: int, width: int, batch: int) -> dict[str, Any]:
    """Upload hidden states through a bank."""
    from bank.opening import create_bank

    points = made_points(contexts, width, LAYER)
    settings = Address(url, grpc_port).settings().model_copy(update={"upload_batch": batch})
    with create_bank("bank", settings, **_about(width)) as bank:
        bank.add(LAYER, points.ids[:batch], points.vectors[:batch], points.payloads[:batch])
        clock = _Clock()
        for at in range(0, contexts, 1024):
            part = slice(at, at + 1024)
            bank.add(LAYER, points.ids[part], points.vectors[part], points.payloads[part])
        bank.commit()
        found = clock.read()
        _all_there(bank.store.count(LAYER), contexts)
    return found


def send_ready(url: str, grpc_port: int, contexts: int, width: int, batch: int) -> dict[str, Any]:
    """Send requests that are ready, as bytes: what is left is the server."""
    import grpc
    from qdrant_client import grpc as q
    from qdrant_client.conversions.conversion import RestToGrpc
    from qdrant_client.http import models

    points = made_points(contexts, width, LAYER)
    name = _collection(Address(url, grpc_port), width)
    rows = list(zip(points.ids, points.vectors.tolist(), points.payloads, strict=True))
    requests = []
    for at in range(0, contexts, batch):
        made = [
            RestToGrpc.convert_point_struct(models.PointStruct(id=id_, vector=row, payload=dict(payload)))
            for id_, row, payload in rows[at : at + batch]
        ]
        requests.append(q.UpsertPoints(collection_name=name, wait=True, points=made).SerializeToString())
    with grpc.insecure_channel(f"127.0.0.1:{grpc_port}") as channel:
        send = channel.unary_unary("/qdrant.Points/Upsert")
        send(requests[0])
        clock = _Clock()
        for request in requests:
            send(request)
        return clock.read()


def _about(width: int) -> dict[str, Any]:
    return {
        "model": "benchmark",
        "fingerprint": "f00d",
        "num_layers": LAYER + 1,
        "hidden_size": width,
        "layers": [LAYER],
    }


def _collection(address: Address, width: int) -> str:
    """Make a bank, and give its layer's name."""
    from bank.opening import create_bank
    from bank.store import collection_name

    with create_bank("bank", address.settings(), **_about(width)):
        return collection_name("bank", LAYER)


def _all_there(count: int, contexts: int) -> None:
    if count != contexts:
        raise SystemExit(f"The server holds {count:,} points instead of {contexts:,}.")


_TASKS = {"upload_points": upload_points, "bank": upload_with_bank, "ready": send_ready}

if __name__ == "__main__" and not answer_child(_TASKS, sys.argv[1:]):
    main()
