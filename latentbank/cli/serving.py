"""Serving a page until Ctrl-C."""

from __future__ import annotations

import socket
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

from latentbank.errors import LatentBankError

if TYPE_CHECKING:
    import uvicorn

    from latentbank.query.web.guard import Guard

_CONNECTIONS = 500  # at once; beyond them a request gets 503


def require_web() -> None:
    """Raise LatentBankError if the packages that serve pages are not installed."""
    try:
        import fastapi  # noqa: F401 (only whether it is there)
        import uvicorn  # noqa: F401 (as above)
    except ImportError:
        raise LatentBankError("The page needs fastapi and uvicorn: install both.") from None


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens there.

    Raises:
        LatentBankError: the address cannot be had.
    """
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family)
    except OSError as error:
        raise LatentBankError(
            f"The page cannot be shown on {host}, port {port} ({error.strerror or error}): give another --port or "
            "--host."
        ) from None


def serve(app: Guard, listening: socket.socket) -> None:
    """Say where a page's app is, and serve it until Ctrl-C."""
    import uvicorn

    print(f"The page is at {_address(listening)}; Ctrl-C ends it.", file=sys.stderr)
    with suppress(KeyboardInterrupt):
        uvicorn.Server(served(app)).run(sockets=[listening])


def served(app: Guard) -> uvicorn.Config:
    """Return how a page's app is served. There is no access log: it would hold what people typed."""
    import uvicorn

    return uvicorn.Config(
        app,
        http="h11",
        ws="none",
        log_level="warning",
        access_log=False,
        server_header=False,
        limit_concurrency=_CONNECTIONS,
        timeout_graceful_shutdown=2,
    )


def _address(listening: socket.socket) -> str:
    host, port = listening.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}/"
