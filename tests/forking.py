"""Workers of pytest-xdist as forks of one process, which has done the imports that all of them need.

Six workers that each import torch, transformers and some sixty other packages spend a minute of processor time on it,
and hold all of that six times in memory. Here one process imports it (`_serve`). xdist starts this file as if it were
another Python, and it stands for a fork of that process: it hands over its standard streams and ends when the fork
does.

Only packages of others are imported before, so what is ours is imported by each worker under pytest's eyes. The
programs that tests start can be forks, too (`tests/children.py`). Tests that need a fresh process start one.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NoReturn

# What most workers import sooner or later, and takes some hundredths of a second.
PACKAGES = [
    "accelerate", "av", "bitsandbytes", "cryptography.x509", "datasets", "fastapi.testclient", "hypothesis",
    "matplotlib.pyplot", "openai", "pandas", "peft", "playwright.sync_api", "qdrant_client", "ray.data", "scipy.stats",
    "sklearn.metrics", "torch", "torch._dynamo", "torchvision", "transformers", "typer.testing", "uvicorn",
]  # fmt: skip
MODELS = [
    "auto.image_processing_auto", "auto.modeling_auto", "auto.processing_auto", "auto.tokenization_auto",
    "clip.modeling_clip", "gpt2.modeling_gpt2", "idefics3.modeling_idefics3", "llama.modeling_llama",
    "llava.modeling_llava", "qwen2.modeling_qwen2", "qwen2_5_vl.modeling_qwen2_5_vl", "qwen2_vl.modeling_qwen2_vl",
    "siglip.modeling_siglip",
]  # fmt: skip
IMPORTS = [*PACKAGES, *(f"transformers.models.{name}" for name in MODELS)]
# Plugins of pytest among them, which it would warn of: it cannot rewrite their assertions any more.
PLUGINS = ("anyio", "hypothesis", "_hypothesis_globals")
_WHERE = "TESTS_FORKS"  # the environment variable with the path of the socket, in all forks
_KIND = (socket.AF_UNIX, socket.SOCK_SEQPACKET)
_MOST = 1 << 20  # bytes of a message
_SERVER = "from tests.forking import _serve; _serve({listener})"


def let_workers_fork(specs: Iterable[Any]) -> Callable[[], None]:
    """Let xdist start the workers of `specs` as forks, and return what ends the process that they are forks of."""
    there = os.environ.get(_WHERE)
    if there is not None:  # a test has started pytest: that process serves it, too
        _start_as_forks(specs, there)
        return lambda: None
    folder = tempfile.TemporaryDirectory(prefix="forks-")
    path = Path(folder.name, "socket")
    with socket.socket(*_KIND) as listener:
        listener.bind(str(path))
        listener.listen(64)
        server = subprocess.Popen(
            [sys.executable, "-c", _SERVER.format(listener=listener.fileno())],
            cwd=Path(__file__).parent.parent,
            stdin=subprocess.PIPE,
            pass_fds=[listener.fileno()],
        )
    _start_as_forks(specs, str(path))

    def end() -> None:
        server.communicate()
        folder.cleanup()

    return end


def _start_as_forks(specs: Iterable[Any], path: str) -> None:
    for spec in specs:
        spec.python = shlex.join([sys.executable, "-SE", __file__, path])


def _serve(listener: int) -> None:
    """Do the imports, then fork for each connection, until standard input ends and so do all forks."""
    import gc
    import importlib
    import selectors

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that started this one
    named = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    paths = [path for path in sys.path[1:] if path not in named]
    gc.disable()
    for name in IMPORTS:
        with contextlib.suppress(Exception):  # a test that needs what is missing says so itself
            importlib.import_module(name)
    for name in sys.modules.keys() & set(PLUGINS):
        sys.modules[name].__doc__ = "PYTEST_DONT_REWRITE"
    gc.freeze()
    gc.enable()
    forks: set[int] = set()
    with socket.socket(fileno=listener) as listening, selectors.DefaultSelector() as waiting:
        os.environ[_WHERE] = listening.getsockname()
        waiting.register(listening, selectors.EVENT_READ)
        waiting.register(0, selectors.EVENT_READ)
        while all(key.fd != 0 for key, _ in waiting.select()):
            connection, _ = listening.accept()
            fork = os.fork()
            if fork == 0:
                waiting.close()
                listening.close()
                _work(connection, paths)
            connection.close()
            forks.add(fork)
    signal.signal(signal.SIGALRM, lambda *_: [os.kill(fork, signal.SIGKILL) for fork in forks])
    signal.alarm(30)
    while forks:
        forks.discard(os.wait()[0])


def _work(connection: socket.socket, paths: list[str]) -> NoReturn:
    """Take over what comes by the connection, and do what `python -c` would for xdist."""
    from tests import children

    children.fork_programs(paths, connection)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    told, streams, _, _ = socket.recv_fds(connection, _MOST, 3)
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    folder, variables = json.loads(told)
    os.chdir(folder)
    os.environ |= variables
    sys.argv[:] = ["-c"]
    exec(eval(sys.stdin.readline()), sys.modules["__main__"].__dict__)
    connection.close()
    children.leave(0)


def _stand_for_a_fork(path: str) -> None:
    """Hand this process's streams, folder and environment to a fork, and wait for its end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with socket.socket(*_KIND) as connection:
        connection.connect(path)
        told = json.dumps([os.getcwd(), dict(os.environ)])
        socket.send_fds(connection, [told.encode()], [0, 1, 2])
        for number in (0, 1, 2):
            os.close(number)
        connection.recv(1)  # nothing ever comes: the fork's end ends the connection


if __name__ == "__main__":
    _stand_for_a_fork(sys.argv[1])
