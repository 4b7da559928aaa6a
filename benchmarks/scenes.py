"""Shared by the benchmarks that read scenes: their options, and a bank of encoded contexts."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.common import in_child, parser_of
from benchmarks.indexes import BANK, search_states


def scenes_parser(module: str, description: str | None, images: int) -> argparse.ArgumentParser:
    """Return the parser of a benchmark that reads `images` scenes by default."""
    parser = parser_of(module, description)
    add = parser.add_argument
    add("--states", type=Path, required=True, help="folder that keeps the encoded contexts")
    add("--model", help="the LLM, when states have to be made: a directory or GGUF (the wheel's GGUF)")
    add("--contexts", type=int, default=100_000, help="contexts a layer")
    add("--contexts-per-token", type=int, default=50, help="of the states, when they have to be made")
    add("--layers", default="4,8,12,16", help="bank layers")
    add("--images", type=int, default=images, help="scenes that are read")
    add("--work", type=Path, help="folder that keeps the bank (a temporary one)")
    add("--json", type=Path, help="file for the results")
    return parser


@contextmanager
def filled_bank(arguments: argparse.Namespace, layers: list[int]) -> Iterator[Path]:
    """Yield a folder with the options' bank in `banks`; a missing bank is filled in a process of its own."""
    states = search_states(arguments, layers)
    with tempfile.TemporaryDirectory() as temporary:
        work = (arguments.work or Path(temporary)).resolve()
        if not (work / "banks" / BANK).exists():
            in_child(
                "benchmarks.indexes",
                "build-latentbank",
                states=states.directory.resolve(),
                work=work,
                count=arguments.contexts,
                layers=layers,
            )
        yield work
