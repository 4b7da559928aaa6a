"""Places for banks: embedded, and on a double of a Qdrant server with and without gRPC."""

from __future__ import annotations

import multiprocessing.util
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tenacity

from latentbank.bank.settings import load_settings
from tests import children, real_server
from tests.bank.samples import Place, Start
from tests.wire.disk import quick_folder
from tests.wire.double import QdrantDouble

ROOT = Path(__file__).resolve().parents[2]
CHILD = (
    "import importlib, sys, tests.real_server; "
    "getattr(importlib.import_module(sys.argv[1]), sys.argv[2])(*sys.argv[3:])"
)


@pytest.fixture(autouse=True, scope="package")
def quick_disk() -> Iterator[Path]:
    """A folder for everything the engine writes, in memory where possible.

    The engine syncs its files many times a second; on a disk, that would take most of these tests' time. Temporary
    files go there too, among them the double's collections.
    """
    folder = Path(tempfile.mkdtemp(prefix="latentbank-", dir=quick_folder()))
    multiprocessing.util.get_temp_dir()  # made before, because it must outlive these tests' folder
    before, tempfile.tempdir = tempfile.tempdir, str(folder)
    yield folder
    tempfile.tempdir = before
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def data_dir(quick_disk: Path) -> Iterator[Path]:
    """An empty folder for embedded banks."""
    folder = Path(tempfile.mkdtemp(prefix="banks-", dir=quick_disk))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(autouse=True)
def no_settings_from_outside(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Keep this machine's environment and .env files from changing the settings."""
    for name in list(os.environ):
        if name.startswith("LATENTBANK_"):
            monkeypatch.delenv(name)
    for name, value in real_server.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)


@pytest.fixture(autouse=True)
def no_waiting_for_readers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do not wait for readers: these banks have none while they are filled, except in tests that say so."""
    for module in ("view", "removal", "opening", "transfer.receive"):
        monkeypatch.setattr(f"latentbank.bank.{module}.LEDGER_SECONDS", 0.0)


@pytest.fixture(autouse=True)
def patient_clients(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait a minute for answers of a server that the machine may stop for seconds, also where users wait less."""
    monkeypatch.setattr("latentbank.bank.store.server.client._LONGEST_ANSWER", 60)
    monkeypatch.setattr("latentbank.bank.store.server.checks._PATIENCE", 60)


@pytest.fixture(autouse=True)
def metadata_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stop the clock by which a process knows what it has just written to metadata.

    It reads that itself for two seconds, until all nodes know it. The double counts reads, not seconds: after two
    seconds of a machine that has stopped, some of its nodes know nothing yet.
    """
    clock = SimpleNamespace(monotonic=lambda: 1000.0, sleep=time.sleep)
    monkeypatch.setattr("latentbank.bank.store.server.metadata.time", clock)


@pytest.fixture
def double() -> Iterator[Callable[..., QdrantDouble]]:
    """Start doubles (with a QdrantDouble's arguments), stop them, and check that their requests were valid."""
    if real_server.URL:
        pytest.skip("needs doubles with settings of their own")
    with ExitStack() as running:
        started: list[QdrantDouble] = []

        def start(**given: Any) -> QdrantDouble:
            started.append(running.enter_context(QdrantDouble(**given)))
            return started[-1]

        yield start
        for double in started:
            assert double.invalid_requests == []


@pytest.fixture
def server() -> Iterator[QdrantDouble]:
    """A double without keys, or the real server that tests run against."""
    with real_server.serving() as server:
        yield server


@pytest.fixture(params=["embedded", "grpc", "rest"])
def place(request: pytest.FixtureRequest) -> Place:
    """Provide each place in turn, with its settings."""
    kind = str(request.param)
    if kind == "embedded":
        return Place(kind, load_settings(data_dir=request.getfixturevalue("data_dir"), graph_from=1000))
    server: QdrantDouble = request.getfixturevalue("server")
    settings = load_settings(
        url=server.url,
        grpc_port=server.grpc_port,
        prefer_grpc=kind == "grpc",
        timeout=60,
        retry_wait=0.01,
        graph_from=1000,
    )
    return Place(kind, settings)


@pytest.fixture
def start() -> Iterator[Start]:
    """Start functions of a test file in their own processes, with strings as arguments.

    `through` is the beginning of a command that starts another command. Processes that still run at the end are killed.
    """
    running: list[subprocess.Popen[str]] = []

    def begin(
        function: Callable[..., None], *given: object, through: tuple[str, ...] = ()
    ) -> subprocess.Popen[str]:
        command = [*through, sys.executable, "-c", CHILD, function.__module__, function.__name__]
        pipes: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        running.append(children.Popen([*command, *map(str, given)], env=environment, text=True, **pipes))
        return running[-1]

    yield begin
    for child in running:
        child.kill()
        child.communicate()


@pytest.fixture(scope="module")
def one_server(quick_disk: Path) -> Iterator[QdrantDouble]:
    """Provide one server, which many tests share."""
    with real_server.serving() as server:
        yield server


@pytest.fixture
def shared(one_server: QdrantDouble) -> Iterator[QdrantDouble]:
    """Provide the shared server, emptied; afterwards check that its requests were valid."""
    one_server.wipe()
    if not isinstance(one_server, QdrantDouble):
        yield one_server
        return
    one_server.clear_faults()
    one_server.requests.clear()
    yield one_server
    assert one_server.invalid_requests == []


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Collect the seconds that retries would wait, without waiting."""
    waited: list[float] = []
    monkeypatch.setattr(tenacity.nap, "time", SimpleNamespace(sleep=waited.append))
    return waited


@pytest.fixture(params=["rest", "grpc"])
def transport(request: pytest.FixtureRequest) -> str:
    return str(request.param)
