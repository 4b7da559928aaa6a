"""A Qdrant server side by side with the embedded store: storing, indexing and searching, on one machine and in one run.

    python -m benchmarks.server http://127.0.0.1:6333 --json server.json --docs docs/benchmarks.md

The key, if the server wants one, is LATENTBANK_API_KEY, and other settings apply as everywhere. Banks have a name of
their own and are deleted at the end. Contexts are made up (see wire.py).

Storing: hidden states are given to `Bank.add`, a thousand at a time, with one and several connections and with several
sizes of a request, in turns; the median of the turns counts. Searching: one bank of one layer grows to each number of
contexts and is indexed; one query at a time, and as many at once as an image has visual tokens, over all contexts and
over a tenth of them (those of one word). The machine's own limits, which results are also given as a share of, are the
bytes that a socket to itself carries, and the bytes that are copied in memory, each by one thread.
"""

from __future__ import annotations

import argparse
import os
import socket
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any
from urllib.parse import urlsplit

from benchmarks.common import Row, machine, parser_of, place, processor_seconds, show, write_json
from benchmarks.limits import copy_speed
from benchmarks.wire import CORPUS, made_points
from latentbank.bank.bank import Bank
from latentbank.bank.manifest import CorpusEntry
from latentbank.bank.opening import create_bank, delete_bank
from latentbank.bank.settings import Settings, load_settings
from latentbank.bank.store.base import Points
from latentbank.bank.store.server.client import Connection
from latentbank.bank.store.server.messages import point_messages
from latentbank.bank.where import Where
from latentbank.files import write_whole

LAYER = 8
BEGIN, END = "<!-- benchmarks.server -->", "<!-- the end of benchmarks.server -->"
_SLICE = 1000  # contexts that are given to a bank at a time
_PROBE = 1 << 28  # bytes with which the machine's limits are measured
_WORD = "river"
_TOP_K = 5


def main() -> None:
    """Measure, print the table, and write it where it is wanted."""
    arguments = _parser().parse_args()
    server = load_settings(url=arguments.url, grpc_port=arguments.grpc_port, timeout=600)
    with tempfile.TemporaryDirectory(dir=arguments.work) as folder:
        here = load_settings(url=server.url, data_dir=Path(folder)).model_copy(update={"url": ""})
        found: dict[str, Any] = {"limits": {"socket": _socket_speed(), "memory": copy_speed(1, _PROBE)}}
        found["storing"] = [
            _storing(width, arguments, server, here) for width in _numbers(arguments.store_widths)
        ]
        found["searching"] = _searching(arguments, server, here)
    sizes, where, rows = _sizes(arguments, server), machine(), _rows(found)
    show("A server beside the embedded store", sizes, rows, where, ("embedded", "server"))
    write_json(arguments.json, sizes, rows, found, where)
    if arguments.docs is not None:
        text = arguments.docs.read_text(encoding="utf-8")
        write_whole(arguments.docs, filled_in(text, sizes, rows, where).encode())


def _parser() -> argparse.ArgumentParser:
    parser = parser_of("benchmarks.server", __doc__)
    add = parser.add_argument
    add("url", help="the server's address")
    add("--grpc-port", type=int, help="its gRPC port (6334)")
    add("--store", type=int, default=20_000, help="contexts to store of the first width, fewer of wider ones")
    add("--store-widths", default="576,4096", help="dimensions")
    add("--connections", default="1,4")
    add("--batches", default="64,128,256", help="contexts in one request")
    add("--turns", type=int, default=3, help="how often each way to store is timed")
    add("--contexts", default="30000,150000", help="contexts to search")
    add("--width", type=int, default=576, help="dimensions of the contexts to search")
    add("--queries", type=int, default=441, help="queries at once")
    add("--work", type=Path, help="folder for embedded banks (a temporary one)")
    add("--json", type=Path, help="file for the results")
    add("--docs", type=Path, help="Markdown file whose section is filled in")
    return parser


def _numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def _sizes(arguments: argparse.Namespace, server: Settings) -> dict[str, Any]:
    with Connection(server) as connection:
        release = connection.call(connection.rest.info).version
    local = urlsplit(server.url).hostname in ("localhost", "127.0.0.1", "::1", socket.gethostname())
    return {
        "server": f"Qdrant {release}, {'on this machine' if local else 'on another machine'}",
        "contexts stored": arguments.store,
        "contexts searched": arguments.contexts,
        "dimensions searched": arguments.width,
        "top-k": _TOP_K,
    }


# -- the machine's limits --------------------------------------------------------------------------


def _socket_speed() -> float:
    """Return the bytes per second that a thread sends to another through a socket to this machine."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        sender = socket.create_connection(listener.getsockname())
        receiver, _ = listener.accept()

    def send() -> None:
        block = bytes(1 << 20)
        with sender:
            for _ in range(_PROBE // len(block)):
                sender.sendall(block)

    thread, got = threading.Thread(target=send), bytearray(1 << 20)
    began = time.perf_counter()
    thread.start()
    with receiver:
        while receiver.recv_into(got):
            pass
    thread.join()
    return _PROBE / (time.perf_counter() - began)


# -- storing ---------------------------------------------------------------------------------------


@contextmanager
def new_bank(settings: Settings, width: int, layer: int = LAYER) -> Iterator[Bank]:
    """Yield a new bank of one layer; it is deleted after the block."""
    name = f"benchmark-{os.getpid()}"
    about: dict[str, Any] = {"model": "benchmark", "fingerprint": "f00d", "num_layers": layer + 1}
    try:
        with create_bank(name, settings, **about, hidden_size=width, layers=[layer]) as bank:
            yield bank
    finally:
        delete_bank(name, settings)


def _add(bank: Bank, points: Points) -> None:
    for at in range(0, len(points.ids), _SLICE):
        part = slice(at, at + _SLICE)
        bank.add(LAYER, points.ids[part], points.vectors[part], points.payloads[part])
    bank.commit()


def _storing(width: int, arguments: argparse.Namespace, server: Settings, here: Settings) -> dict[str, Any]:
    """Store contexts of a width in all ways, in turns; return seconds and the client's processor seconds of each.

    Processes that write for the client count, too.
    """
    count = max(1, arguments.store * _numbers(arguments.store_widths)[0] // width)
    points = made_points(count, width, LAYER)
    ways = {"embedded": here} | {
        f"{connections}/{batch}": server.model_copy(
            update={"upload_connections": connections, "upload_batch": batch}
        )
        for connections in _numbers(arguments.connections)
        for batch in _numbers(arguments.batches)
    }
    timed: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for turn in range(arguments.turns):
        for name in list(ways)[:: -1 if turn % 2 else 1]:
            with new_bank(ways[name], width) as bank:
                bank.store.defer_index(LAYER, count)
                used, began = processor_seconds(), time.perf_counter()
                _add(bank, points)
                timed[name].append((time.perf_counter() - began, processor_seconds() - used))
    sent = sum(message.ByteSize() for message in point_messages(points))
    return {
        "width": width,
        "contexts": count,
        "bytes": sent,
        "seconds": {name: median(seconds for seconds, _ in times) for name, times in timed.items()},
        "processor": {name: median(used for _, used in times) for name, times in timed.items()},
    }


# -- searching -------------------------------------------------------------------------------------


def _searching(arguments: argparse.Namespace, server: Settings, here: Settings) -> list[dict[str, Any]]:
    """Let a bank grow on the server and embedded; return the seconds of indexing and searching for each size."""
    queries = made_points(arguments.queries, arguments.width, LAYER, 10_000_000).vectors
    found: list[dict[str, Any]] = []
    with new_bank(server, arguments.width) as there, new_bank(here, arguments.width) as own:
        stored = 0
        for contexts in sorted(_numbers(arguments.contexts)):
            part: dict[str, Any] = {"contexts": contexts, "width": arguments.width, "queries": len(queries)}
            nearest = []
            for name, bank in (("server", there), ("embedded", own)):
                bank.store.defer_index(LAYER, contexts)
                for first in range(stored, contexts, _SLICE):
                    _add(bank, made_points(min(_SLICE, contexts - first), arguments.width, LAYER, first))
                began = time.perf_counter()
                bank.store.index(LAYER)
                seconds = {"index": time.perf_counter() - began}
                bank.record(CorpusEntry(CORPUS, "", 0, 0, contexts, {}, complete=True))
                part[name] = seconds | _asked(bank, queries)
                nearest.append([row[0].id for row in bank.search(queries, LAYER, 1)])
            part["same_nearest"] = sum(a == b for a, b in zip(*nearest, strict=True))
            found.append(part)
            stored = contexts
    return found


def _asked(bank: Bank, queries: Any) -> dict[str, float]:
    """Return the median seconds of searches, by what is searched."""
    seconds: dict[str, float] = {}
    for kind, where in (("plain", None), ("filtered", Where(word=_WORD))):

        def search(rows: Any, where: Where | None = where) -> float:
            began = time.perf_counter()
            bank.search(rows, LAYER, _TOP_K, where=where)
            return time.perf_counter() - began

        search(queries[:1])
        seconds[f"one {kind}"] = median(search(query[None]) for query in queries[:50])
        seconds[f"many {kind}"] = median(search(queries) for _ in range(3))
    return seconds


# -- the table -------------------------------------------------------------------------------------


def _rows(found: dict[str, Any]) -> list[Row]:
    limits = found["limits"]
    rows = [
        Row("this machine: a socket to itself, GB/s", "", f"{limits['socket'] / 1e9:.2f}", None),
        Row("this machine: copying in memory, GB/s", "", f"{limits['memory'] / 1e9:.2f}", None),
    ]
    for stored in found["storing"]:
        rows += _stored_rows(stored, limits["socket"])
    for part in found["searching"]:
        rows += _searched_rows(part, limits["memory"])
    return rows


def _stored_rows(stored: dict[str, Any], limit: float) -> list[Row]:
    count, seconds = stored["contexts"], stored["seconds"]
    embedded = seconds["embedded"]
    what = f"storing, {stored['width']:,} dimensions"
    rows = []
    for name in seconds.keys() - {"embedded"}:
        connections, batch = map(int, name.split("/"))
        many = f"{connections} connection{'s' if connections > 1 else ''}, {batch} a request"
        rows.append(
            (
                (connections, batch),
                Row(
                    f"{what}, {many}: contexts/s",
                    f"{count / embedded:,.0f}",
                    f"{count / seconds[name]:,.0f}",
                    embedded / seconds[name],
                ),
            )
        )
    best = min(seconds.keys() - {"embedded"}, key=lambda name: seconds[name])
    return [
        *(row for _, row in sorted(rows, key=lambda pair: pair[0])),
        Row(
            f"{what}: processor time of the client for a context, µs",
            f"{stored['processor']['embedded'] / count * 1e6:.0f}",
            f"{stored['processor'][best] / count * 1e6:.0f}",
            None,
        ),
        Row(
            f"{what}: bytes/s at best, as a share of the socket's",
            "",
            f"{stored['bytes'] / seconds[best] / 1e6:,.0f} MB/s",
            stored["bytes"] / seconds[best] / limit,
            "",
        ),
    ]


def _searched_rows(part: dict[str, Any], limit: float) -> list[Row]:
    contexts, own, there = part["contexts"], part["embedded"], part["server"]
    many = part["queries"]
    what = f"{contexts:,} contexts"

    def row(key: str, text: str, scale: float, digits: str) -> Row:
        return Row(
            text, format(own[key] * scale, digits), format(there[key] * scale, digits), own[key] / there[key]
        )

    scan = contexts * part["width"] / limit  # seconds in which the codes, a byte a dimension, are copied once
    rows = [row("index", f"{what}: index, s", 1, ".1f")]
    for kind, of in (("plain", ""), ("filtered", ", a tenth of them")):
        rows.append(row(f"one {kind}", f"{what}{of}: one query, ms", 1000, ".2f"))
        rows.append(row(f"many {kind}", f"{what}{of}: {many} queries, s", 1, ".3f"))
    return [
        *rows,
        Row(
            f"{what}: copying their codes once for each query, as a share of the time of {many} queries",
            f"{scan * many / own['many plain']:.2f}",
            f"{scan * many / there['many plain']:.2f}",
            None,
        ),
        Row(f"{what}: queries with the same nearest context", "", f"{part['same_nearest']} of {many}", None),
    ]


def filled_in(text: str, sizes: dict[str, Any], rows: Sequence[Row], where: dict[str, Any]) -> str:
    """Return a Markdown text with the table of a run between its two marks."""
    before, found, rest = text.partition(BEGIN)
    _, ended, after = rest.partition(END)
    if not (found and ended):
        raise SystemExit(f"The file has no place for the table: the lines {BEGIN} and {END}.")
    lines = [
        f"{place(where)}, {where['date'][:10]}; {sizes['server']}.",
        "",
        "| | embedded | server | ratio |",
        "|---|---|---|---|",
    ]
    for row in rows:
        result = "" if row.result is None else f"{row.result:.2f}{row.unit}"
        lines.append(f"| {row.what} | {row.reference} | {row.latentbank} | {result} |")
    return f"{before}{BEGIN}\n" + "\n".join(lines) + f"\n{END}{after}"


if __name__ == "__main__":
    main()
