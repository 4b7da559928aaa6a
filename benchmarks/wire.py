"""For benchmarks over a network connection: the tests' double of a Qdrant server in its own process, and contexts.

The double is the embedded engine behind Qdrant's REST and gRPC APIs, written in Python. It answers far more slowly than
a real server, so the benchmarks report how much of the time was spent waiting for it.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.common import parser_of
from latentbank.bank.points import Payload, context_id
from latentbank.bank.settings import Settings, load_settings
from latentbank.bank.store.base import Floats, Points
from latentbank.text import layer_numbers

CORPUS = "benchmark"
BANK = "benchmark"
# Number of directions in which contexts differ. Hidden states lie near a few directions; vectors that are random in all
# dimensions would have no neighbors.
_DIRECTIONS = 48
_WORDS = ("river", "bridge", "kettle", "window", "garden", "engine", "harbour", "ladder", "market", "violin")


@dataclass(frozen=True)
class Address:
    """The address at which the double listens."""

    url: str
    grpc_port: int

    def settings(self) -> Settings:
        """Return settings for this address."""
        return load_settings(url=self.url, grpc_port=self.grpc_port, timeout=600)


@contextmanager
def double(folder: Path, *arguments: str) -> Iterator[Address]:
    """Run the double in a process of its own until the block ends, with its files in `folder`.

    With `arguments`, which are contexts, layers (such as 4,8) and width, it holds a bank from the start.
    """
    command = [sys.executable, "-m", "benchmarks.wire", str(folder), *arguments]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parent.parent
    ) as child:
        assert child.stdout is not None
        assert child.stdin is not None
        line = child.stdout.readline().split()
        if len(line) != 2:
            raise SystemExit("The double of a server did not start; see above.")
        yield Address(line[0], int(line[1]))
        child.stdin.close()  # which ends the process


def made_points(count: int, width: int, layer: int, first: int = 0) -> Points:
    """Return `count` contexts from number `first` on, the same at every call; vectors are unit, `[count, width]`."""
    random = np.random.default_rng((layer, first))
    plane = np.random.default_rng(layer).standard_normal((_DIRECTIONS, width))
    rows = random.standard_normal((count, _DIRECTIONS)) @ plane
    rows += 0.3 * random.standard_normal(rows.shape) * np.sqrt(_DIRECTIONS)
    vectors: Floats = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    numbers = range(first, first + count)
    ids = [context_id(CORPUS, [number]) for number in numbers]
    return Points(ids, vectors, [_payload(number) for number in numbers])


def _payload(number: int) -> Payload:
    word = _WORDS[number % len(_WORDS)]
    caption = f"Photograph {number // 9}: an old {word} that somebody left beside the road to the {_WORDS[number % 7]}."
    start = caption.index(word)
    return Payload(
        corpus=CORPUS,
        sentence=number // 9,
        position=1 + number % 9,
        token_id=number % 40_000,
        token=f" {word}",
        word=word,
        caption=caption,
        start=start,
        end=start + len(word),
    )


def _serve(folder: Path, contexts: int, layers: list[int], width: int) -> None:
    import tempfile

    from tests.wire.double import QdrantDouble

    tempfile.tempdir = str(folder)
    with QdrantDouble() as server:
        address = Address(server.url, server.grpc_port)
        if contexts:
            _fill(server, address, contexts, layers, width)
        print(address.url, address.grpc_port, flush=True)
        sys.stdin.read()


def _fill(server: object, address: Address, contexts: int, layers: list[int], width: int) -> None:
    """Fill a bank directly, not over the network, and index it as `ingest run` does."""
    from latentbank.bank.manifest import CorpusEntry
    from latentbank.bank.opening import create_bank
    from latentbank.bank.store.names import collection_name

    with create_bank(
        BANK,
        address.settings(),
        model="benchmark",
        fingerprint="f00d",
        num_layers=max(layers) + 1,
        hidden_size=width,
        layers=layers,
    ) as bank:
        for layer in layers:
            print(f"filling layer {layer}", file=sys.stderr, flush=True)
            for first in range(0, contexts, 1000):
                points = made_points(min(1000, contexts - first), width, layer, first)
                server.put(collection_name(BANK, layer), points.ids, points.vectors, points.payloads)  # type: ignore[attr-defined]
            bank.store.index(layer)
        bank.record(
            CorpusEntry(
                name=CORPUS,
                content_hash="benchmark",
                sentences=contexts // 9,
                tokens=contexts,
                contexts=contexts,
                plan={},
                complete=True,
            )
        )


def main() -> None:
    """Run the double of a server until standard input ends, and print its URL and gRPC port."""
    parser = parser_of("benchmarks.wire", __doc__)
    parser.add_argument("folder", type=Path, help="folder for the double's files")
    parser.add_argument(
        "contexts", type=int, nargs="?", default=0, help="contexts a layer of a bank to make first"
    )
    parser.add_argument("layers", nargs="?", default="0", help="the bank's layers, such as 4,8")
    parser.add_argument("width", type=int, nargs="?", default=0, help="dimensions of the bank's vectors")
    given = parser.parse_args()
    _serve(given.folder, given.contexts, layer_numbers(given.layers), given.width)


if __name__ == "__main__":
    main()
