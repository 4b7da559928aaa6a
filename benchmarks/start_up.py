"""Start-up: how long the first answer of `latentbank query text` takes, and where that time goes.

    python -m benchmarks.start_up --data-dir .demo/banks --bank demo --model .demo/SmolLM2-135M-Instruct

The whole command runs several times, from its start to its end, in a process of its own; files are in the page cache.
A process of its own takes the same steps once more and reports how long each took: the imports of the command line, the
bank, the imports of PyTorch and transformers, the LLM and its digests, and the reading. Processor seconds stand beside
the time, because they tell what a busy machine adds.
"""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.common import (
    Row,
    answer_child,
    in_child,
    machine,
    parser_of,
    processor_seconds,
    show,
    write_json,
)

SENTENCE = "The dog chased a cat across the yard."
_MODULE = "benchmarks.start_up"
_MOST = 5.0  # seconds


def main() -> None:
    """Measure the command and its steps, and print the table."""
    parser = parser_of(_MODULE, __doc__)
    add = parser.add_argument
    add(
        "--data-dir",
        type=Path,
        required=True,
        help="folder of the embedded banks; give a copy if one is open",
    )
    add("--bank", default="demo")
    add("--model", required=True, help="the LLM: a directory, a GGUF or a hub id")
    add("--runs", type=int, default=5, help="runs of the whole command")
    add("--json", type=Path, help="file for the results")
    arguments = parser.parse_args()
    model = str(Path(arguments.model).resolve()) if Path(arguments.model).exists() else arguments.model
    given = {"data_dir": str(arguments.data_dir.resolve()), "bank": arguments.bank, "model": model}
    run_command(**given)  # reads the files into the page cache
    runs = [run_command(**given) for _ in range(arguments.runs)]
    steps = [in_child(_MODULE, "steps", **given) for _ in range(arguments.runs)]
    rows = [_row("the whole command", runs, most=_MOST)]
    rows += [_row(f"… {step}", [found[step] for found in steps]) for step in steps[0]]
    where = machine()
    sizes = {"bank": arguments.bank, "model": Path(model).name, "runs": arguments.runs}
    show("First answer of `query text`", sizes, rows, where, ("processor s", "s"))
    write_json(arguments.json, sizes, rows, {"command": runs, "steps": steps}, where)


def _row(what: str, runs: list[dict[str, float]], most: float | None = None) -> Row:
    """Return a line with the medians of several runs."""
    seconds, processor = (statistics.median(run[key] for run in runs) for key in ("seconds", "processor"))
    return Row(what, f"{processor:.2f}", f"{seconds:.2f}", seconds, " s", most=most)


def run_command(data_dir: str, bank: str, model: str) -> dict[str, float]:
    """Return the time and the processor seconds of the whole command, as a user runs it."""
    command = [sys.executable, "-m", "latentbank", "--data-dir", data_dir, "query", "text", SENTENCE]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    began = time.perf_counter()
    subprocess.run(
        [*command, "--bank", bank, "--model", model],
        check=True,
        stdout=subprocess.DEVNULL,
        cwd=Path(__file__).parent.parent,
        env=os.environ | {"HF_HUB_OFFLINE": "1"},
    )
    seconds = time.perf_counter() - began
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"seconds": seconds, "processor": used}


def run_steps(data_dir: str, bank: str, model: str) -> dict[str, dict[str, float]]:
    """Take the steps of the command and return time and processor seconds of each."""
    steps: dict[str, dict[str, float]] = {}
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command does

    @contextmanager
    def step(name: str) -> Iterator[None]:
        used, began = processor_seconds(), time.perf_counter()
        yield
        steps[name] = {"seconds": time.perf_counter() - began, "processor": processor_seconds() - used}

    with step("imports of the command line"):
        import latentbank.cli  # noqa: F401
        from latentbank.bank.opening import open_bank
        from latentbank.bank.settings import load_settings
        from latentbank.memory import collect_rarely

        collect_rarely()
    with step("opening the bank"):
        opened = open_bank(bank, load_settings(data_dir=Path(data_dir)))
    with step("imports of PyTorch and transformers"):
        from latentbank.models.language.model import load_language_model
        from latentbank.query.reading.text import read_text
    with step("loading the LLM"):
        language: Any = load_language_model(model, device="cpu", deepest_layer=max(opened.layers))
    with step("its digests"):
        language.identity()
    with step("reading"):
        read_text(opened, language, SENTENCE)
    opened.close()
    return steps


if __name__ == "__main__" and not answer_child({"steps": run_steps}, sys.argv[1:]):
    main()
