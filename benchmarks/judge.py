"""A judge behind an endpoint: what asking costs beyond the endpoint's own time, and what kills cost.

    python -m benchmarks.judge --json judge.json

The endpoint is a double (tests/wire/chat.py) on a real socket in a process of its own, which answers each question
after a fixed time. Images are photos of 640 x 480 pixels, made from noise, each seen by an encoder of 12 x 12 patches.

- Overhead: all questions are asked once, `--concurrency` at a time, with pictures made and answers kept. The endpoint's
  own time is the sum of the times from the arrival of a question to the sending of its answer, as the double measures
  them, divided by the concurrency.
- Kills: a process that asks them is killed (SIGKILL) at a random moment, `--kills` times, and started again. Then it
  ends undisturbed. The double writes down when each question came and when its answer was sent. An answer had arrived
  if it was sent at least 0.1 s before the kill.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import itertools
import json
import pickle
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.common import Row, machine, parser_of, show, write_json
from latentbank.bank.points import Neighbor
from latentbank.models.vision.geometry import squeezed
from latentbank.models.vision.sources import find_images
from latentbank.query.judging.answers import open_answers
from latentbank.query.judging.endpoint import Endpoint
from latentbank.query.judging.judge import ask
from latentbank.query.judging.questions import Questions, find_questions
from latentbank.query.judging.sources import sources_of
from latentbank.query.output.parquet import ReadingFolder
from latentbank.query.reading.reading import Place, Reading, TokenReading
from tests.wire.chat import ChatStub, Sent, asked, completion, says

_MODULE = "benchmarks.judge"
_SIZE, _SIDE, _PATCH = (640, 480), 336, 28
_LENSES, _LAYERS = ("latent", "logit", "embedding"), (0, 8, 16)
_ARRIVED = 0.1  # seconds after which a sent answer counts as arrived


def main() -> None:
    """Measure and print the table."""
    arguments = _parser().parse_args()
    if arguments.stub is not None:
        asyncio.run(_serve(*arguments.stub))
        return
    if arguments.ask is not None:
        _ask(*arguments.ask, concurrency=arguments.concurrency)
        return
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        _make_readings(work, arguments.images)
        questions = find_questions([work / "readings"], images=arguments.images, controls=0.2)
        (work / "questions").write_bytes(pickle.dumps(questions.asked))
        overhead = _overhead(work, questions, arguments)
        kills = _kills(work, arguments)
    rows = _rows(overhead, kills, arguments)
    sizes = {
        "questions": len(questions.asked),
        "images": arguments.images,
        "at once": arguments.concurrency,
        "answer": f"{arguments.seconds} s, while killed {arguments.slow} s",
    }
    where = machine()
    show("a judge behind an endpoint", sizes, rows, where, sides=("endpoint", "latentbank"))
    write_json(arguments.json, sizes, rows, {"overhead": overhead, "kills": kills}, where)


def _parser() -> argparse.ArgumentParser:
    parser = parser_of(_MODULE, __doc__)
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--concurrency", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=0.2, help="time of an answer")
    parser.add_argument("--slow", type=float, default=0.4, help="time of an answer while killed")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--stub", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--ask", nargs=2, help=argparse.SUPPRESS)
    return parser


def _rows(overhead: dict[str, Any], kills: dict[str, Any], arguments: argparse.Namespace) -> list[Row]:
    in_flight = sum(kills["in_flight"])
    return [
        Row(
            "wall time beyond the endpoint's own",
            f"{overhead['endpoint']:.2f} s",
            f"{overhead['wall']:.2f} s",
            100 * (overhead["wall"] / overhead["endpoint"] - 1),
            " %",
            most=10,
        ),
        Row("... processor time of a question", "", "", 1000 * overhead["processor"], " ms"),
        Row(
            f"{arguments.kills} kills: asked again though the answer had arrived",
            "",
            "",
            kills["arrived_again"],
            "",
            most=0,
        ),
        Row("... asked again in all", f"{in_flight} in flight", "", kills["again"], "", most=in_flight),
        Row("... questions without a verdict at the end", "", "", kills["without"], "", most=0),
    ]


def _overhead(work: Path, questions: Questions, arguments: argparse.Namespace) -> dict[str, Any]:
    """Ask all questions once."""
    count = len(questions.asked)
    with _stub(arguments.seconds, work / "overhead.jsonl") as url:
        endpoint = Endpoint("stub", url, concurrency=arguments.concurrency)
        sources = sources_of(questions.asked)
        with open_answers(work / "overhead", url, "stub") as answers:
            started, used = time.perf_counter(), time.process_time()
            verdicts = ask(questions.asked, endpoint, sources, answers)
            wall, processor = time.perf_counter() - started, time.process_time() - used
    assert all(verdict.state == "answered" for verdict in verdicts)
    log = _log(work / "overhead.jsonl")
    assert len(log) == count, f"{len(log)} requests for {count} questions"
    return {
        "wall": wall,
        "endpoint": sum(entry["sent"] - entry["came"] for entry in log) / arguments.concurrency,
        "processor": processor / count,
    }


def _kills(work: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Kill a process that asks, again and again, and count what was asked more than once."""
    random_moment = random.Random(arguments.seed)
    log_file = work / "kills.jsonl"
    moments, in_flight = [], []
    with _stub(arguments.slow, log_file) as url:
        for _ in range(arguments.kills):
            with _asking(work, url, arguments) as process:
                before = log_file.stat().st_size
                while log_file.stat().st_size == before:  # until the first question arrives
                    time.sleep(0.01)
                time.sleep(random_moment.uniform(0, 2))
                assert process.poll() is None, "all questions were answered before the last kill: ask more"
                moments.append(time.monotonic())
                process.kill()
                process.wait()
            time.sleep(arguments.slow + _ARRIVED)  # the double answers what it still can
            kept = sum(len(file.read_bytes().splitlines()) for file in (work / "kills").glob("*.jsonl"))
            in_flight.append(len({entry["asked"] for entry in _log(log_file)}) - kept)
        with _asking(work, url, arguments) as process:
            output = process.communicate()[0]
            without = int(output.split()[-1])
    log = _log(log_file)
    by_question: dict[str, list[dict[str, Any]]] = {}
    for entry in log:
        by_question.setdefault(entry["asked"], []).append(entry)
    arrived_again = sum(
        any(
            entry["sent"] is not None and entry["sent"] + _ARRIVED < moment < later["came"]
            for moment in moments
            for entry, later in itertools.pairwise(entries)
        )
        for entries in by_question.values()
    )
    return {
        "in_flight": in_flight,
        "again": len(log) - len(by_question),
        "arrived_again": arrived_again,
        "without": without,
    }


@contextmanager
def _asking(work: Path, url: str, arguments: argparse.Namespace) -> Iterator[subprocess.Popen[str]]:
    """Start a process that asks all questions, and wait until it begins."""
    command = [
        sys.executable,
        "-m",
        _MODULE,
        "--concurrency",
        str(arguments.concurrency),
        "--ask",
        str(work),
        url,
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "asking\n"
        yield process


def _ask(folder: str, url: str, concurrency: int) -> None:
    """Ask all questions, and print how many have no verdict."""
    work = Path(folder)
    questions = pickle.loads((work / "questions").read_bytes())
    sources = sources_of(questions)
    with open_answers(work / "kills", url, "stub") as answers:
        print("asking", flush=True)
        verdicts = ask(questions, Endpoint("stub", url, concurrency=concurrency), sources, answers)
    print(sum(verdict.state != "answered" for verdict in verdicts), flush=True)


class _Logging(ChatStub):
    """A double that writes down when each question came and when its answer was sent."""

    log: Any

    async def answer(self, line: str, headers: dict[str, str], content: bytes) -> Sent:  # noqa: ARG002
        came = time.monotonic()
        digest = hashlib.blake2b(content, digest_size=8).hexdigest()
        print(json.dumps({"asked": digest, "came": came}), file=self.log, flush=True)
        made = self.make(json.loads(content))
        assert isinstance(made, str)
        await asyncio.sleep(self.seconds - (time.monotonic() - came))
        print(
            json.dumps({"asked": digest, "came": came, "sent": time.monotonic()}), file=self.log, flush=True
        )
        return Sent(body=completion(made))


async def _serve(seconds: str, log: str) -> None:
    """Serve the double until standard input ends."""
    stub = _Logging(lambda body: says(concrete=asked(body)[:1], abstract=[]), float(seconds))
    with open(log, "a", encoding="utf-8") as stub.log:
        server = await asyncio.start_server(stub.serve, "127.0.0.1", 0, limit=1 << 20)
        print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1", flush=True)
        await asyncio.to_thread(sys.stdin.read)


@contextmanager
def _stub(seconds: float, log: Path) -> Iterator[str]:
    """Run the double in a process of its own; yield its address."""
    command = [sys.executable, "-m", _MODULE, "--stub", str(seconds), str(log)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        yield process.stdout.readline().strip()
        process.kill()


def _log(file: Path) -> list[dict[str, Any]]:
    """Return the requests in the order they came, `sent` None where no answer was."""
    found: dict[tuple[str, float], dict[str, Any]] = {}
    for line in file.read_text(encoding="utf-8").splitlines():
        entry = {"sent": None, **json.loads(line)}
        found[entry["asked"], entry["came"]] = entry
    return sorted(found.values(), key=lambda entry: entry["came"])


def _make_readings(work: Path, images: int) -> None:
    """Write images and their readings: five words of its own for each token, lens and layer."""
    (work / "images").mkdir()
    noise = np.random.default_rng(0)
    for number in range(images):
        small = Image.fromarray(noise.integers(0, 256, (30, 40, 3), dtype=np.uint8))
        small.resize(_SIZE, Image.Resampling.BICUBIC).save(work / "images" / f"{number:04d}.jpg")
    places = squeezed(_SIZE, _SIDE, _PATCH)
    folder = ReadingFolder(work / "readings", {"model": "vlm"})
    for image in find_images([work / "images"]):
        tokens = [
            TokenReading(
                index,
                f"{row},{column}",
                layer,
                1.0,
                tuple(
                    Neighbor(
                        f"{lens}-{layer}-{index}-{rank}-{Path(image.name).stem}", "", 0.5, "A sentence.", 0, 1
                    )
                    for rank in range(5)
                ),
                lens,
                Place(0, int(row), int(column), tuple(map(float, box))),
                "visual",
            )
            for lens in _LENSES
            for layer in _LAYERS
            for index, (row, column, box) in enumerate(
                zip(places.rows, places.columns, places.boxes, strict=True)
            )
        ]
        reading = Reading(
            image.name, "bank", "vlm", _LENSES, (8,), _LAYERS, tuple(tokens), size=_SIZE, geometry="exact"
        )
        folder.write(image, reading)


if __name__ == "__main__":
    main()
