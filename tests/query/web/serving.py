"""A page that is served to real sockets."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
import uvicorn

from latentbank.query.web import bodies, guard, trial

NO_KEPT = httpx.Limits(max_keepalive_connections=0)
"""Of clients that may pause: a server closes a connection that was idle, perhaps just when it is used again."""


def be_patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let pages wait for what comes late on a busy machine: bodies, tokens, and the process that tries images."""
    for module, limit in (
        (bodies, "PAUSE"),
        (bodies, "LONGEST"),
        (guard, "_FORM_SECONDS"),
        (trial, "SECONDS"),
    ):
        monkeypatch.setattr(module, limit, 600.0)


@contextmanager
def serving(app: Any) -> Iterator[str]:
    """Serve an app during the block, and yield its address."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}/"
        finally:
            server.should_exit = True
            thread.join()
