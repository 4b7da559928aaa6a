"""Faults during ingestion: count the contexts lost and the contexts stored twice, both of which must be 0.

    python -m benchmarks.faults --kills 50 --json faults.json

This runs the faults of tests/faults/ more often: a tiny random LLM, the whole job, the embedded engine and a test
double of a server on a real socket, over REST and over gRPC. Nothing is timed.
"""

from __future__ import annotations

import argparse
import multiprocessing.util
import random
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.common import Row, machine, parser_of, show, write_json
from tests.faults import embedded, scenarios
from tests.faults.trial import Outcome, Reference, Site, Trial, make_reference
from tests.ingest.jobs import Place
from tests.tiny import save_tiny
from tests.wire.double import Fault, QdrantDouble

Runs = dict[str, Callable[[], Outcome]]


def main() -> None:
    """Run every fault against every store and print the table."""
    arguments = _parser().parse_args()
    found: dict[str, Outcome] = {}
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as temporary:
        folder = Path(temporary)
        multiprocessing.util.get_temp_dir()  # fixed for the whole process: not in a folder that is removed
        tempfile.tempdir = temporary  # the double keeps its collections there
        reference = make_reference(save_tiny(folder / "model"), folder / "undisturbed")
        with QdrantDouble() as server, embedded.small_disk(folder / "disk") as disk:
            runs = _runs(reference, server, folder, disk, arguments)
            for done, (name, run) in enumerate(runs.items()):
                found[name] = run()
                print(f"{done + 1}/{len(runs)}  {name}: {_summary(found[name])}", flush=True)
            assert server.invalid_requests == []
        tempfile.tempdir = None
    total = Outcome()
    for outcome in found.values():
        total.add(outcome)
    rows = [Row(name, "", _summary(outcome), None) for name, outcome in found.items()]
    rows += [
        Row("faults tried", "", f"{total.struck:,}", None),
        Row("contexts counted again", "", f"{total.acknowledged:,}", None),
        Row("contexts lost", "", f"{total.lost}", total.lost, "", most=0),
        Row("contexts doubled", "", f"{total.doubled}", total.doubled, "", most=0),
    ]
    sizes = {
        "contexts of the job, all layers": reference.contexts,
        "seed": arguments.seed,
        "times": arguments.times,
        "kills": arguments.kills,
    }
    where = machine()
    show("Faults", sizes, rows, where)
    write_json(arguments.json, sizes, rows, {name: asdict(outcome) for name, outcome in found.items()}, where)


def _parser() -> argparse.ArgumentParser:
    parser = parser_of("benchmarks.faults", __doc__)
    add = parser.add_argument
    add("--times", type=int, default=5, help="random moments for each fault that strikes at a random moment")
    add(
        "--kills",
        type=int,
        default=50,
        help="kills of the embedded job; a fifth as many with a server, over REST and over gRPC each",
    )
    add("--seed", type=int, default=1)
    add("--json", type=Path, help="file for the results")
    return parser


def _runs(
    reference: Reference, server: QdrantDouble, folder: Path, disk: Path | None, arguments: argparse.Namespace
) -> Runs:
    """Return every fault by its name, in the order of docs/faults.md."""
    times, kills, fewer = arguments.times, arguments.kills, max(1, arguments.kills // 5)

    def chance() -> random.Random:
        return random.Random(arguments.seed)

    runs: Runs = {}
    for way in ("rest", "grpc"):
        site = Site(reference, server, folder / way, way)
        requests = site.undisturbed()
        runs[f"connection refused, {way}"] = lambda site=site: scenarios.refused(site, chance(), times)
        for fault in Fault:
            if fault not in (Fault.slow, Fault.locked):
                runs[f"{fault.name} that passes, {way}"] = lambda site=site, fault=fault, requests=requests: (
                    scenarios.passing(site, fault, requests)
                )
            runs[f"{fault.name} that lasts, {way}"] = lambda site=site, fault=fault, requests=requests: (
                scenarios.lasting(site, fault, requests, chance(), times)
            )
        runs[f"slow reads, {way}"] = lambda site=site, requests=requests: scenarios.slow(site, requests)
        runs[f"server restarted empty, {way}"] = lambda site=site, requests=requests: (
            scenarios.restarted_empty(site, requests, chance(), times)
        )
        runs[f"collection deleted, {way}"] = lambda site=site, requests=requests: (
            scenarios.collection_deleted(site, requests, chance(), max(times, 3))
        )
        runs[f"two jobs on one corpus, {way}"] = lambda site=site: scenarios.two_jobs(site)
        runs[f"clocks an hour off, {way}"] = lambda site=site: scenarios.clock_skew(site)
        runs[f"kill -9 of the job, {way}"] = lambda site=site: embedded.kills(site.trial(), chance(), fewer)
    place = Place(reference.directory, folder / "killed")
    runs["kill -9 of the job, embedded"] = lambda: embedded.kills(Trial(reference, place), chance(), kills)
    if disk is not None:
        runs["full disk, embedded"] = lambda: embedded.full_disk(reference, disk, chance(), times)
    return runs


def _summary(outcome: Outcome) -> str:
    counts: dict[str, Any] = {
        "struck": outcome.struck,
        "runs": outcome.runs,
        "stopped": len(outcome.stops),
        "counted": outcome.acknowledged,
        "lost": outcome.lost,
        "doubled": outcome.doubled,
    }
    return ", ".join(f"{key} {value:,}" for key, value in counts.items())


if __name__ == "__main__":
    main()
