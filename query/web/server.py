"""The live page: a FastAPI app that takes requests, sends progress as server-sent events, and serves named files."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Annotated, Any

from fastapi import Depends, FastAPI, HTTPException, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

from latentbank.errors import LatentBankError, QueryError
from latentbank.query.web.bodies import LARGEST_UPLOAD, Bodies
from latentbank.query.web.common import handle_errors, serve_files
from latentbank.query.web.file import page_html
from latentbank.query.web.inputs import CausesQuery, GalleryQuery, ReadingQuery, StatesQuery, only, shown_name
from latentbank.query.web.jobs import FINAL_STATES, Job
from latentbank.query.web.service import SENTENCES_ALONE, ReadingService, StoredReading
from latentbank.query.web.trial import MOST_PIXELS, check_image
from latentbank.query.web.uploads import Upload, Uploads

log = logging.getLogger(__name__)

_POLL = 0.05  # seconds between looks at a job's version
_GONE = 0.5  # seconds between looks whether a program still waits
_KEEP_ALIVE = 15.0  # seconds without an event after which a comment is sent


def create_app(
    service: ReadingService | None, pictures: Mapping[str, bytes] | None = None, start: str = ""
) -> FastAPI:
    """Return the page's app; it must be wrapped in a `Guard`.

    Args:
        service: what reads; it is closed with the app. None: only saved readings can be opened.
        pictures: images that the page offers, by name.
        start: the picture that the page opens with; it is read as soon as the app is served. "": none.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        if service is not None and start in offered:
            query = ReadingQuery(picture=start, fdr=service.about()["fdr"])
            with suppress(LatentBankError):
                service.submit(query.request(start, offered[start]))
        yield
        if service is not None:
            await asyncio.to_thread(service.close)

    offered = dict(pictures or {}) if service and service.reads_images else {}
    # A redirect to an address without a slash would name the host that the request names.
    app = FastAPI(lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False)
    handle_errors(app)
    serve_files(app, "index.html")
    _serve_pictures(app, service, offered, start if start in offered else "")
    uploads = Uploads()
    _take_requests(app, service, offered, uploads)
    _read_states(app, service)
    _serve_jobs(app, service)
    _serve_readings(app, service)
    _serve_galleries(app, service, offered, uploads)
    return app


def _serve_pictures(
    app: FastAPI, service: ReadingService | None, offered: Mapping[str, bytes], start: str
) -> None:
    @app.get("/api/about")
    def about() -> dict[str, Any]:
        limits = {"bytes": LARGEST_UPLOAD, "pixels": MOST_PIXELS}
        return {"pictures": list(offered), "start": start, "limits": limits} | (
            service.about() if service else {"models": [], "images": False}
        )

    @app.get("/api/pictures/{name}")
    def picture(name: str) -> Response:
        data = _picture(offered, name)
        return Response(data, media_type="image/png" if data.startswith(b"\x89PNG") else "image/jpeg")


def _take_requests(
    app: FastAPI, service: ReadingService | None, offered: Mapping[str, bytes], uploads: Uploads
) -> None:
    bodies = Bodies()

    @app.post("/api/readings", status_code=202)
    async def read(request: Request, query: Annotated[ReadingQuery, Depends()]) -> Response:
        if service is None:
            raise HTTPException(
                409, "No model is loaded here: open a saved reading, or start the page with a bank."
            )
        if not service.reads_images and (query.picture or query.upload or not query.sentence):
            raise QueryError(SENTENCES_ALONE)  # before a body is read
        image, upload = None, None
        if query.picture:
            image = _picture(offered, query.picture)
        elif query.upload or not query.sentence:
            upload = await _upload(request, query, uploads, bodies)
            image = upload.data
        name = query.sentence or query.picture or (upload.name if upload else "image")
        # In a thread, because it reads the bank's ledger.
        job = await asyncio.to_thread(service.submit, query.request(name, image))
        return JSONResponse({"job": job.id, "upload": upload.key if upload else ""}, 202)

    @app.post("/api/causes", status_code=202)
    async def causes(query: Annotated[CausesQuery, Depends()]) -> Response:
        if service is None or not service.reads_images:
            raise HTTPException(409, "No vision-language model is loaded here.")
        name, image = _opened(query, offered, uploads)
        job = await asyncio.to_thread(service.submit_causes, query.causes(name, image))
        return JSONResponse({"job": job.id}, 202)


def _read_states(app: FastAPI, service: ReadingService | None) -> None:
    """Let other programs send hidden states, and answer with their reading."""
    bodies = Bodies()

    @app.post("/api/read", dependencies=[Depends(only(StatesQuery))])
    async def read(request: Request, query: Annotated[StatesQuery, Depends()]) -> Response:
        if service is None:
            raise HTTPException(409, "No bank is open here: start the page with one.")
        async with bodies.of(request, "body") as body:
            job, coming = await asyncio.to_thread(service.submit_states, query.request(body))
        reading = asyncio.wrap_future(coming)
        while not reading.done():
            await asyncio.wait({reading}, timeout=_GONE)
            if await request.is_disconnected():
                job.cancelled.set()
        try:
            data = await reading
        except LatentBankError:
            raise
        except Exception as error:
            log.exception("a reading of hidden states failed")
            raise HTTPException(
                500, f"The reading failed ({type(error).__name__}); the server's log says more."
            ) from None
        text = await asyncio.to_thread(json.dumps, data, ensure_ascii=False, allow_nan=False)
        return Response(text.encode("utf-8", "replace"), media_type="application/json")


async def _upload(request: Request, query: ReadingQuery, uploads: Uploads, bodies: Bodies) -> Upload:
    """Return the uploaded image that a request names, or that it brings in its body."""
    if query.upload:
        return _kept(uploads, query.upload)
    async with bodies.of(request) as body:
        await asyncio.to_thread(check_image, body)
        return uploads.keep(shown_name(query.name) or "image", body)


def _opened(
    query: CausesQuery | GalleryQuery, offered: Mapping[str, bytes], uploads: Uploads
) -> tuple[str, bytes]:
    """Return name and bytes of the image that a request names, which was read before."""
    if query.picture:
        return query.picture, _picture(offered, query.picture)
    kept = _kept(uploads, query.upload)
    return kept.name, kept.data


def _kept(uploads: Uploads, key: str) -> Upload:
    upload = uploads.get(key)
    if upload is None:
        raise HTTPException(404, "This image is not kept here any more; choose its file again.")
    return upload


def _serve_jobs(app: FastAPI, service: ReadingService | None) -> None:
    @app.get("/api/jobs/{number}/events")
    async def events(number: str) -> Response:
        # nginx would keep events until it has a buffer full of them.
        headers = {"x-accel-buffering": "no"}
        return StreamingResponse(
            _events(_job(service, number)), media_type="text/event-stream", headers=headers
        )

    @app.delete("/api/jobs/{number}")
    def cancel(number: str) -> Response:
        _job(service, number).cancelled.set()
        return Response(status_code=204)


def _serve_readings(app: FastAPI, service: ReadingService | None) -> None:
    @app.get("/api/readings/{key}")
    def reading(key: str) -> Response:
        data = _reading(service, key).data
        return Response(data.encode("utf-8", "replace"), media_type="application/json")

    @app.get("/api/causes/{key}")
    def causes(key: str) -> Response:
        data = _reading(service, key).data
        return Response(data.encode("utf-8", "replace"), media_type="application/json")

    @app.get("/api/readings/{key}/page")
    def page(key: str) -> Response:
        stored = _reading(service, key)
        text = page_html(stored.data, stored.source)
        headers = {"content-disposition": 'attachment; filename="reading.html"'}
        return Response(text.encode("utf-8", "replace"), media_type="text/html", headers=headers)


def _serve_galleries(
    app: FastAPI, service: ReadingService | None, offered: Mapping[str, bytes], uploads: Uploads
) -> None:
    @app.post("/api/gallery", status_code=202)
    async def ask(query: Annotated[GalleryQuery, Depends()]) -> Response:
        if service is None or not service.reads_images:
            raise HTTPException(409, "No vision-language model is loaded here.")
        name, image = ("", None) if not query.of_image else _opened(query, offered, uploads)
        job = await asyncio.to_thread(service.galleries.submit, query.request(name, image))
        return JSONResponse({"job": job.id}, 202)

    @app.get("/api/gallery/{key}")
    def gallery(key: str) -> Response:
        data = _reading(service, key).data
        return Response(data.encode("utf-8", "replace"), media_type="application/json")


async def _events(job: Job) -> AsyncIterator[bytes]:
    """Yield server-sent events until the job is finished: `part` for each layer read, and the state when it changes."""
    version, sent, quiet = -1, 0, 0.0
    while True:
        if job.version != version:
            version, quiet = job.version, 0.0
            keys = ("state", "what", "done", "total", "reading", "error")
            state = {key: getattr(job, key) for key in keys}
            for part in job.parts[sent:]:
                sent += 1
                yield f"event: part\ndata: {part}\n\n".encode("utf-8", "replace")
            yield f"data: {json.dumps(state)}\n\n".encode()
            if state["state"] in FINAL_STATES:
                return
            continue
        await asyncio.sleep(_POLL)
        quiet += _POLL
        if quiet >= _KEEP_ALIVE:
            quiet = 0.0
            yield b": still there\n\n"


def _picture(offered: Mapping[str, bytes], name: str) -> bytes:
    if name not in offered:
        raise HTTPException(404, "There is no such picture.")
    return offered[name]


def _job(service: ReadingService | None, number: str) -> Job:
    job = service.job(number) if service else None
    if job is None:
        raise HTTPException(404, "There is no such job.")
    return job


def _reading(service: ReadingService | None, key: str) -> StoredReading:
    stored = service.reading(key) if service else None
    if stored is None:
        raise HTTPException(404, "This reading is not kept any more; request it again.")
    return stored
