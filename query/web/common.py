"""What all served pages share: their files, and errors as one sentence."""

from __future__ import annotations

import gzip
from collections.abc import Mapping

from fastapi import FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException as AnyHTTPException
from starlette.requests import ClientDisconnect

from latentbank.errors import LatentBankError
from latentbank.query.web.bodies import RETRY_AFTER
from latentbank.query.web.file import PAGE
from latentbank.query.web.jobs import TooBusy
from latentbank.text import without_paths

_TYPES = {".html": "text/html", ".js": "text/javascript", ".css": "text/css"}


def serve_files(app: FastAPI, index: str) -> None:
    """Serve the page's files, with one of them as the page itself; compressed to those who take that."""
    files = {path.name: path.read_bytes() for path in PAGE.iterdir() if path.suffix in _TYPES}
    packed = {name: gzip.compress(data, mtime=0) for name, data in files.items()}

    def sent(request: Request, name: str) -> Response:
        kind, vary = _TYPES["." + name.rsplit(".", 1)[-1]], {"vary": "accept-encoding"}
        if not _takes_gzip(request.headers.get("accept-encoding", "")):
            return Response(files[name], media_type=kind, headers=vary)
        return Response(packed[name], media_type=kind, headers=vary | {"content-encoding": "gzip"})

    @app.get("/")
    def page(request: Request) -> Response:
        return sent(request, index)

    @app.get("/static/{name}")
    def static(request: Request, name: str) -> Response:
        if name not in files:
            raise HTTPException(404, "There is no such file.")
        return sent(request, name)


def _takes_gzip(accepted: str) -> bool:
    """Return whether an Accept-Encoding header names gzip, and not with a weight of 0."""
    parts = [part.replace(" ", "").lower().split(";q=") for part in accepted.split(",")]
    return any(part[0] == "gzip" and (len(part) == 1 or part[1].strip("0.") != "") for part in parts)


def handle_errors(app: FastAPI) -> None:
    """Answer errors with JSON that has one sentence under `error`."""

    def answer(status: int, message: str, headers: Mapping[str, str] | None = None) -> Response:
        return JSONResponse({"error": message}, status, headers)

    @app.exception_handler(AnyHTTPException)
    async def refused(_: Request, error: AnyHTTPException) -> Response:
        return answer(error.status_code, error.detail, error.headers)

    @app.exception_handler(LatentBankError)
    async def failed(_: Request, error: LatentBankError) -> Response:
        busy = isinstance(error, TooBusy)
        return answer(503 if busy else 400, without_paths(str(error)), RETRY_AFTER if busy else None)

    @app.exception_handler(ClientDisconnect)
    async def left(_: Request, _error: ClientDisconnect) -> Response:
        return answer(400, "The client has left.")  # nobody reads this

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        return answer(422, f"{first['loc'][-1]}: {first['msg']}.")
