"""Pulling a bank from a server to this machine: by snapshot, side by side with by scroll.

    python -m benchmarks.move --contexts 100000 --layers 4,8,12,16 --json move.json

Both pulls are `bank pull` as users run it, with the verification at the end, each in a process of its own. The server
is the tests' double in a third process (see wire.py). It answers scrolls far more slowly than a real server, so one row
leaves out the time spent waiting for them. What remains is storing and indexing on this side.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.common import (
    Row,
    answer_child,
    folder_bytes,
    in_child,
    machine,
    mib,
    parser_of,
    show,
    write_json,
)
from benchmarks.limits import copy_speed
from benchmarks.wire import BANK, Address, double
from latentbank.bank.opening import open_bank
from latentbank.bank.settings import load_settings
from latentbank.bank.transfer.copy import copy_bank
from latentbank.bank.transfer.snapshots import Way
from latentbank.progress import Silent


def main() -> None:
    """Pull both ways and print the table."""
    arguments = _parser().parse_args()
    layers = arguments.layers.split(",")
    with tempfile.TemporaryDirectory(dir=arguments.work) as temporary:
        work = Path(temporary)
        (work / "server").mkdir()
        given = (str(arguments.contexts), arguments.layers, str(arguments.width))
        with double(work / "server", *given) as server:
            found = {
                by: in_child(
                    "benchmarks.move",
                    "pull",
                    url=server.url,
                    grpc_port=server.grpc_port,
                    folder=work / by,
                    by=by,
                )
                for by in ("scroll", "snapshot")
            }
    sizes = {
        "contexts a layer": arguments.contexts,
        "layers": arguments.layers,
        "dimensions": arguments.width,
    }
    where = machine()
    rows = _rows(found["scroll"], found["snapshot"], arguments.contexts * len(layers), copy_speed(1))
    show("Pulling a bank", sizes, rows, where, ("by scroll", "by snapshot"))
    write_json(arguments.json, sizes, rows, found, where)


def _parser() -> argparse.ArgumentParser:
    parser = parser_of("benchmarks.move", __doc__)
    add = parser.add_argument
    add("--contexts", type=int, default=100_000, help="contexts a layer")
    add("--layers", default="4,8,12,16")
    add("--width", type=int, default=576, help="dimensions")
    add("--work", type=Path, help="folder for both banks and the server's files (a temporary one)")
    add("--json", type=Path, help="file for the results")
    return parser


class _Listener(Silent):
    """Measures the phases of a pull from its progress: what was downloaded, and when verification began."""

    def __init__(self) -> None:
        self.waited = self.waited_before = self.copied_at = self.mib = 0.0
        self._download = 0.0

    def update(self, done: float, total: float | None = None) -> None:
        """Keep the size of the current download."""
        if total is None:
            self._download = done

    def stage(self, what: str, unit: str) -> None:
        """Add the finished download, and keep the time at which verification begins."""
        del unit
        self.mib, self._download = self.mib + self._download, 0.0
        if what == "comparing" and not self.copied_at:
            self.copied_at, self.waited_before = time.perf_counter(), self.waited


def pull(url: str, grpc_port: int, folder: str, by: Way) -> dict[str, Any]:
    """Pull the server's bank in one way; return seconds, in all and until verification began, and bytes."""
    listener = _Listener()
    with open_bank(BANK, Address(url, grpc_port).settings()) as source:
        scroll = source.store.scroll

        def timed(*given: Any, **named: Any) -> Iterator[Any]:
            rest = scroll(*given, **named)
            while True:
                started = time.perf_counter()
                batch = next(rest, None)
                listener.waited += time.perf_counter() - started
                if batch is None:
                    return
                yield batch

        source.store.scroll = timed  # type: ignore[method-assign]
        started = time.perf_counter()
        report = copy_bank(source, load_settings(data_dir=folder), progress=listener, by=by)
        whole = time.perf_counter() - started
    if report.wrong or bool(report.snapshots) != (by == "snapshot"):
        raise SystemExit(f"The pull by {by} went wrong: {report}")
    copied = listener.copied_at - started
    return {
        "seconds": whole,
        "seconds_copying": copied,
        "seconds_copying_without_waiting": copied - listener.waited_before,
        "seconds_verifying": whole - copied,
        "downloaded_mib": listener.mib,
        "bytes_on_disk": folder_bytes(Path(folder)),
    }


def _rows(scroll: Mapping[str, Any], snapshot: Mapping[str, Any], contexts: int, speed: float) -> list[Row]:
    def row(what: str, left: str, right: str, least: float | None = None) -> Row:
        before, after = scroll[left], snapshot[right]
        return Row(what, f"{before:,.1f} s", f"{after:,.1f} s", before / after, least=least)

    copying = "seconds_copying"
    return [
        row("the whole command, verified", "seconds", "seconds", least=3.0),
        replace(
            row("… copying and indexing", copying, copying),
            share=snapshot["bytes_on_disk"] / speed / snapshot[copying],
            limit="the speed of copying its files in memory",
        ),
        row("… the same, waiting for scrolled contexts left out", f"{copying}_without_waiting", copying),
        row("… verifying", "seconds_verifying", "seconds_verifying"),
        Row(
            "contexts copied in a second",
            f"{contexts / scroll[copying]:,.0f}",
            f"{contexts / snapshot[copying]:,.0f}",
            None,
        ),
        Row("downloaded", "", f"{snapshot['downloaded_mib']:,.0f} MiB", None),
        Row("on disk", mib(scroll["bytes_on_disk"]), mib(snapshot["bytes_on_disk"]), None),
    ]


if __name__ == "__main__" and not answer_child({"pull": pull}, sys.argv[1:]):
    main()
