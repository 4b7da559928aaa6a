"""The page live over a bank: FastAPI, server-sent events, and files that are named, never looked up."""

from __future__ import annotations

import asyncio
import io
import json
import warnings
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Annotated, Any, Literal, cast

from fastapi import FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response, StreamingResponse
from PIL import Image

from latentbank.bank.layers import BankLayers
from latentbank.bank.where import All, Filter, Where
from latentbank.errors import ImageError, LatentBankError, QueryError
from latentbank.query.lenses.registry import lens_names
from latentbank.query.web.file import PAGE, page_html
from latentbank.query.web.jobs import OVER, Ask
from latentbank.query.web.reader import Desk
from latentbank.query.web.uploads import Uploads

LARGEST_UPLOAD = 20_000_000
"""Bytes of an image that is sent."""
MOST_PIXELS = 40_000_000
"""Pixels of an image that is sent."""
_TYPES = {".html": "text/html", ".js": "text/javascript", ".css": "text/css"}
_LOOK = 0.05  # seconds between looks at a job
_ALIVE = 15.0  # seconds after which a quiet stream of events says that it is there

Short = Annotated[str, Query(max_length=200)]


def create_app(desk: Desk | None, pictures: Mapping[str, bytes] | None = None) -> FastAPI:
    """Make the page's app; put a `Guard` before it.

    Args:
        desk: what reads; closed with the app. None: only saved readings can be looked at.
        pictures: images that the page offers, by name.
    """
    offered = dict(pictures or {}) if desk else {}
    uploads = Uploads()

    @asynccontextmanager
    async def life(_: FastAPI) -> AsyncIterator[None]:
        yield
        if desk is not None:
            await asyncio.to_thread(desk.close)

    app = FastAPI(lifespan=life, docs_url=None, redoc_url=None, openapi_url=None)
    files = {path.name: path.read_bytes() for path in PAGE.iterdir() if path.suffix in _TYPES}
    _errors(app)

    @app.get("/")
    def index() -> Response:
        return Response(files["index.html"], media_type="text/html")

    @app.get("/static/{name}")
    def static(name: str) -> Response:
        if name not in files:
            return _error(404, "There is no such file.")
        return Response(files[name], media_type=_TYPES["." + name.rsplit(".", 1)[-1]])

    @app.get("/api/about")
    def about() -> dict[str, Any]:
        limits = {"bytes": LARGEST_UPLOAD, "pixels": MOST_PIXELS}
        return {"pictures": list(offered), "limits": limits} | (desk.about() if desk else {"models": []})

    @app.get("/api/pictures/{name}")
    def picture(name: str) -> Response:
        if name not in offered:
            return _error(404, "There is no such picture.")
        kind = "image/png" if offered[name].startswith(b"\x89PNG") else "image/jpeg"
        return Response(offered[name], media_type=kind)

    @app.post("/api/readings", status_code=202)
    async def read(
        request: Request,
        picture: Short = "",
        upload: Short = "",
        name: Annotated[str, Query(max_length=400)] = "",
        sentence: Annotated[str, Query(max_length=2000)] = "",
        model: Short = "",
        layers: Short = "",
        bank_layers: Short = "mid",
        lens: Short = "latent",
        top_k: Annotated[int, Query(ge=1, le=50)] = 5,
        corpus: Short = "",
        word: Short = "",
        caption: Short = "",
        unique: Literal["", "context", "word"] = "",
    ) -> Response:
        if desk is None:
            return _error(
                409, "No model is loaded here: open a saved reading, or start `latentbank view` with a bank."
            )
        image, sent = None, None
        if picture:
            if picture not in offered:
                return _error(404, "There is no such picture.")
            image = offered[picture]
        elif upload:
            sent = uploads.get(upload)
            if sent is None:
                return _error(404, "This image is not kept here any more; choose its file again.")
            image = sent.data
        elif not sentence:
            body = await _body(request)
            if body is None:
                return _error(
                    413, f"The image is larger than {LARGEST_UPLOAD // 1_000_000} MB; make it smaller."
                )
            await asyncio.to_thread(check_image, body)
            sent = uploads.keep(_plain(name) or "image", body)
            image = sent.data
        ask = Ask(
            name=sentence or picture or (sent.name if sent else "image"),
            image=image,
            sentence=sentence,
            model=model,
            layers=_numbers(layers) or None,
            bank_layers=_bank_layers(bank_layers),
            lenses=tuple(lens_names(lens)),
            top_k=top_k,
            where=where_of(corpus, word, caption),
            unique=cast("Any", unique or None),
        )
        job = await asyncio.to_thread(desk.ask, ask)  # it reads the bank's ledger
        return JSONResponse({"job": job.id, "upload": sent.key if sent else ""}, 202)

    @app.get("/api/jobs/{number}/events")
    async def events(number: str) -> Response:
        job = desk.job(number) if desk else None
        if job is None:
            return _error(404, "There is no such job.")

        async def stream() -> AsyncIterator[bytes]:
            told, parts, quiet = -1, 0, 0.0
            while True:
                if job.version != told:
                    told, quiet = job.version, 0.0
                    state = {
                        key: getattr(job, key)
                        for key in ("state", "what", "done", "total", "reading", "error")
                    }
                    for part in job.parts[parts:]:
                        parts += 1
                        yield f"event: part\ndata: {part}\n\n".encode("utf-8", "replace")
                    yield f"data: {json.dumps(state)}\n\n".encode()
                    if state["state"] in OVER:
                        return
                    continue
                await asyncio.sleep(_LOOK)
                quiet += _LOOK
                if quiet >= _ALIVE:
                    quiet = 0.0
                    yield b": still there\n\n"

        return StreamingResponse(stream(), media_type="text/event-stream")

    @app.delete("/api/jobs/{number}")
    def cancel(number: str) -> Response:
        job = desk.job(number) if desk else None
        if job is None:
            return _error(404, "There is no such job.")
        job.cancelled.set()
        return Response(status_code=204)

    @app.get("/api/readings/{key}")
    def reading(key: str) -> Response:
        found = desk.reading(key) if desk else None
        if found is None:
            return _error(404, "This reading is not kept any more; ask for it again.")
        return Response(found.data.encode("utf-8", "replace"), media_type="application/json")

    @app.get("/api/readings/{key}/page")
    def page(key: str) -> Response:
        found = desk.reading(key) if desk else None
        if found is None:
            return _error(404, "This reading is not kept any more; ask for it again.")
        saved = {"content-disposition": 'attachment; filename="reading.html"'}
        text = page_html(found.data, found.source)
        return Response(text.encode("utf-8", "replace"), media_type="text/html", headers=saved)

    return app


def check_image(data: bytes) -> None:
    """Refuse what is no image, or one of too many pixels, before it is decoded.

    Raises:
        ImageError: with a sentence that says what to do.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of metadata, and of sizes that are refused below
            with Image.open(io.BytesIO(data)) as image:
                width, height = image.size
    except Image.DecompressionBombError:
        width, height = MOST_PIXELS, 2
    except Exception:
        raise ImageError("This is no image that Pillow can read; use PNG, JPEG or WebP.") from None
    if width * height > MOST_PIXELS:
        raise ImageError(
            f"The image has more than {MOST_PIXELS // 1_000_000} million pixels; make it smaller."
        )


def where_of(corpus: str, word: str, caption: str) -> Filter | None:
    """Make the page's filters one: all that are given must hold. A word is looked for in small and capital letters."""
    parts: list[Filter] = []
    if corpus:
        parts.append(Where(corpus=corpus))
    if word.strip():
        given = word.strip()
        forms = dict.fromkeys((given, given.lower(), given.capitalize(), given.upper()))
        parts.append(Where(word=tuple(forms)))
    if caption.strip():
        parts.append(Where(caption_contains=caption.strip()))
    return None if not parts else parts[0] if len(parts) == 1 else All(tuple(parts))


async def _body(request: Request) -> bytes | None:
    """Read a request's body; None as soon as it is too large."""
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > LARGEST_UPLOAD:
            return None
    return bytes(body)


def _numbers(text: str) -> tuple[int, ...]:
    try:
        return tuple(sorted({int(part) for part in text.split(",") if part.strip()}))
    except ValueError:
        raise QueryError(f"'{text}' names no layers; write numbers with commas, such as 4,8,12.") from None


def _bank_layers(text: str) -> BankLayers:
    return cast("BankLayers", text) if text in ("mid", "all") else _numbers(text)


def _plain(name: str) -> str:
    """A file's name as it may be shown: of one line, and not endless."""
    return "".join(letter if letter.isprintable() else "·" for letter in name)[:120]


def _error(status: int, message: str) -> Response:
    return JSONResponse({"error": message}, status)


def _errors(app: FastAPI) -> None:
    @app.exception_handler(LatentBankError)
    async def said(_: Request, error: LatentBankError) -> Response:
        return _error(400, str(error))

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        return _error(422, f"{first['loc'][-1]}: {first['msg']}.")
